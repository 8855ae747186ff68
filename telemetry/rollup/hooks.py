"""What is done after each round of filling, by whoever sits above the rollups."""

from __future__ import annotations

from collections.abc import Callable

_after_fill: list[Callable[[], object]] = []


def register_after_fill(work: Callable[[], object]) -> None:
    """Have ``work`` called after each round, whether or not anything was filled.

    Registering it again changes nothing. It holds no lock of ours and finds the cells committed.
    """
    if work not in _after_fill:
        _after_fill.append(work)


def run_after_fill() -> None:
    """Call everything that was registered, in order."""
    for work in _after_fill:
        work()
