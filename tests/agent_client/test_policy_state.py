"""The files below a home: what is damaged, large, linked or foreign."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agent_client import policy, progress
from agent_client.credential import credential_path, load_credential
from agent_client.files import read_bytes, set_aside, write_atomic
from agent_client.policy.fetch import bundle_named_by, keep_documents, kept_documents
from agent_client.policy.state import load_ownership, policy_dir
from agent_client.store import Store
from tests.agent_client.homes import enrolled, record
from tests.agent_client.loopback_console import FLEET_ID, LoopbackConsole


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="larger"):
        read_bytes(tmp_path / "big", 10)


def test_evidence_is_numbered_not_overwritten(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        (tmp_path / "f").write_text("x")
        names.append(set_aside(tmp_path / "f", "bad").name)
    assert names == ["f.bad", "f.bad.2", "f.bad.3"]


def test_a_write_that_fails_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "f", b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is guarded here")
def test_root_does_not_write_through_another_users_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "telemetry"
    link.symlink_to(tmp_path / "elsewhere")
    os.lchown(link, 65534, 65534)
    with pytest.raises(OSError, match="symbolic link"):
        write_atomic(link / "f", b"x")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "{", '{"console_url": 1}', '{"console_url": "x"}'])
def test_a_damaged_credential_counts_as_none(tmp_path: Path, text: str) -> None:
    credential_path(tmp_path).parent.mkdir()
    credential_path(tmp_path).write_text(text)
    assert load_credential(tmp_path) is None


def test_damaged_bookkeeping_counts_as_absent(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.state_set(
            {"push.cursor.f": "-x", "push.receipt": "{", "push.blocked": "[]", "push.last": "7"}
        )
        assert progress.load_progress(store, "f") == progress.Progress()


def test_health_says_when_the_store_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "telemetry" / "telemetry.db").mkdir(parents=True)
    assert progress.health_of(tmp_path)["store"] == "unreadable"


def test_health_counts_what_is_pending(tmp_path: Path) -> None:
    assert record(tmp_path) == 3
    assert progress.health_of(tmp_path)["pending_rows"] == 3


def test_an_ownership_record_of_rubbish_owns_nothing(tmp_path: Path) -> None:
    rubbish = {"paths": [1, {"path": []}, {"path": [1]}, {"path": "x"}], "meta": {"a": 1}}
    (tmp_path / "fleet-pins.json").write_text(json.dumps({**rubbish, "install_id": 5}))
    record = load_ownership(tmp_path)
    assert (record.paths, record.meta, record.install_id) == ({}, {}, "")


@pytest.mark.parametrize("envelope", [None, b"", b"{}", b"[" * 2000])
def test_an_assignment_that_cannot_be_read_names_no_bundle(envelope: bytes | None) -> None:
    assert bundle_named_by(envelope) == ""


def test_old_bundles_are_cleared_away_and_the_one_in_force_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_MANAGED_DIR", str(tmp_path / "managed"))
    with LoopbackConsole() as console:
        enrolled(tmp_path, console)
        for version in range(1, 6):
            console.publish({"model.default": f"m{version}"}, version)
            assert policy.sync(tmp_path).exit_code == 0
    kept = kept_documents(tmp_path)
    assert len(list(policy_dir(tmp_path).glob("bundle-*"))) == 3
    assert kept.bundle is not None
    keep_documents(tmp_path, kept, bundle_named_by(kept.assignment))
    assert FLEET_ID.encode() in (policy_dir(tmp_path) / "state.json").read_bytes()


def test_an_address_that_is_refused_ends_a_sync(tmp_path: Path) -> None:
    with LoopbackConsole() as console:
        enrolled(tmp_path, console)
    text = "telemetry: {export: {console: {endpoint: 'http://far.example'}}}\n"
    (tmp_path / "config.yaml").write_text(text)
    assert policy.sync(tmp_path).reason == "address_refused"
