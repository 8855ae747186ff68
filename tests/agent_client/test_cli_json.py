"""docs/cli-json.md against the answers of the verbs themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_client import cli
from agent_client.cli.output import JSON_SCHEMA
from agent_client.contract.wire import PATH_TELEMETRY
from tests.agent_client.homes import record
from tests.agent_client.loopback_console import Fault, LoopbackConsole

DOCUMENT = Path(__file__).parents[2] / "docs/cli-json.md"


def documented() -> dict[str, set[str]]:
    """Fields by section; ``a.*`` covers everything below ``a``."""
    found: dict[str, set[str]] = {}
    section = ""
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif match := re.match(r"\| `([^`]+)` \|", line):
            found.setdefault(section, set()).add(match[1])
    return found


def leaves(value: object, path: str = "") -> Iterator[str]:
    """Dotted paths of an answer's leaves, ``[]`` for the items of a list; empty ones are none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{path}[]")
    else:
        yield path


def covering(path: str, fields: set[str]) -> str:
    """The documented field that a path is of, or "" when none is."""
    if path in fields:
        return path
    for field in sorted(fields, key=len, reverse=True):  # `a.*.b` before `a.*`
        pattern = re.escape(field).replace(r"\.\*", r"\.[^.]+")
        tail = r"(\..*)?" if field.endswith(".*") else ""
        if "*" in field and re.fullmatch(pattern + tail, path):
            return field
    return ""


class Answers:
    """Runs verbs and keeps every answer by its section."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.by_section: dict[str, list[dict[str, object]]] = {}

    def ask(self, section: str, *more: str) -> None:
        self._capsys.readouterr()
        cli.main([*section.split(), *more, "--json"])
        answer = json.JSONDecoder().raw_decode(self._capsys.readouterr().out)[0]
        assert answer.pop("schema") == JSON_SCHEMA
        self.by_section.setdefault(section, []).append(answer)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, variable in (("home", "HERMES_HOME"), ("managed", "HERMES_MANAGED_DIR")):
        (tmp_path / name).mkdir(mode=0o755)
        monkeypatch.setenv(variable, str(tmp_path / name))
    return tmp_path / "home"


@pytest.fixture
def answers(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Answers:
    """Every verb in enough situations that each field turns up once."""
    asked = Answers(capsys)
    out = str(tmp_path / "rows")
    asked.ask("status")
    asked.ask("insights")
    asked.ask("doctor", "--offline")
    (home / "config.yaml").write_text(
        "telemetry:\n  retention_days: many\n"
        "  export: {otlp: {enabled: true, endpoint: 'http://127.0.0.1:9', "
        "headers_env: {authorization: OTLP_TOKEN}}}\n"
    )
    record(home)
    asked.ask("preview", "--lines")
    asked.ask("insights")
    asked.ask("export", "--out", out, "--include-content")
    asked.ask("export --otlp")
    asked.ask("rebuild")
    asked.ask("prune", "--dry-run")
    with LoopbackConsole() as console:
        asked.ask("enroll", console.url, "nonsense")
        asked.ask("enroll", console.url, console.enrollment)
        asked.ask("push --dry-run")
        console.refused_lines = 1
        asked.ask("push")
        record(home)
        console.faults.append(Fault(PATH_TELEMETRY, "status", 422, "invalid"))
        asked.ask("push")
        console.publish({"model.default": "corp"})
        (tmp_path / "managed/config.yaml").write_text("model: {default: theirs}\n")
        asked.ask("policy sync")
        (tmp_path / "managed/config.yaml").write_text("{}\n")
        asked.ask("policy sync")
        asked.ask("policy show")
        (tmp_path / "managed/config.yaml").write_text("- broken\n")
        asked.ask("policy show")
        asked.ask("policy why", "model.default")
        asked.ask("status")
    asked.ask("unenroll")
    return asked


def test_every_field_of_an_answer_is_documented(answers: Answers) -> None:
    fields = documented()
    unknown = {
        f"{section}: {path}"
        for section, given in answers.by_section.items()
        for answer in given
        for path in leaves(answer)
        if not covering(path, fields.get(section, set()))
    }
    assert unknown == set()


def test_every_documented_field_is_answered(answers: Answers) -> None:
    fields = documented()
    answered = {
        (section, covering(path, fields[section]))
        for section, given in answers.by_section.items()
        for answer in given
        for path in leaves(answer)
    }
    wanted = {(section, field) for section, found in fields.items() for field in found}
    optional = {
        ("status", "losses.*"),
        ("export --otlp", "sent.*"),
        ("export --otlp", "rejected.*"),
    }
    optional |= {("export --otlp", "missing_variables[]"), ("prune", "rows.*")}
    assert wanted - answered <= optional


def test_every_verb_that_reports_is_documented() -> None:
    assert {
        section.removesuffix(" --otlp").removesuffix(" --dry-run") for section in documented()
    } == {*cli._HANDLERS} - {"completion"}
