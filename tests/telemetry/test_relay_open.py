"""Runs that nobody ended go out once nothing of them comes any more."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fleet.lib.clock import now
from telemetry.models import IngestBatch
from telemetry.relay.encode import Target, encode_traces
from telemetry.store.relay_open import OpenRun, Unfinished, find_unfinished, read_open
from tests.telemetry import relay_rows as relay
from tests.telemetry.builders import INSTALL, S, model_call, push, recent_ns, run, tool_call
from tests.telemetry.relay_rows import attributes_of

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
AT = recent_ns()
OPEN = {"start_ns": AT, "end_ns": None, "end_reason": None}


def lost(*, later: bool = True, **values: object) -> Unfinished:
    """What is found a day after now, or as of just before."""
    until = now() + timedelta(days=1) if later else now() - timedelta(hours=1)
    return find_unfinished(now() - timedelta(days=2), until, **values)  # type: ignore[arg-type]  # a builder's


def test_a_run_that_was_never_ended_ends_with_its_last_child() -> None:
    push(run(1, **OPEN), model_call(2, start_ns=AT, end_ns=AT + 5 * S))
    push(tool_call(3, start_ns=AT + S, end_ns=AT + 2 * S))
    found = lost()
    assert found.alive == []
    (body,) = encode_traces(read_open(found.due), Target())
    (span,) = relay.spans_in([body])
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (AT, AT + 5 * S)
    assert attributes_of(span)["hermes.end_reason"] == "unknown"
    assert span.status.code == 0


def test_a_run_without_children_ends_as_it_began() -> None:
    push(run(1, **OPEN))
    (body,) = encode_traces(read_open(lost().due), Target())
    (span,) = relay.spans_in([body])
    assert span.end_time_unix_nano == AT


def test_a_run_that_has_ended_or_is_young_is_not_found() -> None:
    push(run(1, start_ns=AT))
    assert lost().due == []
    push(run(2, run_id="young", **OPEN))
    assert lost(later=False).due == []


def test_a_run_that_still_gets_children_is_looked_at_again() -> None:
    push(run(1, **OPEN))
    between = now()
    push(model_call(2, start_ns=AT, end_ns=AT + S))
    first = find_unfinished(between - timedelta(days=1), between)
    assert first.due == []
    (alive,) = first.alive
    assert (alive.install_id, alive.run_id) == (INSTALL, "run-1")
    assert isinstance(alive, OpenRun)
    later = now() + timedelta(days=1)
    second = find_unfinished(first.until, later, alive=first.alive)
    assert second.due == [alive]
    push(run(3, start_ns=AT))
    third = find_unfinished(first.until, later, alive=first.alive)
    assert (third.due, third.alive) == ([], [])
    assert read_open(second.due) == []


def test_many_are_found_a_part_at_a_time() -> None:
    for number in range(3):
        push(run(1, run_id=f"r{number}", **OPEN))
    after, until, found = now() - timedelta(days=1), now() + timedelta(days=1), []
    for _ in range(4):
        part = find_unfinished(after, until, limit=2)
        found += [one.run_id for one in part.due]
        after = part.until
    assert sorted(found) == ["r0", "r1", "r2"]
    assert after == until


def test_more_of_one_batch_than_are_asked_for_are_not_cut_in_two() -> None:
    push(*(run(number, run_id=f"r{number}", **OPEN) for number in range(5)))
    after, until = now() - timedelta(days=1), now() + timedelta(days=1)
    part = find_unfinished(after, until, limit=2)
    assert len(part.due) == 5
    assert find_unfinished(part.until, until, limit=2).due == []


def test_an_old_run_in_a_new_batch_is_found_by_the_ledgers_hours() -> None:
    old = recent_ns(3 * 86_400)
    push(run(1, run_id="old", start_ns=old, end_ns=None, end_reason=None), model_call(2))
    assert [one.run_id for one in lost().due] == ["old"]
    IngestBatch.objects.all().delete()  # the ledger forgets before rows go
    assert [one.run_id for one in lost().due] == ["old"]
