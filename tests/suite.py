"""`make check` and `make test`: the steps, one line each with the time taken.

A step that fails prints its output and the command to repeat it by hand. All steps run even when
one fails, so that one run shows everything there is to mend.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# Every folder with Python in it; those that are not there are left out.
CODE = ("agent_client", "benchmarks", "docs", "fleet", "telemetry", "tests", "manage.py")
TEMPLATE_FOLDERS = ("fleet", "telemetry")

# What `manage.py check --deploy` sees: a console as an operator runs it. Nothing is connected to.
DEPLOY_ENVIRONMENT = {
    "DJANGO_SETTINGS_MODULE": "fleet.settings",
    "DATABASE_URL": "postgresql://fleet:only-for-checks@127.0.0.1:5432/fleet",
    "REDIS_URL": "redis://127.0.0.1:6379/0",
    "FLEET_SECRET_KEY": "8f1c2b9e7a6d4053-only-for-checks-b1e0c7d2945f6a38d7e9f0a1c2b3",
    "FLEET_ALLOWED_HOSTS": "fleet.example.org",
    "FLEET_PUBLIC_URL": "https://fleet.example.org",
}
# What a development machine has: nothing but defaults.
PLAIN_ENVIRONMENT = {"DJANGO_SETTINGS_MODULE": "fleet.settings"}
NEUTRAL = ("DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE")


@dataclass(frozen=True, slots=True)
class Step:
    """A named command; ``environ`` is laid over the caller's environment."""

    name: str
    command: tuple[str, ...]
    environ: dict[str, str] = field(default_factory=dict)

    def repeat(self) -> str:
        """The command to type, from the root of the repository."""
        words = [
            f"{name}={shlex.quote(value)}"
            for name, value in self.environ.items()
            if name != "FLEET_HOME"  # a folder that is gone by the time one reads this
        ]
        command = [
            str(Path(word).relative_to(ROOT)) if word.startswith(f"{ROOT}/") else word
            for word in self.command
        ]
        return " ".join([*words, shlex.join(command)])


def tool(name: str, *arguments: str) -> tuple[str, ...]:
    """The command line of a program that lies in the virtual environment."""
    return (str(BIN / name), *arguments)


def templates() -> list[str]:
    """Every template of our own, relative to the root; copies of the theme's keep its form."""
    return sorted(
        str(path.relative_to(ROOT))
        for folder in TEMPLATE_FOLDERS
        for path in (ROOT / folder).glob("**/templates/**/*.html")
        if "unfold" not in path.parts
    )


def check_steps(home: str) -> list[Step]:
    """The steps of ``make check``; ``home`` is an empty data folder."""
    python = str(BIN / "python")
    deploy = {**DEPLOY_ENVIRONMENT, "FLEET_HOME": home}
    plain = {**PLAIN_ENVIRONMENT, "FLEET_HOME": home}
    code = [name for name in CODE if (ROOT / name).exists()]
    steps = [
        # The longest first: two run at a time.
        Step(
            "mypy, console and tests",
            tool("mypy", "fleet", "telemetry", "tests", "manage.py"),
            plain,
        ),
        Step("ruff check", tool("ruff", "check", *code)),
        Step("ruff format", tool("ruff", "format", "--check", *code)),
        Step(
            "mypy, agent at Python 3.11",
            tool("mypy", "--config-file=agent_client/pyproject.toml", "agent_client"),
        ),
        Step("import boundaries", tool("lint-imports", "--no-logo")),
        Step(
            "manage.py check --deploy",
            (python, "manage.py", "check", "--deploy", "--fail-level", "WARNING"),
            deploy,
        ),
        Step(
            "no migration is missing",
            (python, "manage.py", "makemigrations", "--check", "--dry-run"),
            plain,
        ),
    ]
    pages = templates()
    if pages:
        steps += [
            Step("djade", tool("djade", "--check", "--target-version=6.1", *pages)),
            Step("djlint", tool("djlint", "--lint", "--quiet", *TEMPLATE_FOLDERS)),
        ]
    return steps


def test_steps() -> list[Step]:
    """The two runs of pytest and the floors over what both measured."""
    # Two workers a core: much of a test is waiting for servers of its own to start and to stop.
    # worksteal: some tests take a minute, most a hundredth of a second.
    workers = ("-n", str(2 * (os.cpu_count() or 1)), "--dist=worksteal")
    pytest = (str(BIN / "python"), "-m", "pytest", "--cov", "--cov-report=", "--durations=25")
    return [
        Step("tests", (*pytest, *workers), {"COVERAGE_FILE": ".coverage.a"}),
        Step(
            "tests on the embedded default",
            (*pytest, *workers, "-m", "both_engines and not postgres"),
            {"COVERAGE_FILE": ".coverage.b", "FLEET_TEST_ENGINE": "sqlite"},
        ),
        Step("coverage of both runs", tool("coverage", "combine", "--quiet")),
        Step("coverage floors", (str(BIN / "python"), "-m", "tests.floors")),
    ]


def format_steps() -> list[Step]:
    """What rewrites code and templates the way the checks want them."""
    code = [name for name in CODE if (ROOT / name).exists()]
    steps = [
        Step("ruff check --fix", tool("ruff", "check", "--fix", *code)),
        Step("ruff format", tool("ruff", "format", *code)),
    ]
    pages = templates()
    if pages:
        steps.append(Step("djade", tool("djade", "--target-version=6.1", *pages)))
    return steps


def is_console_setting(name: str) -> bool:
    """Whether a variable of the caller's shell would change what a check or a test sees."""
    is_own = name.startswith("FLEET_") and not name.startswith("FLEET_TEST_")
    return is_own or name in NEUTRAL


def environment_of(step: Step) -> dict[str, str]:
    """The caller's environment without a console's settings, and the step's own on top."""
    kept = {name: value for name, value in os.environ.items() if not is_console_setting(name)}
    return {**kept, **step.environ}


def run_quietly(step: Step) -> bool:
    """Run with the output kept back; print it only on failure. True if the step passed."""
    start_s = time.monotonic()
    done = subprocess.run(
        step.command,
        cwd=ROOT,
        env=environment_of(step),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    is_passed = done.returncode == 0
    report(step, is_passed=is_passed, took_s=time.monotonic() - start_s, output=done.stdout)
    return is_passed


def run_openly(step: Step) -> bool:
    """Run with the output shown as it comes. True if the step passed."""
    start_s = time.monotonic()
    done = subprocess.run(step.command, cwd=ROOT, env=environment_of(step), check=False)
    is_passed = done.returncode == 0
    report(step, is_passed=is_passed, took_s=time.monotonic() - start_s, output="")
    return is_passed


def report(step: Step, *, is_passed: bool, took_s: float, output: str) -> None:
    """One line; on failure also the output and the command. One write, as two may come at once."""
    text = f"{'ok    ' if is_passed else 'FAILED'} {took_s:6.1f} s  {step.name}\n"
    if not is_passed:
        text += f"{output.rstrip()}\n  repeat with: {step.repeat()}\n".lstrip("\n")
    sys.stdout.write(text)
    sys.stdout.flush()


def run_checks() -> list[bool]:
    """All checks, two at a time, for the longest of them leaves one core idle."""
    with tempfile.TemporaryDirectory(prefix="fleet-check-") as home, ThreadPoolExecutor(2) as pool:
        return list(pool.map(run_quietly, check_steps(home)))


def run_tests() -> list[bool]:
    """Tests, then floors; what an earlier run measured is put away first."""
    for left in ROOT.glob(".coverage*"):
        left.unlink()
    return [run_openly(step) for step in test_steps()]


def main(arguments: Iterable[str]) -> int:
    """``check``, ``test`` or ``format``; 0 if everything passed."""
    results: list[bool] = []
    match list(arguments):
        case ["check"]:
            # Part of `make test` too, among all the others.
            python = str(BIN / "python")
            boundaries = (python, "-m", "pytest", "-q", "tests/test_boundaries.py")
            results = [*run_checks(), run_quietly(Step("module boundaries and sizes", boundaries))]
        case ["test"]:
            results = run_checks() + run_tests()
        case ["format"]:
            results = [run_quietly(step) for step in format_steps()]
        case _:
            sys.stderr.write("usage: python -m tests.suite check | test | format\n")
            return 2
    failed_count = results.count(False)
    if failed_count:
        print(f"{failed_count} of {len(results)} steps failed; each says above how to repeat it.")
    else:
        print(f"All {len(results)} steps passed.")
    return 1 if failed_count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
