"""The configuration as the planes read it: every key, its default, its pin, and the gates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client import config, policy
from agent_client.contract.policy_keys import KEYS, TELEMETRY_KEYS, nest

DEFAULTS: dict[str, object] = {
    "local": True,
    "allow_aggregate": True,
    "consent_state": "unknown",
    "install_id": "",
    "retention_days": 90,
    "redact_secrets": True,
    "content_redaction": "none",
    "trajectories.enabled": False,
    "export.otlp.enabled": False,
    "export.otlp.endpoint": None,
    "export.otlp.headers_env": {},
    "export.console.enabled": False,
    "export.console.endpoint": None,
    "export.console.interval_s": 60,
}
OTHER: dict[str, object] = {
    "local": False,
    "allow_aggregate": False,
    "consent_state": "aggregate",
    "install_id": "01890000-0000-7000-8000-000000000001",
    "retention_days": 7,
    "redact_secrets": False,
    "content_redaction": "pii",
    "trajectories.enabled": True,
    "export.otlp.enabled": True,
    "export.otlp.endpoint": "https://collector.example",
    "export.otlp.headers_env": {"Authorization": "COLLECTOR_TOKEN"},
    "export.console.enabled": True,
    "export.console.endpoint": "https://console.example",
    "export.console.interval_s": 300,
}


def load(folder: Path, user: dict[str, object], pins: dict[str, object]) -> config.ClientConfig:
    """The configuration of a home with these values (JSON is YAML) and these pins."""
    managed = folder / "managed"
    managed.mkdir(exist_ok=True)
    (managed / "config.yaml").write_text(json.dumps(nest(pins)))
    (folder / "config.yaml").write_text(json.dumps(nest(user)))
    environ = {"PYTEST_CURRENT_TEST": "yes", "HERMES_MANAGED_DIR": str(managed)}
    return config.load(folder, environ=environ)


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_key_has_its_documented_default(tmp_path: Path, name: str) -> None:
    settings = load(tmp_path, {}, {})
    assert settings.get(f"telemetry.{name}", "missing") == DEFAULTS[name]
    assert settings.source(f"telemetry.{name}") == "default"


@pytest.mark.parametrize("key", [entry.key for entry in TELEMETRY_KEYS if entry.key[10:] in OTHER])
def test_every_key_can_be_pinned_against_the_user(tmp_path: Path, key: str) -> None:
    name = key.removeprefix("telemetry.")
    settings = load(tmp_path, {key: DEFAULTS[name]}, {key: OTHER[name]})
    assert settings.get(key) == OTHER[name]
    assert settings.source(key) == "managed"
    assert {f"telemetry.{known}" for known in OTHER} <= KEYS.keys()


@pytest.mark.parametrize(
    ("name", "value", "read_as"),
    [
        ("consent_state", "yes", "unknown"),
        ("consent_state", True, "unknown"),
        ("consent_state", ["aggregate"], "unknown"),
        ("consent_state", " aggregate", "unknown"),
        ("content_redaction", "everything", "none"),
        ("retention_days", 0, 90),
        ("retention_days", "ten", 90),
        ("retention_days", True, 90),
        ("local", "maybe", True),
        ("local", "No", False),
        ("allow_aggregate", "maybe", False),
        ("allow_aggregate", 1, False),
        ("trajectories.enabled", "true", False),
        ("export.otlp.headers_env", {"Authorization": "Bearer abc"}, {}),
        ("export.console.endpoint", "ftp://console", None),
    ],
)
def test_an_invalid_value_reads_as_documented_and_is_named(
    tmp_path: Path, name: str, value: object, read_as: object
) -> None:
    settings = load(tmp_path, {f"telemetry.{name}": value}, {})
    assert settings.get(f"telemetry.{name}") == read_as
    assert [problem.subject for problem in settings.problems] == [f"telemetry.{name}"]


def test_the_posture_has_what_the_planes_ask_for(tmp_path: Path) -> None:
    pins = {f"telemetry.{name}": value for name, value in OTHER.items()}
    posture = policy.resolve(load(tmp_path, {}, {**pins, "telemetry.allow_aggregate": True}))
    assert (posture.local_enabled, posture.aggregate_enabled) == (False, True)
    assert (posture.consent_state, posture.allow_aggregate) == ("aggregate", True)
    assert posture.install_id == OTHER["install_id"]


ANYTHING: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.lists(st.integers())
) | st.sampled_from(["aggregate", "local", "unknown", "Aggregate"])


@given(allow=ANYTHING, consent=ANYTHING, content=ANYTHING)
def test_the_gates_open_for_exactly_one_pair_of_values(
    allow: object, consent: object, content: object
) -> None:
    section = {
        "allow_aggregate": allow,
        "consent_state": consent,
        "trajectories": {"enabled": content},
    }
    posture = policy.resolve({"telemetry": section})
    is_allowed = allow is None or allow is True  # left out, it is true
    assert posture.may_upload_aggregate() == (is_allowed and consent == "aggregate")
    assert posture.aggregate_enabled == posture.may_upload_aggregate()
    assert not posture.may_upload_trajectories()


@pytest.mark.parametrize("section", [None, 7, "off", [], {"consent_state": {"a": 1}}])
def test_a_malformed_section_opens_no_gate_and_keeps_recording(section: object) -> None:
    posture = policy.resolve({"telemetry": section})
    assert posture.local_enabled
    assert not posture.may_upload_aggregate()


def test_resolving_reads_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kw: object) -> None:
        raise AssertionError("resolve touched a file")

    for module, name in (("builtins", "open"), ("os", "open"), ("os", "stat")):
        monkeypatch.setattr(f"{module}.{name}", refuse)
    posture = policy.resolve({"telemetry": {"consent_state": "aggregate"}})
    monkeypatch.undo()
    assert posture.may_upload_aggregate()


def test_the_install_id_is_the_kept_one_until_it_is_cleared(tmp_path: Path) -> None:
    kept = config.keep_install_id(tmp_path)
    assert policy.ensure_install_id(load(tmp_path, {}, {})) == kept
    config.install_id_path(tmp_path).unlink()
    fresh = policy.ensure_install_id(load(tmp_path, {}, {}))
    assert config.as_uuid(fresh)
    assert fresh != kept
    assert not config.install_id_path(tmp_path).exists()
