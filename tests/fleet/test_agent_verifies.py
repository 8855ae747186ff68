"""The agent's own verification accepts what the console serves, and nothing a stranger made."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.test import Client

from agent_client.policy.allow import AllowList
from agent_client.policy.state import Trust
from agent_client.policy.verify import Here, Refusal, Verified, verify_update
from fleet.lib.clock import now_ns
from fleet.models import Install
from fleet.policy.publish import roll_back_to
from fleet.policy.signing import current_root, fleet_id
from tests.builders import agent_client_of, enroll_one, make_pin, publish

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


def here_of(install: Install) -> Here:
    return Here(
        now_ns=now_ns(),
        install_id=str(install.pk),
        fleet_id=fleet_id(),
        fingerprint=current_root().fingerprint,
        client_version="0.1.0",
        allow=AllowList(),
    )


def fetched(client: Client) -> tuple[bytes, bytes, bytes]:
    import json

    from agent_client.contract import dsse
    from agent_client.contract.policy_doc import Assignment

    root = client.get("/api/v1/policy/root").content
    assignment = client.get("/api/v1/policy/assignment").content
    sha256 = Assignment.from_dict(json.loads(dsse.peek(assignment))).bundle_sha256
    return root, assignment, client.get(f"/api/v1/policy/bundles/{sha256}").content


def test_a_served_policy_is_accepted() -> None:
    make_pin("telemetry.allow_aggregate", False)
    make_pin("model.default", "large")
    publish()
    install, credential = enroll_one()
    verdict = verify_update(Trust(), *fetched(agent_client_of(credential)), here_of(install))
    assert isinstance(verdict, Verified)
    assert verdict.bundle.mandatory["model"] == {"default": "large"}


def test_a_rollback_is_accepted_as_an_update() -> None:
    pin = make_pin("model.default", "large")
    first = publish()
    install, credential = enroll_one()
    client = agent_client_of(credential)
    before = verify_update(Trust(), *fetched(client), here_of(install))
    assert isinstance(before, Verified)
    pin.value = "small"
    pin.save()
    publish()
    roll_back_to(first, actor="anna", reason="cost")
    after = verify_update(before.trust, *fetched(client), here_of(install))
    assert isinstance(after, Verified)
    assert after.bundle.mandatory == {"model": {"default": "large"}}


def test_another_installs_assignment_is_refused() -> None:
    publish()
    install, _credential = enroll_one()
    _other, credential = enroll_one()
    verdict = verify_update(Trust(), *fetched(agent_client_of(credential)), here_of(install))
    assert isinstance(verdict, Refusal)
    assert verdict.code == "wrong_audience"


def test_a_root_of_another_fingerprint_is_refused() -> None:
    publish()
    install, credential = enroll_one()
    here = replace(here_of(install), fingerprint="0" * 64)
    verdict = verify_update(Trust(), *fetched(agent_client_of(credential)), here)
    assert isinstance(verdict, Refusal)
    assert verdict.code == "root_fingerprint"
