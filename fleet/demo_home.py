"""Where the demo lives: decided from the environment alone, before any setting is read."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final

DEMO_HOME: Final = ".fleet/demo"
_REAL: Final = ("DATABASE_URL", "REDIS_URL", "FLEET_PUBLIC_URL", "FLEET_PROXIES")
"""Where a real console stands; a demo started from its shell must not land in it."""


def enter_demo(environ: MutableMapping[str, str]) -> None:
    """Turn an environment into the demo's: its own folder, the embedded default, marked DEMO.

    Whoever sets FLEET_DEMO=1 beforehand keeps all addresses, for a demo on PostgreSQL and Redis.
    """
    if environ.get("FLEET_DEMO", "").strip() != "1":
        for name in _REAL:
            environ.pop(name, None)
            environ.pop(f"{name}_FILE", None)
    environ["FLEET_DEMO"] = "1"
    if not environ.get("FLEET_HOME", "").strip():
        environ["FLEET_HOME"] = DEMO_HOME
