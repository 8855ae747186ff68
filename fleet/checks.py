"""Numbered system checks; each says what is wrong and how to mend it.

fleet.E001 the secret key or the pepper is short · E002 the clock is not UTC · E003 a key
file is readable by others · E004 no host is allowed, or all are · E005 the broker cannot
be used · E006 a restore was cut short · E010 PostgreSQL is too old · E011 Redis is too old
or away (warning W011 where it is away) · W001 debug is on · W002 SQLite behind a public
address · W003 the console is public without TLS.
"""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import redis
from django.apps.config import AppConfig
from django.conf import settings
from django.core import checks
from django.db import DatabaseError, NotSupportedError, connections

from fleet import half_restored

MIN_SECRET_CHARS: Final = 32
MIN_POSTGRES: Final = 150_000
"""15: the oldest that Django 6.1 talks to, and what the partition statements are tried on."""
MIN_REDIS: Final = (6, 2)
TAG: Final = "fleet"

type _Apps = Sequence[AppConfig] | None
type _Found = list[checks.CheckMessage]


def register_all() -> None:
    """Register every check; called once, when the app is ready."""
    for check in (check_secrets, check_time, check_key_files, check_hosts, check_broker):
        checks.register(check, TAG)
    checks.register(check_restore, TAG)
    checks.register(check_exposure, checks.Tags.security, deploy=True)
    checks.register(check_database, checks.Tags.database)
    checks.register(check_redis, checks.Tags.database)


def check_secrets(app_configs: _Apps, **kwargs: Any) -> _Found:  # noqa: ANN401, ARG001  # Any: Django's signature
    """fleet.E001: secrets long enough not to be guessed."""
    named = {"FLEET_SECRET_KEY": settings.SECRET_KEY}
    named |= {
        f"FLEET_TOKEN_PEPPER ({name})": key for name, key in settings.FLEET_TOKEN_PEPPERS.items()
    }
    return [
        checks.Error(
            f"{name} is shorter than {MIN_SECRET_CHARS} characters.",
            hint="Make one: openssl rand -hex 48. Or unset it: a good one is made on first start.",
            id="fleet.E001",
        )
        for name, value in named.items()
        if len(value) < MIN_SECRET_CHARS
    ]


def check_time(app_configs: _Apps, **kwargs: Any) -> _Found:  # noqa: ANN401, ARG001  # Any: Django's signature
    """fleet.E002: times are stored in UTC."""
    if settings.USE_TZ and settings.TIME_ZONE == "UTC":
        return []
    hint = "Set USE_TZ = True and TIME_ZONE = 'UTC'; people see their own zone all the same."
    return [checks.Error("Times are not stored in UTC.", hint=hint, id="fleet.E002")]


def check_key_files(app_configs: _Apps, **kwargs: Any) -> _Found:  # noqa: ANN401, ARG001  # Any: Django's signature
    """fleet.E003: secret files are their owner's alone."""
    folders = (Path(settings.FLEET_KEYS_DIR), Path(settings.FLEET_HOME) / "secrets")
    files = [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
    return [
        checks.Error(
            f"{path} can be read or written by others.",
            hint=f"Run: chmod 600 {path}",
            id="fleet.E003",
        )
        for path in files
        if path.name != "root.json" and stat.S_IMODE(path.stat().st_mode) & 0o077
    ]


def check_hosts(app_configs: _Apps, **kwargs: Any) -> _Found:  # noqa: ANN401, ARG001  # Any: Django's signature
    """fleet.E004: the console answers to its own names only."""
    if settings.ALLOWED_HOSTS and "*" not in settings.ALLOWED_HOSTS:
        return []
    if not settings.ALLOWED_HOSTS and settings.DEBUG:
        return []
    hint = "Set FLEET_ALLOWED_HOSTS to the names that people and agents use, comma-separated."
    return [checks.Error("No host is allowed, or all are.", hint=hint, id="fleet.E004")]


def check_broker(app_configs: _Apps, **kwargs: Any) -> _Found:  # noqa: ANN401, ARG001  # Any: Django's signature
    """fleet.E005: the plain-file broker's folders can be written."""
    if settings.REDIS_URL:
        return []
    from fleet.celery import make_broker_folders

    try:
        make_broker_folders()
    except OSError as error:
        hint = f"Make {settings.FLEET_HOME} writable for the console's user, or set REDIS_URL."
        return [checks.Error(f"The broker's folder: {error.strerror}", hint=hint, id="fleet.E005")]
    return []


def check_restore(app_configs: _Apps, **kwargs: Any) -> _Found:  # noqa: ANN401, ARG001  # Any: Django's signature
    """fleet.E006: the database and the keys belong together."""
    if not half_restored.is_pending():
        return []
    return [checks.Error(half_restored.WHAT, hint=half_restored.MEND, id="fleet.E006")]


def check_exposure(app_configs: _Apps, **kwargs: Any) -> _Found:  # noqa: ANN401, ARG001  # Any: Django's signature
    """fleet.W001 to W003: what is fine at home and not in public."""
    found: _Found = []
    if settings.DEBUG:
        hint = "Unset FLEET_DEBUG: error pages show settings and requests."
        found.append(checks.Warning("Debug is on.", hint=hint, id="fleet.W001"))
    is_public = not _is_loopback(settings.FLEET_PUBLIC_URL)
    if is_public and connections["default"].vendor == "sqlite":
        hint = "Set DATABASE_URL to PostgreSQL: SQLite has one writer and no copy elsewhere."
        found.append(checks.Warning("SQLite in production.", hint=hint, id="fleet.W002"))
    if is_public and not settings.FLEET_PUBLIC_URL.startswith("https:"):
        hint = "Put TLS in front and set FLEET_PUBLIC_URL to its https:// address."
        found.append(checks.Warning("Credentials travel unencrypted.", hint=hint, id="fleet.W003"))
    return found


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_database(
    app_configs: _Apps,  # noqa: ARG001  # Django's signature
    databases: Sequence[str] | None = None,
    **kwargs: Any,  # noqa: ANN401, ARG001  # Any: Django's signature
) -> _Found:
    """fleet.E010: PostgreSQL is new enough."""
    found: _Found = []
    hint = "Upgrade PostgreSQL; 15 is the oldest that Django 6.1 supports."
    too_old = checks.Error("PostgreSQL is too old.", hint=hint, id="fleet.E010")
    for alias in databases or ():
        connection = connections[alias]
        if connection.vendor != "postgresql":
            continue
        try:
            with connection.cursor() as cursor:
                cursor.execute("SHOW server_version_num")
                row = cursor.fetchone()
        except NotSupportedError:  # Django looks at the version itself when it connects
            found.append(too_old)
            continue
        except DatabaseError as error:
            text = f"PostgreSQL does not answer ({type(error).__name__})."
            mend = "Start it, then check DATABASE_URL."
            found.append(checks.Error(text, hint=mend, id="fleet.E010"))
            continue
        if row and int(row[0]) < MIN_POSTGRES:
            found.append(too_old)
    return found


def check_redis(app_configs: _Apps, **kwargs: Any) -> _Found:  # noqa: ANN401, ARG001  # Any: Django's signature
    """fleet.E011 and W011: Redis answers and is new enough. Away is a warning: it is a doorbell."""
    if not settings.REDIS_URL:
        return []
    client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=1, socket_connect_timeout=1)
    try:
        info = client.info("server")
    except (redis.RedisError, OSError) as error:
        hint = "Start Redis, then check REDIS_URL. Telemetry is taken meanwhile, tasks wait."
        text = f"Redis does not answer ({type(error).__name__})."
        return [checks.Warning(text, hint=hint, id="fleet.W011")]
    finally:
        client.close()
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_REDIS:
        hint = "Upgrade to Redis 6.2 or newer, or Valkey."
        return [checks.Error(f"Redis {version} is too old.", hint=hint, id="fleet.E011")]
    return []
