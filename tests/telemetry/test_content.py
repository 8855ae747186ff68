"""The trajectories plane: its own tables, scrubbed on arrival, and nowhere else on the console."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from django.apps import apps
from django.db import DatabaseError, connection, models

from agent_client.contract.redact import UNAVAILABLE
from agent_client.contract.wire import Receipt
from fleet.lib.clock import now
from telemetry.ingest import content as judged
from telemetry.ingest.decode import IngestError
from telemetry.models import (
    ContentMessage,
    ContentSession,
    IngestBatch,
    QuarantinedLine,
    SpooledBatch,
    TouchedHour,
)
from telemetry.store.retention import maintain
from tests.agent_client.canary import Canary, canary_of
from tests.telemetry import builders as make
from tests.telemetry.content_rows import CONSENT, SESSION, message, push, seconds, session

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
KEY = "sk-proj-" + "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5bC7dE9fG1hJ3"


def receipt(outcome: Any) -> Receipt:  # noqa: ANN401 -- an Outcome
    return Receipt.from_dict(outcome.receipt)


def test_sessions_and_messages_are_stored_and_counted_by_kind() -> None:
    found = receipt(push(session(), message(1), message(2, role="assistant")))
    assert (found.received, found.accepted) == (3, {"session": 1, "message": 2})
    stored = ContentMessage.objects.get(message_id=1)
    assert (stored.session_id, stored.role) == (SESSION, "user")
    assert json.loads(stored.content_json or "") == "Which river is number 1?"
    assert ContentSession.objects.get().title == "A question about rivers"


def test_each_row_leads_to_the_consent_that_came_with_it() -> None:
    push(session(), message())
    for row in (ContentSession.objects.get(), ContentMessage.objects.get()):
        batch = IngestBatch.objects.get(install_id=row.install_id, batch_id=row.batch_id)
        assert (batch.plane, batch.consent) == ("trajectories", CONSENT)


def test_a_session_of_the_export_brings_its_messages() -> None:
    inner = [{"id": 5, "role": "user", "content": "Hello", "timestamp": seconds(100)}]
    found = receipt(push(session(messages=[*inner, {"id": 6, "role": "tool"}])))
    assert found.accepted == {"session": 1, "message": 2}
    untimed = ContentMessage.objects.get(message_id=6)
    assert untimed.start_at == ContentSession.objects.get().start_at


def test_a_repeat_stores_nothing_twice() -> None:
    rows, batch_id = (session(), message(1), message(2)), uuid4()
    first = push(*rows, batch_id=batch_id)
    assert push(*rows, batch_id=batch_id).receipt == first.receipt
    again = receipt(push(*rows))
    assert (again.duplicates, again.accepted) == (3, {})
    assert (ContentSession.objects.count(), ContentMessage.objects.count()) == (1, 2)


def test_a_later_copy_of_a_session_replaces_an_earlier_and_never_the_other_way() -> None:
    began = seconds()
    push(session(5, started_at=began, message_count=5))
    assert receipt(push(session(9, started_at=began, message_count=9))).accepted == {"session": 1}
    push(session(7, started_at=began, message_count=7))
    assert ContentSession.objects.get().message_count == 9


def test_secrets_and_personal_data_are_replaced_on_arrival() -> None:
    text = f"My key is {KEY}, write to anna.schmidt@example.org"
    call = {"function": {"name": "send", "arguments": json.dumps({"api_key": KEY})}}
    push(session(title=text), message(content=text, reasoning=text, tool_calls=[call]))
    row = ContentMessage.objects.get()
    stored = [row.content_json, row.reasoning_json, row.tool_calls_json]
    for found in [*stored, ContentSession.objects.get().title]:
        assert found
        assert KEY not in found
        assert "anna.schmidt" not in found
    assert "send" in (row.tool_calls_json or "")
    assert IngestBatch.objects.get().scrubbed_count >= 2


def test_personal_data_stays_only_where_the_console_and_the_policy_keep_it() -> None:
    push(message(content="write to anna.schmidt@example.org"), content_pii=False)
    assert "anna.schmidt@example.org" in (ContentMessage.objects.get().content_json or "")


def test_nothing_is_taken_in_while_the_scrubber_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judged, "redact_text", lambda *_, **__: UNAVAILABLE)
    with pytest.raises(IngestError) as refused:
        push(message())
    assert refused.value.code == "unavailable"
    assert not ContentMessage.objects.exists()
    assert not IngestBatch.objects.exists()


@pytest.mark.parametrize(
    ("record", "code", "field"),
    [
        (message(id=None), "missing_field", "id"),
        (message(timestamp=None), "missing_field", "timestamp"),
        (message(timestamp="soon"), "wrong_type", "timestamp"),
        (message(id=-1), "out_of_range", "id"),
        (message(role="r" * 201), "too_long", "role"),
        (message(role="a\x00b"), "invalid_text", "role"),
        (message(session_id=""), "missing_field", "session_id"),
        (message(timestamp=seconds(-200_000)), "time_in_future", "timestamp"),
        (message(timestamp=seconds(15 * 86_400)), "time_too_old", "timestamp"),
        (session(started_at=None), "missing_field", "started_at"),
        (session(messages="many"), "wrong_type", "messages"),
        (make.run(), "unknown_kind", ""),
        (b"{", "malformed_line", ""),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, str) else "",
)
def test_a_faulty_record_is_refused_by_code_and_leaves_no_text(
    record: dict[str, object] | bytes, code: str, field: str
) -> None:
    push(record)
    line = QuarantinedLine.objects.get()
    assert (line.code, line.detail, line.raw_text) == (code, field, "")


def test_content_is_refused_on_every_other_plane() -> None:
    for plane in ("local", "aggregate"):
        found = receipt(make.push(session(), message(), plane=plane))
        assert found.accepted == {}
    assert not ContentSession.objects.exists()


def test_rows_of_other_planes_are_refused_on_this_one() -> None:
    assert receipt(push(*make.one_of_each())).rejected_counts == {"unknown_kind": 10}
    assert not TouchedHour.objects.exists()


def test_content_is_never_spooled(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    settings.FLEET_VALVE = "open"
    push(session(), message())
    assert not SpooledBatch.objects.exists()
    assert ContentMessage.objects.count() == 1


def test_a_refused_line_of_content_cannot_be_replayed() -> None:
    push(message(id=None))
    assert not QuarantinedLine.objects.get().is_replayable


# ------------------------------------------------------------------------------- the canaries

FIELDS = ("title", "content", "reasoning", "reasoning_content", "reasoning_details", "arguments")
EVERY = [canary_of(field) for field in (*FIELDS, "unknown", "name_of_field", "broken", "header")]


def with_canaries() -> list[dict[str, object] | bytes]:
    """Content in every field that may hold it, and in lines that are refused in every way."""
    said = {canary.field: canary.text for canary in EVERY}
    call = {"function": {"name": "send", "arguments": json.dumps({"text": said["arguments"]})}}
    whole = {name: said[name] for name in FIELDS if name not in {"title", "arguments"}}
    good = message(1, **whole, tool_calls=[call], unknown=said["unknown"])
    good[said["name_of_field"]] = 1
    return [
        session(title=said["title"]),
        good,
        message(2, **whole, timestamp="never"),
        message(3, role=said["content"] * 20),
        {said["name_of_field"]: said["content"], "_kind": said["unknown"]},
        f'{{"_kind": "message", "content": "{said["broken"]}'.encode(),
    ]


def everything_but_content() -> dict[str, bytes]:
    """Every other row of the database, as text."""
    own = {ContentMessage, ContentSession}
    return {
        model._meta.label: str(list(model._default_manager.values())).encode()
        for model in apps.get_models()
        if model not in own and model._meta.app_label in {"fleet", "telemetry"}
    }


def traces(places: dict[str, bytes], canaries: list[Canary] = EVERY) -> list[str]:
    return [
        f"{canary.field} in {place}: {trace}"
        for place, data in places.items()
        for canary in canaries
        for trace in canary.traces_in(data)
    ]


def test_content_reaches_no_other_table_no_receipt_and_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    found = push(*with_canaries())
    places = everything_but_content() | {
        "receipt": json.dumps(found.receipt).encode(),
        "log": caplog.text.encode(),
    }
    assert traces(places) == []
    assert IngestBatch.objects.get().rejected_count == 4
    stored = str(list(ContentMessage.objects.values())).encode()
    assert {canary.field for canary in EVERY if canary.traces_in(stored)} >= {"content"}


def test_a_refused_line_that_kept_its_text_would_be_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judged, "DROPPED", b"x " + EVERY[1].text.encode())
    push(*with_canaries())
    assert traces(everything_but_content())


def test_a_database_that_refuses_content_says_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise DatabaseError(f"Failing row contains ({EVERY[1].text})")

    monkeypatch.setattr(models.QuerySet, "bulk_create", refuse)
    with pytest.raises(DatabaseError) as refused:
        push(*with_canaries())
    assert traces({"error": repr(refused.value).encode(), "log": caplog.text.encode()}) == []
    assert refused.value.__suppress_context__


# ---------------------------------------------------------------------------------- retention


def test_content_goes_with_its_own_retention_and_rows_stay(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    settings.FLEET_CONTENT_RETENTION_DAYS = 2
    push(session(), message())
    make.push(make.run())
    with time_machine.travel(now() + timedelta(days=5)):
        maintain()
    assert not ContentSession.objects.exists()
    assert not ContentMessage.objects.exists()
    from telemetry.models import FillState, Run

    assert Run.objects.count() == 1
    assert not FillState.objects.filter(state=FillState.State.EXPIRED).exists()


@pytest.mark.postgres
def test_content_has_partitions_made_ahead() -> None:
    maintain()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_inherits "
            "WHERE inhparent = 'telemetry_contentmessage'::regclass"
        )
        assert cursor.fetchone()[0] >= 8
