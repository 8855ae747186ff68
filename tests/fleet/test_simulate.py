"""``manage.py simulate``: a crowd over the real wire, and nothing lost or doubled on the way."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django.live_server_helper import LiveServer

from fleet import simulate
from fleet.enroll import mint_token, revoke_install, revoke_token
from fleet.models import ChangeRecord, EnrollmentToken, Install, InstallGroup
from telemetry.models import EVENT_MODELS, IngestBatch, InstallIntake, TouchedHour
from tests import builders

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_engines]


def simulated(url: str, **options: object) -> dict[str, object]:
    """The report of a small, quick and busy crowd."""
    out = io.StringIO()
    chosen = {"installs": 8, "minutes": 0.03, "interval": 0.5, "rate": 300.0, "always_on": True}
    call_command("simulate", url=url, json=True, stdout=out, **{**chosen, **options})
    report = json.loads(out.getvalue())
    assert isinstance(report, dict)
    return report


def part(report: dict[str, object], name: str) -> dict[str, int]:
    found = report[name]
    assert isinstance(found, dict)
    return found


def held() -> int:
    return sum(model.objects.count() for model in EVENT_MODELS)


def test_every_row_of_a_crowd_is_in_the_database_once(live_server: LiveServer) -> None:
    report = simulated(live_server.url)
    ledger, found = part(report, "ledger"), part(report, "database")
    assert ledger["made"] == ledger["accepted"] > 0
    assert found["made"] == found["held"] == held()
    assert (found["lost"], found["doubled"], found["unexplained"]) == (0, 0, 0)
    assert report["errors"] == {}


def test_a_crowd_can_be_told_from_real_installs(live_server: LiveServer) -> None:
    Install.objects.create(pk="0" * 31 + "1", machine_id="m")
    simulated(live_server.url)
    crowd = simulate.simulated_installs()
    assert crowd.count() == 8
    assert all(install.hostname.startswith("sim-") for install in crowd)
    assert all(install.capabilities == ["simulated"] for install in crowd)
    assert {str(install.group) for install in crowd} <= set(simulate.GROUPS.values())


def test_its_tokens_are_revoked_when_it_is_over(live_server: LiveServer) -> None:
    simulated(live_server.url)
    assert EnrollmentToken.objects.count() == 3
    assert not EnrollmentToken.objects.filter(revoked_at=None).exists()


def test_the_same_seed_and_base_again_double_nothing(live_server: LiveServer) -> None:
    first = simulated(live_server.url)
    before, batches = held(), set(IngestBatch.objects.values_list("batch_id", flat=True))
    again = simulated(live_server.url, base=first["base_ns"], minutes=0.0001)
    assert part(again, "database")["doubled"] == part(again, "database")["lost"] == 0
    assert again["mark"] == first["mark"]
    ids = set(IngestBatch.objects.values_list("batch_id", flat=True))
    assert len(ids) - len(batches) < part(again, "ledger")["batches"]  # the rest are repeats
    assert Install.objects.count() == 8
    assert held() >= before
    assert part(again, "ledger")["unexplained"] == 0


def test_an_outage_loses_nothing(live_server: LiveServer) -> None:
    report = simulated(live_server.url, minutes=0.08, outage="1:1.5")
    ledger, found = part(report, "ledger"), part(report, "database")
    assert "push outage" in part(report, "errors")
    assert ledger["unsent"] == ledger["unexplained"] == 0
    assert found["made"] == found["held"] == held()
    assert part(report, "outage")["began_s"] < part(report, "outage")["ended_s"]


def test_history_fills_the_days_before(live_server: LiveServer) -> None:
    report = simulated(live_server.url, installs=3, history=2, minutes=0.02)
    assert part(part(report, "latency"), "history")["count"] >= 3  # type: ignore[arg-type]  # one level deeper
    base_s = int(str(report["base_ns"])) / 1e9
    hours = TouchedHour.objects.values_list("hour", flat=True)
    assert base_s - min(hours).timestamp() > 86_400
    assert part(report, "database")["unexplained"] == part(report, "database")["lost"] == 0


def test_a_published_policy_is_applied_by_all_but_the_silent(live_server: LiveServer) -> None:
    builders.make_pin("telemetry.retention_days", 60)
    builders.publish()
    simulated(live_server.url, minutes=0.1)  # several rounds, on whatever machine
    states = set(Install.objects.values_list("sync_state", flat=True))
    assert Install.objects.filter(sync_state="in_sync").count() == 8
    assert states <= {"in_sync", "never_seen"}


def test_an_install_that_is_revoked_meanwhile_leaves_no_row_unexplained(
    live_server: LiveServer,
) -> None:
    first = simulated(live_server.url)
    Install.objects.filter(group__name=simulate.GROUPS["Platform"]).update(status="quarantined")
    report = simulated(live_server.url, base=first["base_ns"], minutes=0.01)
    assert part(report, "ledger")["unexplained"] == 0
    assert int(str(report["enrolled"])) < 8


# -------------------------------------------------------------------------------------- its removal


def test_remove_leaves_nothing_of_the_crowd_and_everything_else(live_server: LiveServer) -> None:
    real = Install.objects.create(pk="0" * 31 + "1", machine_id="m")
    InstallIntake.objects.create(install_id=real.pk)
    simulated(live_server.url)
    out = io.StringIO()
    call_command("simulate", remove=True, yes=True, stdout=out)
    assert "8 simulated installs" in out.getvalue()
    assert held() == IngestBatch.objects.count() == 0
    assert [install.hex for install in Install.objects.values_list("pk", flat=True)] == [real.pk]
    assert InstallIntake.objects.count() == 1
    assert not InstallGroup.objects.exists()
    assert not EnrollmentToken.objects.exists()
    assert ChangeRecord.objects.filter(action="remove_simulation").count() == 3


def test_remove_has_every_hour_of_the_crowd_made_again(live_server: LiveServer) -> None:
    simulated(live_server.url, installs=3)
    hours = set(TouchedHour.objects.values_list("hour", flat=True))
    simulate.remove_crowd()
    assert set(TouchedHour.objects.values_list("hour", "batch_id")) == {(h, None) for h in hours}


def test_remove_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    _row, _text = mint_token(actor=simulate.ACTOR)
    Install.objects.create(pk="0" * 31 + "1", machine_id="m", enrolled_with=_row)
    monkeypatch.setattr("builtins.input", lambda _prompt: "no")
    with pytest.raises(CommandError, match="Nothing was deleted"):
        call_command("simulate", remove=True)
    assert Install.objects.count() == 1


def test_remove_keeps_a_group_that_somebody_uses() -> None:
    group = InstallGroup.objects.create(name=simulate.GROUPS["Platform"])
    real = Install.objects.create(pk="0" * 31 + "1", machine_id="m", group=group)
    assert simulate.remove_crowd() == (0, 0)
    assert [each.hex for each in group.installs.values_list("pk", flat=True)] == [real.pk]


# ----------------------------------------------------------------------------- what it is told


def test_a_token_of_an_operator_serves_another_console(live_server: LiveServer) -> None:
    _row, text = mint_token(actor="operator")
    report = simulated(live_server.url, token=text)
    assert "database" not in report
    assert report["enrolled"] == 8
    assert not simulate.simulated_installs().exists()


def test_a_token_that_is_refused_is_named(
    live_server: LiveServer, capfd: pytest.CaptureFixture[str]
) -> None:
    row, text = mint_token(actor="operator")
    revoke_token(row, actor="operator")
    with pytest.raises(CommandError, match="did not run"):
        simulated(live_server.url, token=text)
    said = capfd.readouterr().err
    assert "token_revoked" in said
    assert text not in said


@contextmanager
def crowd(url: str, token: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The crowd's process, its token handed in; the pipe stays open."""
    process = subprocess.Popen(
        [sys.executable, "-m", "agent_client.simulation.crowd", url, "--tokens=-", *options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"": token}).encode() + b"\n")
    process.stdin.flush()
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(60)


def test_ctrl_c_ends_it_with_the_whole_ledger(live_server: LiveServer, tmp_path: Path) -> None:
    _row, text = mint_token(actor="operator")
    report = tmp_path / "report.json"
    options = ["--installs=6", "--interval=0.5", "--rate=300", "--always-on"]
    with crowd(live_server.url, text, f"--report={report}", *options) as process:
        ends_s = time.monotonic() + 40
        while not IngestBatch.objects.count() > 5:
            assert time.monotonic() < ends_s
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    ledger = json.loads(report.read_text())["ledger"]
    assert ledger["made"] == ledger["accepted"] > 0
    assert ledger["unsent"] == 0


def test_rows_of_an_install_that_is_revoked_are_refused_and_not_lost(
    live_server: LiveServer, tmp_path: Path
) -> None:
    _row, text = mint_token(actor="operator")
    report = tmp_path / "report.json"
    options = ["--installs=2", "--interval=0.5", "--rate=600", "--minutes=0.15", "--always-on"]
    with crowd(live_server.url, text, f"--report={report}", *options) as process:
        ends_s = time.monotonic() + 40
        while not IngestBatch.objects.exists():
            assert time.monotonic() < ends_s
            time.sleep(0.05)
        for install in Install.objects.all():
            revoke_install(install, actor="operator")
        process.wait(60)
    ledger = json.loads(report.read_text())["ledger"]
    assert ledger["refused"].keys() == {"credential_revoked"}
    assert (ledger["unexplained"], ledger["unsent"]) == (0, 0)
    assert ledger["accepted"] + ledger["refused"]["credential_revoked"] == ledger["made"]


def test_the_crowd_ends_with_whoever_started_it(live_server: LiveServer) -> None:
    _row, text = mint_token(actor="operator")
    with crowd(live_server.url, text, "--installs=2", "--interval=1") as process:
        assert process.stdin is not None
        process.stdin.close()  # as when the parent was killed
        assert process.wait(60) == 0


# ---------------------------------------------------------------------------------- its judgement


def judged(held: int, rows: int, **options: object) -> simulate.Verdict:
    counts = {"tel_runs": {"rows": rows, "distinct": held}}
    chosen = {"partly_rejected": 0, "unsent": 0, "spooled": 0, "was_there": False, **options}
    return simulate.judge_held({"tel_runs": 10}, counts, **chosen)  # type: ignore[arg-type]  # built above


def test_lost_doubled_and_unexplained_rows_are_told_apart() -> None:
    assert judged(10, 10).is_exact
    assert judged(9, 9).lost == 1
    assert judged(10, 11).doubled == 1
    assert judged(12, 12).unexplained == 2


def test_rows_of_an_earlier_run_and_rejected_ones_are_explained() -> None:
    assert judged(12, 12, was_there=True).is_exact
    assert judged(9, 9, partly_rejected=1).is_exact
    assert judged(12, 12, unsent=2).is_exact


def test_what_waits_in_the_spool_is_not_lost_but_not_the_end_either() -> None:
    verdict = judged(4, 4, spooled=6)
    assert (verdict.lost, verdict.is_exact) == (0, False)
    assert judged(4, 4, spooled=5).lost == 1
