"""What a check is given and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent_client.config import ClientConfig
from agent_client.credential import Credential

Level = Literal["ok", "info", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. ``hint`` is "" when there is nothing to do."""

    name: str
    level: Level
    finding: str
    hint: str = ""

    def to_dict(self) -> dict[str, str]:
        """For ``--json``."""
        return {
            "name": self.name,
            "level": self.level,
            "finding": self.finding,
            "hint": self.hint,
        }


@dataclass(frozen=True, slots=True)
class Subject:
    """The home that is examined; ``offline``: nothing may be asked over the network."""

    home: Path
    settings: ClientConfig
    credential: Credential | None
    offline: bool = False

    def is_on(self, key: str) -> bool:
        """Whether a switch is on."""
        return self.settings.get(key) is True
