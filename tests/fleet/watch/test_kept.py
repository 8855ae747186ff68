"""A value that is read aside: never waited for long, never read twice at once."""

from __future__ import annotations

import itertools
import threading

import pytest

from fleet.watch.kept import Kept


def test_a_value_is_read_once_while_it_is_fresh() -> None:
    numbers = itertools.count(1)
    kept = Kept(lambda: next(numbers), keep_s=60, wait_s=10)
    assert [kept().value for _index in range(5)] == [1] * 5
    kept.forget()
    assert kept().value == 2


def test_a_reader_that_hangs_holds_nobody_and_is_the_only_one() -> None:
    gate, began = threading.Event(), []

    def hang() -> str:
        began.append(1)
        gate.wait(20)
        return "late"

    kept = Kept(hang, keep_s=60, wait_s=0.01)
    seen = [kept() for _index in range(20)]
    assert all(each.is_late and each.value is None for each in seen)
    assert len(began) == 1
    gate.set()


def test_what_was_known_is_told_while_the_next_reading_fails() -> None:
    answers = iter(["first"])
    kept = Kept(lambda: next(answers), keep_s=0, wait_s=0.5)
    assert kept().value == "first"
    assert kept().value == "first"  # StopIteration in the reader


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_an_error_counts_as_not_come(error: type[Exception]) -> None:
    def fail() -> str:
        raise error

    seen = Kept(fail, keep_s=1, wait_s=5)()
    assert (seen.value, seen.is_late) == (None, True)
