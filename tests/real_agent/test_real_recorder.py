"""What the recorder makes of a real agent: spans with their parents, happenings, costs."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real_agent.agent import HERMES_VERSION, Agent, make_agent
from tests.real_agent.hosts import one_api_request
from tests.real_agent.model_server import NOTE_SECRET, TOOL_SECRET, ModelServer, serve_model

pytestmark = [pytest.mark.real_agent, pytest.mark.slow, pytest.mark.timeout(1500)]
# Exported records: values of any column.
Row = dict[str, Any]
PRICES = """
telemetry:
  prices:
    scripted: {input: 1, output: 2}
"""
ASK_FOR_SECONDS = """
approvals: {mode: smart, timeout: 2}
"""


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with serve_model() as server:
        yield server


@pytest.fixture
def agent(
    environment: Path, tmp_path: Path, model: ModelServer, ran_on: Callable[[str, str], None]
) -> Agent:
    ran_on("real agent", HERMES_VERSION)
    return make_agent(environment, tmp_path, model.base_url)


def configure(agent: Agent, text: str) -> None:
    config = agent.home / "config.yaml"
    config.write_text(config.read_text() + text)


def exported(agent: Agent) -> dict[str, list[Row]]:
    """Everything that was recorded, by table, after a look at where it all belongs."""
    done = agent.telemetry("export", "--out", "-")
    assert done.code == 0, done
    found: dict[str, list[Row]] = {}
    for line in done.out.splitlines():
        record = json.loads(line)
        found.setdefault(record["_kind"], []).append(record)
    runs = {row["run_id"] for row in found["tel_runs"]}
    inner = {
        row["span_id"] for name in ("tel_spans", "tel_tool_calls") for row in found.get(name, [])
    }
    for name in found.keys() - {"tel_runs", "session"}:
        for row in found[name]:
            assert row["run_id"] in runs
            assert row["parent_span_id"] in {row["run_id"], *inner}
    log = (agent.home / "telemetry" / "events.jsonl").read_text()
    for text in (NOTE_SECRET, TOOL_SECRET, "scratch_danger", "child goal", "All done."):
        assert text not in log + done.out
    return found


def spans_of(found: dict[str, list[Row]]) -> list[tuple[str, str]]:
    return sorted((row["kind"], row["status"]) for row in found.get("tel_spans", []))


def test_the_hosts_own_tools_make_skill_memory_and_cron_events(agent: Agent) -> None:
    assert agent.hermes("chat", "-Q", "-q", "NOTES please").code == 0
    found = exported(agent)
    skills = sorted((row["action"], row["skill_name"]) for row in found["tel_skill_events"])
    assert skills == [("create", "notes"), ("view", "notes")]
    assert [(row["action"], row["result"]) for row in found["tel_memory_events"]] == [("add", "ok")]
    assert [(row["kind"], row["result"]) for row in found["tel_cron_events"]] == [("create", "ok")]
    assert spans_of(found) == [("turn", "ok")]
    (turn,) = found["tel_spans"]
    children = found["tel_model_calls"] + found["tel_tool_calls"]
    assert {row["parent_span_id"] for row in children} == {turn["span_id"]}
    assert min(row["start_ns"] for row in children) >= turn["start_ns"]
    assert max(row["end_ns"] for row in children) <= turn["end_ns"]


def test_an_approval_nobody_gives_is_a_span_as_long_as_the_wait(agent: Agent) -> None:
    configure(agent, ASK_FOR_SECONDS)
    assert agent.hermes("chat", "-Q", "-q", "DANGER please").code == 0
    found = exported(agent)
    assert spans_of(found) == [("approval", "denied"), ("turn", "ok")]
    (approval,) = [row for row in found["tel_spans"] if row["kind"] == "approval"]
    assert 1.9 < (approval["end_ns"] - approval["start_ns"]) / 1e9 < 10
    (tool,) = found["tel_tool_calls"]
    assert (tool["approval"], tool["result_class"]) == ("denied", "blocked")


def test_a_subagent_is_a_span_of_the_turn_that_sent_it(agent: Agent) -> None:
    assert agent.hermes("-z", "DELEGATE please").code == 0
    found = exported(agent)
    assert spans_of(found) == [("subagent", "ok"), ("turn", "ok"), ("turn", "ok")]
    (subagent,) = [row for row in found["tel_spans"] if row["kind"] == "subagent"]
    (turn,) = [row for row in found["tel_spans"] if row["span_id"] == subagent["parent_span_id"]]
    (child,) = [row for row in found["tel_runs"] if row["parent_run_id"]]
    assert (turn["run_id"], turn["kind"]) == (subagent["run_id"], "turn")
    assert json.loads(subagent["attrs_json"])["child_run_id"] == child["run_id"]


def test_a_turn_whose_process_is_killed_is_abandoned_at_the_last_thing_seen(
    agent: Agent, model: ModelServer
) -> None:
    process = agent.start("chat", "-Q", "-q", "STUCK TOOL please")
    assert model.is_waiting.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    found = exported(agent)
    (turn,), (tool,) = found["tel_spans"], found["tel_tool_calls"]
    assert (turn["status"], turn["end_ns"]) == ("abandoned", tool["end_ns"])


def test_a_one_shot_that_cannot_log_in_has_a_turn_that_failed(agent: Agent) -> None:
    agent.hermes("-z", "LOGIN fails")
    found = exported(agent)
    assert spans_of(found) == [("turn", "error")]
    assert [row["end_reason"] for row in found["tel_runs"]] == ["failed"]


def test_a_request_to_the_gateway_is_a_message_in_and_one_out(agent: Agent) -> None:
    one_api_request(agent, "one TOOL please")
    found = exported(agent)
    messages = [(row["direction"], row["result"]) for row in found["tel_gateway_events"]]
    assert messages == [("in", None), ("out", "ok")]


def test_what_the_owner_pays_is_what_a_run_costs(agent: Agent) -> None:
    configure(agent, PRICES)
    assert agent.hermes("-z", "one TOOL please").code == 0
    found = exported(agent)
    cost_usd = (900 * 1 + 40 * 2) / 1e6  # 300 of the 900 were cached: they cost as much
    calls = found["tel_model_calls"]
    assert [(row["cost_status"], row["cost_source"]) for row in calls] == [
        ("estimated", "override"),
        ("estimated", "override"),
    ]
    assert [row["estimated_cost_usd"] for row in calls] == pytest.approx([cost_usd, cost_usd])
    (run,) = found["tel_runs"]
    assert run["cost_status"] == "estimated"
    assert run["estimated_cost_usd"] == pytest.approx(2 * cost_usd)


def test_a_cost_nobody_knows_is_not_zero(agent: Agent) -> None:
    assert agent.hermes("-z", "hello").code == 0
    found = exported(agent)
    rows = found["tel_runs"] + found["tel_model_calls"]
    assert {(row["cost_status"], row["estimated_cost_usd"]) for row in rows} == {("unknown", None)}
