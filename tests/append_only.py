"""Lets the test runner empty append-only tables between tests, and nobody else.

``TransactionTestCase`` flushes every table, which the triggers refuse. The flush runs
with the migration's own reverse and ends with its forward: the triggers are in force in each test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Final

from django.core.management import CommandError
from django.db import OperationalError, connection
from django.test import TransactionTestCase
from psycopg.errors import DeadlockDetected

from fleet import migrations
from fleet.lib.sql import apply_sql

TRIES: Final = 5
_BESIDE = f"{migrations.__path__[0]}/any.py"


def drop_triggers() -> None:
    """Take the append-only triggers off; for tests that tamper."""
    with connection.schema_editor() as editor:
        apply_sql(editor, _BESIDE, "0001_append_only_reverse")


def make_triggers() -> None:
    """Put them back."""
    with connection.schema_editor() as editor:
        apply_sql(editor, _BESIDE, "0001_append_only")


def _again_after_deadlock(act: Callable[[], object]) -> None:
    """Act on all tables; a console that a test module keeps running reads them meanwhile.

    TRUNCATE takes its locks one by one, a query takes its own, and PostgreSQL ends one of the two.
    """
    for left in reversed(range(TRIES)):
        try:
            act()
        except (CommandError, OperationalError) as error:
            if not left or not _is_deadlock(error):
                raise
        else:
            return


def _is_deadlock(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, DeadlockDetected):
        error = error.__cause__
    return error is not None


def let_flush_pass() -> None:
    """Wrap the flush of TransactionTestCase; called once, by conftest."""
    # Django's own hook, which its type stubs leave out.
    flush = getattr(TransactionTestCase, "_fixture_teardown")  # noqa: B009

    @functools.wraps(flush)
    def wrapped(self: TransactionTestCase) -> None:
        _again_after_deadlock(drop_triggers)
        try:
            _again_after_deadlock(partial(flush, self))
        finally:
            _again_after_deadlock(make_triggers)

    setattr(TransactionTestCase, "_fixture_teardown", wrapped)  # noqa: B010
