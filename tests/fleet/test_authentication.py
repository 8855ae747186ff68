"""Install credentials: refusals, rotation, last seen, rate."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.test import override_settings

from agent_client.contract.tokens import Token, parse_token
from fleet.api import throttling
from fleet.lib.clock import now
from fleet.models import ChangeRecord, Install, InstallCredential, SyncState
from tests.builders import Answer, agent_client_of, enroll_one, minutes_ago

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


def poll(credential: str) -> Answer:
    response: Answer = agent_client_of(credential).get("/api/v1/policy/assignment")
    return response


def code_of(response: Answer) -> str:
    return str(json.loads(response.content)["code"])


def rotate(credential: str) -> str:
    response = agent_client_of(credential).post("/api/v1/installs/self/credentials")
    assert response.status_code == 201
    return str(json.loads(response.content)["credential"])


def test_a_wrong_checksum_is_refused_before_any_query(django_assert_num_queries: object) -> None:
    _install, credential = enroll_one()
    wrong = credential[:-1] + ("0" if credential[-1] != "0" else "1")
    with django_assert_num_queries(0):  # type: ignore[operator]
        response = poll(wrong)
    assert (response.status_code, code_of(response)) == (401, "credential_unknown")


def test_a_right_id_with_another_secret_is_unknown() -> None:
    _install, credential = enroll_one()
    token = parse_token(credential)
    assert token is not None
    forged = Token(token.prefix, token.key_id, "0" * 64).text()
    assert code_of(poll(forged)) == "credential_unknown"


def test_a_credential_whose_pepper_is_gone_is_unknown() -> None:
    _install, credential = enroll_one()
    with override_settings(FLEET_TOKEN_PEPPERS={"other": "x" * 40}):
        assert code_of(poll(credential)) == "credential_unknown"


@pytest.mark.parametrize(
    ("field", "code"), [("revoked_at", "credential_revoked"), ("expires_at", "credential_expired")]
)
def test_a_revoked_or_expired_credential_is_401(field: str, code: str) -> None:
    _install, credential = enroll_one()
    InstallCredential.objects.update(**{field: now() - timedelta(seconds=1)})
    response = poll(credential)
    assert (response.status_code, code_of(response)) == (401, code)


def test_an_enrollment_token_is_no_credential() -> None:
    response = poll(Token("hfe", "0" * 12, "0" * 64).text())
    assert code_of(response) == "credential_unknown"


def test_another_scheme_is_no_credential() -> None:
    from django.test import Client

    client = Client(headers={"Authorization": "Basic abc"})
    assert code_of(client.get("/api/v1/policy/assignment")) == "credential_missing"


def test_the_first_use_of_a_candidate_deletes_the_old_one() -> None:
    _install, old = enroll_one()
    new = rotate(old)
    assert poll(old).status_code == 204
    assert poll(new).status_code == 204
    assert code_of(poll(old)) == "credential_unknown"
    assert InstallCredential.objects.count() == 1
    assert ChangeRecord.objects.filter(action="rotate").count() == 1


def test_a_candidate_that_is_never_used_lapses_and_the_old_one_stays() -> None:
    _install, old = enroll_one()
    new = rotate(old)
    InstallCredential.objects.filter(is_candidate=True).update(expires_at=now())
    assert code_of(poll(new)) == "credential_expired"
    assert poll(old).status_code == 204


def test_a_second_rotation_replaces_the_first_candidate() -> None:
    _install, old = enroll_one()
    first, second = rotate(old), rotate(old)
    assert code_of(poll(first)) == "credential_unknown"
    assert poll(second).status_code == 204


def test_last_seen_is_written_at_most_once_a_minute() -> None:
    install, credential = enroll_one()
    poll(credential)
    first = Install.objects.get().last_seen_at
    poll(credential)
    assert first is not None
    assert Install.objects.get().last_seen_at == first
    Install.objects.filter(pk=install.pk).update(last_seen_at=minutes_ago(2))
    poll(credential)
    again = Install.objects.get().last_seen_at
    assert again is not None
    assert again > first


def test_an_install_that_comes_back_is_not_offline_any_more() -> None:
    _install, credential = enroll_one()
    Install.objects.update(sync_state=SyncState.OFFLINE, last_seen_at=minutes_ago(60))
    poll(credential)
    assert Install.objects.get().sync_state == SyncState.IN_SYNC


@override_settings(FLEET_RATE_INSTALL_PER_MIN=2)
def test_a_flooding_install_is_429_and_another_is_not() -> None:
    _one, noisy = enroll_one()
    _two, quiet = enroll_one()
    answers = [poll(noisy) for _index in range(5)]
    assert code_of(answers[-1]) == "rate_limited"
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert poll(quiet).status_code == 204


def test_with_the_cache_down_requests_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from redis.exceptions import ConnectionError as RedisDown

    def down(*_args: object, **_kwargs: object) -> bool:
        raise RedisDown

    monkeypatch.setattr(throttling._Rest, "until_s", 0.0)
    monkeypatch.setattr("fleet.api.throttling.cache.add", down, raising=False)
    _install, credential = enroll_one()
    assert poll(credential).status_code == 204
    assert throttling._Rest.until_s > 0
