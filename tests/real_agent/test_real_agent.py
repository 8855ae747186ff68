"""The whole loop on a real agent: recorded, pushed, seen; pinned, obeyed, acknowledged."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from agent_client.contract.tables import EVENT_TABLES, Table
from tests.real_agent.agent import HERMES_VERSION, Agent, make_agent
from tests.real_agent.console import Console, serve_console
from tests.real_agent.hosts import one_api_request, one_tui_session
from tests.real_agent.model_server import TOOL_SECRET, ModelServer, serve_model

pytestmark = [
    pytest.mark.real_agent,
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
]
CONSOLE_TABLES = {
    "tel_runs": "telemetry_run",
    "tel_model_calls": "telemetry_modelcall",
    "tel_tool_calls": "telemetry_toolcall",
    "tel_error_events": "telemetry_errorevent",
    "tel_spans": "telemetry_span",
    "tel_gateway_events": "telemetry_gatewayevent",
    "tel_cron_events": "telemetry_cronevent",
    "tel_skill_events": "telemetry_skillevent",
    "tel_memory_events": "telemetry_memoryevent",
    "tel_feedback_events": "telemetry_feedbackevent",
}
PIN = """
from django.contrib.auth import get_user_model
from fleet.models import Pin
from fleet.policy.publish import publish_revision

actor = get_user_model().objects.create_superuser("pinner", "", "made-up")
Pin.objects.create(key="telemetry.allow_aggregate", value=False, reason="works council")
Pin.objects.create(key="model.default", value="pinned-model", reason="contract")
publish_revision(actor=actor, reason="first pins")
"""


@dataclass(frozen=True, slots=True)
class Loop:
    """Everything that takes part."""

    agent: Agent
    console: Console
    model: ModelServer
    database_url: str


@pytest.fixture
def loop(
    environment: Path,
    tmp_path: Path,
    fresh_database_url: str,
    ran_on: Callable[[str, str], None],
) -> Iterator[Loop]:
    ran_on("real agent", HERMES_VERSION)
    with serve_model() as model, serve_console(tmp_path, fresh_database_url) as console:
        yield Loop(
            make_agent(environment, tmp_path, model.base_url), console, model, fresh_database_url
        )


def enroll(loop: Loop) -> None:
    string = loop.console.manage("enrollment_token").strip()
    assert "\n" not in string
    done = loop.agent.telemetry("enroll", loop.console.url, "-", stdin=string + "\n")
    assert done.code == 0, done


def exported(loop: Loop, table: Table) -> list[dict[str, object]]:
    done = loop.agent.telemetry("export", "--out", "-")
    assert done.code == 0, done
    records = [json.loads(line) for line in done.out.splitlines()]
    rows = [record for record in records if record.pop("_kind") == table.name]
    return sorted(rows, key=lambda row: str(row[table.key]))


def on_console(loop: Loop, table: Table) -> list[dict[str, object]]:
    names = [*table.column_names(), "seq"]
    query = f"SELECT {', '.join(names)} FROM {CONSOLE_TABLES[table.name]} ORDER BY {table.key}"
    with psycopg.connect(loop.database_url, row_factory=dict_row) as connection:
        return connection.execute(query).fetchall()


def test_real_sessions_reach_the_console_exactly(loop: Loop) -> None:
    agent = loop.agent
    assert agent.hermes("chat", "-Q", "-q", "one TOOL please").code == 0
    assert agent.hermes("chat", "-Q", "-q", "TWO_TOOLS please").code == 0
    assert agent.hermes("chat", "-Q", "-q", "LOGIN fails").code == 1
    assert agent.hermes("-z", "one TOOL please").code == 0
    assert agent.hermes("-z", "DELEGATE please").code == 0

    before = agent.telemetry("push")
    assert before.code == 4, before
    assert all(on_console(loop, table) == [] for table in EVENT_TABLES)

    enroll(loop)
    done = agent.telemetry("push")
    assert done.code == 0, done
    for table in EVENT_TABLES:
        assert on_console(loop, table) == exported(loop, table)
    assert all(on_console(loop, table) for table in EVENT_TABLES[:5])

    runs = on_console(loop, EVENT_TABLES[0])
    by_reason = sorted((str(run["entrypoint"]), str(run["end_reason"])) for run in runs)
    assert by_reason == [
        ("cli", "completed"),
        ("cli", "completed"),
        ("cli", "completed"),
        ("cli", "completed"),
        ("cli", "failed"),
        ("subagent", "completed"),
    ]
    children = [run for run in runs if run["parent_run_id"]]
    parents = [run for run in runs if run["run_id"] == children[0]["parent_run_id"]]
    assert [parent["trace_id"] for parent in parents] == [children[0]["trace_id"]]
    tools = on_console(loop, EVENT_TABLES[2])
    assert sorted(str(tool["result_class"]) for tool in tools).count("error") == 1
    assert {error["error_class"] for error in on_console(loop, EVENT_TABLES[3])} == {"auth"}

    again = agent.telemetry("push")
    assert again.code == 0, again
    for table in EVENT_TABLES:
        assert on_console(loop, table) == exported(loop, table)


def test_nothing_of_what_was_said_leaves_the_machine(loop: Loop) -> None:
    assert loop.agent.hermes("-z", "one TOOL please, canary-48151").code == 0
    log = (loop.agent.home / "telemetry" / "events.jsonl").read_bytes()
    export = loop.agent.telemetry("export", "--out", "-").out.encode()
    for text in (b"canary-48151", TOOL_SECRET.encode(), b"All done."):
        assert text not in log + export


def test_a_pin_reaches_the_agent_is_obeyed_and_acknowledged(loop: Loop) -> None:
    enroll(loop)
    loop.console.manage("shell", "--no-imports", "-c", PIN)
    done = loop.agent.telemetry("policy", "sync")
    assert done.code == 0, done

    assert loop.agent.hermes("-z", "hello").code == 0
    assert set(loop.model.models_asked()) == {"pinned-model"}
    refused = loop.agent.hermes("config", "set", "model.default", "mine")
    assert refused.code == 1
    assert "managed by your administrator" in refused.out + refused.err
    refused = loop.agent.hermes("config", "set", "telemetry.allow_aggregate", "true")
    assert refused.code == 1
    assert (
        "telemetry.allow_aggregate = false   fleet, revision 1"
        in loop.agent.telemetry("status").out
    )

    with psycopg.connect(loop.database_url) as connection:
        state = connection.execute("SELECT sync_state FROM fleet_install").fetchall()
    assert state == [("in_sync",)]


@pytest.mark.parametrize(
    ("signalled", "reason"),
    [(signal.SIGTERM, "interrupted"), (signal.SIGKILL, "abandoned")],
    ids=["SIGTERM", "SIGKILL"],
)
def test_a_killed_session_is_one_correct_run(
    loop: Loop, signalled: signal.Signals, reason: str
) -> None:
    process = loop.agent.start("chat", "-Q", "-q", "SLOW please")
    assert loop.model.is_waiting.wait(60)
    process.send_signal(signalled)
    process.wait(60)
    rows = exported(loop, EVENT_TABLES[0])
    assert [row["end_reason"] for row in rows] == [reason]


@pytest.mark.parametrize("end", ["close", "eof", "SIGTERM"])
def test_a_terminal_session_completes_once_however_it_is_left(loop: Loop, end: str) -> None:
    one_tui_session(loop.agent, "one TOOL please", end=end)
    rows = exported(loop, EVENT_TABLES[0])
    assert [(row["entrypoint"], row["end_reason"]) for row in rows] == [("tui", "completed")]


def test_a_request_to_an_api_server_that_goes_away_idle_completed(loop: Loop) -> None:
    one_api_request(loop.agent, "one TOOL please")
    rows = exported(loop, EVENT_TABLES[0])
    assert [(row["entrypoint"], row["end_reason"]) for row in rows] == [("api", "completed")]


def test_a_resumed_session_is_a_new_run_of_the_same_session(loop: Loop) -> None:
    assert loop.agent.hermes("chat", "-Q", "-q", "hello").code == 0
    session_id = str(exported(loop, EVENT_TABLES[0])[0]["session_id"])
    assert loop.agent.hermes("chat", "-Q", "--resume", session_id, "-q", "again").code == 0
    rows = exported(loop, EVENT_TABLES[0])
    assert [row["session_id"] for row in rows] == [session_id, session_id]
    assert [row["end_reason"] for row in rows] == ["completed", "completed"]


def test_the_verbs_work_under_hermes_too(loop: Loop) -> None:
    assert loop.agent.hermes("-z", "hello").code == 0
    done = loop.agent.hermes("telemetry", "status", "--json")
    assert done.code == 0, done
    assert json.loads(done.out)["schema"] == 1
