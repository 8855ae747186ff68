"""POST /api/v1/enroll: every documented status and code."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.test import Client, override_settings

from agent_client.contract.tokens import parse_token
from agent_client.contract.wire import MEDIA_PROBLEM
from fleet.enroll import (
    Admitted,
    EnrollRefused,
    decide_request,
    enroll_install,
    release_install,
    revoke_install,
    revoke_token,
)
from fleet.lib.clock import now
from fleet.models import (
    ChangeRecord,
    EnrollmentRequest,
    EnrollmentToken,
    Install,
    InstallCredential,
    InstallStatus,
    RequestStatus,
)
from tests.builders import (
    OTHER_MACHINE,
    Answer,
    agent_client_of,
    enroll_body,
    make_applicant,
    make_group,
    make_token,
)

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


def post(token: str, body: dict[str, object] | None = None) -> Answer:
    response: Answer = agent_client_of(token).post(
        "/api/v1/enroll", body or enroll_body(), content_type="application/json"
    )
    return response


def code_of(response: Answer) -> str:
    assert response.headers["Content-Type"] == MEDIA_PROBLEM
    problem = json.loads(response.content)
    assert problem["status"] == response.status_code
    assert problem["type"].endswith(problem["code"])
    assert problem["instance"] == response.headers["X-Request-Id"]
    return str(problem["code"])


def test_a_good_token_admits_and_shows_the_credential_once() -> None:
    group = make_group("north")
    _row, token = make_token(group=group)
    body = enroll_body()
    response = post(token, body)
    answer = json.loads(response.content)
    assert response.status_code == 201
    assert response.headers["Cache-Control"] == "no-store"
    assert (answer["install_id"], answer["group"]) == (body["install_id"], "north")
    assert answer["scopes"] == ["push", "policy:read", "report:write"]
    assert parse_token(answer["credential"]) is not None


def test_only_a_digest_is_stored() -> None:
    _row, token = make_token()
    text = json.loads(post(token).content)["credential"]
    secret = text[17:81]
    stored = InstallCredential.objects.values().get()
    assert not any(secret in str(value) for value in stored.values())


def test_an_enrollment_leaves_one_audit_row() -> None:
    _row, token = make_token()
    post(token)
    record = ChangeRecord.objects.get(action="enroll")
    assert (record.actor, record.object_type) == ("agent", "install")


def test_without_a_token_it_is_401() -> None:
    response: Answer = Client().post(
        "/api/v1/enroll", enroll_body(), content_type="application/json"
    )
    assert (response.status_code, code_of(response)) == (401, "credential_missing")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("token", ["nonsense", "hfa_" + "0" * 85])
def test_a_token_of_the_wrong_form_is_401_without_a_query(
    token: str, django_assert_num_queries: object
) -> None:
    with django_assert_num_queries(0):  # type: ignore[operator]
        response = post(token)
    assert (response.status_code, code_of(response)) == (401, "token_unknown")


def test_an_unknown_token_is_401() -> None:
    row, token = make_token()
    row.delete()
    assert code_of(post(token)) == "token_unknown"


def test_a_token_with_the_right_id_and_another_secret_is_401() -> None:
    row, _token = make_token()
    _other, wrong = make_token()
    EnrollmentToken.objects.exclude(pk=row.pk).update(key_id="f" * 12)
    EnrollmentToken.objects.filter(pk=row.pk).update(key_id=wrong.split("_")[1])
    assert code_of(post(wrong)) == "token_unknown"


def test_a_lapsed_token_is_401() -> None:
    _row, token = make_token(expires_at=now() - timedelta(seconds=1))
    assert code_of(post(token)) == "token_expired"


def test_a_revoked_token_is_401_at_once() -> None:
    row, token = make_token()
    assert revoke_token(row, actor="anna")
    assert not revoke_token(row, actor="anna")
    response = post(token)
    assert (response.status_code, code_of(response)) == (401, "token_revoked")


def test_a_used_up_token_is_403() -> None:
    _row, token = make_token(max_uses=1)
    assert post(token).status_code == 201
    response = post(token)
    assert (response.status_code, code_of(response)) == (403, "token_exhausted")


def test_an_address_outside_the_network_is_403() -> None:
    _row, token = make_token(cidr="10.0.0.0/8")
    response = post(token)
    assert (response.status_code, code_of(response)) == (403, "cidr_denied")


@override_settings(FLEET_PROXIES=["127.0.0.1"])
def test_a_known_proxy_is_believed_about_the_address() -> None:
    _row, token = make_token(cidr="10.0.0.0/8")
    client = Client(
        headers={"Authorization": f"Bearer {token}", "X-Forwarded-For": "9.9.9.9, 10.1.2.3"}
    )
    response = client.post("/api/v1/enroll", enroll_body(), content_type="application/json")
    assert response.status_code == 201
    assert Install.objects.count() == 1


def test_the_same_install_enrolls_again_and_its_old_credential_ends() -> None:
    _row, token = make_token(max_uses=1)
    body = enroll_body()
    first = json.loads(post(token, body).content)["credential"]
    again = post(token, body)
    assert again.status_code == 201
    stale = agent_client_of(first).get("/api/v1/policy/assignment")
    assert (stale.status_code, code_of(stale)) == (401, "credential_revoked")
    assert EnrollmentToken.objects.get().uses == 1


def test_the_same_id_from_another_machine_is_409_and_quarantined() -> None:
    _row, token = make_token()
    body = enroll_body()
    post(token, body)
    response = post(token, {**body, "machine_id": OTHER_MACHINE})
    assert (response.status_code, code_of(response)) == (409, "install_exists")
    assert b"--new-id" in response.content
    install = Install.objects.get()
    assert install.status == InstallStatus.QUARANTINED
    assert ChangeRecord.objects.filter(action="quarantine").count() == 1


def test_a_quarantined_install_is_403_until_it_is_released() -> None:
    _row, token = make_token()
    body = enroll_body()
    credential = json.loads(post(token, body).content)["credential"]
    post(token, {**body, "machine_id": OTHER_MACHINE})
    client = agent_client_of(credential)
    assert code_of(client.get("/api/v1/policy/assignment")) == "forbidden"
    assert release_install(Install.objects.get(), actor="anna")
    assert client.get("/api/v1/policy/assignment").status_code == 204


def test_a_revoked_install_cannot_come_back_by_itself() -> None:
    _row, token = make_token()
    body = enroll_body()
    post(token, body)
    assert revoke_install(Install.objects.get(), actor="anna", reason="stolen")
    response = post(token, body)
    assert (response.status_code, code_of(response)) == (403, "forbidden")


def test_a_manual_token_waits_for_a_person_and_then_admits() -> None:
    _row, token = make_token(approval="manual", max_uses=1)
    body = enroll_body()
    waiting, again = post(token, body), post(token, body)
    assert (waiting.status_code, waiting.content) == (202, again.content)
    request = EnrollmentRequest.objects.get()
    assert json.loads(waiting.content)["user_code"] == request.user_code
    assert decide_request(request, is_approved=True, actor="anna")
    assert not decide_request(request, is_approved=False, actor="eve")
    assert post(token, body).status_code == 201
    request.refresh_from_db()
    assert request.status == RequestStatus.DONE


def test_a_denied_request_is_403() -> None:
    _row, token = make_token(approval="manual")
    body = enroll_body()
    post(token, body)
    decide_request(EnrollmentRequest.objects.get(), is_approved=False, actor="anna")
    response = post(token, body)
    assert (response.status_code, code_of(response)) == (403, "forbidden")


def test_an_approval_is_for_the_machine_that_asked() -> None:
    _row, token = make_token(approval="manual")
    body = enroll_body()
    post(token, body)
    decide_request(EnrollmentRequest.objects.get(), is_approved=True, actor="anna")
    assert post(token, {**body, "machine_id": OTHER_MACHINE}).status_code == 202


def test_a_lapsed_request_gives_a_new_code() -> None:
    _row, token = make_token(approval="manual")
    body = enroll_body()
    first = json.loads(post(token, body).content)["user_code"]
    EnrollmentRequest.objects.update(expires_at=now())
    assert json.loads(post(token, body).content)["user_code"] != first


def test_a_manual_token_that_is_used_up_asks_nobody() -> None:
    _row, token = make_token(approval="manual", max_uses=1)
    EnrollmentToken.objects.update(uses=1)
    assert code_of(post(token)) == "token_exhausted"


@pytest.mark.parametrize(
    ("field", "value"),
    [("install_id", "x"), ("machine_id", "short"), ("capabilities", ["a"] * 65), ("host", "x")],
)
def test_a_body_that_is_refused_names_the_field_and_not_its_value(
    field: str, value: object
) -> None:
    _row, token = make_token()
    response = post(token, {**enroll_body(), field: value})
    assert (response.status_code, code_of(response)) == (422, "invalid")
    assert json.loads(response.content)["detail"] == f"Refused: {field}"


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[]",
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b'{"a": "\\u0000"}',
        b'{"a": "\\ud800"}',
        b'{"a": 99999999999999999999}',
        b'{"a": 1e999}',
        b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}",
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_a_hostile_body_is_400(raw: bytes) -> None:
    _row, token = make_token()
    response = agent_client_of(token).post("/api/v1/enroll", raw, content_type="application/json")
    assert (response.status_code, code_of(response)) == (400, "malformed_body")


def test_a_body_beyond_1_mib_is_413() -> None:
    _row, token = make_token()
    raw = json.dumps({"a": "x" * 1024 * 1024})
    response = agent_client_of(token).post("/api/v1/enroll", raw, content_type="application/json")
    assert (response.status_code, code_of(response)) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("kind", "encoding", "code"),
    [
        ("text/plain", "identity", "unsupported_media_type"),
        ("application/json", "gzip", "unsupported_encoding"),
    ],
)
def test_another_type_or_encoding_is_415(kind: str, encoding: str, code: str) -> None:
    _row, token = make_token()
    response = agent_client_of(token).post(
        "/api/v1/enroll", b"{}", content_type=kind, headers={"Content-Encoding": encoding}
    )
    assert (response.status_code, code_of(response)) == (415, code)


@pytest.mark.parametrize(("agent", "status"), [("0.0.9", 426), ("0.1.0", 201), ("1.0.0", 201)])
def test_a_client_older_than_the_oldest_welcome_is_426(agent: str, status: int) -> None:
    _row, token = make_token()
    response = agent_client_of(token).post(
        "/api/v1/enroll",
        enroll_body(),
        content_type="application/json",
        headers={"User-Agent": f"hermes-fleet-agent/{agent}"},
    )
    assert response.status_code == status


def test_another_method_is_405() -> None:
    response = Client().get("/api/v1/enroll")
    assert (response.status_code, code_of(response)) == (405, "method_not_allowed")


@override_settings(FLEET_RATE_ENROLL_PER_MIN=1)
def test_too_many_attempts_are_429_with_retry_after() -> None:
    address = f"10.9.{uuid4().int % 250}.{uuid4().int % 250}"
    answers = [
        Client(REMOTE_ADDR=address).post("/api/v1/enroll", {}, content_type="application/json")
        for _index in range(3)
    ]
    assert code_of(answers[-1]) == "rate_limited"
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_of_eight_agents_that_race_for_two_uses_two_get_in() -> None:
    row, text = make_token(max_uses=2)
    presented = parse_token(text)
    assert presented is not None
    start, outcomes = threading.Barrier(8), []

    def race() -> None:
        try:
            start.wait(timeout=10)
            outcomes.append(type(enroll_install(presented, make_applicant())).__name__)
        except EnrollRefused as refused:
            outcomes.append(refused.code)
        finally:
            connection.close()

    threads = [threading.Thread(target=race) for _index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    row.refresh_from_db()
    assert sorted(outcomes) == [Admitted.__name__] * 2 + ["token_exhausted"] * 6
    assert (row.uses, Install.objects.count()) == (2, 2)


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_one_install_that_enrolls_four_times_at_once_ends_with_one_live_credential() -> None:
    _row, text = make_token()
    presented, applicant = parse_token(text), make_applicant()
    assert presented is not None
    start, errors = threading.Barrier(4), []

    def race() -> None:
        try:
            start.wait(timeout=10)
            enroll_install(presented, applicant)
        except EnrollRefused as refused:
            errors.append(refused.code)
        finally:
            connection.close()

    threads = [threading.Thread(target=race) for _index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert errors == []
    assert InstallCredential.objects.filter(revoked_at=None).count() == 1
