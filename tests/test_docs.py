"""The documents name what there is: commands, settings, keys, codes, checks, verbs, modules."""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_client import cli
from agent_client.cli.output import MEANING_OF_EXIT
from agent_client.contract.policy_doc import INSTALL_STATES
from agent_client.contract.policy_keys import TELEMETRY_KEYS
from agent_client.contract.wire import LINE_CODES, PROBLEM_CODES
from tests import reference

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
OPERATOR, OWNER = ROOT / "docs/operator.md", ROOT / "docs/agent-owner.md"
PACKAGES = ("agent_client", "fleet", "telemetry")
BEGIN, END = "<!-- modules:begin -->", "<!-- modules:end -->"


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def named_in(path: Path) -> set[str]:
    """Everything set in code style."""
    return set(re.findall(r"`([^`\n]+)`", text_of(path)))


def rows_of(path: Path) -> dict[str, str]:
    """First cell (code) of each table row, with the rest of the row."""
    return dict(re.findall(r"^\| `([^`]+)`[^|]* \|(.*)\|$", text_of(path), re.MULTILINE))


def sources(package: str) -> Iterator[Path]:
    for path in sorted((ROOT / package).rglob("*.py")):
        if not {"migrations", "build", "dist"} & set(path.relative_to(ROOT).parts):
            yield path


def commands() -> list[str]:
    found = [path for package in PACKAGES for path in sources(package)]
    return [path.stem for path in found if path.parent.name == "commands" and path.stem[0] != "_"]


def settings_read() -> set[str]:
    """Every variable that the console asks the environment for."""
    pattern = re.compile(r"env\.env\w+\(\s*\"([A-Z][A-Z0-9_]+)\"")
    return set(pattern.findall(text_of(ROOT / "fleet/settings.py")))


def settings_described() -> set[str]:
    lines = text_of(ROOT / "deploy/fleet.env.example").splitlines()
    return {match[1] for line in lines if (match := re.match(r"# ([A-Z][A-Z0-9_]{5,})\s", line))}


def check_ids() -> set[str]:
    pattern = re.compile(r"id=\"((?:fleet|telemetry)\.[EW]\d{3})\"")
    return {
        found for p in PACKAGES for path in sources(p) for found in pattern.findall(text_of(path))
    }


def verbs(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[str]:
    """Leaf verbs, as they are typed."""
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner and prefix:
        yield prefix.strip()
    for action in inner:
        for name, sub in action.choices.items():
            yield from verbs(sub, f"{prefix} {name}")


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def module_table() -> str:
    """Markdown rows of every module with a docstring, a table for each package."""
    parts = []
    for package in PACKAGES:
        rows = [
            f"| `{path.relative_to(ROOT / package).as_posix()}` | {first_line(path)} |"
            for path in sources(package)
            if first_line(path)
        ]
        parts.append(
            "\n".join([f"### `{package}/`", "", "| module | what it gives |", "|---|---|", *rows])
        )
    return "\n\n".join(parts)


def first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(text_of(path))) or ""
    return docstring.split("\n")[0].replace("``", "`").replace("|", "\\|")


def test_every_management_command_is_documented() -> None:
    documented = " ".join(rows_of(OPERATOR))
    assert [name for name in commands() if f"manage.py {name}" not in documented] == []


def test_every_documented_command_exists() -> None:
    named = set(re.findall(r"manage\.py ([a-z]\w+)", " ".join(map(text_of, DOCS))))
    assert named - set(commands()) <= {"changepassword", "check"}


def test_every_setting_is_documented_and_described() -> None:
    assert settings_read() - set(rows_of(OPERATOR)) == set()
    assert settings_read() - settings_described() == set()


def test_no_setting_is_documented_that_nobody_reads() -> None:
    documented = {name for name in rows_of(OPERATOR) if re.fullmatch(r"[A-Z][A-Z0-9_]{5,}", name)}
    assert documented | settings_described() == settings_read()


def test_every_pinnable_key_is_documented() -> None:
    assert [entry.key for entry in TELEMETRY_KEYS if entry.key not in rows_of(OWNER)] == []


def test_every_problem_code_is_documented_with_its_status() -> None:
    rows = rows_of(OPERATOR)
    found = {code: rows.get(code, "").split("|")[0].strip() for code in PROBLEM_CODES}
    assert found == {code: str(status) for code, (status, _title) in PROBLEM_CODES.items()}


def test_every_line_code_is_documented() -> None:
    assert set(LINE_CODES) - set(rows_of(OPERATOR)) == set()


def test_every_check_is_documented_and_none_that_is_gone() -> None:
    documented = {name for name in rows_of(OPERATOR) if re.match(r"(fleet|telemetry)\.", name)}
    assert documented == check_ids()


def test_every_verb_is_documented() -> None:
    parser = argparse.ArgumentParser()
    cli.add_verbs(parser)
    assert [verb for verb in verbs(parser) if verb not in rows_of(OWNER)] == []


def test_every_exit_code_is_documented() -> None:
    rows = [f"| {code} | {text} |" for code, text in MEANING_OF_EXIT.items()]
    assert [row for row in rows if row not in text_of(OWNER)] == []


def test_the_states_an_operator_meets_are_words_of_the_contract() -> None:
    for word in ("in sync", "drifted"):
        assert word in text_of(ROOT / "README.md")
        assert word.replace(" ", "_") in INSTALL_STATES


def test_the_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    fenced = [
        block for path in DOCS for block in re.findall(r"```sh\n(.*?)```", text_of(path), re.DOTALL)
    ]
    named = set(re.findall(r"\bmake ([a-z]+)", "\n".join(fenced)))
    assert named
    assert named <= targets


def test_the_first_screen_of_the_readme_has_the_two_commands() -> None:
    first_screen = "\n".join(text_of(ROOT / "README.md").splitlines()[:20])
    assert "make demo" in first_screen
    assert "make test" in first_screen


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_internal_links_resolve(path: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        if re.match(r"https?://", link):
            continue
        target, _hash, anchor = link.partition("#")
        aim = (path.parent / target).resolve() if target else path
        if not aim.exists() or (anchor and anchor not in anchors(aim)):
            broken.append(link)
    assert broken == []


def test_the_module_table_is_what_the_modules_say() -> None:
    path = ROOT / "docs/architecture.md"
    before, _begin, rest = text_of(path).partition(BEGIN)
    table, _end, after = rest.partition(END)
    if os.environ.get("WRITE_DOCS") == "1":
        path.write_text(f"{before}{BEGIN}\n\n{module_table()}\n\n{END}{after}", encoding="utf-8")
        return
    assert table.strip().splitlines() == module_table().splitlines()


def test_every_module_says_what_it_gives() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in sources(package)
        if not first_line(path) and path.stat().st_size
    ]
    assert silent == []


def test_the_reference_pages_are_what_the_code_says() -> None:
    made = reference.pages()
    if os.environ.get("WRITE_DOCS") == "1":
        for name, text in made.items():
            (reference.FOLDER / name).write_text(text, encoding="utf-8")
        return
    assert {path.name for path in reference.FOLDER.glob("*.md")} == set(made)
    for name, text in made.items():
        assert text_of(reference.FOLDER / name) == text, f"{name}: WRITE_DOCS=1 writes it anew"


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Hermes Fleet" in page
    # Whoever reads it tells nobody: everything that a page loads lies beside it.
    loaded = re.findall(r"<(?:script|link)[^>]+(?:src|href)=\"(https?:[^\"]+)\"", page)
    assert loaded == []
