"""The real client's content, from the host's own database to the console's, gate by gate."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from pytest_django.live_server_helper import LiveServer

from agent_client import enroll, push
from agent_client.outbox import outbox_path
from agent_client.store import Store
from fleet.enroll import mint_token
from telemetry.models import ContentMessage, ContentSession, IngestBatch
from telemetry.store.erase import erase_install
from tests import builders
from tests.agent_client import host_state
from tests.agent_client.homes import configure

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_engines]
KEY = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
OPEN = "telemetry: {trajectories: {enabled: true}, export: {console: {content: true}}}\n"
EXPORT_ONLY = "telemetry: {trajectories: {enabled: true}}\n"
PUSH_ONLY = "telemetry: {export: {console: {content: true}}}\n"


@pytest.fixture
def home(tmp_path: Path, live_server: LiveServer, settings: Any) -> Path:  # noqa: ANN401 -- pytest-django's
    """Enrolled; console and policy ask for content, the owner's keys are open, one push saw it."""
    settings.FLEET_TRAJECTORIES = True
    builders.make_pin("telemetry.trajectories.enabled", value=True, level="recommended")
    builders.publish()
    _, text = mint_token(actor="operator")
    enroll.enroll(tmp_path, live_server.url, text)
    say(tmp_path, "said before the consent")
    configure(tmp_path, OPEN)
    assert push.push_once(tmp_path).exit_code == 0
    return tmp_path


def say(home: Path, *texts: str, session: int = 0, **more: Any) -> None:  # noqa: ANN401 -- columns of a message
    """What the host keeps of a conversation of now."""
    with host_state.host_database(home) as connection:
        known = connection.execute("SELECT 1 FROM sessions WHERE id = ?", (f"session-{session}",))
        if not known.fetchone():
            began = {"started_at": time.time() - 60, "ended_at": None, "title": f"title {KEY}"}
            host_state.add_session(connection, session, **began)
        for text in texts:
            host_state.add_message(connection, session, content=text, timestamp=time.time(), **more)


def told() -> list[str]:
    rows = ContentMessage.objects.order_by("message_id").values_list("content_json", flat=True)
    return [json.loads(text or '""') for text in rows]


def test_what_is_said_under_the_consent_arrives_once_and_scrubbed(home: Path) -> None:
    say(home, "Which river?", f"my key is {KEY}")
    result = push.push_once(home)
    assert (result.status, result.planes["trajectories"].accepted) == ("pushed", 3)
    first, second = told()
    assert first == "Which river?"
    assert KEY not in second
    assert KEY not in (ContentSession.objects.get().title or "")
    batch = IngestBatch.objects.get(batch_id=ContentMessage.objects.latest("message_id").batch_id)
    assert (batch.plane, batch.consent["trajectories"]) == ("trajectories", True)
    assert push.push_once(home).status == "nothing"


def test_what_was_said_before_the_consent_or_after_its_end_never_leaves(home: Path) -> None:
    say(home, "under consent")
    push.push_once(home)
    configure(home, EXPORT_ONLY)
    say(home, "after its end")
    push.push_once(home)
    configure(home, OPEN)
    push.push_once(home)
    say(home, "under the next consent")
    push.push_once(home)
    assert told() == ["under consent", "under the next consent"]


@pytest.mark.parametrize("keys", [EXPORT_ONLY, PUSH_ONLY, "telemetry: {}\n"])
def test_either_key_alone_keeps_content_on_the_machine(home: Path, keys: str) -> None:
    configure(home, keys)
    say(home, "not for the console")
    result = push.push_once(home)
    assert result.planes["trajectories"].status == "closed"
    assert told() == []
    assert not IngestBatch.objects.filter(plane="trajectories").exists()


def test_a_withdrawal_deletes_what_waits_before_anything_is_sent(
    home: Path,
    settings: Any,  # noqa: ANN401 -- pytest-django's
) -> None:
    settings.FLEET_TRAJECTORIES = False
    say(home, "waiting")
    assert push.push_once(home).planes["trajectories"].status == "closed"
    assert outbox_path(home, "trajectories").exists()
    configure(home, EXPORT_ONLY)
    push.push_once(home)
    assert not outbox_path(home, "trajectories").exists()
    with Store(home) as store:
        assert not store.state_keys("push.trajectories.since_ns")


def test_a_console_that_opens_later_gets_what_waited(home: Path, settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    settings.FLEET_TRAJECTORIES = False
    say(home, "waiting")
    push.push_once(home)
    settings.FLEET_TRAJECTORIES = True
    push.push_once(home, force=True)
    assert told() == ["waiting"]


def test_many_and_long_messages_arrive_whole_or_by_their_length(home: Path) -> None:
    say(home, *(f"message {number}" for number in range(600)))
    with host_state.host_database(home) as connection:
        for _ in range(1_200):
            host_state.add_message(connection, 9, content="of no session", timestamp=time.time())
    say(home, "é" * 600_000, session=1)
    result = push.push_once(home)
    assert result.rejected == 0, result.rejected_counts
    assert ContentMessage.objects.count() == 601
    assert "[too-long:" in told()[-1]
    assert push.push_once(home).planes["trajectories"].pending <= 1


def test_a_database_made_anew_begins_anew(home: Path) -> None:
    say(home, "one", "two", "three")
    push.push_once(home)
    for path in home.glob("state.db*"):
        path.unlink()
    say(home, "of another database")
    push.push_once(home)
    say(home, "and on it goes")
    push.push_once(home)
    assert "and on it goes" in told()
    assert "of another database" not in told()


@pytest.mark.parametrize("is_first", [True, False])
def test_a_database_that_is_away_for_a_moment_gives_away_nothing_said_before(
    home: Path, *, is_first: bool
) -> None:
    if is_first:  # the consent is first seen while the host's database cannot be read
        configure(home, EXPORT_ONLY)
        push.push_once(home)
        configure(home, OPEN)
    (home / "state.db").rename(home / "away")
    push.push_once(home)
    (home / "away").rename(home / "state.db")
    push.push_once(home)
    say(home, "under consent")
    push.push_once(home)
    assert told() == ["under consent"]


def test_an_erased_install_keeps_its_content_and_is_told_so(home: Path) -> None:
    say(home, "Which river?")
    push.push_once(home)
    install_id = IngestBatch.objects.latest("pk").install_id
    erase_install(install_id, actor="operator", reason="test")
    say(home, "after the end")
    result = push.push_once(home)
    assert (result.status, result.reason) == ("rejected", "install_erased")
    assert told() == []
