from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from agent_client import config, policy
from agent_client.files import telemetry_dir


def load(home: Path, managed: Path | None = None, **env: str) -> config.ClientConfig:
    environ = {"PYTEST_CURRENT_TEST": "yes", **env}
    if managed is not None:
        environ["HERMES_MANAGED_DIR"] = str(managed)
    return config.load(home, environ=environ)


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder


def codes(settings: config.ClientConfig) -> list[str]:
    return [problem.code for problem in settings.problems]


def test_without_files_the_defaults_hold(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.get("telemetry.retention_days") == 90
    assert settings.source("telemetry.local") == "default"
    assert policy.resolve(settings).local_enabled


def test_managed_beats_user_leaf_by_leaf_and_siblings_survive(tmp_path: Path) -> None:
    home = write(tmp_path / "home", "model: {default: mine, provider: p}\nplugins: {enabled: [a]}")
    managed = write(tmp_path / "m", "model: {default: theirs}\nplugins: {enabled: [b, c]}")
    settings = load(home, managed)
    assert settings.get("model") == {"default": "theirs", "provider": "p"}
    assert settings.get("plugins.enabled") == ["b", "c"]
    assert settings.source("model.default") == "managed"
    assert settings.source("model.provider") == "user"


def test_an_override_that_is_no_directory_switches_managed_scope_off(tmp_path: Path) -> None:
    settings = load(tmp_path, tmp_path / "nowhere")
    assert settings.managed_dir is None
    assert codes(settings) == ["managed_dir_missing"]


def test_the_default_managed_dir_is_not_used_under_pytest() -> None:
    assert config.managed_target({"PYTEST_CURRENT_TEST": "x"}) is None
    assert config.managed_target({}) == config.DEFAULT_MANAGED_DIR


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "\x00", "just words"])
def test_a_managed_file_the_host_ignores_is_ignored_and_named(tmp_path: Path, text: str) -> None:
    home = write(tmp_path / "home", "telemetry: {local: false}")
    settings = load(home, write(tmp_path / "m", text))
    assert codes(settings) == ["managed_malformed"]
    assert settings.get("telemetry.local") is False


@pytest.mark.parametrize(
    "text",
    [
        "a: &a {b: *a}\n",
        "telemetry: &a [*a]\n",
        "l0: &l0 [x, x]\n" + "".join(f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]\n" for n in range(1, 40)),
    ],
    ids=["a circle", "a circle in a list", "a trillion values"],
)
def test_aliases_without_an_end_make_a_file_malformed_and_nothing_hang(
    tmp_path: Path, text: str
) -> None:
    settings = load(write(tmp_path, text))
    assert codes(settings) == ["user_malformed"]
    assert "aliases" in settings.problems[0].detail


def test_aliases_of_a_common_size_are_kept(tmp_path: Path) -> None:
    settings = load(write(tmp_path, "a: &a {x: 1}\nb: *a\nc: [*a, *a]\n"))
    assert settings.problems == ()
    assert settings.get("b.x") == 1


def test_an_unreadable_file_is_a_problem_and_no_exception(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    settings = load(tmp_path)
    assert codes(settings) == ["user_unreadable"]
    assert policy.resolve(settings).local_enabled


@pytest.mark.parametrize("section", ["off", "[1, 2]", "7"])
def test_a_malformed_telemetry_section_means_the_defaults(tmp_path: Path, section: str) -> None:
    settings = load(write(tmp_path, f"telemetry: {section}"))
    assert policy.resolve(settings).local_enabled
    assert "section_malformed" in codes(settings)


@pytest.mark.parametrize("text", ["a: &a [*a]", "telemetry: &t {local: *t}"])
def test_an_alias_that_holds_itself_is_no_configuration(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    for expand in (True, False):
        settings = config.load(tmp_path, environ={}, expand=expand)
        assert codes(settings) == ["user_malformed"]


def test_a_gate_with_a_malformed_value_is_shut(tmp_path: Path) -> None:
    settings = load(
        write(tmp_path, "telemetry: {allow_aggregate: maybe, consent_state: aggregate}")
    )
    assert not policy.resolve(settings).may_upload_aggregate()
    assert codes(settings) == ["bad_value"]


@pytest.mark.parametrize(
    ("allow", "consent", "opens"),
    [
        ("true", "aggregate", True),
        ("false", "aggregate", False),
        ("true", "local", False),
        ("true", "unknown", False),
        ("true", "AGGREGATE", False),
    ],
)
def test_the_aggregate_plane_opens_only_by_consent_and_gate(
    tmp_path: Path, allow: str, consent: str, opens: bool
) -> None:
    text = f"telemetry: {{allow_aggregate: {allow}, consent_state: {consent}}}"
    assert policy.resolve(load(write(tmp_path, text))).may_upload_aggregate() is opens


def test_resolve_takes_a_plain_dictionary() -> None:
    posture = policy.resolve({"telemetry": {"local": "off", "trajectories": {"enabled": True}}})
    assert (posture.local_enabled, posture.trajectories_enabled) == (False, True)
    assert policy.resolve({}).local_enabled
    assert policy.resolve({"telemetry": None}).consent_state == "unknown"


def test_environment_references_expand_as_the_host_does(tmp_path: Path) -> None:
    home = write(tmp_path, "telemetry: {export: {console: {endpoint: '${CONSOLE}'}}}")
    managed = write(tmp_path / "m", "{}")
    write(managed, "CONSOLE=https://pinned.example\n", ".env")
    settings = load(home, managed, CONSOLE="https://mine.example")
    assert settings.get("telemetry.export.console.endpoint") == "https://pinned.example"


def test_an_empty_section_does_not_erase_what_lies_below() -> None:
    assert config.deep_merge({"a": {"b": 1}}, {"a": None}) == {"a": {"b": 1}}
    assert config.deep_merge({"a": {"b": 1}}, {"a": 2}) == {"a": 2}


def test_the_install_id_is_minted_once_and_kept_private(tmp_path: Path) -> None:
    first = config.keep_install_id(tmp_path)
    assert config.keep_install_id(tmp_path) == first
    assert config.install_id_path(tmp_path).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "telemetry").stat().st_mode & 0o777 == 0o700


def test_clearing_the_install_id_rotates_it(tmp_path: Path) -> None:
    first = config.keep_install_id(tmp_path)
    config.install_id_path(tmp_path).write_text("")
    assert config.keep_install_id(tmp_path) != first


def test_a_configured_install_id_wins_and_is_not_copied(tmp_path: Path) -> None:
    wanted = str(uuid.uuid4())
    write(tmp_path, f"telemetry: {{install_id: '{wanted}'}}")
    assert config.keep_install_id(tmp_path) == wanted
    assert not config.install_id_path(tmp_path).exists()


def test_ensure_install_id_keeps_nothing(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert policy.ensure_install_id(settings) != policy.ensure_install_id(settings)
    assert list(tmp_path.iterdir()) == []


def test_home_is_the_argument_then_the_environment_then_the_users(tmp_path: Path) -> None:
    assert config.resolve_home(tmp_path, {"HERMES_HOME": "/x"}) == tmp_path
    assert config.resolve_home(None, {"HERMES_HOME": " /x "}) == Path("/x")
    assert config.resolve_home(None, {"HERMES_HOME": ""}) == Path.home() / ".hermes"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes into another's home")
def test_root_gives_private_files_to_the_homes_owner(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    config.keep_install_id(tmp_path)
    assert config.install_id_path(tmp_path).stat().st_uid == 65534
    assert (tmp_path / "telemetry").stat().st_uid == 65534


def test_the_pseudonym_key_is_made_once_and_stays_private(tmp_path: Path) -> None:
    key = config.keep_pseudonym_key(tmp_path)
    path = telemetry_dir(tmp_path) / "pseudonym_key"
    assert (len(key), path.stat().st_mode & 0o777) == (32, 0o600)
    assert config.keep_pseudonym_key(tmp_path) == key
    path.write_bytes(b"cut")
    assert config.keep_pseudonym_key(tmp_path) not in {key, b"cut"}
