from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent_client.contract.dsse import SigningKey, seal
from agent_client.contract.policy_doc import TYPE_ASSIGNMENT, TYPE_BUNDLE, TYPE_ROOT, Root
from agent_client.policy.allow import UNSAFE, AllowList, Rules, load_allow_list
from agent_client.policy.state import Trust
from agent_client.policy.verify import (
    REFUSALS,
    Here,
    Refusal,
    Verified,
    verify_first_root,
    verify_kept_root,
    verify_update,
)
from tests.agent_client.loopback_console import (
    DAY_NS,
    FLEET_ID,
    POLICY_KEY,
    ROOT_KEY,
    Json,
    digest_of_bundle,
    root_document,
    sealed_assignment,
    sealed_bundle,
    sealed_root,
)

INSTALL = "6d7a3c1e-7d0f-4a55-8f0a-0d6a1a1f9b21"
STRANGER = SigningKey(b"\x09" * 32)
PINS: Json = {"telemetry.allow_aggregate": False, "model.default": "corp"}
NOW_NS = time.time_ns()


def here(**changes: object) -> Here:
    base = Here(
        now_ns=time.time_ns(),
        install_id=INSTALL,
        fleet_id=FLEET_ID,
        fingerprint=ROOT_KEY.key_id,
        client_version="0.1.0",
        allow=AllowList(),
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # a test's builder


def verdict(
    *,
    trust: Trust | None = None,
    root: bytes | None = None,
    assignment: bytes | None = None,
    bundle: bytes | None = None,
    no_bundle: bool = False,
    pins: Json | None = None,
    **changes: object,
) -> Verified | Refusal:
    content = bundle or sealed_bundle(PINS if pins is None else pins)
    return verify_update(
        trust or Trust(FLEET_ID, INSTALL),
        root or sealed_root(),
        assignment or sealed_assignment(INSTALL, content),
        None if no_bundle else content,
        here(**changes),
    )


def code(found: Verified | Refusal) -> str:
    return found.code if isinstance(found, Refusal) else "verified"


def test_a_good_update_is_verified_and_raises_the_trust() -> None:
    found = verdict()
    assert isinstance(found, Verified)
    assert found.trust.assignment_version == 1
    assert found.trust.last_issued_ns == found.assignment.issued_ns
    assert found.bundle.mandatory["model"] == {"default": "corp"}


def test_a_newer_version_and_a_fresh_copy_of_the_same_are_taken() -> None:
    first = verdict()
    assert isinstance(first, Verified)
    again = sealed_assignment(INSTALL, sealed_bundle(PINS), issued_ns=time.time_ns())
    assert code(verdict(trust=first.trust, assignment=again)) == "verified"
    newer = sealed_assignment(INSTALL, sealed_bundle(PINS), version=2)
    assert code(verdict(trust=first.trust, assignment=newer)) == "verified"


def bad_role(role: str, **change: object) -> bytes:
    document = root_document()
    roles = document["roles"]
    assert isinstance(roles, dict)
    return seal(TYPE_ROOT, {**document, "roles": {**roles, role: change}}, [ROOT_KEY])


@pytest.mark.parametrize(
    ("root", "wanted"),
    [
        (b"{}", "root_malformed"),
        (seal(TYPE_ROOT, {"version": 1}, [ROOT_KEY]), "root_malformed"),
        (seal(TYPE_ROOT, [1], [ROOT_KEY]), "root_malformed"),
        (sealed_root(schema=2), "root_malformed"),
        (seal(TYPE_ROOT, root_document(), [STRANGER]), "root_signature"),
        (seal(TYPE_BUNDLE, root_document(), [ROOT_KEY]), "root_signature"),
        (sealed_root(expires_ns=NOW_NS - 1), "root_expired"),
        (bad_role("root", key_ids=[POLICY_KEY.key_id], threshold=1), "root_fingerprint"),
        (bad_role("root", key_ids=[ROOT_KEY.key_id], threshold=2), "root_signature"),
        (bad_role("root", key_ids=[ROOT_KEY.key_id], threshold=0), "root_signature"),
        (bad_role("assignment", key_ids=[POLICY_KEY.key_id], threshold=0), "bad_signature"),
        (bad_role("assignment"), "bad_signature"),
        (bad_role("bundle", key_ids=[ROOT_KEY.key_id], threshold=1), "bundle_signature"),
        (sealed_root(fleet_id="other"), "wrong_audience"),
    ],
)
def test_a_bad_root_is_refused(root: bytes, wanted: str) -> None:
    assert code(verdict(root=root)) == wanted


def test_a_key_whose_id_is_not_its_digest_does_not_count() -> None:
    document = root_document()
    keys = document["keys"]
    assert isinstance(keys, dict)
    keys[ROOT_KEY.key_id]["public"] = STRANGER.public.hex()
    assert code(verdict(root=seal(TYPE_ROOT, document, [STRANGER]))) == "root_fingerprint"


def kept_root(envelope: bytes) -> Root:
    root = verify_first_root(envelope, ROOT_KEY.key_id, now_ns=0)
    assert isinstance(root, Root)
    return root


def test_a_new_root_must_be_signed_by_the_one_in_force_and_by_itself() -> None:
    old, new_key = kept_root(sealed_root()), STRANGER
    document = root_document(2)
    keys, roles = document["keys"], document["roles"]
    assert isinstance(keys, dict)
    assert isinstance(roles, dict)
    keys[new_key.key_id] = {"scheme": "ed25519", "public": new_key.public.hex()}
    roles["root"] = {"key_ids": [new_key.key_id], "threshold": 1}
    rotated = seal(TYPE_ROOT, document, [ROOT_KEY, new_key])
    assert code(verdict(root=rotated, trusted_root=old)) == "verified"
    for signers in ([ROOT_KEY], [new_key]):
        alone = seal(TYPE_ROOT, document, signers)
        assert code(verdict(root=alone, trusted_root=old)) == "root_signature"
    assert isinstance(verify_kept_root(rotated), Root)


def test_an_older_root_is_refused() -> None:
    trusted = kept_root(sealed_root(3))
    assert code(verdict(root=sealed_root(2), trusted_root=trusted)) == "root_rollback"
    trust = Trust(FLEET_ID, INSTALL, root_version=3)
    assert code(verdict(root=sealed_root(2), trust=trust)) == "root_rollback"


def assignment(**changes: object) -> bytes:
    return sealed_assignment(INSTALL, sealed_bundle(PINS), **changes)  # type: ignore[arg-type]  # a test's builder


@pytest.mark.parametrize(
    ("envelope", "wanted"),
    [
        (b"not json", "bad_signature"),
        (seal(TYPE_ASSIGNMENT, {"version": 1}, [POLICY_KEY]), "malformed"),
        (seal(TYPE_ASSIGNMENT, {"version": 1}, [STRANGER]), "bad_signature"),
        (seal(TYPE_BUNDLE, {"version": 1}, [POLICY_KEY]), "bad_signature"),
        (assignment(schema=9), "malformed"),
        (assignment(bundle_sha256="../../etc"), "malformed"),
        (assignment(install_id="another"), "wrong_audience"),
        (assignment(fleet_id="another"), "wrong_audience"),
        (assignment(issued_ns=NOW_NS + DAY_NS), "clock_behind"),
        (assignment(expires_ns=NOW_NS - 1), "expired"),
    ],
)
def test_a_bad_assignment_is_refused(envelope: bytes, wanted: str) -> None:
    assert code(verdict(assignment=envelope)) == wanted


def trusting(**changes: object) -> Trust:
    base = Trust(FLEET_ID, INSTALL, assignment_version=5, bundle_sha256="f" * 64)
    return replace(base, **changes)  # type: ignore[arg-type]  # a test's builder


def test_a_lower_version_is_a_rollback() -> None:
    assert code(verdict(trust=trusting())) == "rollback"


def test_the_same_version_with_other_content_is_equivocation() -> None:
    assert code(verdict(trust=trusting(assignment_version=1))) == "equivocation"


def test_an_older_copy_of_the_same_version_is_a_rollback() -> None:
    bundle = sealed_bundle(PINS)
    trust = trusting(
        assignment_version=1,
        bundle_sha256=digest_of_bundle(bundle),
        last_issued_ns=time.time_ns() + 10**9,
    )
    assert code(verdict(trust=trust, bundle=bundle)) == "rollback"


def test_a_clock_before_the_last_accepted_policy_is_refused() -> None:
    trust = Trust(FLEET_ID, INSTALL, last_issued_ns=time.time_ns() + DAY_NS)
    assert code(verdict(trust=trust)) == "clock_behind"


def test_a_bundle_that_is_missing_or_not_the_named_one_is_refused() -> None:
    assert code(verdict(no_bundle=True)) == "bundle_missing"
    other = sealed_bundle({"model.default": "other"})
    assert code(verdict(bundle=other, assignment=assignment())) == "bad_digest"
    assert code(verdict(bundle=b"x", assignment=assignment())) == "bad_digest"


def resigned(document: Json, key: SigningKey = POLICY_KEY) -> Verified | Refusal:
    return verdict(bundle=seal(TYPE_BUNDLE, document, [key]))


def bundle_document(**changes: object) -> Json:
    document: Json = {"fleet_id": FLEET_ID, "version": 1, "mandatory": {}}
    return {**document, **changes}


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        (bundle_document(fleet_id="another"), "bundle_audience"),
        (bundle_document(schema=2), "schema"),
        (bundle_document(mandatory=[1]), "schema"),
        (bundle_document(mandatory={"model": "x"}), "schema"),
        (bundle_document(mandatory={"telemetry": {"nonsense": 1}}), "schema"),
        (bundle_document(mandatory={"telemetry": {"local": "yes"}}), "schema"),
        (bundle_document(mandatory={"a": "${HOME}"}), "schema"),
        (bundle_document(mandatory={"a": None}), "schema"),
        (bundle_document(mandatory={"": 1}), "schema"),
        (bundle_document(delete=[1]), "schema"),
        (bundle_document(not_before_ns=NOW_NS + DAY_NS), "not_yet"),
        (bundle_document(min_agent="9.0"), "agent_too_old"),
        (
            bundle_document(mandatory={"a": "x" * 16_000, "b": ["y" * 9_000] * 30}),
            "bundle_too_large",
        ),
        (bundle_document(mandatory={"mcp_servers": {"x": {"command": "sh"}}}), "not_allowed"),
        (bundle_document(mandatory={"plugins": {"disabled": ["telemetry"]}}), "not_allowed"),
        (bundle_document(), "verified"),
        (bundle_document(min_agent="0.1.0rc1"), "verified"),
        (bundle_document(mandatory={"plugins": {"enabled": ["telemetry"]}}), "verified"),
    ],
)
def test_a_bundle_is_judged_by_its_content(document: Json, wanted: str) -> None:
    assert code(resigned(document)) == wanted


def test_a_bundle_of_a_strange_key_is_refused() -> None:
    assert code(resigned(bundle_document(), STRANGER)) == "bundle_signature"


def test_a_parents_pin_does_not_smuggle_an_unsafe_child() -> None:
    document = bundle_document(
        mandatory={"terminal": {"shell_init_files": ["/tmp/x"]}}, meta={"terminal": {}}
    )
    found = resigned(document)
    assert isinstance(found, Refusal)
    assert (found.code, found.detail) == ("not_allowed", "terminal.shell_init_files")


def test_every_refusal_has_a_sentence() -> None:
    assert all(Refusal(name).sentence() for name in REFUSALS)


def test_all_refusal_codes_are_reached_by_these_tests() -> None:
    source = Path(__file__).read_text()
    assert [name for name in REFUSALS if f'"{name}"' not in source] == []


# ------------------------------------------------------------------------------ allow-list


def allow_file(home: Path, text: str) -> AllowList:
    path = home / "telemetry" / "policy-allow.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return load_allow_list(home, home / "no-system-dir")


def test_without_a_file_all_but_the_unsafe_keys_may_be_pinned(tmp_path: Path) -> None:
    allow = load_allow_list(tmp_path, tmp_path)
    assert allow.permits("model.default", "x")
    assert not any(allow.permits(pattern.rstrip("*"), "x") for pattern in UNSAFE)


def test_a_console_gives_no_consent_to_itself(tmp_path: Path) -> None:
    key = "telemetry.export.console.content"
    assert not load_allow_list(tmp_path, tmp_path).permits(key, value=True)
    assert allow_file(tmp_path, '{"allow": ["telemetry.*"]}').permits(key, value=True)


def test_a_file_narrows_and_widens(tmp_path: Path) -> None:
    allow = allow_file(
        tmp_path, '{"allow": ["telemetry.*", "hooks.*"], "deny": ["telemetry.local"]}'
    )
    assert allow.permits("hooks.x", 1)
    assert not allow.permits("model.default", "x")
    assert not allow.permits("telemetry.local", False)


def test_the_systems_and_the_users_file_must_both_permit(tmp_path: Path) -> None:
    (tmp_path / "fleet-allow.json").write_text('{"allow": ["model.*"]}')
    (tmp_path / "telemetry").mkdir()
    (tmp_path / "telemetry" / "policy-allow.json").write_text('{"allow": ["telemetry.*"]}')
    allow = load_allow_list(tmp_path, tmp_path)
    assert allow.rules == (Rules(("model.*",)), Rules(("telemetry.*",)))
    assert not allow.permits("model.default", "x")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"allow": "x"}', '{"deny": [1]}'])
def test_a_file_that_cannot_be_read_permits_nothing(tmp_path: Path, text: str) -> None:
    allow = allow_file(tmp_path, text)
    assert allow.is_malformed
    assert code(verdict(allow=allow)) == "allow_list_malformed"


def test_verification_is_quick() -> None:
    root, bundle = sealed_root(), sealed_bundle(PINS)
    envelope = sealed_assignment(INSTALL, bundle)
    judge, trust = here(), Trust(FLEET_ID, INSTALL)
    started_s = time.perf_counter()
    for _ in range(50):
        verify_update(trust, root, envelope, bundle, judge)
    assert (time.perf_counter() - started_s) / 50 < 0.01  # 0.5 ms alone; CI is crowded


def test_hostile_nesting_is_refused_not_raised() -> None:
    deep = json.loads("[" * 900 + "]" * 900)
    assert code(resigned(bundle_document(constraints=deep))) in {"verified", "schema"}
