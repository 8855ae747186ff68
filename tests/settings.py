"""The project's own settings, on the services that ``tests.plugin`` found.

``FLEET_TEST_ENGINE=sqlite`` (or no PostgreSQL) gives the embedded default: SQLite and no Redis.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from pathlib import Path
from typing import Any

ENGINE = os.environ.get("FLEET_TEST_ENGINE") or (
    "postgres" if "FLEET_TEST_DATABASE_URL" in os.environ else "sqlite"
)
# Whoever only reads the settings comes here without the plugin.
HOME = os.environ.setdefault("FLEET_HOME", str(Path(tempfile.gettempdir()) / "fleet-settings"))
os.environ.setdefault("FLEET_SECRET_KEY", "only-for-tests-" + "0123456789abcdef" * 3)

for _name, _source in (
    ("DATABASE_URL", "FLEET_TEST_DATABASE_URL"),
    ("REDIS_URL", "FLEET_TEST_REDIS_URL"),
):
    os.environ.pop(_name, None)
    if ENGINE == "postgres" and _source in os.environ:
        os.environ[_name] = os.environ[_source]

_settings = importlib.import_module("fleet.settings")
globals().update({name: getattr(_settings, name) for name in dir(_settings) if name.isupper()})

DATABASES: dict[str, dict[str, Any]] = _settings.DATABASES  # Any: Django's own shape
DATABASES["default"].setdefault("TEST", {})["NAME"] = (
    os.environ.get("FLEET_TEST_DATABASE_NAME")
    if ENGINE == "postgres"
    # A file, because an in-memory database has none of the locking that the real one has.
    else str(Path(HOME) / "test.sqlite3")
)

# All tests share a Redis and many an install: together they would meet quotas that none is about.
FLEET_RATE_INSTALL_ROWS_PER_MIN = FLEET_RATE_INSTALL_BYTES_PER_MIN = 0

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
"""A real hasher costs a tenth of a second for each user that a test makes."""
STORAGES = {
    **getattr(_settings, "STORAGES", {}),
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
"""Without a manifest, which only exists after collectstatic."""
