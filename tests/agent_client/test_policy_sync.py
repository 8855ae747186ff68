from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent_client import config, policy
from agent_client.contract.canonical import digest_of
from agent_client.contract.dsse import SigningKey, seal
from agent_client.contract.policy_doc import TYPE_ROOT
from agent_client.contract.policy_keys import nest
from agent_client.contract.wire import (
    PATH_CHECKIN,
    PATH_POLICY_ASSIGNMENT,
    PATH_POLICY_BUNDLE,
    PATH_POLICY_ROOT,
)
from agent_client.files import exclusive_lock
from agent_client.policy.state import load_state, policy_dir, save_state
from agent_client.policy.view import view_policy
from tests.agent_client.homes import configure, enrolled
from tests.agent_client.loopback_console import (
    DAY_NS,
    ROOT_KEY,
    Fault,
    Json,
    LoopbackConsole,
    root_document,
    sealed_assignment,
    sealed_root,
)

PINS: Json = {"telemetry.allow_aggregate": False, "model.default": "corp"}


@pytest.fixture
def console() -> Iterator[LoopbackConsole]:
    with LoopbackConsole() as running:
        yield running


@pytest.fixture
def managed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "managed"
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(folder))
    return folder


@pytest.fixture
def home(tmp_path: Path, console: LoopbackConsole, managed: Path) -> Path:
    folder = tmp_path / "home"
    enrolled(folder, console)
    console.publish(PINS)
    return folder


def pinned(managed: Path) -> object:
    return yaml.safe_load((managed / "config.yaml").read_text())


@pytest.mark.parametrize("endpoint", ["http://far.example", "https://a..example", "https://a/ü"])
def test_an_address_that_cannot_be_used_fails_plainly(
    home: Path, console: LoopbackConsole, endpoint: str
) -> None:
    configure(home, f"telemetry: {{export: {{console: {{endpoint: '{endpoint}'}}}}}}\n")
    result = policy.sync(home)
    assert (result.status, result.reason) == ("failed", "address_refused")
    assert console.sent(PATH_POLICY_ASSIGNMENT) == []


def test_a_published_policy_comes_into_force_and_is_acknowledged(
    home: Path, managed: Path, console: LoopbackConsole
) -> None:
    result = policy.sync(home)
    assert (result.status, result.exit_code, result.is_reported) == ("applied", 0, True)
    assert pinned(managed) == nest(PINS)
    report = console.checkins[-1]
    want = digest_of(nest(PINS))
    assert (report["status"], report["reporter"]) == ("applied", "service")
    assert report["desired_sha256"] == report["written_sha256"] == want
    assert report["effective_sha256"] == want
    assert not policy.resolve(config.load(home)).allow_aggregate


def test_an_unchanged_policy_costs_a_304_and_no_bundle(
    home: Path, console: LoopbackConsole
) -> None:
    policy.sync(home)
    console.requests.clear()
    assert policy.sync(home).exit_code == 0
    paths = [request.path for request in console.requests]
    assert paths == [PATH_POLICY_ROOT, PATH_POLICY_ASSIGNMENT, PATH_CHECKIN]
    assert "if-none-match" in console.sent(PATH_POLICY_ASSIGNMENT)[0].headers


def test_a_new_revision_replaces_pins_and_deletes_named_ones(
    home: Path, managed: Path, console: LoopbackConsole
) -> None:
    policy.sync(home)
    console.publish({"model.default": "next"}, 2, delete=["telemetry.allow_aggregate"])
    assert set(policy.sync(home).changed) == {"model.default", "telemetry.allow_aggregate"}
    assert pinned(managed) == {"model": {"default": "next"}}


def test_nothing_published_changes_nothing(
    tmp_path: Path, managed: Path, console: LoopbackConsole
) -> None:
    enrolled(tmp_path / "home", console)
    result = policy.sync(tmp_path / "home")
    assert (result.status, result.exit_code) == ("none", 0)
    assert not managed.exists()


def test_not_enrolled_has_its_own_exit_code(tmp_path: Path) -> None:
    assert policy.sync(tmp_path).exit_code == 4


def test_a_refused_credential_holds_the_policy(
    home: Path, managed: Path, console: LoopbackConsole
) -> None:
    policy.sync(home)
    console.credential_is_good = False
    result = policy.sync(home)
    assert (result.status, result.exit_code) == ("held", 4)
    assert pinned(managed) == nest(PINS)
    assert view_policy(home).state == "held"


@pytest.mark.parametrize("kind", ["drop", "reset"])
def test_an_unreachable_console_holds_the_policy(
    home: Path, managed: Path, console: LoopbackConsole, kind: str
) -> None:
    policy.sync(home)
    console.faults.append(Fault(PATH_POLICY_ASSIGNMENT, kind))
    assert policy.sync(home).exit_code == 5
    assert pinned(managed) == nest(PINS)


def test_a_busy_console_means_later(home: Path, console: LoopbackConsole) -> None:
    console.faults.append(Fault(PATH_POLICY_ASSIGNMENT, "status", 503, "unavailable"))
    assert (policy.sync(home).status, policy.sync(home).status) == ("offline", "applied")


def test_a_refused_update_keeps_the_last_good_and_is_reported(
    home: Path, managed: Path, console: LoopbackConsole
) -> None:
    console.publish(PINS, 5)
    policy.sync(home)
    console.publish({"model.default": "old"}, 4)
    result = policy.sync(home)
    assert (result.status, result.reason, result.exit_code) == ("failed", "rollback", 1)
    assert pinned(managed) == nest(PINS)
    assert console.checkins[-1]["reason"] == "rollback"
    assert console.checkins[-1]["assignment_version"] == 5
    assert view_policy(home).state == "failed"


def test_trust_survives_a_new_process_and_a_lost_console(
    home: Path, console: LoopbackConsole
) -> None:
    policy.sync(home)
    console.publish({"model.default": "twin"}, 1)
    assert policy.sync(home).reason == "equivocation"


def test_an_expired_assignment_is_stale_and_stays_in_force(
    home: Path, managed: Path, console: LoopbackConsole
) -> None:
    policy.sync(home)
    view = view_policy(home, now_ns=time.time_ns() + 2 * DAY_NS)
    assert view.state == "stale"
    assert all(pin.in_force for pin in view.pins)


def test_an_unchanged_answer_about_an_expired_document_is_asked_again(
    home: Path, console: LoopbackConsole
) -> None:
    policy.sync(home)
    later_ns = time.time_ns() + 2 * DAY_NS
    assert policy.sync(home, clock_ns=lambda: later_ns).reason == "expired"
    assert console.bundle is not None
    fresh = sealed_assignment(
        console.install_id, console.bundle, issued_ns=later_ns, expires_ns=later_ns + DAY_NS
    )
    console.assignment = fresh
    assert policy.sync(home, clock_ns=lambda: later_ns).status == "applied"


def test_a_file_edited_by_others_is_drift_with_its_cause(
    home: Path, managed: Path, console: LoopbackConsole
) -> None:
    managed.mkdir()
    (managed / "config.yaml").write_text("model: {default: theirs}\n")
    result = policy.sync(home)
    assert (result.exit_code, result.reason) == (1, "drifted")
    item = console.checkins[-1]["drift"]
    assert isinstance(item, list)
    assert (item[0]["key"], item[0]["got"], item[0]["cause"]) == (
        "model.default",
        "theirs",
        "foreign_key",
    )
    first_seen = item[0]["first_seen_ns"]
    policy.sync(home)
    again = console.checkins[-1]["drift"]
    assert isinstance(again, list)
    assert again[0]["first_seen_ns"] == first_seen


def test_a_foreign_secret_in_a_pins_place_does_not_travel(
    home: Path, managed: Path, console: LoopbackConsole
) -> None:
    console.publish({"model.api_key": "pinned"}, 2)
    managed.mkdir()
    (managed / "config.yaml").write_text("model: {api_key: hunter2-swordfish}\n")
    policy.sync(home)
    assert b"swordfish" not in console.sent(PATH_CHECKIN)[-1].body


def test_a_missing_file_is_written_again(home: Path, managed: Path) -> None:
    policy.sync(home)
    (managed / "config.yaml").unlink()
    assert policy.sync(home).exit_code == 0
    assert pinned(managed) == nest(PINS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_scope_that_cannot_be_written_fails_and_keeps_the_verified_policy(
    home: Path, managed: Path
) -> None:
    managed.mkdir(mode=0o500)
    assert policy.sync(home).reason == "not_writable"


def test_a_scope_that_is_no_directory_fails_and_says_so(
    home: Path, managed: Path, console: LoopbackConsole
) -> None:
    managed.write_text("a file")
    result = policy.sync(home)
    assert (result.status, result.reason) == ("failed", "not_writable")
    assert console.checkins[-1]["status"] == "failed"
    managed.unlink()
    assert policy.sync(home).exit_code == 0


def test_a_check_in_that_is_lost_does_not_undo_the_policy(
    home: Path, managed: Path, console: LoopbackConsole
) -> None:
    console.faults.append(Fault(PATH_CHECKIN, "reset"))
    result = policy.sync(home)
    assert (result.status, result.exit_code, result.is_reported) == ("applied", 5, False)
    assert pinned(managed) == nest(PINS)


def test_check_in_numbers_rise_also_after_the_state_was_lost(
    home: Path, console: LoopbackConsole
) -> None:
    policy.sync(home)
    (policy_dir(home) / "state.json").unlink()
    time.sleep(0.002)
    policy.sync(home)
    first, second = (int(str(report["seq"])) for report in console.checkins)
    assert second > first


def test_lost_documents_are_fetched_again_although_nothing_changed(
    home: Path, console: LoopbackConsole
) -> None:
    policy.sync(home)
    for path in policy_dir(home).glob("bundle-*"):
        path.unlink()
    assert policy.sync(home).exit_code == 0
    assert list(policy_dir(home).glob("bundle-*"))


def test_a_bundle_that_the_console_lacks_is_a_refusal(home: Path, console: LoopbackConsole) -> None:
    console.faults.append(Fault(PATH_POLICY_BUNDLE, "status", 404, "not_found"))
    assert policy.sync(home).reason == "bundle_missing"


def test_two_syncs_do_not_run_at_once(home: Path) -> None:
    with exclusive_lock(policy_dir(home) / "lock"):
        assert policy.sync(home).status == "busy"


def test_a_damaged_state_file_counts_as_fresh(home: Path) -> None:
    policy.sync(home)
    (policy_dir(home) / "state.json").write_text(
        '{"trust": {"assignment_version": "x"}, "etag": 7}'
    )
    assert load_state(home).trust.assignment_version == 0
    assert policy.sync(home).exit_code == 0


def test_another_install_id_starts_with_fresh_trust(home: Path) -> None:
    policy.sync(home)
    state = load_state(home)
    assert state.for_install(state.trust.fleet_id, "other").trust.assignment_version == 0
    assert state.for_install(state.trust.fleet_id, state.trust.install_id) == state
    save_state(home, state)
    assert load_state(home) == state


def test_the_view_says_who_pinned_what_and_why(home: Path, managed: Path) -> None:
    policy.sync(home)
    text = (managed / "config.yaml").read_text()
    (managed / "config.yaml").write_text(text + '"admins":\n  "own": 1\n')
    pins = {pin.key: pin for pin in view_policy(home).pins}
    mine = pins["telemetry.allow_aggregate"]
    assert (mine.holder, mine.layer, mine.reason, mine.contact, mine.in_force) == (
        "fleet",
        "fleet",
        "house rule",
        "ops@x",
        True,
    )
    assert pins["admins.own"].holder == "administrator"


def test_a_user_without_the_services_home_still_sees_the_pins(
    home: Path, managed: Path, tmp_path: Path
) -> None:
    policy.sync(home)
    view = view_policy(tmp_path / "another-users-home")
    assert view.state in {"in_sync", "none"}
    assert {pin.key for pin in view.fleet_pins()} == set(PINS)


def test_the_environment_that_switches_managed_scope_off_is_named(
    home: Path, managed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy.sync(home)
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(tmp_path / "nowhere"))
    view = view_policy(home)
    assert [problem.code for problem in view.problems] == ["managed_dir_missing"]
    assert (view.state, view.reason) == (
        "drifted",
        f"it stands in {managed}, which is not read any more",
    )


def test_health_in_the_check_in_holds_numbers_only(home: Path, console: LoopbackConsole) -> None:
    policy.sync(home)
    health = console.checkins[-1]["health"]
    assert isinstance(health, dict)
    assert set(map(type, health.values())) <= {int, str, dict}
    assert str(home) not in json.dumps(health)


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [(403, "scope", 4), (404, "not_found", 1), (429, "rate_limited", 5)],
)
def test_each_refusal_of_the_console_has_its_exit_code(
    home: Path, console: LoopbackConsole, status: int, code: str, exit_code: int
) -> None:
    console.faults.append(Fault(PATH_POLICY_ASSIGNMENT, "status", status, code))
    result = policy.sync(home)
    assert (result.reason, result.exit_code) == (code, exit_code)


def test_a_check_in_that_was_overtaken_is_no_failure(home: Path, console: LoopbackConsole) -> None:
    console.faults.append(Fault(PATH_CHECKIN, "status", 409, "sequence_fork"))
    assert policy.sync(home).exit_code == 0


def test_a_refused_check_in_is_told(home: Path, console: LoopbackConsole) -> None:
    console.faults.append(Fault(PATH_CHECKIN, "status", 401, "credential_revoked"))
    result = policy.sync(home)
    assert (result.status, result.exit_code) == ("applied", 4)


def test_without_a_managed_scope_nothing_is_written(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HERMES_MANAGED_DIR")
    assert policy.sync(home).reason == "no_managed_dir"


def test_a_rotated_root_is_followed_without_the_first_fingerprint(
    home: Path, console: LoopbackConsole
) -> None:
    policy.sync(home)
    new_key = SigningKey(b"\x07" * 32)
    document = root_document(2)
    keys, roles = document["keys"], document["roles"]
    assert isinstance(keys, dict)
    assert isinstance(roles, dict)
    del keys[ROOT_KEY.key_id]
    keys[new_key.key_id] = {"scheme": "ed25519", "public": new_key.public.hex()}
    roles["root"] = {"key_ids": [new_key.key_id], "threshold": 1}
    console.root = seal(TYPE_ROOT, document, [ROOT_KEY, new_key])
    assert policy.sync(home).exit_code == 0
    assert policy.sync(home).exit_code == 0
    console.root = sealed_root(3)
    assert policy.sync(home).reason == "root_signature"
