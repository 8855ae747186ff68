"""What is connected and what is not, each with its mend: the health page's data.

Every probe is bounded in time and never raises for what it is there to find out.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils.translation import gettext as _

from fleet.api import buckets
from fleet.lib.clock import now
from fleet.models import ProcessBeat
from fleet.policy.signing import SigningError, current_root, root_key

State = Literal["ok", "warn", "down"]
BEAT_WARN_S: Final = 60.0
"""Four beats missed; a worker busy with a long task misses one or two."""
BEAT_DOWN_S: Final = 300.0
DISK_WARN_BYTES: Final = 2 * 1024**3
DISK_DOWN_BYTES: Final = 256 * 1024**2
PROBE_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing that is connected or not. ``detail`` is what was found, ``mend`` what to do."""

    name: str
    title: str
    state: State
    detail: str
    mend: str = ""


_more: dict[str, Callable[[], Probe]] = {}
"""Probes of other apps, by name, asked when the database answers."""


def register_probe(name: str, probe: Callable[[], Probe]) -> None:
    """Let an app add what it knows to the page; a name registered again is replaced."""
    _more[name] = probe


def more_probes() -> list[Callable[[], Probe]]:
    """Those of other apps, for whoever asks them one by one."""
    return list(_more.values())


@dataclass(frozen=True, slots=True)
class Health:
    """All probes, in the order of the page."""

    probes: tuple[Probe, ...]
    at: datetime

    @property
    def state(self) -> State:
        """The worst of all."""
        states = {probe.state for probe in self.probes}
        return "down" if "down" in states else "warn" if "warn" in states else "ok"


def gather() -> Health:
    """Probe everything. At most a few seconds when much is down."""
    database = database_probe()
    probes = [database]
    if database.state != "down":
        probes += [migrations_probe(), *process_probes(now())]
    probes += [broker_probe(), limits_probe(), disk_probe()]
    if database.state != "down":
        probes += [keys_probe(), *(probe() for probe in _more.values())]
    return Health(tuple(probes), now())


def database_probe() -> Probe:
    """Version and answer time of the database."""
    title, started = _("Database"), time.perf_counter()
    try:
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("SELECT current_setting('server_version')")
            else:
                cursor.execute("SELECT sqlite_version()")
            row = cursor.fetchone()
    except DatabaseError as error:
        return Probe(
            "database",
            title,
            "down",
            type(error).__name__,
            _("Start the database, then check DATABASE_URL."),
        )
    took_ms = (time.perf_counter() - started) * 1000
    detail = f"{connection.display_name} {row[0] if row else '?'}, {took_ms:.1f} ms"
    if connection.vendor == "sqlite" and settings.FLEET_PUBLIC_URL.startswith("https:"):
        mend = _(
            "SQLite has one writer; set DATABASE_URL to PostgreSQL for more than a few agents."
        )
        return Probe("database", title, "warn", detail, mend)
    return Probe("database", title, "ok", detail)


def migrations_probe() -> Probe:
    """Whether the tables fit the code."""
    title = _("Migrations")
    executor = MigrationExecutor(connection)
    pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if not pending:
        return Probe("migrations", title, "ok", _("All applied"))
    names = ", ".join(f"{step.app_label}.{step.name}" for step, _back in pending[:3])
    detail = _("%(count)d pending: %(names)s") % {"count": len(pending), "names": names}
    return Probe("migrations", title, "down", detail, _("Run: manage.py migrate"))


def process_probes(moment: datetime) -> tuple[Probe, Probe]:
    """Beat and worker, by the time they last showed life."""
    beats = {beat.kind: beat for beat in ProcessBeat.objects.all()}
    beat, worker = beats.get("beat"), beats.get("worker")
    return (
        judge_beat("worker", _("Worker"), worker.at if worker else None, moment),
        judge_beat("beat", _("Beat"), beat.at if beat else None, moment),
    )


def judge_beat(kind: str, title: str, at: datetime | None, moment: datetime) -> Probe:
    """A process by the age of its last sign of life. Pure."""
    mend = _("Start it: celery -A fleet.celery %(kind)s") % {"kind": kind}
    if at is None:
        return Probe(kind, title, "down", _("Never seen"), mend)
    age_s = max(0.0, (moment - at).total_seconds())
    detail = _("Last sign of life %(age)d s ago") % {"age": age_s}
    if age_s > BEAT_DOWN_S:
        return Probe(kind, title, "down", detail, mend)
    if age_s > BEAT_WARN_S:
        return Probe(kind, title, "warn", detail, _("It is busy or about to fail; see its log."))
    return Probe(kind, title, "ok", detail)


def broker_probe() -> Probe:
    """Redis, or the folder of the plain-file broker with what waits in it."""
    title = _("Broker")
    if settings.REDIS_URL:
        return _redis_probe(title)
    folder = Path(str(settings.CELERY_BROKER_TRANSPORT_OPTIONS["data_folder_in"]))
    try:
        waiting = sum(1 for _entry in folder.iterdir())
    except OSError as error:
        mend = _("Make the folder writable for the console's user: %(path)s") % {"path": folder}
        return Probe("broker", title, "down", error.strerror or "", mend)
    detail = _("Files under FLEET_HOME, %(count)d waiting") % {"count": waiting}
    if waiting > 10_000:
        return Probe("broker", title, "warn", detail, _("Is a worker running?"))
    return Probe("broker", title, "ok", detail)


def _redis_probe(title: str) -> Probe:
    place = urlsplit(settings.REDIS_URL)
    where = f"{place.hostname or place.path}:{place.port or ''}".rstrip(":")
    client = redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=PROBE_TIMEOUT_S,
        socket_connect_timeout=PROBE_TIMEOUT_S,
    )
    try:
        info = client.info("server")
        version = str(info.get("redis_version", "?"))
    except (redis.RedisError, OSError) as error:
        mend = _("Start Redis at %(where)s, then check REDIS_URL.") % {"where": where}
        return Probe("broker", title, "down", type(error).__name__, mend)
    finally:
        client.close()
    return Probe("broker", title, "ok", f"Redis {version}, {where}")


def limits_probe() -> Probe:
    """Who counts what an install may push."""
    title = _("Rate limits")
    counted = buckets.backend()
    if counted == "redis":
        return Probe("limits", title, "ok", _("Counted in Redis, for all web processes together"))
    detail = _("Each web process counts for itself")
    if counted == "process":
        return Probe("limits", title, "ok", detail)
    mend = _("Nothing is refused because of it; start Redis to share the count again.")
    return Probe("limits", title, "warn", detail, mend)


def disk_probe() -> Probe:
    """Room left under FLEET_HOME."""
    title = _("Disk")
    try:
        free_bytes = shutil.disk_usage(settings.FLEET_HOME).free
    except OSError as error:
        return Probe("disk", title, "down", error.strerror or "", _("Check FLEET_HOME."))
    detail = _("%(free).1f GiB free under FLEET_HOME") % {"free": free_bytes / 1024**3}
    mend = _("Free space, or shorten FLEET_RETENTION_DAYS.")
    if free_bytes < DISK_DOWN_BYTES:
        return Probe("disk", title, "down", detail, mend)
    if free_bytes < DISK_WARN_BYTES:
        return Probe("disk", title, "warn", detail, mend)
    return Probe("disk", title, "ok", detail)


def keys_probe() -> Probe:
    """Whether policy can be signed here, and the fingerprint to compare."""
    title = _("Signing keys")
    try:
        root = current_root()
        where = _("root key on this host") if root_key() else _("root key elsewhere")
    except (SigningError, ImproperlyConfigured, DatabaseError) as error:
        mend = _("Restore the keys under FLEET_HOME/keys from the backup; do not make new ones.")
        return Probe("keys", title, "down", str(error), mend)
    return Probe("keys", title, "ok", f"{root.fingerprint[:16]}…, v{root.version}, {where}")


def versions() -> dict[str, str]:
    """What runs, for the page's foot: distribution or program to version."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"Python": platform.python_version(), "host": socket.gethostname()}
    for name in ("hermes-fleet", "hermes-fleet-agent", "Django", "celery"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found
