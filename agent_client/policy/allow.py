"""The machine's own allow-list: which keys a fleet may pin here. No console can change it.

Files: ``/etc/hermes/fleet-allow.json`` (root's) and ``$HERMES_HOME/telemetry/policy-allow.json``
(the user's), each ``{"allow": ["telemetry.*", …], "deny": […]}``. Both must permit a key; a file
that is there and cannot be read permits nothing. Without any file everything may be pinned but
the keys of ``UNSAFE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from agent_client.config import DEFAULT_MANAGED_DIR
from agent_client.files import read_json, telemetry_dir

ALLOW_FILE: Final = "policy-allow.json"
SYSTEM_ALLOW_FILE: Final = "fleet-allow.json"
OUR_PLUGIN: Final = "telemetry"

UNSAFE: Final = (
    "mcp_servers*",
    "hooks*",
    "quick_commands*",
    "command_allowlist*",
    "plugins.entries*",
    "terminal.shell_init_files*",
    "terminal.env_passthrough*",
    "terminal.docker_env*",
    "skills.external_dirs*",
    "skills.inline_shell*",
    "lsp.servers*",
    "security.tirith_path*",
    "secrets*",
    "desktop.electron_flags*",
    "prefill_messages_file*",
    "telemetry.export.console.content*",
)
"""Keys through which the host runs commands, loads code or hands out secrets, or the client what
people say to it: a stolen console would own every machine, and a console that gives the consent it
asks for has none. Whoever wants them pinned says so on the machine, in an allow file."""


@dataclass(frozen=True, slots=True)
class Rules:
    """One file's patterns; ``*`` matches any characters, dots too."""

    allow: tuple[str, ...]
    deny: tuple[str, ...] = ()

    def permits(self, key: str) -> bool:
        """Whether a dotted key matches an allowed pattern and no denied one."""
        return _matches(key, self.allow) and not _matches(key, self.deny)


@dataclass(frozen=True, slots=True)
class AllowList:
    """All rules of a machine; a key must pass each."""

    rules: tuple[Rules, ...] = (Rules(("*",), UNSAFE),)
    is_malformed: bool = False

    def permits(self, key: str, value: object) -> bool:
        """Whether a fleet may pin this key to this value here.

        ``plugins.disabled`` naming our own plugin is never permitted: it would silence the
        reporter that says what is in force.
        """
        if key == "plugins.disabled" and isinstance(value, list) and OUR_PLUGIN in value:
            return False
        return not self.is_malformed and all(rules.permits(key) for rules in self.rules)


def load_allow_list(home: Path, system_dir: Path = DEFAULT_MANAGED_DIR) -> AllowList:
    """The allow-list of a machine. Never raises."""
    found: list[Rules] = []
    for path in (system_dir / SYSTEM_ALLOW_FILE, telemetry_dir(home) / ALLOW_FILE):
        try:
            if not path.exists():
                continue
        except OSError:
            return AllowList((), is_malformed=True)
        rules = _rules(read_json(path))
        if rules is None:
            return AllowList((), is_malformed=True)
        found.append(rules)
    return AllowList(tuple(found)) if found else AllowList()


def _rules(data: Mapping[str, object] | None) -> Rules | None:
    if data is None:
        return None
    allow, deny = data.get("allow", ["*"]), data.get("deny", [])
    for patterns in (allow, deny):
        if not isinstance(patterns, list) or not all(isinstance(item, str) for item in patterns):
            return None
    return Rules(tuple(map(str, allow)), tuple(map(str, deny)))  # type: ignore[call-overload]  # lists, as seen above


def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)
