"""The waterfall: every span once, below its parent, whatever agents claim about each other."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from telemetry.models import Run
from telemetry.pages.run_spans import MAX_FACT_CHARS, attributes_of, spans_of
from telemetry.pages.waterfall import MAX_INDENT, MAX_SPANS, Span, in_tree, waterfall_of
from tests.telemetry import builders as make

START_NS = 1_800_000_000 * make.S


def span(span_id: str, parent_id: str = "", at_s: float = 0.0, **values: Any) -> Span:  # noqa: ANN401 -- of any field
    start_ns = START_NS + int(at_s * make.S)
    defaults = {"end_ns": start_ns + make.S, "outcome": "", "tone": "1"}
    whole: dict[str, Any] = {"kind": "Tool", "name": span_id, "detail": "", "start_ns": start_ns}
    return Span(**(whole | defaults | values), span_id=span_id, parent_id=parent_id)


def drawn(*spans: Span) -> list[tuple[int, str]]:
    return [(depth, found.name) for depth, found in in_tree(spans)]


def test_children_stand_below_their_parent_in_the_order_given() -> None:
    turns = [span("turn-1", "run"), span("turn-2", "run")]
    calls = [span("b", "turn-1"), span("c", "turn-2"), span("d", "turn-1"), span("e", "b")]
    assert drawn(*turns, *calls) == [
        (0, "turn-1"),
        (1, "b"),
        (2, "e"),
        (1, "d"),
        (0, "turn-2"),
        (1, "c"),
    ]


def test_a_circle_and_a_span_in_itself_lose_no_row() -> None:
    assert drawn(span("a", "b"), span("b", "a"), span("c", "c")) == [(0, "c"), (0, "a"), (1, "b")]


def test_a_chain_is_drawn_no_deeper_than_a_phone_can_show() -> None:
    chain = [span(str(number), str(number - 1)) for number in range(2000)]
    depths = [depth for depth, _ in in_tree(chain)]
    assert depths == [min(number, MAX_INDENT) for number in range(2000)]


NAMES = st.sampled_from(["", "a", "b", "c", "d"])


@given(st.lists(st.tuples(NAMES, NAMES), max_size=12))
def test_every_span_is_drawn_once(pairs: list[tuple[str, str]]) -> None:
    spans = [span(name, parent, at_s=number) for number, (name, parent) in enumerate(pairs)]
    found = [item for _, item in in_tree(spans)]
    assert sorted(found, key=lambda item: item.start_ns) == spans


def test_bars_lie_in_the_runs_time_and_marks_are_dots() -> None:
    bar = span("bar", at_s=1)
    mark = span("mark", at_s=4, end_ns=None, is_mark=True)
    drawing = waterfall_of(START_NS, START_NS + 4 * make.S, [mark, bar])
    first, second = drawing.rows
    assert (first.span.name, first.offset_ms, drawing.total_ms) == ("bar", 1000.0, 4000.0)
    assert 'x="250" width="250"' in first.bar
    assert (second.duration, "hf-mark" in second.bar) == ("–", True)


def test_a_run_with_too_many_rows_shows_the_first_and_says_so() -> None:
    drawing = waterfall_of(START_NS, None, [span(str(n), at_s=n) for n in range(MAX_SPANS + 1)])
    assert (len(drawing.rows), drawing.is_cut) == (MAX_SPANS, True)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (None, {}),
        ("{", {}),
        ("[1]", {}),
        ("[" * 20_000, {}),
        ('{"api_calls":3,"is_last":true,"child":{"x":1}}', {"api_calls": "3"}),
        ('{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6}', dict(zip("abcde", "12345", strict=True))),
    ],
)
def test_attributes_are_a_few_plain_values_or_nothing(
    text: str | None, held: dict[str, str]
) -> None:
    assert attributes_of(text) == held


def test_an_attribute_with_an_endless_name_is_no_endless_row() -> None:
    (name,) = attributes_of(json.dumps({"x" * 5000: 1}))
    assert len(name) == MAX_FACT_CHARS


@pytest.mark.both_engines
@pytest.mark.django_db
def test_a_subagent_leads_to_its_run_and_a_turn_tells_its_counts() -> None:
    at_ns = make.recent_ns()
    child = '{"child_run_id":"<run>&2","outcome":"completed","role":"leaf","duration_ms":3}'
    turned = '{"end_reason":"max_iterations","model_call_count":2,"tool_call_count":1}'
    make.push(
        make.run(start_ns=at_ns),
        make.span(2, start_ns=at_ns, attrs_json=turned),
        make.span(3, start_ns=at_ns, kind="subagent", name="subagent", attrs_json=child),
    )
    turn, subagent = spans_of(Run.objects.get())
    told = "end reason max_iterations · 2 model calls · 1 tool call"
    assert (turn.name, turn.detail) == ("", told)
    assert (subagent.name, subagent.detail) == ("<run>&2", "role leaf")
    User.objects.create_superuser("root")
    client = Client()
    client.force_login(User.objects.get())
    shown = client.get(f"/runs/{make.INSTALL}/?run=run-1").content.decode()
    assert f'href="/runs/{make.INSTALL}/?run=%3Crun%3E%262"' in shown


@pytest.mark.both_engines
@pytest.mark.django_db
def test_every_kind_of_row_of_a_run_has_its_place(django_assert_num_queries: Any) -> None:  # noqa: ANN401 -- a fixture without a type
    at_ns = make.recent_ns()
    more: dict[str, dict[str, object]] = {
        "tel_gateway_events": {"platform": "slack", "direction": "in", "attachments": 2},
        "tel_skill_events": {"action": "read", "skill_name": "release-notes"},
        "tel_cron_events": {"kind": "job_created", "result": "failed"},
    }
    whole = [data | more.get(str(data["_kind"]), {}) for data in make.one_of_each(at_ns)]
    make.push(*whole, make.run(99, run_id="another", start_ns=at_ns))
    run = Run.objects.get(run_id="run-1")
    with django_assert_num_queries(9):
        spans = spans_of(run)
    by_kind = {item.kind: item for item in spans}
    assert len(spans) == len(by_kind) == 9
    assert (by_kind["Gateway"].name, by_kind["Gateway"].detail) == ("slack", "in · 2 attached")
    assert (by_kind["Skill"].name, by_kind["Skill"].is_mark) == ("release-notes", True)
    assert (by_kind["Cron"].name, by_kind["Cron"].tone) == ("Job created", "bad")
