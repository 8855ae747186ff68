"""Rows of the feed as OTLP bodies: ids, times, parents, bounds, places to go on from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from uuid import UUID, uuid4

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agent_client.contract import otlp_ids as ids
from fleet.models import Install, InstallGroup
from telemetry.models import IngestBatch
from telemetry.relay.encode import Target, choose, compressed, encode_traces
from tests.telemetry import relay_rows as relay
from tests.telemetry.builders import (
    INSTALL,
    S,
    error,
    model_call,
    one_of_each,
    recent_ns,
    run,
    span,
    tool_call,
)
from tests.telemetry.relay_rows import TRACE, attributes_of, bodies, fed, named, spans_of

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]

OTHER = UUID("01890000-0000-7000-8000-000000000002")
AT = recent_ns()
IN_TRACE = {"trace_id": TRACE, "start_ns": AT}


def whole_run(**values: object) -> list[dict[str, object]]:
    """A run with a turn, a model call and a tool call in it."""
    end = {"end_ns": AT + S}
    return [
        run(9, session_id="session-1", profile_id="p", **IN_TRACE, end_ns=AT + 3 * S, **values),
        span(1, span_id="turn", parent_span_id="run-1", **IN_TRACE, **end),
        model_call(2, parent_span_id="turn", **IN_TRACE, **end),
        tool_call(3, parent_span_id="turn", **IN_TRACE, **end),
        error(4, ts_ns=AT, trace_id=TRACE),
    ]


def id_of(kind: str, recorded: str, install_id: UUID = INSTALL) -> bytes:
    return ids.span_id(kind, str(install_id), recorded)


def test_a_run_is_a_trace_with_the_recorded_ids_times_and_parents() -> None:
    found = named(spans_of(fed(*whole_run())))
    assert set(found) == {"invoke_agent hermes-agent", "turn", "chat m-1", "execute_tool terminal"}
    root, turn = found["invoke_agent hermes-agent"], found["turn"]
    assert {one.trace_id.hex() for one in found.values()} == {TRACE}
    assert (root.span_id, root.parent_span_id) == (id_of("run", "run-1"), b"")
    assert (turn.span_id, turn.parent_span_id) == (id_of("span", "turn"), root.span_id)
    assert found["chat m-1"].parent_span_id == turn.span_id
    assert found["execute_tool terminal"].parent_span_id == turn.span_id
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (AT, AT + 3 * S)
    assert (turn.start_time_unix_nano, turn.end_time_unix_nano) == (AT, AT + S)


def test_children_know_their_runs_session_and_the_root_its_install() -> None:
    found = named(spans_of(fed(*whole_run())))
    said = {name: attributes_of(one) for name, one in found.items()}
    assert {one["gen_ai.conversation.id"] for one in said.values()} == {"session-1"}
    root = said["invoke_agent hermes-agent"]
    assert root["hermes.install.id"] == str(INSTALL)
    assert root["hermes.entrypoint"] == "cli"
    assert root["gen_ai.provider.name"] == "openrouter"
    assert not [key for key in root if key.startswith("gen_ai.usage")]


def test_children_that_came_before_their_run_have_its_ids() -> None:
    root, turn, call, tool, _ = whole_run()
    first, second = fed(call, tool), fed(turn, root)
    early = named(spans_of(first))
    late = named(spans_of(second))
    assert early["chat m-1"].parent_span_id == late["turn"].span_id
    assert early["chat m-1"].trace_id == late["invoke_agent hermes-agent"].trace_id


def test_a_run_without_a_trace_id_has_one_of_its_own() -> None:
    found = spans_of(fed(run(1, start_ns=AT), model_call(2, start_ns=AT)))
    (trace_id,) = {one.trace_id for one in found}
    assert trace_id == ids.trace_id(str(INSTALL), "run-1", None)


def test_a_run_goes_out_when_it_has_ended_and_only_then() -> None:
    still = fed(run(1, **IN_TRACE, end_ns=None, end_reason=None), model_call(2, **IN_TRACE))
    assert [one.name for one in spans_of(still)] == ["chat m-1"]
    ended = fed(run(3, **IN_TRACE, end_ns=AT + S))
    assert [one.name for one in spans_of(ended)] == ["invoke_agent hermes-agent"]
    assert [one.name for one in spans_of(still)] == ["chat m-1"]


def test_a_parent_that_is_a_tool_call_is_found_where_it_came_earlier() -> None:
    first = fed(tool_call(1, span_id="outer", **IN_TRACE, end_ns=AT + 5 * S))
    root = run(2, **IN_TRACE, end_ns=AT + 9 * S)
    later = fed(root, span(3, span_id="s", parent_span_id="outer", trace_id=TRACE, start_ns=AT + S))
    found = named(spans_of(later))
    assert found["turn"].parent_span_id == spans_of(first)[0].span_id == id_of("tool_call", "outer")


def test_a_parent_without_a_row_in_a_closed_run_is_the_run() -> None:
    found = named(
        spans_of(fed(run(1, **IN_TRACE), tool_call(2, parent_span_id="gone", **IN_TRACE)))
    )
    root = found["invoke_agent hermes-agent"]
    assert found["execute_tool terminal"].parent_span_id == root.span_id


def test_a_subagents_run_hangs_at_its_parent_in_a_known_trace_only() -> None:
    child = {"run_id": "child", "parent_run_id": "run-1", "start_ns": AT}
    (known,) = spans_of(fed(run(1, **child, trace_id=TRACE)))
    assert known.parent_span_id == id_of("run", "run-1")
    (alone,) = spans_of(fed(run(1, **child), install_id=OTHER))
    assert alone.parent_span_id == b""


def test_failures_are_errors_and_a_persons_no_is_none() -> None:
    entry = fed(
        run(1, **IN_TRACE, end_reason="max_iterations"),
        model_call(2, **IN_TRACE, status_code=529, model="a"),
        model_call(3, **IN_TRACE, model="b"),
        tool_call(4, **IN_TRACE, result_class="error", tool_name="c"),
        tool_call(5, **IN_TRACE, result_class="blocked", approval="denied", tool_name="d"),
    )
    found = {one.name: (one.status.code, one) for one in spans_of(entry)}
    errors = {
        name: attributes_of(one).get("error.type") for name, (code, one) in found.items() if code
    }
    assert errors == {
        "invoke_agent hermes-agent": "max_iterations",
        "chat a": "529",
        "execute_tool c": "tool_error",
    }
    assert attributes_of(found["execute_tool d"][1])["hermes.approval"] == "denied"
    assert all(not one.status.message for _, one in found.values())


@pytest.mark.parametrize(("profile", "count"), [("1.41", 1), ("next", 1), ("both", 2)])
def test_a_profile_decides_the_names(profile: str, count: int) -> None:
    (call,) = spans_of(fed(model_call(1, **IN_TRACE, cache_write_tokens=3)), profile=profile)
    keys = {"cache_creation": "1.41", "cache_write": "next"}
    said = [
        key for key in attributes_of(call) if key.split(".")[2:3] and "gen_ai.usage.cache" in key
    ]
    assert len(said) == count
    assert all(profile in {keys[key.split(".")[2]], "both"} for key in said)


# --------------------------------------------------------------------------------- the bounds


def test_a_body_is_bounded_by_records_and_the_next_goes_on() -> None:
    entry = fed(*(model_call(number, **IN_TRACE) for number in range(1, 26)))
    made = bodies(entry, max_records=10)
    assert [body.record_count for body in made] == [10, 10, 5]
    assert len({one.span_id for one in relay.spans_in(made)}) == 25


def test_a_body_is_bounded_by_bytes() -> None:
    entry = fed(*(model_call(number, **IN_TRACE) for number in range(1, 26)))
    made = bodies(entry, max_bytes=4_000)
    assert len(made) > 2
    assert all(len(body.data) <= 4_000 for body in made)
    assert sum(body.record_count for body in made) == 25


def test_a_row_larger_than_a_body_goes_alone() -> None:
    entry = fed(*(model_call(number, **IN_TRACE) for number in range(1, 4)))
    assert [body.record_count for body in bodies(entry, max_bytes=1)] == [1, 1, 1]


def test_who_was_cut_off_goes_on_behind_the_last_body() -> None:
    entries = [fed(*whole_run()), fed(*(tool_call(n, start_ns=AT + n) for n in range(10, 20)))]
    target = Target(max_records=3)
    made = list(encode_traces(relay.trace_rows(*entries), target))
    for number, body in enumerate(made):
        rest = encode_traces(relay.trace_rows(*entries), target, after=body.last)
        assert [one.data for one in rest] == [one.data for one in made[number + 1 :]]


def test_the_same_rows_are_the_same_bytes() -> None:
    entry = fed(*whole_run())
    assert bodies(entry) == bodies(entry)
    assert bodies(entry)[0].compressed() == compressed(bodies(entry)[0].data)


def test_a_body_says_when_its_rows_came_in() -> None:
    first, second = fed(model_call(1, **IN_TRACE)), fed(model_call(2, **IN_TRACE))
    (body,) = bodies(first, second)
    assert (body.oldest_at, body.newest_at) == (first.received_at, second.received_at)
    assert body.last.position == second.pk


def test_a_batch_brings_its_own_rows_only() -> None:
    batch_id = uuid4()  # its sender's choice: another install may have used it
    mine = fed(model_call(1, **IN_TRACE), batch_id=batch_id)
    fed(model_call(2, **IN_TRACE))
    other = fed(model_call(3, **IN_TRACE), install_id=OTHER, batch_id=batch_id)
    assert [one.span_id for one in spans_of(mine)] == [id_of("model_call", "span-1")]
    assert [one.span_id for one in spans_of(other)] == [id_of("model_call", "span-3", OTHER)]


def test_rows_of_a_batch_that_an_earlier_release_received_are_found() -> None:
    entry = fed(model_call(1, start_ns=recent_ns(3 * 86_400)))
    IngestBatch.objects.update(first_hour=None, last_hour=None)
    assert len(spans_of(entry)) == 1


def test_nothing_is_no_body() -> None:
    assert bodies() == []
    assert bodies(fed(error(1, ts_ns=AT))) == []


def test_groups_and_age_are_chosen() -> None:
    old, young = model_call(1, start_ns=AT - 9 * S, model="old"), model_call(2, start_ns=AT)
    entries = relay.trace_rows(fed(old, young, group_id=7), fed(model_call(3, start_ns=AT)))
    chosen = choose(entries, group_ids=[7], oldest_ns=AT - S)
    assert chosen.expired_count == 1
    (made,) = encode_traces(chosen.entries, Target())
    assert [one.name for one in relay.spans_in([made])] == ["chat m-1"]
    assert choose(entries).entries == entries


# ------------------------------------------------------------------------------- the resource


def resources_of(*entries: object, **target: object) -> list[dict[str, object]]:
    (body,) = bodies(*entries, **target)  # type: ignore[arg-type]  # a builder's values
    request = ExportTraceServiceRequest.FromString(body.data)
    return [attributes_of(one.resource) for one in request.resource_spans]


def test_each_install_and_version_is_a_resource() -> None:
    group = InstallGroup.objects.create(name="research")
    Install.objects.create(
        id=INSTALL, machine_id="m", hostname="box-7", arch="x86_64", os_family="Linux", group=group
    )
    found = resources_of(
        fed(run(1, **IN_TRACE, agent_version="1"), run(2, run_id="z", **IN_TRACE)),
        fed(run(1, **IN_TRACE), install_id=OTHER),
    )
    assert [one["service.instance.id"] for one in found] == [str(INSTALL), str(INSTALL), str(OTHER)]
    first, second, unknown = found
    assert (first["service.version"], second["service.version"]) == ("1", "0.19.0")
    assert (first["host.arch"], first["os.type"]) == ("amd64", "linux")
    assert first["hermes.group"] == "research"
    assert first["service.name"] == "hermes-agent"
    assert first["telemetry.plane"] == "local"
    assert "host.name" not in unknown
    assert not [key for key in first if key.startswith("telemetry.sdk")]


def test_a_host_is_named_only_where_that_is_allowed() -> None:
    Install.objects.create(id=INSTALL, machine_id="m", hostname="box-7")
    entry = fed(run(1, **IN_TRACE))
    (hidden,) = resources_of(entry)
    (shown,) = resources_of(entry, shows_hosts=True)
    assert str(hidden["host.name"]).startswith("pn_")
    assert shown["host.name"] == "box-7"


# ------------------------------------------------------------------------------------ the logs


def test_an_error_is_a_record_of_its_run_and_says_no_message() -> None:
    (found,) = relay.logs_of(fed(*whole_run()))
    said = attributes_of(found)
    assert found.event_name == "gen_ai.client.operation.exception"
    assert (found.severity_number, found.time_unix_nano) == (13, AT)
    assert (found.trace_id.hex(), found.span_id) == (TRACE, id_of("run", "run-1"))
    assert said["error.type"] == said["exception.type"] == "rate_limit"
    assert "exception.message" not in said


def test_happenings_are_records() -> None:
    found = relay.logs_of(fed(*one_of_each(AT)))
    assert sorted(one.event_name for one in found) == [
        "gen_ai.client.operation.exception",
        *("hermes.cron", "hermes.feedback", "hermes.gateway", "hermes.memory", "hermes.skill"),
    ]


def test_final_errors_are_events_of_the_run_where_that_is_asked_for() -> None:
    earlier = fed(error(1, ts_ns=AT + 1, recovery="none"), error(2, ts_ns=AT + 2))
    ended = fed(run(3, **IN_TRACE, end_ns=AT + S))
    (plain,) = spans_of(ended)
    (told,) = spans_of(ended, errors_as_span_events=True)
    assert not plain.events
    (event,) = told.events  # the other was retried
    assert (event.name, event.time_unix_nano) == ("gen_ai.client.operation.exception", AT + 1)
    assert len(relay.logs_of(earlier)) == 2


def test_queries_do_not_grow_with_the_entries(
    django_assert_max_num_queries: Callable[[int], AbstractContextManager[object]],
) -> None:
    entries = [fed(*whole_run(run_id=f"run-{n}"), install_id=UUID(int=n)) for n in range(1, 6)]
    with django_assert_max_num_queries(5):
        found = relay.trace_rows(*entries)
    with django_assert_max_num_queries(9):
        made = list(encode_traces(found, Target(errors_as_span_events=True)))
    assert sum(body.record_count for body in made) == 20
