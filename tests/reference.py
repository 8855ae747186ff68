"""The reference pages, made from the code: settings, keys, commands, codes, checks, API.

``WRITE_DOCS=1 .venv/bin/pytest tests/test_docs.py`` writes them into ``docs/reference/``; the same
test compares them otherwise, so that a page never says what the code does not.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from django.core.management import load_command_class
from drf_spectacular.generators import SchemaGenerator

from agent_client import cli
from agent_client.cli.output import MEANING_OF_EXIT
from agent_client.contract.policy_keys import TELEMETRY_KEYS
from agent_client.contract.wire import LINE_CODES, PROBLEM_CODES

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / "docs/reference"
APPS: Final = ("fleet", "telemetry")
MADE: Final = (
    "<!-- Made from the code by WRITE_DOCS=1 .venv/bin/pytest tests/test_docs.py; "
    "what is changed here by hand is lost. -->"
)
OPTIONS_OF_DJANGO: Final = frozenset(
    "--version --verbosity --settings --pythonpath --traceback --no-color --force-color "
    "--skip-checks --help".split()
)


def pages() -> dict[str, str]:
    """Every page by its file's name."""
    makers: dict[str, Callable[[], Iterator[str]]] = {
        "settings.md": settings_page,
        "keys.md": keys_page,
        "commands.md": commands_page,
        "verbs.md": verbs_page,
        "codes.md": codes_page,
        "checks.md": checks_page,
        "api.md": api_page,
    }
    return {name: "\n".join([MADE, "", *maker()]) + "\n" for name, maker in makers.items()}


def cell(text: object) -> str:
    """A text as a table's cell holds it."""
    return " ".join(str(text).replace("``", "`").replace("|", "\\|").split())


def row(*cells: object) -> str:
    """One line of a table."""
    return "| " + " | ".join(cell(text) for text in cells) + " |"


def table(*titles: str) -> list[str]:
    """A table's head."""
    return [row(*titles), "|" + "---|" * len(titles)]


# ------------------------------------------------------------------------------------ settings


def settings_page() -> Iterator[str]:
    """Every variable with its type, default and bounds, as the settings file reads it."""
    yield from ["# Settings", ""]
    yield (
        "Environment variables of the console, in the order of the alphabet. A bad value stops the "
        "start and says why. A *secret* may also be given as `NAME_FILE=/path/to/file`. What each "
        "is for, with advice: [operator.md](../operator.md#settings)."
    )
    yield ""
    yield from table("variable", "type", "default", "bounds", "what it decides")
    texts = described()
    for name, (kind, default, bounds) in sorted(variables().items()):
        yield row(f"`{name}`", kind, f"`{default}`" if default else "none", bounds, texts[name])


_KINDS: Final = {
    "envstr": "text",
    "envbool": "switch",
    "envint": "whole number",
    "envlist": "list, by commas",
    "envnetworks": "addresses or networks, by commas",
    "envsecret": "*secret*",
    "envsecret_made": "*secret*, made once under `FLEET_HOME`",
    "envdatabase": "*secret* address",
}


def variables() -> dict[str, tuple[str, str, str]]:
    """Type, default and bounds of each variable that settings.py asks for."""
    found: dict[str, tuple[str, str, str]] = {}
    tree = ast.parse((ROOT / "fleet/settings.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        kind = _KINDS.get(node.func.attr)
        name = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        if kind is None or not isinstance(name, str):
            continue
        named = {word.arg: word.value for word in node.keywords}
        default = named.get("default") or (node.args[1] if len(node.args) > 1 else None)
        is_made = node.func.attr == "envsecret_made"
        shown = "" if default is None or is_made else _shown(default)
        found[name] = (kind, shown, _bounds(named))
    return found


def _shown(node: ast.expr) -> str:
    """A default as a person would type it."""
    text = ast.unparse(node)
    try:
        value = eval(text, {"__builtins__": {}})  # numbers and texts of our own file
    except Exception:  # noqa: BLE001  # a default that is made of other settings
        text = text.replace("quote(str(FLEET_HOME))", "FLEET_HOME")
        return re.sub(r"f?'", "", text)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _bounds(named: Mapping[str | None, ast.expr]) -> str:
    if "minimum" in named:
        return f"{_shown(named['minimum'])} to {_shown(named['maximum'])}"
    if "pattern" in named:
        return f"`{_shown(named['pattern'])}`"
    return ""


def described() -> dict[str, str]:
    """What the operator's page says of each variable."""
    text = (ROOT / "docs/operator.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z][A-Z0-9_]{5,})`[^|]*\|[^|]*\|(.*)\|$", text, re.MULTILINE)
    return {name: _from_docs(words.strip()) for name, words in rows}


def _from_docs(text: str) -> str:
    """Links of a page in ``docs/`` as they read one folder deeper."""
    text = re.sub(r"\]\((?!https?:|#)([^)]+)\)", r"](../\1)", text)
    return re.sub(r"\]\(#", "](../operator.md#", text)


# ---------------------------------------------------------------------------------- policy keys


def keys_page() -> Iterator[str]:
    """Every pinnable key of our own section."""
    yield from ["# Policy keys", ""]
    yield (
        "Keys below `telemetry.` that an owner can set and an operator can pin; every other dotted "
        "key is the host's own. *Plane*: what the key opens or shuts."
    )
    yield ""
    yield from table("key", "type", "default", "values", "plane", "meaning")
    for key in TELEMETRY_KEYS:
        values = ", ".join(f"`{choice}`" for choice in key.choices)
        if key.type == "int":
            values = f"{key.minimum} to {key.maximum}"
        yield row(
            f"`{key.key}`",
            key.type,
            f"`{json.dumps(key.default)}`",
            values,
            key.plane,
            key.help,
        )


# ------------------------------------------------------------------------------------- commands


def commands() -> list[tuple[str, str]]:
    """Every management command of ours: its app and name."""
    return [
        (app, path.stem)
        for app in APPS
        for path in sorted((ROOT / app / "management/commands").glob("*.py"))
        if not path.stem.startswith("_")
    ]


def commands_page() -> Iterator[str]:
    """Every management command with its options."""
    yield from ["# Commands of the console", ""]
    yield "`manage.py COMMAND --help` says the same. Exit code 0 is success unless said otherwise."
    for app, name in sorted(commands(), key=lambda pair: pair[1]):
        parser = load_command_class(app, name).create_parser("manage.py", name)
        yield from ["", f"## {name}", "", escaped(" ".join((parser.description or "").split())), ""]
        yield from parser_rows(parser, f"manage.py {name}")


def verbs_page() -> Iterator[str]:
    """Every verb of the agent's command."""
    yield from ["# Verbs of the agent", ""]
    yield (
        "`hermes-telemetry VERB` on its own, or `hermes telemetry VERB` through the host. "
        "Explained for its owner: [agent-owner.md](../agent-owner.md#verbs)."
    )
    parser = argparse.ArgumentParser(prog="hermes-telemetry")
    cli.add_verbs(parser)
    for path, verb in leaves(parser, ()):
        yield from [
            "",
            f"## {' '.join(path)}",
            "",
            escaped(" ".join((verb.description or "").split())),
            "",
        ]
        yield from parser_rows(verb, f"hermes-telemetry {' '.join(path)}")
    yield from ["", "## Exit codes", ""]
    yield from table("code", "meaning")
    for code, text in MEANING_OF_EXIT.items():
        yield row(code, text)


def leaves(
    parser: argparse.ArgumentParser, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """The verbs that do something, with how they are typed."""
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner and path:
        yield path, parser
    for action in inner:
        for name, sub in action.choices.items():
            yield from leaves(sub, (*path, name))


def parser_rows(parser: argparse.ArgumentParser, prog: str) -> Iterator[str]:
    """A parser's options, and those of what it branches into."""
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from [f"**`{prog} {name}`** {escaped(sub.description or '')}", ""]
                yield from parser_rows(sub, f"{prog} {name}")
            continue
        if OPTIONS_OF_DJANGO & set(action.option_strings) or action.help == argparse.SUPPRESS:
            continue
        rows.append(row(option(action), helped(action, prog)))
    if rows:
        yield from [*table("argument", "meaning"), *rows, ""]


def option(action: argparse.Action) -> str:
    """How an argument is typed."""
    if isinstance(action.metavar, tuple):
        value = " ".join(action.metavar)
    else:
        value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
    value = value or ("" if action.nargs == 0 else action.dest.upper())
    names = ", ".join(action.option_strings)
    return f"`{names} {value}`".replace(" `", "`") if names else f"`{value}`"


def helped(action: argparse.Action, prog: str) -> str:
    """An argument's help with its default put in."""
    text = action.help or ""
    values = {"default": action.default, "prog": prog, "metavar": action.metavar}
    return escaped(text % values if "%" in text else text)


def escaped(text: str) -> str:
    """What Markdown would take for a tag, as it is meant."""
    return text.replace("<", "&lt;")


# ---------------------------------------------------------------------------------------- codes


def codes_page() -> Iterator[str]:
    """What the API and the ledger answer with."""
    yield from ["# Codes", "", "## Problems", ""]
    yield "`code` of an `application/problem+json` answer (RFC 9457)."
    yield ""
    yield from table("code", "status", "title")
    for code, (status, title) in PROBLEM_CODES.items():
        yield row(f"`{code}`", status, title)
    yield from ["", "What to do about each: [operator.md](../operator.md#answers-of-the-api).", ""]
    yield from ["## Refused lines", ""]
    yield from table("code", "meaning")
    for code, text in LINE_CODES.items():
        yield row(f"`{code}`", text)


def checks_page() -> Iterator[str]:
    """Every system check with its hint, as the code has it."""
    yield from ["# System checks", ""]
    yield "What `manage.py check`, `doctor` and the start of the console look at."
    yield ""
    yield from table("id", "severity", "from")
    for number, (severity, place) in sorted(checks().items()):
        yield row(f"`{number}`", severity, f"`{place}`")
    yield from ["", "What to do about each: [operator.md](../operator.md#system-checks)."]


def checks() -> dict[str, tuple[str, str]]:
    """Severity and module of each numbered check."""
    found = {}
    for app in APPS:
        for path in sorted((ROOT / app).rglob("*.py")):
            for number in re.findall(r"id=\"((?:fleet|telemetry)\.[EW]\d{3})\"", path.read_text()):
                severity = "error" if ".E" in number else "warning"
                found[number] = (severity, path.relative_to(ROOT).as_posix())
    return found


# ------------------------------------------------------------------------------------------ API


def api_page() -> Iterator[str]:
    """Every operation of the API, from its OpenAPI document."""
    schema: dict[str, Any] = SchemaGenerator().get_schema(public=True)  # type: ignore[no-untyped-call]  # Any: JSON
    yield from ["# API", ""]
    yield (
        f"OpenAPI {schema['openapi']}; a console serves the document itself at `/api/v1/schema`. "
        "Errors: [codes](codes.md). The agents' protocol in words: [wire.md](../wire.md)."
    )
    for path, operations in sorted(schema["paths"].items()):
        for method, operation in operations.items():
            if method == "parameters":
                continue
            yield from ["", f"## `{method.upper()} {path}`", ""]
            yield escaped(str(operation.get("description", operation.get("summary", ""))).strip())
            yield ""
            parameters = [p for p in operation.get("parameters", []) if p["in"] != "cookie"]
            if parameters:
                yield from table("parameter", "in", "required", "meaning")
                for one in parameters:
                    required = "yes" if one.get("required") else "no"
                    text = escaped(one.get("description", ""))
                    yield row(f"`{one['name']}`", one["in"], required, text)
                yield ""
            yield from table("status", "answer")
            for status, answer in operation["responses"].items():
                yield row(status, escaped(answer.get("description", "") or "the resource"))
