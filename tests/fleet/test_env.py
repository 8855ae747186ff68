"""fleet.env: types, secrets from files, loud failures."""

from __future__ import annotations

import ast
import stat
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from fleet import env

ROOT = Path(env.__file__).parent.parent


def test_a_switch_that_is_neither_true_nor_false_stops_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLEET_X", "enabled")
    with pytest.raises(ImproperlyConfigured, match="FLEET_X"):
        env.envbool("FLEET_X", default=True)


@pytest.mark.parametrize(("text", "value"), [("1", True), ("Yes", True), ("off", False)])
def test_a_switch_is_read(monkeypatch: pytest.MonkeyPatch, text: str, value: bool) -> None:
    monkeypatch.setenv("FLEET_X", text)
    assert env.envbool("FLEET_X", default=not value) is value


@pytest.mark.parametrize("text", ["ten", "11", "-1"])
def test_a_number_out_of_its_bounds_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("FLEET_X", text)
    with pytest.raises(ImproperlyConfigured):
        env.envint("FLEET_X", 5, minimum=0, maximum=10)


def test_a_text_that_does_not_match_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_X", "LOUD")
    with pytest.raises(ImproperlyConfigured):
        env.envstr("FLEET_X", "INFO", pattern="INFO|DEBUG")


def test_a_secret_comes_from_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("hidden\n")
    monkeypatch.setenv("FLEET_X_FILE", str(tmp_path / "s"))
    assert env.envsecret("FLEET_X") == "hidden"


def test_a_secret_given_twice_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_X", "a")
    monkeypatch.setenv("FLEET_X_FILE", "/b")
    with pytest.raises(ImproperlyConfigured, match="not both"):
        env.envsecret("FLEET_X")


@pytest.mark.parametrize("content", [None, ""])
def test_a_secret_file_that_is_absent_or_empty_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "s"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv("FLEET_X_FILE", str(path))
    with pytest.raises(ImproperlyConfigured):
        env.envsecret("FLEET_X")


def test_a_secret_that_is_nowhere_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "key"
    made = env.made_once(path, random_bytes=32)
    assert (len(made), env.made_once(path, random_bytes=32)) == (64, made)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]


def test_a_secret_that_cannot_be_made_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ImproperlyConfigured):
        env.made_once(tmp_path / "file" / "key", random_bytes=8)


def test_a_database_address_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://u:p%40ss@db:5433/fleet?sslmode=require")
    found = env.envdatabase("DATABASE_URL", "")
    assert (found.user, found.password, found.host, found.port) == ("u", "p@ss", "db", "5433")
    assert (found.name, found.options) == ("fleet", {"sslmode": "require"})
    assert "p@ss" not in repr(found)


@pytest.mark.parametrize("text", ["mysql://u@h/d", "postgres://h:port/d", "fleet.db"])
def test_another_database_address_stops_the_start_without_echo(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", text)
    with pytest.raises(ImproperlyConfigured) as caught:
        env.envdatabase("DATABASE_URL", "")
    assert text not in str(caught.value)


def _names_read() -> set[str]:
    """Every first argument of an env… call in the console's code."""
    names = set()
    for path in [*(ROOT / "fleet").rglob("*.py"), *(ROOT / "telemetry").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            first = node.args[0]
            if name.startswith("env") and isinstance(first, ast.Constant):
                names.add(str(first.value))
    return names


def test_every_variable_that_is_read_is_documented() -> None:
    text = (ROOT / "deploy" / "fleet.env.example").read_text()
    names = _names_read()
    assert len(names) > 15
    assert {name for name in names if f"{name}=" not in text} == set()


@pytest.mark.parametrize(("text", "value"), [("", 0.5), ("0", 0.0), ("1", 1.0), (".25", 0.25)])
def test_a_share_is_read(monkeypatch: pytest.MonkeyPatch, text: str, value: float) -> None:
    monkeypatch.setenv("FLEET_X", text)
    assert env.envshare("FLEET_X", 0.5) == value


@pytest.mark.parametrize("text", ["1.5", "-0", "half", "1e-3", "nan", "0.1 0.2"])
def test_a_share_that_is_none_stops_the_start(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("FLEET_X", text)
    with pytest.raises(ImproperlyConfigured, match="FLEET_X"):
        env.envshare("FLEET_X", 0.5)


def test_headers_are_names_of_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_X", "Authorization=FLEET_HDR_KEY, x-scope = FLEET_HDR_SCOPE")
    found = env.envheaders("FLEET_X", prefix="FLEET_HDR_")
    assert found == {"authorization": "FLEET_HDR_KEY", "x-scope": "FLEET_HDR_SCOPE"}


@pytest.mark.parametrize(
    "text",
    ["Authorization", "Authorization=Bearer hunter2", "a b=FLEET_HDR_X", "x=FLEET_SECRET_KEY"],
)
def test_a_header_s_value_in_its_place_stops_the_start_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("FLEET_X", text)
    with pytest.raises(ImproperlyConfigured) as stopped:
        env.envheaders("FLEET_X", prefix="FLEET_HDR_")
    assert "hunter2" not in str(stopped.value)
