"""The install's credential file: which console, under which id, with which secret.

One file, written in one rename: an install is enrolled when it exists and not before. It is
also the record of the opt-in: nothing leaves a machine that has no such file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from agent_client.files import read_json, telemetry_dir, write_json

CREDENTIAL_FILE: Final = "credential"


@dataclass(frozen=True, slots=True)
class Credential:
    """What enrollment gave this install. ``credential`` is the secret and is never printed."""

    console_url: str
    install_id: str
    credential: str
    fleet_id: str
    root_fingerprint: str
    group: str = ""
    scopes: tuple[str, ...] = ()
    poll_seconds: int = 60
    enrolled_ns: int = 0
    allow_plain_http: bool = False

    def __repr__(self) -> str:
        return f"Credential({self.console_url}, install {self.install_id}, …)"

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Credential | None:
        """The credential of a parsed file; None when a field is missing or of another type."""
        needed = ("console_url", "install_id", "credential", "fleet_id", "root_fingerprint")
        texts = {name: data.get(name) for name in needed}
        if not all(isinstance(value, str) and value for value in texts.values()):
            return None
        poll, enrolled, scopes = (data.get(k) for k in ("poll_seconds", "enrolled_ns", "scopes"))
        return cls(
            **{name: str(value) for name, value in texts.items()},
            group=str(data.get("group") or ""),
            scopes=tuple(str(scope) for scope in scopes) if isinstance(scopes, list) else (),
            poll_seconds=poll if isinstance(poll, int) else 60,
            enrolled_ns=enrolled if isinstance(enrolled, int) else 0,
            allow_plain_http=data.get("allow_plain_http") is True,
        )


def credential_path(home: Path) -> Path:
    """Where the credential of a home is kept."""
    return telemetry_dir(home) / CREDENTIAL_FILE


def load_credential(home: Path) -> Credential | None:
    """The credential of a home; None when it is not enrolled or the file cannot be used."""
    data = read_json(credential_path(home))
    return None if data is None else Credential.from_dict(data)


def save_credential(home: Path, credential: Credential) -> None:
    """Write the credential, 0600, atomically."""
    write_json(credential_path(home), asdict(credential))
