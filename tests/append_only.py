"""Lets the test runner empty append-only tables between tests, and nobody else.

``TransactionTestCase`` flushes every table, which the triggers refuse. The flush runs
with the migration's own reverse and ends with its forward: the triggers are in force in each test.
"""

from __future__ import annotations

import functools

from django.db import connection
from django.test import TransactionTestCase

from fleet import migrations
from fleet.lib.sql import apply_sql

_BESIDE = f"{migrations.__path__[0]}/any.py"


def drop_triggers() -> None:
    """Take the append-only triggers off; for tests that tamper."""
    with connection.schema_editor() as editor:
        apply_sql(editor, _BESIDE, "0001_append_only_reverse")


def make_triggers() -> None:
    """Put them back."""
    with connection.schema_editor() as editor:
        apply_sql(editor, _BESIDE, "0001_append_only")


def let_flush_pass() -> None:
    """Wrap the flush of TransactionTestCase; called once, by conftest."""
    # Django's own hook, which its type stubs leave out.
    flush = getattr(TransactionTestCase, "_fixture_teardown")  # noqa: B009

    @functools.wraps(flush)
    def wrapped(self: TransactionTestCase) -> None:
        drop_triggers()
        try:
            flush(self)
        finally:
            make_triggers()

    setattr(TransactionTestCase, "_fixture_teardown", wrapped)  # noqa: B010
