"""``python -m tests.faults.insight_asker``: asks the overview's questions, a JSON line for each.

A line says what was answered and how many statements each database got.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import django


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Statements by database, until the block ends."""
    from django.db import connections

    counts: Counter[str] = Counter()

    def count(run: Callable[..., Any], *asked: Any) -> Any:  # noqa: ANN401 -- Django's hook
        counts[asked[-1]["connection"].alias] += 1
        return run(*asked)

    with ExitStack() as stack:
        for connection in connections.all():
            stack.enter_context(connection.execute_wrapper(count))
        yield counts


def ask() -> dict[str, object]:
    """The overview of a day, as numbers."""
    from telemetry.insight import queries
    from telemetry.insight.window import Window

    with counted() as counts:
        found = queries.overview(Window.last(days=1))
    return {"runs": found.runs.totals.value.run_count, "statements": dict(counts)}


def main() -> None:
    """An answer a line of input."""
    django.setup()
    for _line in sys.stdin:
        sys.stdout.write(json.dumps(ask()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
