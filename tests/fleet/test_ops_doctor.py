"""The doctor: what it finds, that it hides secrets, and that it works when much is down."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.conf import LazySettings
from django.core.management import call_command

from fleet import half_restored
from fleet.lib.clock import now
from fleet.models import ProcessBeat
from fleet.ops import doctor, hooks
from fleet.ops.backup import ACTION
from fleet.ops.hooks import Finding

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


def run(*words: str) -> tuple[int, str]:
    out = StringIO()
    try:
        call_command("doctor", *words, stdout=out)
    except SystemExit as ended:
        return int(str(ended.code)), out.getvalue()
    return 0, out.getvalue()


def severity_of(name: str) -> str:
    return next(each.severity for each in doctor.examine() if each.name == name)


def test_it_names_what_is_wrong_first_and_says_what_to_do() -> None:
    code, text = run()
    assert code == 2  # no worker was ever seen
    assert text.startswith("ERROR")
    assert "ERROR worker: Never seen\n      → Start it: celery" in text
    code, text = run("--quiet")
    assert "\nok" not in text
    whole = json.loads(run("--json")[1])
    assert whole["state"] == "error"
    names = {each["name"] for each in whole["findings"]}
    assert names >= {
        *("database", "migrations", "worker", "beat", "broker", "disk", "keys", "files"),
        *("address", "static", "permissions", "clock", "backup", "spool", "rollups"),
        *("quarantine", "exports", "relays", "retention"),
    }


def test_no_finding_shows_a_secret(settings: LazySettings) -> None:
    said = f"key {settings.SECRET_KEY} and {next(iter(settings.FLEET_TOKEN_PEPPERS.values()))}"
    hooks.register_doctor("leaky", lambda: [Finding("leaky", "warn", said, said)])
    try:
        text = run()[1] + run("--json")[1]
    finally:
        hooks._doctors.pop("leaky")
    assert "leaky: key … and …" in text
    assert settings.SECRET_KEY not in text


def test_a_look_that_fails_hides_no_other() -> None:
    def fails() -> list[Finding]:
        raise OSError("the disk went away")

    hooks.register_doctor("fails", fails)
    try:
        found = {each.name: each.detail for each in doctor.examine()}
    finally:
        hooks._doctors.pop("fails")
    assert found["fails"] == "OSError: the disk went away"
    assert "backup" in found


def test_tls_without_a_proxy_is_an_error(settings: LazySettings) -> None:
    settings.FLEET_PUBLIC_URL, settings.FLEET_PROXIES = "https://fleet.example.com", []
    settings.ALLOWED_HOSTS = ["other"]
    found = [each.detail for each in doctor.look_at_address()]
    assert found == ["https and no proxy that is believed", "its own public name is refused"]


def test_a_clock_that_is_ahead_is_found() -> None:
    ProcessBeat.objects.create(kind="beat", at=now() + timedelta(seconds=60))
    assert severity_of("clock") == "warn"
    ProcessBeat.objects.update(at=now() + timedelta(seconds=600))
    assert severity_of("clock") == "error"


def test_a_restore_that_was_cut_short_is_an_error(settings: LazySettings, tmp_path: Path) -> None:
    settings.FLEET_HOME = tmp_path  # the other one is shared with tests that start a console
    assert "fleet.E006" not in {each.name for each in doctor.examine()}
    half_restored.journal_path().write_text("{}")
    assert severity_of("fleet.E006") == "error"
    with pytest.raises(SystemExit, match="restore --finish"):
        half_restored.refuse_start()


def test_the_age_of_the_last_backup_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from fleet.audit import record_change
    from fleet.models import Fleet

    assert severity_of("backup") == "warn"
    record_change(
        actor="manage.py", action=ACTION, target=Fleet.current(), pre=None, post={"name": "b.zip"}
    )
    assert severity_of("backup") == "ok"
    later = now() + timedelta(hours=40)
    monkeypatch.setattr(doctor, "now", lambda: later)
    assert severity_of("backup") == "warn"
