"""Check-ins: the decision table, the sequence rule, the endpoint."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from fleet.lib.clock import now
from fleet.models import CheckInRecord, Install, SyncState
from fleet.policy.ack import (
    Report,
    SequenceFork,
    SyncFacts,
    decide_sync,
    mark_offline,
    record_checkin,
)
from tests.builders import (
    Answer,
    agent_client_of,
    enroll_one,
    make_checkin,
    make_install,
    make_pin,
    minutes_ago,
    publish,
)

WANTED, OTHER = "a" * 64, "b" * 64


def service(
    status: str = "applied",
    bundle: str = WANTED,
    **fields: Any,  # noqa: ANN401  # Any: a test's shorthand
) -> Report:  # Any: a test's shorthand
    return Report("service", status, bundle_sha256=bundle, **fields)


def plugin(bundle: str = WANTED, **fields: Any) -> Report:  # noqa: ANN401  # Any: as above
    return Report("plugin", "applied", bundle_sha256=bundle, **fields)


def facts(*reports: Report, **fields: Any) -> SyncFacts:  # noqa: ANN401  # Any: as above
    given: dict[str, Any] = {
        "install_status": "active",
        "silent_s": 5.0,
        "offline_after_s": 600.0,
        "wanted_sha256": WANTED,
    }
    return SyncFacts(**(given | fields), reports=reports)


def drift(cause: str, key: str = "a.b") -> dict[str, object]:
    return {"key": key, "want": 1, "got": 2, "cause": cause, "first_seen_ns": 0}


TABLE = [
    ("never heard of", facts(silent_s=None), SyncState.NEVER_SEEN, ""),
    ("quarantined", facts(install_status="quarantined"), SyncState.QUARANTINED, "Another machine"),
    ("silent too long", facts(service(), silent_s=601.0), SyncState.OFFLINE, "10 minutes"),
    ("nothing published", facts(wanted_sha256=""), SyncState.IN_SYNC, "No policy"),
    ("nothing said", facts(), SyncState.PENDING, "not reported"),
    ("applied", facts(service()), SyncState.IN_SYNC, ""),
    ("an earlier bundle", facts(service(bundle=OTHER)), SyncState.PENDING, "earlier"),
    ("applying another", facts(service("applying", OTHER)), SyncState.APPLYING, ""),
    ("applying it", facts(service("applying")), SyncState.APPLYING, ""),
    ("pending", facts(service("pending", reason="not_yet")), SyncState.PENDING, "not_yet"),
    ("failed", facts(service("failed", reason="bad_digest")), SyncState.FAILED, "bad_digest"),
    ("rolled back", facts(service("rolled_back")), SyncState.FAILED, "rolled_back"),
    ("held", facts(service("held", OTHER, reason="not_allowed")), SyncState.HELD, "not_allowed"),
    ("held and expired", facts(service("held", reason="expired")), SyncState.STALE, "expired"),
    (
        "drifted",
        facts(service(drift=[drift("user_environment")])),
        SyncState.DRIFTED,
        "a.b: user_environment",
    ),
    (
        "drifted in two",
        facts(service(drift=[drift("malformed_yaml"), drift("unknown", "c")])),
        SyncState.DRIFTED,
        "a.b and 1 more: malformed_yaml",
    ),
    ("safe mode", facts(service(drift=[drift("safe_mode")])), SyncState.BYPASSED, "safe_mode"),
    (
        "the plugin sees what the service cannot",
        facts(service(), plugin(drift=[drift("older_process")])),
        SyncState.DRIFTED,
        "older_process",
    ),
    (
        "a plugin of an older process says nothing about the new bundle",
        facts(service(), plugin(OTHER, drift=[drift("unknown")])),
        SyncState.IN_SYNC,
        "",
    ),
    (
        "effective differs without a named key",
        facts(service(desired_sha256=WANTED, effective_sha256=OTHER)),
        SyncState.DRIFTED,
        "differ",
    ),
    ("only a plugin reports", facts(plugin()), SyncState.IN_SYNC, ""),
]


@pytest.mark.parametrize(
    ("given", "state", "cause"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_the_state_follows_from_the_facts(given: SyncFacts, state: SyncState, cause: str) -> None:
    verdict = decide_sync(given)
    assert verdict.state == state
    assert cause in verdict.cause
    assert bool(cause) == bool(verdict.cause)


@pytest.mark.django_db
@pytest.mark.both_engines
class TestStored:
    def body(self, **fields: object) -> dict[str, object]:
        return {"seq": 1, "status": "applied", "reporter": "service", **fields}

    def send(self, credential: str, body: dict[str, object]) -> Answer:
        response: Answer = agent_client_of(credential).post(
            "/api/v1/checkin", body, content_type="application/json"
        )
        return response

    def test_a_check_in_is_acknowledged_and_the_state_follows(self) -> None:
        make_pin()
        wanted = publish().targets.get().bundle_id
        _install, credential = enroll_one()
        response = self.send(credential, self.body(seq=7, bundle_sha256=wanted))
        answer = json.loads(response.content)
        assert (response.status_code, answer["ack"], answer["actions"]) == (200, 7, [])
        assert Install.objects.get().sync_state == SyncState.IN_SYNC

    def test_a_failure_is_shown_with_its_cause(self) -> None:
        publish()
        _install, credential = enroll_one()
        self.send(credential, self.body(status="failed", reason="bad_signature"))
        install = Install.objects.get()
        assert (install.sync_state, install.sync_cause) == (SyncState.FAILED, "bad_signature")

    def test_the_same_check_in_again_is_acknowledged_again(self) -> None:
        _install, credential = enroll_one()
        answers = [self.send(credential, self.body()) for _index in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert CheckInRecord.objects.count() == 1

    @pytest.mark.parametrize("fields", [{"reason": "other"}, {"seq": 0}])
    def test_a_fork_of_the_sequence_is_409(self, fields: dict[str, object]) -> None:
        _install, credential = enroll_one()
        self.send(credential, self.body())
        response = self.send(credential, self.body(**fields))
        assert (response.status_code, json.loads(response.content)["code"]) == (
            409,
            "sequence_fork",
        )
        assert CheckInRecord.objects.get().reason == ""

    def test_the_two_reporters_count_apart(self) -> None:
        _install, credential = enroll_one()
        self.send(credential, self.body(seq=9))
        assert self.send(credential, self.body(reporter="plugin")).status_code == 200

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("seq", -1),
            ("seq", "x"),
            ("status", "fine"),
            ("reporter", "me"),
            ("bundle_sha256", "xyz"),
            ("drift", [1]),
            ("reason", "x" * 301),
            ("versions", {"client": "x" * 61}),
        ],
    )
    def test_a_field_out_of_its_bounds_is_422(self, field: str, value: object) -> None:
        _install, credential = enroll_one()
        response = self.send(credential, self.body(**{field: value}))
        assert (response.status_code, json.loads(response.content)["code"]) == (422, "invalid")
        assert not CheckInRecord.objects.exists()

    def test_unknown_fields_are_ignored(self) -> None:
        _install, credential = enroll_one()
        assert self.send(credential, self.body(later="x")).status_code == 200

    def test_a_lower_sequence_raises_and_stores_nothing(self) -> None:
        install = make_install()
        record_checkin(install, make_checkin(seq=5), body_sha256="1" * 64, moment=now())
        with pytest.raises(SequenceFork):
            record_checkin(install, make_checkin(seq=4), body_sha256="2" * 64, moment=now())
        assert CheckInRecord.objects.get().seq == 5

    def test_silent_installs_are_marked_offline_in_one_statement(
        self,
        django_assert_num_queries: Any,  # noqa: ANN401  # Any: pytest-django's own
    ) -> None:
        make_install(last_seen_at=minutes_ago(60))
        make_install(last_seen_at=minutes_ago(0))
        make_install()
        with django_assert_num_queries(1):
            assert mark_offline(moment=now()) == 1
        assert mark_offline(moment=now() + timedelta(seconds=1)) == 0
