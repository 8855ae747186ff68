"""What a real hermes-agent 0.19.0 said in every mode, played again: one correct run each.

The recordings hold each hook of a process as it came, with its time; ``__atexit__`` marks where
the interpreter had begun to end. Whatever holds content is a canary. Nothing ever closes the
recorder, as nothing does in the host: every process ends with its spool on disk.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_client import plugin
from agent_client.contract.tables import EVENT_TABLES, RUNS
from agent_client.emitter import Emitter
from agent_client.files import telemetry_dir
from agent_client.recovery import recover
from agent_client.runs import RunTracker
from agent_client.store import Store
from tests.agent_client.hooks import SECRET

RECORDINGS = Path(__file__).parent / "recordings"
MODES = sorted(path.stem for path in RECORDINGS.glob("*.jsonl"))
# Rows as the export has them: values of any column.
Row = dict[str, Any]
Line = dict[str, Any]
CHILDREN = [table for table in EVENT_TABLES if table is not RUNS]

COMPLETED = ("cli", "completed", 2, 1, 0, 1)
FAILED_LOGIN = ("cli", "failed", 0, 0, 1, 1)
EXHAUSTED = ("cli", "failed", 0, 0, 3, 1)
TUI = ("tui", "completed", 2, 1, 0, 1)
OK = ("turn", "ok")
RUNS_OF: dict[str, list[tuple[object, ...]]] = {
    # entrypoint, end_reason, model calls, tool calls, errors, turns
    "approval": [COMPLETED],
    "chat_401": [FAILED_LOGIN],
    "chat_500": [EXHAUSTED],
    "chat_ok": [COMPLETED],
    "chat_subagent": [COMPLETED, ("subagent", "interrupted", 0, 0, 0, 1)],
    "gateway": [("api", "completed", 2, 1, 0, 1)],
    "max_iterations": [("cli", "max_iterations", 3, 3, 0, 1)],
    "notes": [("cli", "completed", 2, 5, 1, 1)],
    "one_shot_401": [FAILED_LOGIN],
    "one_shot_500": [EXHAUSTED],
    "one_shot_ok": [COMPLETED],
    "one_shot_subagent": [COMPLETED, ("subagent", "completed", 2, 1, 0, 1)],
    "resume": [("cli", "completed", 1, 0, 0, 1), COMPLETED],
    "retry": [("cli", "completed", 1, 0, 1, 1)],
    "sigkill": [("cli", "abandoned", 0, 0, 0, 0)],
    "sigterm": [("cli", "interrupted", 0, 0, 0, 1)],
    "tui_close": [TUI],
    "tui_eof": [TUI],
    "tui_sigterm": [TUI],
}
SPANS_OF: dict[str, list[tuple[str, str]]] = {
    "approval": [("approval", "denied"), OK],
    "chat_401": [("turn", "error")],
    "chat_500": [("turn", "error")],
    "chat_subagent": [
        ("subagent", "interrupted"),
        ("turn", "interrupted"),
        OK,
    ],
    "max_iterations": [("turn", "error")],
    "one_shot_401": [("turn", "error")],
    "one_shot_500": [("turn", "error")],
    "one_shot_subagent": [("subagent", "ok"), OK, OK],
    "resume": [OK, OK],
    "sigkill": [],
    "sigterm": [("turn", "interrupted")],
}


def lines_of(mode: str) -> list[Line]:
    text = (RECORDINGS / f"{mode}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


class Process:
    """One process of the host, from its first hook to its sudden end."""

    def __init__(self, home: Path) -> None:
        self.emitter = Emitter(home)
        self.now_ns = 0
        self.tracker = RunTracker(self.emitter.emit, clock_ns=lambda: self.now_ns)

    def play(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self.now_ns = int(line["at_s"] * 1e9)
            if line["hook"] in plugin.HOOKS:
                payload = line["payload"]
                if "assistant_message" in payload:
                    payload["assistant_message"] = object()
                getattr(self.tracker, plugin.HOOKS[line["hook"]])(payload)

    def die(self) -> None:
        self.emitter._stopping = True
        self.emitter._wake.put(None)
        if self.emitter._thread is not None:
            self.emitter._thread.join(10)
        self.emitter._journal.close()
        if self.emitter._spool is not None:
            self.emitter._spool.abandon()
            self.emitter._spool = None


def replay(home: Path, lines: list[Line]) -> None:
    """Each process in its turn, killed after its last hook; then the next process recovers."""
    for _, own in itertools.groupby(lines, key=lambda line: int(line["process"])):
        process = Process(home)
        process.play(own)
        process.die()
    recover(home)


def rows(home: Path) -> Iterator[tuple[str, Row]]:
    with Store(home) as store:
        for table in EVENT_TABLES:
            for row in store.rows_since(table, None):
                yield table.event, row.record()


def check_order(home: Path) -> None:
    """What holds of any recording, wherever it was cut off."""
    found = list(rows(home))
    runs = {row["run_id"]: row for event, row in found if event == "run"}
    parents = {row["span_id"]: row for event, row in found if event in ("span", "tool_call")}
    for event, row in found:
        if event == "run":
            assert row["end_ns"] >= row["start_ns"]
            assert row["end_reason"]
            continue
        run = runs[row["run_id"]]
        assert row["trace_id"] == run["trace_id"]
        parent = parents.get(row["parent_span_id"])
        assert (parent is None) == (row["parent_span_id"] == run["run_id"])
        if event == "span" and row["kind"] == "turn":
            assert parent is None
            assert run["start_ns"] <= row["start_ns"] <= row["end_ns"] <= run["end_ns"]
        elif parent is not None:
            began_ns = row["start_ns"] if row["start_ns"] is not None else row["ts_ns"]
            assert parent["start_ns"] <= began_ns <= parent["end_ns"]
            # A subagent in the background may outlive the turn that sent it.
            assert row.get("kind") == "subagent" or (row["end_ns"] or 0) <= parent["end_ns"]
        assert row["span_id"] != row["parent_span_id"]
    for run in runs.values():
        own = Counter(event for event, row in found if row["run_id"] == run["run_id"])
        assert run["model_call_count"] == own["model_call"]
        assert run["tool_call_count"] == own["tool_call"]
        assert run["cost_status"] == "unknown"
        parent_run = runs.get(run["parent_run_id"])
        assert parent_run is None or parent_run["trace_id"] == run["trace_id"]
    written = (telemetry_dir(home) / "events.jsonl").read_text(encoding="ascii")
    assert "CANARY" not in written
    assert SECRET not in repr(found)


def spans_of(home: Path) -> list[tuple[str, str]]:
    return sorted((row["kind"], row["status"]) for event, row in rows(home) if event == "span")


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_one_correct_run_with_its_spans(tmp_path: Path, mode: str) -> None:
    replay(tmp_path, lines_of(mode))
    check_order(tmp_path)
    runs = sorted(
        (row for event, row in rows(tmp_path) if event == "run"), key=lambda row: row["start_ns"]
    )
    assert [
        (
            run["entrypoint"],
            run["end_reason"],
            run["model_call_count"],
            run["tool_call_count"],
            run["error_count"],
            run["turn_count"],
        )
        for run in runs
    ] == RUNS_OF[mode]
    assert spans_of(tmp_path) == SPANS_OF.get(mode, [OK])


CUTS = [
    (mode, count)
    for mode in ("approval", "chat_500", "chat_subagent", "gateway", "one_shot_subagent", "notes")
    for count in range(1, len(lines_of(mode)))
]


@pytest.mark.parametrize(("mode", "count"), CUTS, ids=str)
def test_a_process_killed_after_any_hook_leaves_one_span_for_each_turn_seen(
    tmp_path: Path, mode: str, count: int
) -> None:
    lines = lines_of(mode)[:count]
    replay(tmp_path, lines)
    check_order(tmp_path)
    seen = {
        line["payload"]["turn_id"]
        for line in lines
        if line["hook"] in plugin.HOOKS
        and "approval" not in line["hook"]
        and line["payload"].get("turn_id")
    }
    assert len([kind for kind, _ in spans_of(tmp_path) if kind == "turn"]) == len(seen)


def test_the_hosts_tools_of_those_names_make_their_events(tmp_path: Path) -> None:
    replay(tmp_path, lines_of("notes"))
    found = [
        (event, row.get("action") or row.get("kind"), row.get("skill_name") or row.get("result"))
        for event, row in rows(tmp_path)
        if event in ("skill", "memory", "cron")
    ]
    assert sorted(found) == [
        ("cron", "create", "ok"),
        ("memory", "add", "ok"),
        ("skill", "create", "notes"),
        ("skill", "view", "notes"),
    ]


def test_a_request_to_the_gateway_is_a_message_in_and_one_out(tmp_path: Path) -> None:
    replay(tmp_path, lines_of("gateway"))
    found = [
        (row["platform"], row["direction"], row["result"], row["voice"], row["attachments"])
        for event, row in rows(tmp_path)
        if event == "gateway"
    ]
    assert found == [
        ("api_server", "in", None, None, None),
        ("api_server", "out", "ok", None, None),
    ]


def test_a_person_was_waited_for_from_the_question_to_the_answer(tmp_path: Path) -> None:
    replay(tmp_path, lines_of("approval"))
    (approval,) = [row for _, row in rows(tmp_path) if row.get("kind") == "approval"]
    (tool,) = [row for event, row in rows(tmp_path) if event == "tool_call"]
    assert 3.0 < (approval["end_ns"] - approval["start_ns"]) / 1e9 < 3.1  # its limit was three
    assert (tool["approval"], tool["result_class"]) == ("denied", "blocked")


def test_retries_of_one_request_are_one_call_that_counts_them(tmp_path: Path) -> None:
    replay(tmp_path, lines_of("retry"))
    assert [row["retry_count"] for event, row in rows(tmp_path) if event == "model_call"] == [1]


def test_two_processes_that_recover_at_once_make_the_same_rows_as_one(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    replay(tmp_path / "one", lines_of("chat_500")[:3])
    process = Process(tmp_path / "two")
    process.play(lines_of("chat_500")[:3])
    process.die()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: recover(tmp_path / "two"), range(4)))
    assert spans_of(tmp_path / "one") == spans_of(tmp_path / "two") == [("turn", "abandoned")]
