from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from agent_client.config import Layers, read_layers
from agent_client.contract.policy_doc import DRIFT_CAUSES, Bundle
from agent_client.policy import ack
from agent_client.policy.state import Ownership

BUNDLE = Bundle("fleet", 1, {"a": {"b": 1}, "plugins": {"enabled": ["telemetry"]}})
OWNED = Ownership(paths={("a", "b"): "x", ("plugins", "enabled"): "y"})
GOOD = "a: {b: 1}\nplugins: {enabled: [telemetry]}\n"


def layers(tmp_path: Path, managed: str | None = None, *, exists: bool = True) -> Layers:
    folder = tmp_path / "managed"
    if exists:
        folder.mkdir()
    if managed is not None:
        (folder / "config.yaml").write_text(managed)
    return read_layers(tmp_path, environ={"HERMES_MANAGED_DIR": str(folder)})


def back(
    found: Layers,
    *,
    owned: Ownership = OWNED,
    target: Path | None = None,
    environ: dict[str, str] | None = None,
    effective: dict[str, object] | None = None,
) -> ack.Readback:
    place = found.managed_dir if target is None else target
    return ack.read_back(
        BUNDLE, found, owned, managed_target=place, environ=environ or {}, effective=effective
    )


def causes(readback: ack.Readback) -> set[str]:
    return {item.cause for item in readback.drift}


def test_what_is_in_force_has_no_drift_and_equal_digests(tmp_path: Path) -> None:
    found = back(layers(tmp_path, GOOD + "more: 1\n"))
    assert found.drift == ()
    assert found.desired_sha256 == found.written_sha256 == found.effective_sha256


def test_a_missing_file_is_the_cause_of_all(tmp_path: Path) -> None:
    found = back(layers(tmp_path))
    assert causes(found) == {"missing_file"}
    assert [item.got for item in found.drift] == [None, None]
    assert found.effective_sha256 != found.desired_sha256


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    assert causes(back(layers(tmp_path, "a: ["))) == {"malformed_yaml"}


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "managed" / "config.yaml").mkdir(parents=True)
    assert causes(back(layers(tmp_path, exists=False))) == {"unreadable_file"}


def test_an_environment_that_points_elsewhere_is_named(tmp_path: Path) -> None:
    assert causes(back(layers(tmp_path, exists=False))) == {"user_environment"}
    found = layers(tmp_path, "other: 1\n")
    assert causes(back(found, target=tmp_path / "elsewhere")) == {"user_environment"}


def test_another_hands_value_is_a_foreign_key(tmp_path: Path) -> None:
    found = back(layers(tmp_path, "a: {b: 2}\nplugins: {enabled: [telemetry]}\n"))
    assert causes(found) == {"foreign_key"}
    assert (found.drift[0].key, found.drift[0].got) == ("a.b", 2)


def test_our_own_key_that_is_gone_has_no_known_cause(tmp_path: Path) -> None:
    assert causes(back(layers(tmp_path, "plugins: {enabled: [telemetry]}\n"))) == {"unknown"}


def test_what_the_host_reports_outweighs_our_own_merge(tmp_path: Path) -> None:
    found = layers(tmp_path, GOOD)
    stale: dict[str, object] = {"a": {"b": 0}, "plugins": {"enabled": []}}
    assert causes(back(found, effective=stale)) == {"older_process"}
    safe = back(found, effective=stale, environ={"HERMES_SAFE_MODE": "1"})
    assert causes(safe) == {"older_process", "safe_mode"}


def test_every_cause_is_one_of_the_contracts() -> None:
    used = {"user_environment", "unreadable_file", "malformed_yaml", "missing_file", "safe_mode"}
    assert used | {"older_process", "foreign_key", "unknown"} <= set(DRIFT_CAUSES)


def test_the_first_sight_of_a_drift_is_kept(tmp_path: Path) -> None:
    drift = back(layers(tmp_path)).drift
    dated = ack.with_first_seen(drift, {"a.b": 5}, 9)
    assert [item.first_seen_ns for item in dated] == [5, 9]


def test_values_that_json_does_not_know_still_travel() -> None:
    item = ack.DriftItem("a.when", [1.5, float("nan"), {"x": b"1"}], "y" * 900, "unknown")
    shown = item.to_dict()
    json.dumps(shown, allow_nan=False)
    assert len(str(shown["got"])) == ack.MAX_VALUE_CHARS + 1


def test_without_the_host_there_is_nothing_to_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert ack.host_effective(tmp_path) is None


def test_the_hosts_own_answer_is_read_past_its_chatter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())

    def answer(out: bytes) -> None:
        done = subprocess.CompletedProcess([], 0, stdout=out)
        monkeypatch.setattr(subprocess, "run", lambda *_args, **_kw: done)

    answer(b'some warning\n\x1e{"a": 1}')
    assert ack.host_effective(tmp_path) == {"a": 1}
    answer(b"nothing of use")
    assert ack.host_effective(tmp_path) is None
