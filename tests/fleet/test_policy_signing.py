"""Keys and the root document: made once, renewed with the key, refused when they do not fit."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.test import override_settings

from agent_client.contract import dsse
from agent_client.contract.policy_doc import TYPE_ROOT, Root
from fleet.env import made_once
from fleet.models import Fleet
from fleet.policy import signing

pytestmark = pytest.mark.django_db
SEED, OTHER = "11" * 32, "22" * 32


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Path]:
    with override_settings(FLEET_KEYS_DIR=tmp_path, FLEET_ROOT_KEY="", FLEET_POLICY_KEY=""):
        yield tmp_path


def root_in_force() -> Root:
    return Root.from_dict(json.loads(dsse.peek(signing.current_root().envelope)))


def test_keys_are_made_once_for_their_owner_alone(keys: Path) -> None:
    first = signing.root_fingerprint()
    assert signing.root_fingerprint() == first
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in keys.glob("*.key")}
    assert modes == {"root.key": 0o600, "policy.key": 0o600}


def test_the_root_is_signed_by_the_key_its_fingerprint_names(keys: Path) -> None:
    root = signing.current_root()
    key = signing.root_key()
    assert key is not None
    dsse.open_envelope(root.envelope, TYPE_ROOT, {root.fingerprint: key.public})


def test_a_new_policy_key_makes_the_next_root_under_the_same_fingerprint(keys: Path) -> None:
    before = signing.current_root()
    with override_settings(FLEET_POLICY_KEY=OTHER):
        after = signing.current_root()
        assert signing.policy_key().key_id in root_in_force().keys
    assert (before.version, after.version) == (1, 2)
    assert before.fingerprint == after.fingerprint


def test_two_hosts_with_the_same_keys_make_the_same_root(keys: Path, tmp_path: Path) -> None:
    with override_settings(FLEET_ROOT_KEY=SEED, FLEET_POLICY_KEY=OTHER):
        first = signing.current_root().envelope
        with override_settings(FLEET_KEYS_DIR=tmp_path / "second"):
            made_once(tmp_path / "second" / "policy.key", random_bytes=32)
            assert signing.current_root().envelope == first


def test_keys_from_the_environment_need_no_folder_beforehand(tmp_path: Path) -> None:
    with override_settings(
        FLEET_KEYS_DIR=tmp_path / "keys", FLEET_ROOT_KEY=SEED, FLEET_POLICY_KEY=OTHER
    ):
        assert signing.root_fingerprint() == signing.root_fingerprint()
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_a_host_without_the_root_key_serves_the_root_signed_elsewhere(keys: Path) -> None:
    made = signing.current_root()
    (keys / "root.key").unlink()
    assert signing.root_key() is None
    assert signing.current_root() == made
    assert not (keys / "root.key").exists()


def test_a_root_that_does_not_name_the_policy_key_cannot_be_renewed_there(keys: Path) -> None:
    signing.current_root()
    (keys / "root.key").unlink()
    with (
        override_settings(FLEET_POLICY_KEY=OTHER),
        pytest.raises(signing.SigningError, match=r"root\.json"),
    ):
        signing.current_root()


def test_a_root_of_another_fleet_is_not_served(keys: Path) -> None:
    signing.current_root()
    Fleet.objects.all().delete()
    assert root_in_force().fleet_id == signing.fleet_id()


@pytest.mark.parametrize("text", ["zz", "aa" * 31])
def test_a_key_that_is_none_is_refused(keys: Path, text: str) -> None:
    (keys / "policy.key").write_text(text)
    with pytest.raises(signing.SigningError, match=r"policy\.key"):
        signing.policy_key()


def test_a_broken_root_document_is_refused(keys: Path) -> None:
    (keys / "root.json").write_text("{")
    with pytest.raises(signing.SigningError, match=r"root\.json"):
        signing.current_root()
