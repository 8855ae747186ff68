"""Who may import what, read from the source itself.

import-linter holds the layers; this holds what a list of forbidden names cannot: everything not
allowed is refused, down to the standard library.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
AGENT, CONTRACT = "agent_client", "agent_client.contract"
MAX_LINES = 500

# Third-party packages a module of the agent may import, and only inside functions: recording has
# to work in a host whose environment holds nothing but the standard library.
LAZY_IMPORTS = {
    "agent_client/config.py": {"yaml"},
    "agent_client/policy/apply.py": {"yaml"},
    "agent_client/contract/redact.py": {"re2"},
    "agent_client/contract/redact_phones.py": {"phonenumbers"},
    "agent_client/contract/dsse.py": {"cryptography"},
    "agent_client/otlp/encode.py": {"google", "opentelemetry"},
    "agent_client/push.py": {"zstandard"},
    "agent_client/simulation/crowd/batches.py": {"zstandard"},
    "agent_client/plugin.py": {"agent", "hermes_cli", "hermes_constants", "hermes_state"},
}
# What telemetry may know of fleet.
FLEET_FOR_TELEMETRY = (
    "fleet.api",
    "fleet.console.registry",
    # What needs a person, in one place: the overview shows it, an alert says it.
    "fleet.console.attention",
    # Erasing an install is one act of both: tombstone and report are the fleet's.
    "fleet.enroll.erasure",
    "fleet.enroll.erasure_report",
    "fleet.policy.signing",
    # Variables that a person names in a form are read like our own: NAME or NAME_FILE.
    "fleet.env",
    "fleet.lib",
    "fleet.models",
    # What an install's policy asks for, and the tag it is served under; nothing that changes it.
    "fleet.policy.effective",
    "fleet.policy.serve",
    # Who did it, the record of it, and the health page.
    "fleet.audit",
    "fleet.console.people",
    "fleet.health",
    "fleet.ops.hooks",
    # What telemetry counts, and what it knows of its own state, on the console's one metrics page.
    "fleet.watch.facts",
    "fleet.watch.figures",
    "fleet.watch.gauges",
    # How things look, so that a number looks the same on every page. None decides anything.
    "fleet.admin.base",
    "fleet.console.charts",
    "fleet.console.heat",
    "fleet.console.labels",
    "fleet.console.rendering",
    "fleet.templatetags.fleet_format",
)
# The decoder of OTLP in, and the way out; nothing else knows that there is such a package.
OPENTELEMETRY_ONLY_IN = {
    "telemetry/ingest/otlp_protobuf.py",
    "telemetry/relay/send.py",
    "telemetry/relay/test.py",
    "telemetry/streams/otlp.py",
    # Our own spans: recorded with the SDK, and sent.
    "fleet/watch/tracing.py",
    "fleet/watch/tracing_send.py",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name; ``is_lazy`` inside a function, ``is_typing`` under TYPE_CHECKING."""

    name: str
    line: int
    is_lazy: bool
    is_typing: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]

    def within(self, package: str) -> bool:
        return self.name == package or self.name.startswith(f"{package}.")


def imports_of(source: str) -> Iterator[Import]:
    """Every import, with ``from a import b`` as ``a.b``; also import_module("a") and __import__."""
    yield from _walk(ast.parse(source), is_lazy=False, is_typing=False)


def _walk(node: ast.AST, *, is_lazy: bool, is_typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        for name in _names(child):
            yield Import(name, getattr(child, "lineno", 0), is_lazy, is_typing)
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_guard = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from _walk(child, is_lazy=is_lazy or is_function, is_typing=is_typing or is_guard)


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), names=names):
            return [f"{module}.{alias.name}" for alias in names]
        case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]) if ast.unparse(
            function
        ) in {"__import__", "import_module", "importlib.import_module"}:
            return [name]
    return []


def modules_of(package: str) -> list[Path]:
    return [
        path
        for path in sorted((ROOT / package).rglob("*.py"))
        if not {"build", "dist", "migrations"} & set(path.relative_to(ROOT).parts)
    ]


def breaches(package: str, problem_of: object) -> list[str]:
    """``file:line imports name`` for each import that ``problem_of(path, import)`` refuses."""
    assert callable(problem_of)
    return [
        f"{path.relative_to(ROOT)}:{found.line} imports {found.name}"
        for path in modules_of(package)
        for found in imports_of(path.read_text())
        if problem_of(path.relative_to(ROOT).as_posix(), found)
    ]


def refused_in_agent(path: str, found: Import) -> bool:
    """Standard library, the agent itself, or a named package inside a function."""
    if found.top in sys.stdlib_module_names or found.top == AGENT:
        return False
    return not (found.top in LAZY_IMPORTS.get(path, ()) and (found.is_lazy or found.is_typing))


def refused_in_contract(path: str, found: Import) -> bool:
    return found.top == AGENT and not found.within(CONTRACT)


def refused_in_console(path: str, found: Import) -> bool:
    if found.top == "opentelemetry":
        return path not in OPENTELEMETRY_ONLY_IN
    return found.top == "tests" or (found.top == AGENT and not found.within(CONTRACT))


def refused_in_fleet(path: str, found: Import) -> bool:
    return found.top == "telemetry" or refused_in_console(path, found)


def refused_in_telemetry(path: str, found: Import) -> bool:
    is_closed = found.top == "fleet" and not any(map(found.within, FLEET_FOR_TELEMETRY))
    return is_closed or refused_in_console(path, found)


def test_the_agent_records_with_the_standard_library_alone() -> None:
    assert breaches("agent_client", refused_in_agent) == []


def test_the_contract_imports_nothing_else_of_the_agent() -> None:
    assert breaches("agent_client/contract", refused_in_contract) == []


def test_fleet_knows_the_contract_and_neither_the_agent_nor_telemetry() -> None:
    assert breaches("fleet", refused_in_fleet) == []


def test_telemetry_knows_the_contract_and_the_open_part_of_fleet() -> None:
    assert breaches("telemetry", refused_in_telemetry) == []


def test_the_agents_tests_import_nothing_of_the_console() -> None:
    console = {"celery", "django", "fleet", "pytest_django", "rest_framework", "telemetry"}
    for folder in ("tests/agent_client", "tests/contract"):
        assert breaches(folder, lambda _, found: found.top in console) == []


@pytest.mark.parametrize("package", ["agent_client", "fleet", "telemetry", "tests"])
def test_no_module_is_longer_than_500_lines(package: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in modules_of(package)}
    assert {str(path): count for path, count in lengths.items() if count > MAX_LINES} == {}


def test_no_further_code_lies_at_the_top_level() -> None:
    folders = {path.parent.name for path in ROOT.glob("[!.]*/*.py")}
    assert folders <= {
        "agent_client",
        "fleet",
        "telemetry",
        "tests",
        "deploy",
        "benchmarks",
        "docs",
    }
    assert {path.name for path in ROOT.glob("*.py")} <= {"manage.py"}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("agent_client/emitter.py", "import yaml"),
        ("agent_client/emitter.py", "def f():\n    import yaml"),
        ("agent_client/config.py", "import yaml"),
        ("agent_client/store.py", "from django.db import models"),
        ("agent_client/store.py", "import importlib\nimportlib.import_module('requests')"),
    ],
)
def test_an_import_the_agent_may_not_have_is_seen(path: str, source: str) -> None:
    assert any(refused_in_agent(path, found) for found in imports_of(source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("agent_client/config.py", "def f():\n    import yaml"),
        ("agent_client/emitter.py", "import mmap\nfrom agent_client.contract import wire"),
    ],
)
def test_an_import_the_agent_may_have_is_let_through(path: str, source: str) -> None:
    assert not any(refused_in_agent(path, found) for found in imports_of(source))


def test_telemetry_is_refused_the_closed_part_of_fleet() -> None:
    (closed,) = imports_of("from fleet.policy import publish")
    (opened,) = imports_of("from fleet.console import registry")
    assert refused_in_telemetry("telemetry/apps.py", closed)
    assert not refused_in_telemetry("telemetry/apps.py", opened)
