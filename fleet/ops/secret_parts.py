"""What of a console lies outside its database: keys, secrets, and the settings that matter."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from django.conf import settings

FILES_OF: Final[Mapping[str, str]] = {
    "FLEET_SECRET_KEY": "secrets/secret_key",
    "FLEET_TOKEN_PEPPER": "secrets/token_pepper",
    "FLEET_ROOT_KEY": "keys/root.key",
    "FLEET_POLICY_KEY": "keys/policy.key",
}
"""Each secret with the file under FLEET_HOME that holds it where the environment does not."""
ROOT_DOCUMENT: Final = "keys/root.json"
TOLD: Final = (
    *("FLEET_PUBLIC_URL", "FLEET_BIND", "FLEET_ALLOWED_HOSTS", "FLEET_PROXIES"),
    *("FLEET_TOKEN_PEPPER_ID", "FLEET_POLL_SECONDS", "FLEET_MIN_CLIENT", "FLEET_TRAJECTORIES"),
    *("FLEET_RETENTION_DAYS", "FLEET_HOURLY_DAYS", "FLEET_DAILY_DAYS"),
    *("FLEET_CONTENT_RETENTION_DAYS", "FLEET_CONTENT_KEEP_PII", "FLEET_VALVE"),
    *("FLEET_RATE_ADDRESS_PER_MIN", "FLEET_RATE_ENROLL_PER_MIN", "FLEET_RATE_INSTALL_PER_MIN"),
    *("FLEET_RATE_INSTALL_ROWS_PER_MIN", "FLEET_RATE_INSTALL_BYTES_PER_MIN"),
    *("FLEET_SPOOL_MAX_BYTES", "FLEET_SPOOL_MAX_ROWS", "FLEET_STATIC_ROOT", "FLEET_LOG_LEVEL"),
)
"""Settings that are kept: an allow-list, so that no new secret is kept by mistake."""


def settings_document() -> bytes:
    """What the environment sets of ``TOLD``, as JSON. For a person: nothing reads it back."""
    given = {name: os.environ[name] for name in TOLD if os.environ.get(name)}
    return (json.dumps(given, indent=1, sort_keys=True) + "\n").encode()


def held_secrets() -> dict[str, str]:
    """Every secret in force, by its setting, wherever it comes from; only those that are set."""
    pepper_id = settings.FLEET_TOKEN_PEPPER_ID
    found = {
        "FLEET_SECRET_KEY": settings.SECRET_KEY,
        "FLEET_TOKEN_PEPPER": settings.FLEET_TOKEN_PEPPERS[pepper_id],
        "FLEET_TOKEN_PEPPER_ID": pepper_id,
        "FLEET_ROOT_KEY": settings.FLEET_ROOT_KEY or _text("keys/root.key"),
        "FLEET_POLICY_KEY": settings.FLEET_POLICY_KEY or _text("keys/policy.key"),
    }
    olds = [(key, value) for key, value in settings.FLEET_TOKEN_PEPPERS.items() if key != pepper_id]
    if olds:
        found["FLEET_TOKEN_PEPPER_OLD"] = ":".join(olds[0])
    if settings.SECRET_KEY_FALLBACKS:
        found["FLEET_SECRET_KEY_OLD"] = settings.SECRET_KEY_FALLBACKS[0]
    return {name: str(value) for name, value in found.items() if value}


def secrets_document() -> bytes:
    """The same as JSON."""
    return (json.dumps(held_secrets(), indent=1, sort_keys=True) + "\n").encode()


def root_document() -> bytes:
    """The signed policy root, which is public; b"" where there is none yet."""
    try:
        return (Path(settings.FLEET_HOME) / ROOT_DOCUMENT).read_bytes()
    except OSError:
        return b""


def given_by_environment(name: str) -> bool:
    """Whether a secret comes from outside FLEET_HOME, so that no file here changes it."""
    return bool(os.environ.get(name, "").strip() or os.environ.get(f"{name}_FILE", "").strip())


def _text(name: str) -> str:
    try:
        return (Path(settings.FLEET_HOME) / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""
