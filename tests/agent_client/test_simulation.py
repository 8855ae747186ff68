"""The simulated fleet: deterministic, believable, and through the real client."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from agent_client import insights
from agent_client.contract.events import ErrorEvent, Event, ModelCallEvent, RunEvent, ToolCallEvent
from agent_client.contract.wire import PATH_CHECKIN, PATH_ENROLL
from agent_client.credential import load_credential
from agent_client.http import MAX_ANSWER_BYTES, Answer
from agent_client.simulation import __main__ as program
from agent_client.simulation import drive, script
from agent_client.simulation.cast import CAST, GROUPS, NOISY_TOOL, Persona
from agent_client.simulation.script import DAY_NS, HOUR_NS, Run, S, World
from agent_client.store import Store

ROOT = Path(__file__).resolve().parents[2]
MONDAY_NS = 20_409 * DAY_NS  # 2025-11-17
ANCHOR_NS = MONDAY_NS + 14 * DAY_NS + 15 * HOUR_NS
WORLD = World(seed=7, anchor_ns=ANCHOR_NS)
BY_NAME = {persona.name: persona for persona in CAST}


def history(persona: Persona, *, days: int = 14, world: World = WORLD) -> list[Run]:
    return list(script.runs_between(world, persona, ANCHOR_NS - days * DAY_NS, ANCHOR_NS))


def events_of(*names: str) -> list[Event]:
    return [event for name in names for run in history(BY_NAME[name]) for event in run.events]


def simulated(folder: Path, *names: str, url: str = "http://127.0.0.1:9") -> drive.SimulatedFleet:
    """A fleet whose console does not answer."""
    cast = tuple(BY_NAME[name] for name in names)
    plan = drive.Plan(folder, url, {}, days=2, cast=cast)
    return drive.SimulatedFleet(plan, lambda _text: None, threading.Event())


def test_the_same_seed_gives_the_same_runs() -> None:
    assert history(CAST[0]) == history(CAST[0])
    assert history(CAST[0]) != history(CAST[0], world=World(8, ANCHOR_NS))


def test_a_span_of_time_gives_the_same_runs_in_pieces() -> None:
    middle_ns = ANCHOR_NS - 5 * DAY_NS
    pieces = [
        *script.runs_between(WORLD, CAST[0], ANCHOR_NS - 14 * DAY_NS, middle_ns),
        *script.runs_between(WORLD, CAST[0], middle_ns, ANCHOR_NS),
    ]
    assert pieces == history(CAST[0])


def test_every_event_keeps_to_the_contract() -> None:
    for event in events_of("plat-anja", "bot-slack", "lab-eval-01"):
        assert type(event).from_dict(event.to_dict()) == event


def test_a_run_counts_its_own_children() -> None:
    for run in history(BY_NAME["plat-chen"]):
        final = run.events[-1]
        assert isinstance(final, RunEvent)
        own = [event for event in run.events if event.run_id == final.run_id]
        assert final.model_call_count == sum(isinstance(e, ModelCallEvent) for e in own)
        assert final.tool_call_count == sum(isinstance(e, ToolCallEvent) for e in own)


def test_a_runs_cost_is_the_sum_of_its_calls() -> None:
    for run in history(BY_NAME["plat-anja"]):
        final = run.events[-1]
        assert isinstance(final, RunEvent)
        calls = [
            e for e in run.events if isinstance(e, ModelCallEvent) and e.run_id == final.run_id
        ]
        if calls:
            assert final.estimated_cost_usd == pytest.approx(
                sum(call.estimated_cost_usd or 0 for call in calls), abs=1e-4
            )


def test_office_people_rest_at_night_and_at_the_weekend() -> None:
    starts = [run.start_ns + HOUR_NS for run in history(BY_NAME["plat-anja"])]
    assert not [at for at in starts if at // HOUR_NS % 24 < 6]
    weekend = [at for at in starts if (at // DAY_NS + 3) % 7 >= 5]
    assert len(weekend) < len(starts) / 10


def test_the_cast_is_what_the_demo_promises() -> None:
    assert len(CAST) == 24
    assert {persona.group for persona in CAST} == set(GROUPS)
    assert sum(persona.silent_days > 0 for persona in CAST) == 2
    assert sum(bool(persona.managed_before) for persona in CAST) == 1
    assert len({persona.version for persona in CAST}) >= 3


def test_the_silent_say_nothing_after_their_last_word() -> None:
    persona = BY_NAME["desk-olga"]
    last_ns = max(run.start_ns for run in history(persona))
    assert last_ns <= ANCHOR_NS - persona.silent_days * DAY_NS


def test_one_tool_fails_far_more_often_than_the_rest() -> None:
    results = [e for e in events_of(*BY_NAME) if isinstance(e, ToolCallEvent)]
    used = Counter(event.tool_name for event in results)
    failed = Counter(e.tool_name for e in results if e.result_class != "ok")
    rates = {name: failed[name] / used[name] for name in used if used[name] > 50}
    noisy = rates.pop(NOISY_TOOL)
    assert noisy > 0.2
    assert max(rates.values()) < noisy / 2


def test_the_bad_afternoon_fails_runs_of_its_provider() -> None:
    finals = [run.events[-1] for name in BY_NAME for run in history(BY_NAME[name])]
    runs = [event for event in finals if isinstance(event, RunEvent)]

    def failed_share(*, in_outage: bool) -> float:
        chosen = [run for run in runs if WORLD.is_outage(run.start_ns) == in_outage]
        return sum(run.end_reason == "failed" for run in chosen) / len(chosen)

    assert failed_share(in_outage=True) > 4 * failed_share(in_outage=False)


def test_the_bad_afternoon_is_on_a_working_day() -> None:
    for weekday in range(7):
        world = World(7, MONDAY_NS + weekday * DAY_NS)
        hours = [world.anchor_ns // DAY_NS * DAY_NS - back * HOUR_NS for back in range(200)]
        days = {at // DAY_NS for at in hours if world.is_outage(at)}
        assert [(day + 3) % 7 < 5 for day in days] == [True]


def test_upgraded_installs_ran_the_former_version_before() -> None:
    persona = BY_NAME["plat-emre"]
    assert script.version_at(WORLD, persona, ANCHOR_NS - 10 * DAY_NS) == "0.18.2"
    assert script.version_at(WORLD, persona, ANCHOR_NS) == "0.19.0"


def test_some_cost_is_unknown_and_never_an_invented_zero() -> None:
    calls = [e for e in events_of("lab-hana") if isinstance(e, ModelCallEvent)]
    unknown = [call for call in calls if call.cost_status == "unknown"]
    assert 0 < len(unknown) < len(calls)
    assert {call.estimated_cost_usd for call in unknown} == {None}


def test_a_live_run_has_just_ended_and_keeps_its_order() -> None:
    run = script.make_run(WORLD, CAST[0], ANCHOR_NS, random.Random(1))
    moved = drive.ended_at(run, ANCHOR_NS)
    assert moved.end_ns == ANCHOR_NS
    assert moved.end_ns - moved.start_ns == run.end_ns - run.start_ns
    times = [e.start_ns for e in moved.events if isinstance(e, ModelCallEvent)]
    assert times == sorted(times)
    assert all(at <= ANCHOR_NS for at in times)


def test_history_is_recorded_by_the_real_journal(tmp_path: Path) -> None:
    runs = history(BY_NAME["plat-anja"], days=3)
    rows = drive.record(tmp_path, runs)
    with Store(tmp_path) as store:
        assert store.last_seq() == rows == sum(store.counts().values())
        overview = insights.overview(store.path)
    assert overview


def test_recording_the_same_history_again_doubles_nothing(tmp_path: Path) -> None:
    runs = history(BY_NAME["plat-anja"], days=2)
    rows = drive.record(tmp_path, runs)
    drive.record(tmp_path, runs)
    with Store(tmp_path) as store:
        assert sum(store.counts().values()) == rows


def test_live_events_go_through_the_emitter(tmp_path: Path) -> None:
    run = drive.ended_at(script.make_run(WORLD, CAST[0], ANCHOR_NS, random.Random(1)), ANCHOR_NS)
    # The anchor stands still and the machine's clock does not: retention would take it out.
    (tmp_path / "config.yaml").write_text("telemetry: {retention_days: 3650}\n")
    drive.emit_all(tmp_path, run.events)
    with Store(tmp_path) as store:
        assert sum(store.counts().values()) == len(run.events)
    log = (tmp_path / "telemetry" / "events.jsonl").read_text().splitlines()
    assert all("_ring" in json.loads(line) for line in log)


def test_each_install_stands_on_its_own_machine(tmp_path: Path) -> None:
    fleet = simulated(tmp_path, "plat-anja", "plat-gustav")
    before = dict(os.environ)
    with fleet.standing_at(BY_NAME["plat-gustav"]) as home:
        drive.prepare_home(home, 7, BY_NAME["plat-gustav"])
        assert os.environ["HERMES_HOME"] == str(home)
        assert (Path(os.environ["HERMES_MANAGED_DIR"]) / "config.yaml").exists()
    assert dict(os.environ) == before


def test_a_home_is_prepared_once_and_the_same_for_a_seed(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        drive.prepare_home(tmp_path / folder, 7, CAST[0])
        drive.prepare_home(tmp_path / folder, 7, CAST[0])
    ids = [(tmp_path / name / "telemetry" / "install_id").read_text() for name in ("one", "two")]
    assert ids[0] == ids[1]


def test_a_console_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(drive.SimulationError, match=r"127\.0\.0\.1:9 does not answer"):
        simulated(tmp_path, "plat-anja").wait_for_console(timeout_s=0.0)


def test_a_console_that_refuses_the_token_is_named(tmp_path: Path) -> None:
    with pytest.raises(drive.SimulationError, match="plat-anja cannot enroll"):
        simulated(tmp_path, "plat-anja").enroll_all()


def test_without_enrollment_history_is_kept_and_nothing_leaves(tmp_path: Path) -> None:
    fleet = simulated(tmp_path, "bot-slack")
    said: list[str] = []
    fleet.say = said.append
    with fleet.standing_at(BY_NAME["bot-slack"]) as home:
        drive.prepare_home(home, 7, BY_NAME["bot-slack"])
    runs, rows = fleet.write_history()
    assert runs > 0
    assert rows > runs
    assert load_credential(fleet.home_of(BY_NAME["bot-slack"])) is None
    assert "not_enrolled" in said[-1]


def test_a_second_start_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    first = simulated(tmp_path, "bot-slack")
    first.write_history()
    second = simulated(tmp_path, "bot-slack")
    assert second.world == first.world
    assert second.write_history()[1] == 0


def test_stopping_ends_the_history_between_two_installs(tmp_path: Path) -> None:
    fleet = simulated(tmp_path, "bot-slack", "plat-anja")
    fleet.stopping.set()
    assert fleet.write_history() == (0, 0)


def test_a_live_run_is_kept_when_the_console_is_away(tmp_path: Path) -> None:
    fleet = simulated(tmp_path, "bot-slack", "desk-olga")
    said: list[str] = []
    fleet.say = said.append
    run = fleet.live_once()
    assert run is not None
    with Store(fleet.home_of(BY_NAME["bot-slack"])) as store:
        assert sum(store.counts().values()) == len(run.events)
    assert "not_enrolled" in said[-1]


def test_the_silent_have_no_live_runs(tmp_path: Path) -> None:
    fleet = simulated(tmp_path, "desk-olga")
    assert fleet.live_once() is None
    assert not fleet.home_of(BY_NAME["desk-olga"]).exists()


def test_policy_checks_take_turns(tmp_path: Path) -> None:
    fleet = simulated(tmp_path, "bot-slack", "desk-olga", "plat-anja")
    said: list[str] = []
    fleet.say = said.append
    for _turn in range(3):
        fleet.sync_next()
    assert [line.split()[2] for line in said] == ["bot-slack:", "plat-anja:", "bot-slack:"]


def test_living_ends_when_it_is_told_to(tmp_path: Path) -> None:
    fleet = simulated(tmp_path, "bot-slack")
    threading.Timer(0.05, fleet.stopping.set).start()
    fleet.live_forever(every_s=0.02)
    assert fleet.stopping.is_set()


class Recording:
    """A transport that keeps what it is asked to send."""

    def __init__(self) -> None:
        self.bodies: list[bytes | None] = []

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: object = None,
        token: str = "",
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> Answer:
        self.bodies.append(body)
        return Answer(200)


def test_only_the_machine_is_staged_on_the_wire() -> None:
    inner = Recording()
    staged = drive.StagedHost(inner, BY_NAME["plat-bilal"], "0.19.0")
    enrollment = {"install_id": "x", "agent": {"client_version": "1"}, "host": {"hostname": "real"}}
    staged.request("POST", PATH_ENROLL, body=json.dumps(enrollment).encode())
    staged.request("POST", PATH_CHECKIN, body=b'{"seq":1,"versions":{"client":"1"}}')
    staged.request("POST", "/api/v1/telemetry", body=b"as it is")
    sent = json.loads(inner.bodies[0] or b"")
    assert sent["host"]["hostname"] == "plat-bilal"
    assert sent["install_id"] == "x"
    assert sent["agent"]["client_version"] == "1"
    assert json.loads(inner.bodies[1] or b"")["versions"]["host"] == "0.19.0"
    assert inner.bodies[2] == b"as it is"


def test_errors_of_a_call_given_up_end_the_run_as_failed() -> None:
    always = replace(BY_NAME["plat-anja"], runs_per_day=60)
    for run in history(always, days=6):
        last_error = [event for event in run.events if isinstance(event, ErrorEvent)][-1:]
        final = run.events[-1]
        assert isinstance(final, RunEvent)
        if last_error and last_error[0].recovery == "none" and final.run_id == last_error[0].run_id:
            assert final.end_reason == "failed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--installs", "0"], "must be positive"),
        (["--every", "0"], "must be positive"),
        ([], "cannot be read"),
    ],
)
def test_bad_usage_is_refused_with_two(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["http://127.0.0.1:9", "--folder", str(tmp_path), "--tokens", str(tmp_path / "none")]
    assert program.main([*given, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_sigterm_ends_the_program_cleanly(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    tokens.write_text("{}")
    command = [sys.executable, "-m", "agent_client.simulation", "http://127.0.0.1:9"]
    program_ = (
        "import sys; from agent_client.simulation import __main__ as m;"
        "from agent_client.simulation.drive import SimulatedFleet as F;"
        "before = F.wait_for_console;"
        "F.wait_for_console = lambda self: (print('waiting', flush=True), before(self));"
        "F.enroll_all = lambda self: 0;"
        f"sys.exit(m.main({[*command[3:], '--folder', str(tmp_path), '--tokens', str(tokens)]!r}))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program_], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_wakefulness_is_bounded() -> None:
    for persona in CAST:
        for hour in range(24 * 7):
            assert 0 <= script.wakefulness(persona, MONDAY_NS + hour * HOUR_NS + 5 * S) <= 1
