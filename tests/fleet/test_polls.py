"""Polls from memory: a 304 without a query, and never one that the database would not give."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from agent_client.contract.tokens import parse_token
from fleet.api import polled
from fleet.api.throttling import LocalCounts
from fleet.enroll import propose_credential, quarantine_install, revoke_install
from fleet.enroll.installs import move_installs
from fleet.lib.clock import now
from fleet.models import Install, InstallCredential, InstallPolicy, SyncState
from fleet.policy import polls
from fleet.policy.polls import PollMemory
from tests.builders import agent_client_of, enroll_one, make_group, make_pin, publish

POLL = "/api/v1/policy/assignment"
pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


class Clock:
    def __init__(self) -> None:
        self.at_s = 1000.0

    def __call__(self) -> float:
        return self.at_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> PollMemory:
    """The process's memory, switched on, with a clock of the test's."""
    made = PollMemory(clock)
    made.is_on = True
    monkeypatch.setattr(polled, "MEMORY", made)
    monkeypatch.setattr("fleet.api.views.MEMORY", made)
    monkeypatch.setattr(polled, "_COUNTS", LocalCounts())
    return made


def environ(credential: str, etag: str, **more: object) -> dict[str, object]:
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": POLL,
        "QUERY_STRING": "",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "http",
        "HTTP_HOST": "127.0.0.1:8000",
        "HTTP_AUTHORIZATION": f"Bearer {credential}",
        "HTTP_IF_NONE_MATCH": f'"{etag}"',
        **more,
    }


def poll(credential: str, etag: str, **more: object) -> str:
    """Who answers: "memory", or the status of the full path."""
    if polled.headers_of_304(environ(credential, etag, **more)) is not None:
        return "memory"
    client = agent_client_of(credential)
    return str(client.get(POLL, headers={"If-None-Match": f'"{etag}"'}).status_code)


def known(memory: PollMemory) -> tuple[Install, str, str]:
    """An install that has polled: itself, its credential, the tag it holds."""
    install, credential = enroll_one()
    etag = agent_client_of(credential).get(POLL).headers["ETag"].strip('"')
    memory.look()
    return install, credential, etag


@pytest.fixture
def policy() -> None:
    make_pin()
    publish()


def test_an_unchanged_poll_takes_no_query(memory: PollMemory, policy: None) -> None:
    _install, credential, etag = known(memory)
    with CaptureQueriesContext(connection) as queries:
        headers = polled.headers_of_304(environ(credential, etag))
    assert len(queries) == 0
    assert headers is not None
    full = agent_client_of(credential).get(POLL, headers={"If-None-Match": f'"{etag}"'})
    assert full.status_code == 304
    for name in ("ETag", "Cache-Control"):
        assert dict(headers)[name] == full.headers[name]
    assert len(dict(headers)["X-Request-Id"]) == len(full.headers["X-Request-Id"])


def test_before_the_first_publish_the_tag_of_nothing_is_known(
    memory: PollMemory, clock: Clock
) -> None:
    _install, credential, etag = known(memory)
    assert etag == "none"
    assert poll(credential, etag) == "memory"
    make_pin()
    publish()
    clock.at_s += 2
    memory.look()
    assert poll(credential, etag) == "200"


Change = Callable[[Install, str], object]
CHANGES: dict[str, tuple[Change, str]] = {
    "revoked": (lambda install, _c: revoke_install(install, actor="op"), "401"),
    "quarantined": (lambda install, _c: quarantine_install(install, reason="copy"), "403"),
    "published": (lambda _i, _c: (make_pin("telemetry.retention_days", 30), publish()), "200"),
    "moved": (lambda install, _c: moved(install), "200"),
    "deleted": (lambda install, _c: install.delete(), "401"),
    "behind our back": (
        lambda install, _c: InstallCredential.objects.filter(install=install).update(
            revoked_at=now()
        ),
        "401",
    ),
    "scopes": (
        lambda install, _c: InstallCredential.objects.filter(install=install).update(scopes=[]),
        "403",
    ),
}


def moved(install: Install) -> None:
    group = make_group()
    make_pin("telemetry.retention_days", 30, group=group)
    publish()
    move_installs([install], group, actor="op")


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_what_changes_is_seen_at_the_next_look_or_within_the_time(
    memory: PollMemory, clock: Clock, policy: None, name: str
) -> None:
    install, credential, etag = known(memory)
    assert poll(credential, etag) == "memory"
    change, status = CHANGES[name]
    change(install, credential)
    clock.at_s += 2  # nothing was asked anew so soon for its age
    if name not in {"deleted", "behind our back", "scopes"}:
        memory.look()
        assert poll(credential, etag) == status
        return
    # The trail says nothing of it: the next round, half of the time later, finds out.
    clock.at_s += 15
    memory.look()
    assert poll(credential, etag) == status


def test_without_a_look_nothing_is_answered_for_longer_than_the_time(
    memory: PollMemory, clock: Clock, policy: None
) -> None:
    install, credential, etag = known(memory)
    revoke_install(install, actor="op")
    clock.at_s += 29
    assert poll(credential, etag) == "memory"
    clock.at_s += 1.1
    assert poll(credential, etag) == "401"


def test_a_change_that_was_heard_of_when_the_database_went_away_is_not_forgotten(
    memory: PollMemory, clock: Clock, policy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    install, credential, etag = known(memory)
    clock.at_s += 2
    memory.look()
    revoke_install(install, actor="tester", reason="stolen")

    def away(_ids: object) -> dict[str, object]:
        raise DatabaseError

    with monkeypatch.context() as during:
        during.setattr(polls, "_ask", away)
        with pytest.raises(DatabaseError):
            memory.look()
    clock.at_s += 2
    memory.look()
    assert poll(credential, etag) == "401"


def test_a_change_of_somebody_else_asks_about_nobody(
    memory: PollMemory, clock: Clock, policy: None
) -> None:
    known(memory)
    other, _credential = enroll_one()
    clock.at_s += 2
    revoke_install(other, actor="op")
    with CaptureQueriesContext(connection) as queries:
        memory.look()
    assert len(queries) == 1


def test_a_thousand_changes_at_once_ask_about_everybody(
    memory: PollMemory, clock: Clock, policy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polls, "MAX_CHANGES", 2)
    install, credential, etag = known(memory)
    clock.at_s += 5
    for _index in range(3):
        enroll_one()
    revoke_install(install, actor="op")
    memory.look()
    assert poll(credential, etag) == "401"


def test_a_new_credential_ends_what_the_old_one_was_known_for(
    memory: PollMemory, clock: Clock, policy: None
) -> None:
    install, credential, etag = known(memory)
    fresh = propose_credential(install)
    assert agent_client_of(fresh).get(POLL).status_code == 200
    clock.at_s += 2
    memory.look()
    assert poll(credential, etag) == "401"
    assert poll(fresh, etag) == "memory"


def test_a_candidate_is_not_known_before_it_was_accepted(memory: PollMemory, policy: None) -> None:
    install, _credential, etag = known(memory)
    fresh = propose_credential(install)
    assert poll(fresh, etag) == "304"  # the full path: the first use accepts it


def test_an_assignment_that_ages_is_issued_anew(
    memory: PollMemory, clock: Clock, policy: None
) -> None:
    install, credential, etag = known(memory)
    ends = now() + timedelta(hours=1)
    InstallPolicy.objects.filter(pk=install.pk).update(
        issued_at=ends - timedelta(hours=24), expires_at=ends
    )
    clock.at_s += 16
    memory.look()
    assert poll(credential, etag) == "200"


def test_a_credential_is_known_no_longer_than_it_lasts(
    memory: PollMemory, clock: Clock, policy: None
) -> None:
    _install, credential, etag = known(memory)
    token = parse_token(credential)
    assert token is not None
    InstallCredential.objects.filter(key_id=token.key_id).update(
        expires_at=now() + timedelta(seconds=5)
    )
    clock.at_s += 16
    memory.look()
    assert poll(credential, etag) == "memory"
    clock.at_s += 5.1
    assert polled.headers_of_304(environ(credential, etag)) is None


@pytest.mark.parametrize(
    "more",
    [
        {"REQUEST_METHOD": "POST"},
        {"REQUEST_METHOD": "HEAD"},
        {"QUERY_STRING": "x=%00"},
        {"PATH_INFO": POLL + "/"},
        {"HTTP_HOST": "elsewhere.example"},
        {"HTTP_HOST": ""},
        {"HTTP_IF_NONE_MATCH": ""},
        {"HTTP_IF_NONE_MATCH": '"other"'},
        {"HTTP_AUTHORIZATION": "Bearer hfa_none"},
        {"HTTP_AUTHORIZATION": ""},
        {"HTTP_USER_AGENT": "hermes-fleet-agent/0.0.1"},
    ],
    ids=str,
)
def test_what_is_not_certain_goes_the_full_way(
    memory: PollMemory, policy: None, more: dict[str, object]
) -> None:
    _install, credential, etag = known(memory)
    assert polled.headers_of_304(environ(credential, etag)) is not None
    assert polled.headers_of_304(environ(credential, etag, **more)) is None


@pytest.mark.parametrize("tag", ['W/"{}"', '"x", "{}"', "*", '"{}"'])
def test_the_tag_is_compared_as_the_full_path_does(
    memory: PollMemory, policy: None, tag: str
) -> None:
    _install, credential, etag = known(memory)
    asked = environ(credential, etag, HTTP_IF_NONE_MATCH=tag.format(etag))
    assert polled.headers_of_304(asked) is not None


def test_plain_http_is_sent_to_tls_by_the_full_path(
    memory: PollMemory, policy: None, settings: Settings
) -> None:
    _install, credential, etag = known(memory)
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert polled.headers_of_304(environ(credential, etag)) is None
    secure = environ(credential, etag, HTTP_X_FORWARDED_PROTO="https")
    assert polled.headers_of_304(secure) is not None


def test_rates_are_limited_as_ever(memory: PollMemory, policy: None, settings: Settings) -> None:
    _install, credential, etag = known(memory)
    settings.FLEET_RATE_INSTALL_PER_MIN = 20
    answers = [poll(credential, etag) for _index in range(40)]
    assert answers.count("memory") <= 20
    assert set(answers[20:]) == {"429"}


def test_who_was_seen_is_written_down_together(
    memory: PollMemory, clock: Clock, policy: None
) -> None:
    pairs = [known(memory) for _index in range(3)]
    long_ago = now() - timedelta(minutes=5)
    Install.objects.update(last_seen_at=long_ago)
    for install, credential, _etag in pairs:
        etag = InstallPolicy.objects.get(pk=install.pk).etag
        assert poll(credential, etag, REMOTE_ADDR="10.9.9.9") == "memory"
        assert poll(credential, etag, REMOTE_ADDR="10.9.9.9") == "memory"
    with CaptureQueriesContext(connection) as queries:
        assert memory.flush() == 3
    assert len([one for one in queries if "UPDATE" in one["sql"].split()[:1]]) == 3
    assert not Install.objects.filter(last_seen_at=long_ago).exists()
    assert set(Install.objects.values_list("last_seen_address", flat=True)) == {"10.9.9.9"}
    assert not InstallCredential.objects.filter(last_used_at=None).exists()


def test_who_was_seen_is_kept_while_the_database_is_away(
    memory: PollMemory, policy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install, credential, etag = known(memory)
    assert poll(credential, etag) == "memory"

    def fail(*_args: object) -> int:
        raise DatabaseError("away")

    with monkeypatch.context() as patch:
        patch.setattr(polls, "_write_seen", fail)
        with pytest.raises(DatabaseError):
            memory.flush()
    assert memory.flush() == 1


def test_one_who_counted_as_offline_is_heard_of_at_once(
    memory: PollMemory, clock: Clock, policy: None
) -> None:
    install, credential, etag = known(memory)
    Install.objects.update(sync_state=SyncState.OFFLINE, last_seen_at=now() - timedelta(hours=1))
    clock.at_s += 16
    memory.look()
    assert poll(credential, etag) == "304"
    install.refresh_from_db()
    assert install.sync_state != SyncState.OFFLINE


def test_the_memory_is_bounded_and_forgets_who_stays_away(
    memory: PollMemory, clock: Clock, policy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polls, "MAX_HELD", 4)
    for _index in range(6):
        known(memory)
        clock.at_s += 1
    assert len(memory) <= 4
    clock.at_s += polls.IDLE_S + 1
    memory.look()
    assert len(memory) == 0


def test_switched_off_nothing_is_remembered(
    memory: PollMemory, policy: None, settings: Settings
) -> None:
    settings.FLEET_POLL_CACHE_S = 0
    _install, credential, etag = known(memory)
    assert len(memory) == 0
    assert poll(credential, etag) == "304"


def test_the_token_itself_is_nowhere_in_the_memory(memory: PollMemory, policy: None) -> None:
    _install, credential, _etag = known(memory)
    assert credential not in repr(memory.__dict__)
    assert credential.encode() not in b"".join(memory._held)
