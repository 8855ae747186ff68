"""Discovery, root, assignment and bundle: what an agent fetches, and how it is refused."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import yaml
from django.test import Client
from drf_spectacular.validation import validate_schema

from agent_client.contract import dsse
from agent_client.contract.canonical import sha256_hex
from agent_client.contract.policy_doc import TYPE_ASSIGNMENT, TYPE_BUNDLE, TYPE_ROOT, Root
from agent_client.contract.wire import MEDIA_DSSE, SCOPE_PUSH
from fleet.enroll import move_installs
from fleet.lib.clock import now
from fleet.models import Install, InstallCredential, InstallPolicy
from fleet.policy.serve import assignment_for
from fleet.policy.signing import current_root
from tests.builders import Answer, agent_client_of, enroll_one, make_group, make_pin, publish

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
ASSIGNMENT = "/api/v1/policy/assignment"


def root_of(client: Client) -> tuple[Root, dict[str, bytes]]:
    envelope = client.get("/api/v1/policy/root").content
    root = Root.from_dict(json.loads(dsse.peek(envelope)))
    keys = {name: bytes.fromhex(key["public"]) for name, key in root.keys.items()}
    dsse.open_envelope(envelope, TYPE_ROOT, {current_root().fingerprint: keys[_root_id(root)]})
    return root, keys


def _root_id(root: Root) -> str:
    ids = root.roles["root"]["key_ids"]
    assert isinstance(ids, list)
    return str(ids[0])


def opened(client: Client, response: Answer, kind: str) -> dict[str, object]:
    assert response.headers["Content-Type"] == MEDIA_DSSE
    _root, keys = root_of(client)
    payload = dsse.open_envelope(response.content, kind, keys)
    return dict(json.loads(payload))


def test_discovery_tells_what_an_agent_needs() -> None:
    found = json.loads(Client().get("/.well-known/hermes-fleet").content)
    assert found["root_fingerprint"] == current_root().fingerprint
    assert found["api_base"].endswith("/api/v1")
    assert found["limits"]["max_lines"] == 50_000


def test_the_root_is_public_and_cached_by_its_tag() -> None:
    first = Client().get("/api/v1/policy/root")
    again = Client(headers={"If-None-Match": first.headers["ETag"]}).get("/api/v1/policy/root")
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")


def test_the_root_parts_the_roles_of_its_two_keys() -> None:
    root, keys = root_of(Client())
    online = root.roles["assignment"]["key_ids"]
    assert len(keys) == 2
    assert online != root.roles["root"]["key_ids"]
    assert online == root.roles["bundle"]["key_ids"]


def test_before_the_first_publish_there_is_no_content() -> None:
    _install, credential = enroll_one()
    client = agent_client_of(credential)
    response = client.get(ASSIGNMENT)
    assert (response.status_code, response.headers["ETag"]) == (204, '"none"')
    assert client.get(ASSIGNMENT, headers={"If-None-Match": '"none"'}).status_code == 304


def test_an_assignment_leads_to_its_bundle() -> None:
    make_pin("telemetry.allow_aggregate", False)
    publish()
    install, credential = enroll_one()
    client = agent_client_of(credential)
    assignment = opened(client, client.get(ASSIGNMENT), TYPE_ASSIGNMENT)
    assert (assignment["install_id"], assignment["version"]) == (str(install.pk), 1)
    answer = client.get(f"/api/v1/policy/bundles/{assignment['bundle_sha256']}")
    assert sha256_hex(dsse.peek(answer.content)) == assignment["bundle_sha256"]
    bundle = opened(client, answer, TYPE_BUNDLE)
    assert bundle["mandatory"] == {"telemetry": {"allow_aggregate": False}}
    assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"


def test_an_unchanged_assignment_is_304_and_the_same_bytes() -> None:
    publish()
    _install, credential = enroll_one()
    client = agent_client_of(credential)
    first = client.get(ASSIGNMENT)
    etag = first.headers["ETag"]
    assert etag == f'"{sha256_hex(first.content)}"'
    assert client.get(ASSIGNMENT, headers={"If-None-Match": etag}).status_code == 304
    assert client.get(ASSIGNMENT).content == first.content


def test_an_unchanged_poll_costs_few_queries(django_assert_max_num_queries: object) -> None:
    publish()
    _install, credential = enroll_one()
    client = agent_client_of(credential)
    etag = client.get(ASSIGNMENT).headers["ETag"]
    with django_assert_max_num_queries(3):  # type: ignore[operator]
        client.get(ASSIGNMENT, headers={"If-None-Match": etag})


def test_a_changed_bundle_gives_a_higher_version() -> None:
    publish()
    _install, credential = enroll_one()
    client = agent_client_of(credential)
    etag = client.get(ASSIGNMENT).headers["ETag"]
    make_pin()
    publish()
    response = client.get(ASSIGNMENT, headers={"If-None-Match": etag})
    assert response.status_code == 200
    assert opened(client, response, TYPE_ASSIGNMENT)["version"] == 2


@pytest.mark.parametrize(("hours_left", "version"), [(7, 1), (5, 2)])
def test_a_new_one_is_signed_when_less_than_a_quarter_is_left(
    hours_left: int, version: int
) -> None:
    publish()
    install, _credential = enroll_one()
    issued = now()
    assert assignment_for(install, moment=issued)
    later = issued + timedelta(hours=24 - hours_left)
    served = assignment_for(install, moment=later)
    assert served is not None
    assert served.version == version


def test_who_loses_the_race_serves_what_the_winner_issued() -> None:
    publish()
    install, _credential = enroll_one()
    moment = now()
    first = assignment_for(install, moment=moment)
    assert assignment_for(install, moment=moment) == first
    assert InstallPolicy.objects.get().version == 1


def test_an_install_that_moves_gets_its_new_groups_bundle() -> None:
    north = make_group("north")
    make_pin("a.b", 1, group=north)
    publish()
    install, credential = enroll_one()
    client = agent_client_of(credential)
    before = opened(client, client.get(ASSIGNMENT), TYPE_ASSIGNMENT)
    assert move_installs([install], north, actor="anna") == 1
    assert move_installs([install], north, actor="anna") == 0
    after = opened(client, client.get(ASSIGNMENT), TYPE_ASSIGNMENT)
    assert before["bundle_sha256"] != after["bundle_sha256"]
    assert move_installs([install], None, actor="anna") == 1


def test_a_bundle_of_others_does_not_exist_for_an_install() -> None:
    north = make_group("north")
    make_pin("a.b", "secret plan", group=north)
    revision = publish()
    _install, credential = enroll_one()
    client = agent_client_of(credential)
    client.get(ASSIGNMENT)
    theirs = revision.targets.get(group_number=north.pk).bundle_id
    for sha256 in (theirs, "0" * 64):
        assert client.get(f"/api/v1/policy/bundles/{sha256}").status_code == 404


def test_an_earlier_bundle_may_still_be_fetched() -> None:
    publish()
    _install, credential = enroll_one()
    client = agent_client_of(credential)
    first = opened(client, client.get(ASSIGNMENT), TYPE_ASSIGNMENT)["bundle_sha256"]
    make_pin()
    publish()
    client.get(ASSIGNMENT)
    assert client.get(f"/api/v1/policy/bundles/{first}").status_code == 200


def test_a_credential_without_the_scope_is_403() -> None:
    _install, credential = enroll_one()
    InstallCredential.objects.update(scopes=[SCOPE_PUSH])
    response = agent_client_of(credential).get(ASSIGNMENT)
    assert (response.status_code, json.loads(response.content)["code"]) == (403, "scope")


@pytest.mark.parametrize("path", ["/.well-known/hermes-fleet", "/api/v1/policy/root"])
def test_whatever_a_client_accepts_it_is_answered(path: str) -> None:
    assert Client().get(path, headers={"Accept": "text/html"}).status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v2/enroll", "/.well-known/other"])
def test_an_unknown_path_is_a_problem_and_no_login_page(path: str) -> None:
    for method in ("get", "post", "delete"):
        response = getattr(Client(), method)(path)
        assert (response.status_code, json.loads(response.content)["code"]) == (404, "not_found")


def test_the_schema_names_every_endpoint() -> None:
    text = Client().get("/api/v1/schema").content.decode()
    for path in ("/enroll", "/installs/self/credentials", "/policy/root", "/checkin"):
        assert f"/api/v1{path}" in text
    assert "openapi: 3.1" in text
    validate_schema(yaml.safe_load(text))  # type: ignore[no-untyped-call]  # it has no types


def test_polling_does_not_touch_a_revoked_installs_policy() -> None:
    publish()
    install, credential = enroll_one()
    client = agent_client_of(credential)
    client.get(ASSIGNMENT)
    install.credentials.update(revoked_at=now())
    before = InstallPolicy.objects.values().get()
    assert client.get(ASSIGNMENT).status_code == 401
    assert InstallPolicy.objects.values().get() == before
    assert Install.objects.get().status == "active"
