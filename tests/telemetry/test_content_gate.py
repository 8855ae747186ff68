"""The wall around content: each of three gates shuts it alone, and a refusal leaves nothing."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.http import HttpResponse
from django.test import Client

from agent_client.contract import wire
from fleet.models import ChangeRecord
from telemetry.ingest.gate import opens_content, scrubs_pii
from telemetry.models import (
    ClosedPlane,
    ContentMessage,
    ContentSession,
    IngestBatch,
    QuarantinedLine,
)
from tests import builders as fleet
from tests.telemetry import builders as make
from tests.telemetry.content_rows import message, session

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
CONSENT = '{"consent_state":"local","trajectories":true}'
KEY = "telemetry.trajectories.enabled"


@pytest.fixture(autouse=True)
def console_that_takes_content(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    settings.FLEET_TRAJECTORIES = True


def enrolled(*, asked: object = True, level: str = "recommended") -> str:
    """A credential of an install whose policy asks for content."""
    _install, credential = fleet.enroll_one(install_id=make.INSTALL)
    if asked is not None:
        fleet.make_pin(KEY, asked, level=level)
    fleet.publish()
    return credential


def post(credential: str, *, consent: str = CONSENT, plane: str = "trajectories") -> HttpResponse:
    answer = Client().post(
        wire.PATH_TELEMETRY,
        make.ndjson(session(), message()),
        content_type=wire.MEDIA_NDJSON,
        headers={
            "Authorization": f"Bearer {credential}",
            "Idempotency-Key": str(uuid4()),
            "Telemetry-Plane": plane,
            "Telemetry-Schema": "1",
            "Telemetry-Consent": consent,
        },
    )
    assert isinstance(answer, HttpResponse)
    return answer


def assert_shut(answer: HttpResponse) -> None:
    """Refused, counted, and nothing of it kept anywhere."""
    assert (answer.status_code, answer.json()["code"]) == (403, "plane_closed")  # type: ignore[attr-defined]  # the test client adds it
    assert ClosedPlane.objects.get(plane="trajectories").refused_count == 1
    for model in (ContentSession, ContentMessage, IngestBatch, QuarantinedLine):
        assert not model._default_manager.exists()


@pytest.mark.parametrize("level", ["recommended", "mandatory"])
def test_content_comes_in_where_console_policy_and_consent_open_the_plane(level: str) -> None:
    answer = post(enrolled(level=level))
    assert answer.status_code == 200, answer.content
    assert ContentMessage.objects.count() == ContentSession.objects.count() == 1


def test_a_console_that_takes_none_shuts_it(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    settings.FLEET_TRAJECTORIES = False
    assert_shut(post(enrolled()))


@pytest.mark.parametrize("asked", [None, False])
def test_a_policy_that_does_not_ask_for_it_shuts_it(asked: object) -> None:
    assert_shut(post(enrolled(asked=asked)))


@pytest.mark.parametrize(
    "said",
    [
        "",
        "{}",
        '{"trajectories":false}',
        '{"trajectories":1}',
        '{"trajectories":"true"}',
        '{"consent_state":"aggregate"}',
    ],
)
def test_a_batch_without_consent_of_its_own_shuts_it(said: str) -> None:
    assert_shut(post(enrolled(), consent=said))


def test_a_pin_that_stops_the_push_shuts_it() -> None:
    fleet.make_pin("telemetry.export.console.enabled", value=False)
    assert_shut(post(enrolled()))


def test_content_under_the_name_of_another_plane_is_refused_line_by_line() -> None:
    answer = post(enrolled(), plane="local")
    assert answer.json()["rejected_counts"] == {"unknown_kind": 2}  # type: ignore[attr-defined]  # as above
    assert not ContentSession.objects.exists()
    kept = QuarantinedLine.objects.values_list("raw_text", "is_replayable")
    assert list(kept) == [("", False)] * 2  # whoever sees the quarantine need not see content


@pytest.mark.parametrize("shut", ["is_switched_on", "is_asked_for", "consent"])
def test_no_gate_stands_in_for_another(shut: str) -> None:
    gates: dict[str, Any] = {
        "is_switched_on": True,
        "is_asked_for": True,
        "consent": {"trajectories": True},
    }
    assert opens_content(**gates)
    assert not opens_content(**gates | {shut: {} if shut == "consent" else False})


@pytest.mark.parametrize(
    ("keeps", "asked", "expected"),
    [(False, "none", True), (True, "none", False), (True, "pii", True), (False, "pii", True)],
)
def test_personal_data_goes_unless_console_and_policy_keep_it(
    settings: Any,  # noqa: ANN401 -- pytest-django's
    keeps: bool,
    asked: str,
    expected: bool,
) -> None:
    settings.FLEET_CONTENT_KEEP_PII = keeps
    install, _credential = fleet.enroll_one(install_id=make.INSTALL)
    fleet.make_pin("telemetry.content_redaction", asked)
    fleet.publish()
    assert scrubs_pii(install) is expected


def test_a_refusal_says_nothing_in_the_audit_trail() -> None:
    credential = enrolled(asked=None)
    before = ChangeRecord.objects.count()
    assert_shut(post(credential))
    assert ChangeRecord.objects.count() == before
