from __future__ import annotations

import json
import platform
import sqlite3
import time
from pathlib import Path

import pytest

from agent_client import __version__, config, preview
from agent_client.contract.aggregate import MAX_MODELS, MAX_TOOLS, record_of
from agent_client.contract.redact import UNAVAILABLE
from agent_client.contract.tables import COUNT_MAX
from agent_client.store import Store, StoreError, database_path
from tests.agent_client.builders import (
    SECOND_NS,
    START_NS,
    Anything,
    model_call,
    run_event,
    store_events,
    tool_call,
)

DAY_NS = 86_400 * SECOND_NS


def shown(home: Path, since_ns: int | None = None) -> list[dict[str, Anything]]:
    return preview.preview(database_path(home), since_ns)


def test_a_run_is_summed_up_with_its_models_and_tools_by_calls(tmp_path: Path) -> None:
    store_events(
        tmp_path,
        run_event(
            platform="telegram",
            entrypoint="gateway",
            end_ns=START_NS + 1_234_567_890,
            model_call_count=3,
            tool_call_count=3,
            error_count=1,
            turn_count=2,
            estimated_cost_usd=0.5,
            cost_status="estimated",
        ),
        model_call(1, model="small", output_tokens=5),
        model_call(2, model="large", output_tokens=7, cache_read_tokens=30, reasoning_tokens=4),
        model_call(3, model="large"),
        tool_call(1, tool_name="read_file"),
        tool_call(2, tool_name="terminal"),
        tool_call(3, tool_name="terminal"),
    )
    (event,) = shown(tmp_path)
    assert event == {
        "_kind": "workflow_completed",
        "record_id": "run-0",
        "seq": event["seq"],
        "occurred_ns": START_NS + 1_234_567_890,
        "end_reason": "completed",
        "duration_ms": 1234.6,
        "models_used": [
            {"provider": "custom", "model": "large", "calls": 2, "tokens": 237},
            {"provider": "custom", "model": "small", "calls": 1, "tokens": 105},
        ],
        "tools_used": ["terminal", "read_file"],
        "model_call_count": 3,
        "tool_call_count": 3,
        "error_count": 1,
        "turn_count": 2,
        "input_tokens": 300,
        "output_tokens": 12,
        "cache_read_tokens": 30,
        "cache_write_tokens": 0,
        "reasoning_tokens": 4,
        "cost_status": "estimated",
        "estimated_cost_usd": 0.5,
        "entrypoint": "gateway",
        "platform": "telegram",
    }


def test_runs_in_progress_are_left_out_and_each_other_end_is_said(tmp_path: Path) -> None:
    ends = ("completed", "failed", "abandoned")
    store_events(
        tmp_path,
        run_event(9, end_ns=None, end_reason=None),
        *(run_event(number, end_reason=end) for number, end in enumerate(ends)),
    )
    assert [event["end_reason"] for event in shown(tmp_path)] == list(ends)


def test_the_window_is_over_the_begin_of_runs(tmp_path: Path) -> None:
    store_events(tmp_path, run_event(1), run_event(2, start_ns=START_NS + DAY_NS, end_ns=2**62))
    assert [event["record_id"] for event in shown(tmp_path, START_NS + 1)] == ["run-2"]


@pytest.mark.parametrize("run_count", [1, 40])
def test_the_number_of_queries_does_not_depend_on_the_number_of_runs(
    tmp_path: Path, run_count: int
) -> None:
    for number in range(run_count):
        run_id = f"run-{number}"
        store_events(tmp_path, run_event(number), model_call(number, run_id=run_id))
        store_events(tmp_path, tool_call(number, run_id=run_id))
    with Store(tmp_path) as store:
        asked: list[str] = []
        store.connection.set_trace_callback(asked.append)
        events = preview.preview(store.connection)
    assert (len(events), len(asked)) == (run_count, 6)  # BEGIN and COMMIT among them
    assert all(event["tools_used"] == ["terminal"] for event in events)


def test_what_is_no_word_of_ours_is_not_said(tmp_path: Path) -> None:
    store_events(
        tmp_path,
        run_event(
            run_id="the quarterly numbers.xlsx",
            entrypoint="phone",
            end_reason="tired",
            cost_status="?",
            platform="My Chat",
        ),
        model_call(run_id="the quarterly numbers.xlsx", model="my secret project", provider=None),
        tool_call(run_id="the quarterly numbers.xlsx", tool_name="rm -rf /home/olga"),
    )
    with Store(tmp_path) as store:  # a host's own tables hold whatever they hold
        store.connection.execute(
            "UPDATE tel_runs SET estimated_cost_usd = -1.0, turn_count = -5, error_count = NULL"
        )
        store.connection.execute("UPDATE tel_model_calls SET input_tokens = 9e99")
    (event,) = shown(tmp_path)
    assert record_of(event).to_dict() == event
    assert len(event["record_id"]) == 32
    assert event["models_used"][0]["model"] == event["platform"] == "other"
    assert event["models_used"][0]["provider"] == "unknown"
    assert event["tools_used"] == ["other"]
    assert (event["entrypoint"], event["end_reason"]) == ("cli", "abandoned")
    assert (event["estimated_cost_usd"], event["turn_count"], event["error_count"]) == (None, 0, 0)
    assert event["input_tokens"] == COUNT_MAX


def test_secrets_in_names_are_replaced_and_the_record_stays_one(tmp_path: Path) -> None:
    secret = "ghp_" + "x7Kq9ZtB2mWv4Rn8Lp3Yc6Hd1Fs5Gj0Aw2Ee"
    store_events(tmp_path, run_event(), tool_call(tool_name=secret))
    (event,) = shown(tmp_path)
    assert secret not in json.dumps(event)
    assert event["tools_used"][0].startswith("[REDACTED:")
    assert record_of(event).to_dict() == event


def test_lists_end_at_their_bounds_with_the_busiest_first(tmp_path: Path) -> None:
    calls = [model_call(n, model=f"m{n}") for n in range(MAX_MODELS + 5)]
    tools = [tool_call(n, tool_name=f"t{n}") for n in range(MAX_TOOLS + 5)]
    store_events(tmp_path, run_event(), *calls, model_call(999, model="m54"), *tools)
    (event,) = shown(tmp_path)
    assert (len(event["models_used"]), len(event["tools_used"])) == (MAX_MODELS, MAX_TOOLS)
    assert event["models_used"][0]["model"] == "m54"
    assert event["input_tokens"] == 100 * (MAX_MODELS + 6)


def test_a_database_of_the_reference_design_is_read_as_it_is(tmp_path: Path) -> None:
    from agent_client import schema

    path = tmp_path / "state.db"
    with sqlite3.connect(path) as connection:
        schema.MIGRATIONS[0](connection)
        connection.execute(
            "INSERT INTO tel_runs (run_id, start_ns, end_ns, end_reason) "
            "VALUES ('r', 1, 2, 'failed')"
        )
    connection.close()
    (event,) = preview.preview(path)
    assert (event["record_id"], event["end_reason"], event["turn_count"]) == ("r", "failed", 0)


def test_a_name_with_a_secret_inside_costs_its_run_nothing_but_the_name(tmp_path: Path) -> None:
    key = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
    store_events(
        tmp_path,
        run_event(platform=f"x:{key}"),
        model_call(provider=key, model=f"vendor/{key}"),
        tool_call(tool_name=f"mcp:{key}"),
    )
    (event,) = shown(tmp_path)
    assert record_of(event).to_dict() == event
    (use,) = event["models_used"]
    assert (use["provider"], use["model"]) == ("[REDACTED:github]", "other")
    assert (event["tools_used"], event["platform"]) == (["other"], "other")


def test_without_an_engine_no_name_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preview._name.cache_clear()
    store_events(tmp_path, run_event(), model_call())
    monkeypatch.setattr(preview, "redact_text", lambda _text: UNAVAILABLE)
    with pytest.raises(StoreError, match="secrets cannot be removed"):
        shown(tmp_path)


def test_without_a_scrubber_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_events(tmp_path, run_event())
    monkeypatch.setattr(preview, "redact_record", lambda _record: {"record_id": UNAVAILABLE})
    with pytest.raises(StoreError, match="secrets cannot be removed"):
        shown(tmp_path)


def test_a_heartbeat_names_install_versions_and_system_and_keeps_nothing(tmp_path: Path) -> None:
    found = preview.heartbeat(tmp_path, START_NS)
    assert (found["client_version"], found["python_version"]) == (
        __version__,
        platform.python_version(),
    )
    day = time.strftime("%Y-%m-%d", time.gmtime(START_NS / 1e9))
    assert found["record_id"] == f"{day}:{__version__}:{found['agent_version']}"
    assert (found["os_family"], found["entrypoint"]) == ("linux", "cli")
    assert config.as_uuid(found["install_id"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("system", "family"),
    [("Darwin", "macos"), ("Windows", "windows"), ("FreeBSD", "other"), ("", "other")],
)
def test_systems_have_four_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, family: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    assert preview.heartbeat(tmp_path)["os_family"] == family


def test_a_heartbeat_says_where_the_newest_run_was_started(tmp_path: Path) -> None:
    store_events(
        tmp_path,
        run_event(1, entrypoint="gateway", start_ns=START_NS + 1),
        run_event(2, entrypoint="cli"),
    )
    assert preview.heartbeat(tmp_path)["entrypoint"] == "gateway"


def test_a_summary_counts_names_and_lists_what_they_hold(tmp_path: Path) -> None:
    store_events(tmp_path, run_event(1), run_event(2, platform="cli"), tool_call(run_id="run-1"))
    summary = preview.summarize([*shown(tmp_path), preview.heartbeat(tmp_path)])
    assert summary["counts"] == {"workflow_completed": 2, "heartbeat": 1}
    fields = summary["fields"]
    assert isinstance(fields, dict)
    assert {"tools_used", "platform"} <= set(fields["workflow_completed"])
    assert not {"models_used", "estimated_cost_usd"} & set(fields["workflow_completed"])
    assert len(fields["workflow_completed"]) == len(set(fields["workflow_completed"]))
