"""Every command in the documents is one that its own parser takes, and that a test has run."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import load_command_class

from agent_client import cli
from tests.reference import commands
from tests.test_docs import DOCS, ROOT, text_of

APP_OF = {name: app for app, name in commands()}
OF_DJANGO = {"changepassword", "check", "collectstatic", "createsuperuser", "migrate"}
CONSOLE = re.compile(
    r"(?:manage\.py|bin/hermes-fleet|^hermes-fleet|^fleet-manage|sudo fleet-manage) ([a-z].*)"
)
AGENT = re.compile(r"(?:sudo )?(?:\"\$\(command -v )?hermes-telemetry(?:\)\")? (.*)")
INSTALL = "01890000-0000-7000-8000-000000000001"
STANDS_FOR = {"ID": "1", "N": "1", "HEX": "0" * 64, "INSTALL": INSTALL}


def lines() -> Iterator[tuple[str, str]]:
    """Each command line of a shell block, with the document it stands in."""
    for path in DOCS:
        for block in re.findall(r"```sh\n(.*?)```", text_of(path), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    yield path.relative_to(ROOT).as_posix(), line.strip()


def words_of(text: str) -> list[str]:
    """What the program is given: no comment, no redirection, names of things filled in."""
    text = re.split(r"\s(?:[|>&]|&&|2>)", re.sub(r"\s#.*", "", text))[0]
    words = [re.sub(r"^01890000-…$", INSTALL, word) for word in shlex.split(text)]
    return [STANDS_FOR.get(word, word) for word in words]


def of(pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    found = []
    for place, line in lines():
        match = pattern.search(re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line))
        if match:
            found.append((place, match[1]))
    return found


@pytest.mark.parametrize(("place", "text"), of(CONSOLE))
def test_a_consoles_command_in_a_document_is_understood(place: str, text: str) -> None:
    name, *words = words_of(text)
    if name in OF_DJANGO or name.isupper():
        return
    parser = load_command_class(APP_OF[name], name).create_parser("manage.py", name)
    parser.called_from_command_line = False  # it raises, instead of ending us
    parser.parse_args(words)


@pytest.mark.parametrize(("place", "text"), of(AGENT))
def test_an_agents_command_in_a_document_is_understood(
    place: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser(prog="hermes-telemetry")
    cli.add_verbs(parser)
    try:
        parser.parse_args(words_of(text))
    except SystemExit as error:
        if error.code:
            pytest.fail(capsys.readouterr().err)


def test_every_command_is_run_by_a_test() -> None:
    tests = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "tests").rglob("*.py")
        if path != Path(__file__)
    )
    run = r"(?:call_command\(\s*|manage\(\s*|run\(\s*|\"manage\.py\",\s*|manage\.py )[\"']?%s\b"
    silent = [
        name for name in APP_OF if not re.search(run % name, tests) and f'"{name}"' not in tests
    ]
    assert silent == []
