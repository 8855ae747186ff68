"""SQLite without room for another page: refused for now, nothing acknowledged lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from pytest_django.live_server_helper import LiveServer

from tests.faults import raw
from tests.faults.books import faults_of, read_books
from tests.telemetry import builders as make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_engines]


@contextmanager
def no_room() -> Iterator[None]:
    """Connections made in this block may not let the file grow; the server makes its own."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA page_count")
        (page_count,) = cursor.fetchone()

    def limit(connection: BaseDatabaseWrapper, **_: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"PRAGMA max_page_count = {page_count}")

    connection_created.connect(limit)
    try:
        yield
    finally:
        connection_created.disconnect(limit)


def test_a_full_disk_refuses_for_now_and_loses_nothing(live_server: LiveServer) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("SQLite's own")
    token = raw.credential_of()
    assert raw.push(live_server.url, token, make.ndjson(make.tool_call(1))).status == 200
    wide = [make.span(seq, span_id=f"wide-{seq}", attrs_json="x" * 16_000) for seq in range(200)]
    body, batch_id = make.ndjson(*wide), uuid4()
    with no_room():
        answer = raw.push(live_server.url, token, body, batch_id)
        assert (answer.status, answer.code) == (503, "unavailable")
        assert read_books().row_count == 1
    assert raw.push(live_server.url, token, body, batch_id).status == 200
    sent: dict[str, set[object]] = {
        "tel_tool_calls": {"span-1"},
        "tel_spans": {f"wide-{seq}" for seq in range(200)},
    }
    assert faults_of(read_books(), sent) == []
