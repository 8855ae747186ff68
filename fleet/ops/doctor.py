"""Everything an operator asks at three in the morning: found, how bad, and what to do about it.

It asks the health page's probes, Django's checks and what apps registered, and looks itself where
none of them does. It works while the database is down, and prints no secret.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import redis
from django.conf import settings
from django.contrib.staticfiles.storage import ManifestFilesMixin, staticfiles_storage
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection

from fleet import health
from fleet.lib.clock import now
from fleet.models import ProcessBeat
from fleet.ops import hooks, postgres
from fleet.ops.backup import last_backup
from fleet.ops.files import OpsError
from fleet.ops.hooks import Finding, Severity
from fleet.ops.secret_parts import FILES_OF, held_secrets

BACKUP_WARN: Final = timedelta(hours=36)
"""A nightly backup that failed once is seen in the morning after."""
CLOCK_WARN_S: Final = 5.0
CLOCK_ERROR_S: Final = 300.0
"""Agents refuse documents of a clock that is further ahead."""
FROZEN_WARN: Final = 1_000_000_000
"""Half of what is left to PostgreSQL's numbers of transactions."""
IDLE_WARN_S: Final = 3_600
_EXPECTED: Final = (DatabaseError, OpsError, OSError, ImproperlyConfigured, redis.RedisError)
_OF_STATE: Final[dict[str, Severity]] = {"ok": "ok", "warn": "warn", "down": "error"}


def examine() -> list[Finding]:
    """All findings; never raises for what it is there to find."""
    found = list(_probes())
    is_up = not any(each.name == "database" and each.severity == "error" for each in found)
    looks: list[hooks.Look] = [look_at_files, look_at_address, look_at_static]
    if is_up:
        looks += [look_at_database, look_at_clock, look_at_backup, *hooks.doctors()]
    looks.append(lambda: _checks(is_up=is_up))
    for look in looks:
        found += _guarded(look)
    hidden = _secrets()
    return [_without(each, hidden) for each in found]


def worst(found: list[Finding]) -> Severity:
    """The worst of all."""
    severities = {each.severity for each in found}
    return "error" if "error" in severities else "warn" if "warn" in severities else "ok"


def _guarded(look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except _EXPECTED as error:
        name = getattr(look, "__name__", "look").removeprefix("look_at_")
        said = (str(error).strip().splitlines() or [""])[0]
        mend = "Mend what stands above first: this could not be looked at."
        return [Finding(name, "warn", f"{type(error).__name__}: {said}", mend)]


def _probes() -> Iterator[Finding]:
    """The health page's, one by one: tables that are missing must not hide the rest."""
    database = health.database_probe()
    probes: list[Callable[[], list[health.Probe]]] = [lambda: [database]]
    if database.state != "down":
        probes.append(lambda: [health.migrations_probe()])
        probes.append(lambda: list(health.process_probes(now())))
    probes.append(lambda: [health.broker_probe(), health.limits_probe(), health.disk_probe()])
    if database.state != "down":
        probes.append(lambda: [health.keys_probe()])
        probes += [lambda each=each: [each()] for each in health.more_probes()]  # type: ignore[misc]  # the default binds it
    for probe in probes:
        yield from _guarded(lambda probe=probe: [_of_probe(each) for each in probe()])  # type: ignore[misc]  # the default binds it


def _of_probe(probe: health.Probe) -> Finding:
    return Finding(probe.name, _OF_STATE[probe.state], probe.detail, probe.mend)


def _checks(*, is_up: bool) -> list[Finding]:
    """Django's checks and ours, those of a deployment too; those of tables when it answers."""
    found = checks.run_checks(
        include_deployment_checks=True, databases=["default"] if is_up else None
    )
    told: list[Finding] = []
    is_tls = settings.FLEET_PUBLIC_URL.startswith("https:")
    for message in found:
        # Django's own ask for TLS everywhere; fleet.W003 knows a console on loopback from a public.
        is_loopback_advice = not is_tls and str(message.id).startswith("security.")
        if message.is_silenced() or is_loopback_advice:
            continue
        severity: Severity = "error" if message.level >= checks.ERROR else "warn"
        told.append(Finding(str(message.id), severity, str(message.msg), str(message.hint or "")))
    return told or [Finding("checks", "ok", "No system check has a word to say")]


# ------------------------------------------------------------------------------ what it looks at


def look_at_files() -> list[Finding]:
    """FLEET_HOME and what in it is nobody else's: there, ours, readable."""
    home, found = Path(settings.FLEET_HOME), []
    if not os.access(home, os.W_OK | os.X_OK):
        mend = f"chown it to the console's user, chmod 700 {home}"
        return [Finding("home", "error", f"{home} cannot be written", mend)]
    for name in FILES_OF.values():
        path = home / name
        if path.exists() and not os.access(path, os.R_OK):
            mend = "chown it to the console's user; it was made by another one, often by root."
            found.append(Finding("files", "error", f"{path} cannot be read", mend))
    return found or [Finding("files", "ok", f"{home} and its keys are readable")]


def look_at_address() -> list[Finding]:
    """Whether the public address, TLS and the proxies fit each other."""
    public, found = urlsplit(settings.FLEET_PUBLIC_URL), []
    if public.scheme == "https" and not settings.FLEET_PROXIES:
        mend = "Set FLEET_PROXIES to the proxy that ends TLS; without it redirects go in circles."
        found.append(Finding("address", "error", "https and no proxy that is believed", mend))
    if public.hostname not in settings.ALLOWED_HOSTS and "*" not in settings.ALLOWED_HOSTS:
        mend = f"Add {public.hostname} to FLEET_ALLOWED_HOSTS."
        found.append(Finding("address", "error", "its own public name is refused", mend))
    return found or [Finding("address", "ok", settings.FLEET_PUBLIC_URL)]


def look_at_static() -> list[Finding]:
    """Whether style sheets and scripts were collected."""
    storage: object = staticfiles_storage  # lazy; what it is decides the settings
    if not isinstance(storage, ManifestFilesMixin):
        return [Finding("static", "ok", "Served from the packages")]
    if (Path(settings.STATIC_ROOT) / storage.manifest_name).exists():
        return [Finding("static", "ok", f"Collected in {settings.STATIC_ROOT}")]
    mend = "Run: manage.py collectstatic --noinput"
    return [Finding("static", "error", f"Not collected in {settings.STATIC_ROOT}", mend)]


def look_at_database() -> list[Finding]:
    """What the database lets us do, and what makes it slow or full."""
    if connection.vendor == "sqlite":
        return _sqlite()
    with postgres.connected() as held:
        row = held.execute(
            "SELECT has_schema_privilege(current_schema(), 'CREATE'), "
            "pg_size_pretty(pg_database_size(current_database())), "
            "(SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()), "
            "(SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND state = 'idle in transaction' AND now() - state_change > %s * interval '1 s'), "
            "(SELECT count(*)::float / current_setting('max_connections')::int "
            "FROM pg_stat_activity)",
            [IDLE_WARN_S],
        ).fetchone()
    assert row is not None  # noqa: S101 -- one row without a FROM
    may_create, size, age, idle_count, used = row
    found = []
    if not may_create:
        mend = "GRANT CREATE ON SCHEMA public TO the console's user: partitions are made daily."
        found.append(Finding("permissions", "error", "No table may be made", mend))
    if age > FROZEN_WARN:
        mend = "See that autovacuum runs; run VACUUM FREEZE at a quiet time."
        found.append(Finding("vacuum", "warn", f"{age} transactions since the last freeze", mend))
    if idle_count:
        mend = "Find it in pg_stat_activity and end it: it keeps locks and dead rows."
        found.append(Finding("idle", "warn", f"{idle_count} transactions idle for an hour", mend))
    if used > 0.8:
        mend = "Raise max_connections, or lower WEB_CONCURRENCY."
        found.append(Finding("connections", "warn", f"{used:.0%} of all are in use", mend))
    return found or [Finding("permissions", "ok", f"Tables may be made; {size}")]


def _sqlite() -> list[Finding]:
    path = Path(str(connection.settings_dict["NAME"]))
    if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
        mend = "chown the file and its folder to the console's user."
        return [Finding("permissions", "error", f"{path} cannot be written", mend)]
    return [Finding("permissions", "ok", f"{path} can be written, {path.stat().st_size} bytes")]


def look_at_clock() -> list[Finding]:
    """Our clock against the database's and the processes'."""
    ahead_s = 0.0
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT clock_timestamp()")
            row = cursor.fetchone()
        ahead_s = abs((now() - row[0]).total_seconds()) if row else 0.0
    newest = max((beat.at for beat in ProcessBeat.objects.all()), default=now())
    ahead_s = max(ahead_s, (newest - now()).total_seconds())
    mend = "Let chrony or systemd-timesyncd set the clocks of all machines."
    if ahead_s > CLOCK_WARN_S:
        severity: Severity = "error" if ahead_s > CLOCK_ERROR_S else "warn"
        return [Finding("clock", severity, f"Clocks differ by {ahead_s:.0f} s", mend)]
    return [Finding("clock", "ok", f"{now():%Y-%m-%d %H:%M:%S} UTC")]


def look_at_backup() -> list[Finding]:
    """How old the last backup is, by the audit trail."""
    last = last_backup()
    mend = "Run: manage.py backup; enable fleet-backup.timer."
    if last is None:
        return [Finding("backup", "warn", "This console knows of none", mend)]
    age = now() - last.at
    name = last.post.get("name", "?") if isinstance(last.post, dict) else "?"
    detail = f"{name}, {age.total_seconds() / 3600:.1f} hours ago"
    return [Finding("backup", "warn" if age > BACKUP_WARN else "ok", detail, mend)]


# ------------------------------------------------------------------------------------- no secret


def _secrets() -> list[str]:
    """What must not be printed, wherever it may stand."""
    values = list(held_secrets().items())
    found = [value for name, value in values if name != "FLEET_TOKEN_PEPPER_ID"]
    found.append(str(settings.DATABASES["default"].get("PASSWORD") or ""))
    found.append(urlsplit(settings.REDIS_URL).password or "")
    return [value for value in found if len(value) >= 4]


def _without(finding: Finding, hidden: list[str]) -> Finding:
    detail, mend = finding.detail, finding.mend
    for value in hidden:
        detail, mend = detail.replace(value, "…"), mend.replace(value, "…")
    return Finding(finding.name, finding.severity, detail, mend)
