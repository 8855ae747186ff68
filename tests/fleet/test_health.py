"""Health and checks: each thing that is away is named with its mend."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from fleet import checks, health
from fleet.lib.clock import now
from fleet.models import ProcessBeat
from fleet.policy.signing import SigningError
from fleet.tasks import heartbeat, mark_offline, note_beat

AWAY = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize(
    ("age_s", "state"), [(None, "down"), (10, "ok"), (61, "warn"), (301, "down"), (-5, "ok")]
)
def test_a_process_is_judged_by_its_last_sign_of_life(age_s: float | None, state: str) -> None:
    moment = now()
    at = None if age_s is None else moment - timedelta(seconds=age_s)
    probe = health.judge_beat("worker", "Worker", at, moment)
    assert probe.state == state
    assert bool(probe.mend) == (state != "ok")


@pytest.mark.django_db
@pytest.mark.both_engines
def test_a_console_with_its_processes_is_well() -> None:
    heartbeat()
    note_beat("beat")
    found = {probe.name: probe for probe in health.gather().probes}
    connections = {"database", "migrations", "worker", "beat", "broker"}
    assert set(found) == connections | {"limits", "disk", "keys", "spool", "rollups", "relays"}
    assert {name for name, probe in found.items() if probe.state == "down"} <= {"disk"}
    assert ProcessBeat.objects.count() == 2


@pytest.mark.django_db
def test_without_processes_the_whole_is_down_and_says_how_to_start_them() -> None:
    found = health.gather()
    worker = next(probe for probe in found.probes if probe.name == "worker")
    assert (found.state, worker.state) == ("down", "down")
    assert "celery" in worker.mend


@pytest.mark.django_db
def test_pending_migrations_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Step:
        app_label, name = "fleet", "0002_more"

    def planned(*_args: object) -> list[tuple[type[Step], bool]]:
        return [(Step, False)]

    monkeypatch.setattr("fleet.health.MigrationExecutor.migration_plan", planned)
    probe = health.migrations_probe()
    assert probe.state == "down"
    assert "fleet.0002_more" in probe.detail


@override_settings(REDIS_URL=AWAY)
def test_a_redis_that_is_away_is_named_with_its_address() -> None:
    probe = health.broker_probe()
    assert probe.state == "down"
    assert "127.0.0.1:1" in probe.mend


@override_settings(REDIS_URL=AWAY)
def test_rate_limits_say_when_redis_does_not_count_them() -> None:
    probe = health.limits_probe()
    assert (probe.state, bool(probe.mend)) == ("warn", True)
    with override_settings(REDIS_URL=""):
        assert health.limits_probe().state == "ok"


def test_a_broker_folder_that_is_away_is_down(tmp_path: Path) -> None:
    options = {"data_folder_in": str(tmp_path / "none")}
    with override_settings(REDIS_URL="", CELERY_BROKER_TRANSPORT_OPTIONS=options):
        assert health.broker_probe().state == "down"


@pytest.mark.parametrize(("free", "state"), [(2**40, "ok"), (2**30, "warn"), (2**20, "down")])
def test_the_disk_is_judged_by_what_is_free(
    monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    class Usage:
        def __init__(self) -> None:
            self.free = free

    monkeypatch.setattr("fleet.health.shutil.disk_usage", lambda _path: Usage())
    assert health.disk_probe().state == state


@pytest.mark.django_db
def test_keys_that_cannot_be_read_are_down(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise SigningError("policy.key: not hex")

    monkeypatch.setattr("fleet.health.current_root", fail)
    assert health.keys_probe().state == "down"


def test_the_versions_name_the_interpreter() -> None:
    assert {"Python", "Django", "celery"} <= health.versions().keys()


@pytest.mark.django_db
def test_the_offline_task_says_how_many() -> None:
    assert mark_offline() == 0


def ids(found: list[Any]) -> list[str]:  # Any: Django's message, whose id may be None
    assert all(message.hint for message in found)
    return [str(message.id) for message in found]


def test_a_short_secret_is_e001() -> None:
    with override_settings(SECRET_KEY="short", FLEET_TOKEN_PEPPERS={"p": "short"}):
        assert ids(checks.check_secrets(None)) == ["fleet.E001", "fleet.E001"]


def test_another_zone_is_e002() -> None:
    with override_settings(TIME_ZONE="Europe/Berlin"):
        assert ids(checks.check_time(None)) == ["fleet.E002"]


def test_a_key_file_that_others_can_read_is_e003(tmp_path: Path) -> None:
    key = tmp_path / "policy.key"
    key.write_text("x")
    key.chmod(0o644)
    with override_settings(FLEET_KEYS_DIR=tmp_path, FLEET_HOME=tmp_path):
        assert ids(checks.check_key_files(None)) == ["fleet.E003"]
        key.chmod(0o600)
        assert checks.check_key_files(None) == []


@pytest.mark.parametrize("hosts", [[], ["*"]])
def test_no_host_or_every_host_is_e004(hosts: list[str]) -> None:
    with override_settings(ALLOWED_HOSTS=hosts, DEBUG=False):
        assert ids(checks.check_hosts(None)) == ["fleet.E004"]


def test_a_broker_folder_that_cannot_be_made_is_e005(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fleet.celery.make_broker_folders", fail)
    with override_settings(REDIS_URL=""):
        assert ids(checks.check_broker(None)) == ["fleet.E005"]


def test_a_public_console_on_sqlite_without_tls_is_warned_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Sqlite:
        vendor = "sqlite"

    monkeypatch.setattr(checks, "connections", {"default": Sqlite})
    with override_settings(FLEET_PUBLIC_URL="http://fleet.example", DEBUG=True):
        assert ids(checks.check_exposure(None)) == ["fleet.W001", "fleet.W002", "fleet.W003"]


def test_a_console_at_home_is_not() -> None:
    with override_settings(FLEET_PUBLIC_URL="http://127.0.0.1:8000", DEBUG=False):
        assert checks.check_exposure(None) == []


@pytest.mark.postgres
@pytest.mark.django_db
def test_an_old_postgresql_is_e010(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_database(None, databases=["default"]) == []
    monkeypatch.setattr(checks, "MIN_POSTGRES", 999_999)
    assert ids(checks.check_database(None, databases=["default"])) == ["fleet.E010"]


@override_settings(REDIS_URL=AWAY)
def test_a_redis_that_is_away_is_w011() -> None:
    assert ids(checks.check_redis(None)) == ["fleet.W011"]


@pytest.mark.redis
def test_an_old_redis_is_e011(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with override_settings(REDIS_URL=redis_url):
        assert checks.check_redis(None) == []
        assert health.broker_probe().state == "ok"
        monkeypatch.setattr(checks, "MIN_REDIS", (99, 0))
        assert ids(checks.check_redis(None)) == ["fleet.E011"]
