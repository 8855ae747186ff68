"""The pytest plugin that finds the services, fails skips in CI and says what ran on what.

Loaded with ``-p tests.plugin``, before pytest-django reads the settings: those need the services'
addresses. Under xdist the controller finds or starts the services once and hands them to its
workers through the environment; each process claims a Redis database of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field

import pytest

from tests import claims, services, suite

REQUIRED_IN_CI = (
    "postgres",
    "redis",
    "browser",
    "real_agent",
    "real_receiver",
    "shells",
    "packages",
    "checker",
)
"""Markers of tests that show nothing when skipped; a skip there must not look like success."""
LABELS = {
    "browser": "browser",
    "real_agent": "real agent",
    "real_receiver": "real receiver",
    "shells": "shells",
    "packages": "packages",
    "checker": "deployment checkers",
}
RAN_ON = "ran_on"
"""Name of the user property by which a test says what it ran on: see the fixture of this name."""


@dataclass(slots=True)
class Session:
    """What this process knows of the run; the counts are filled in by the controller alone."""

    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    services: list[services.Service] = field(default_factory=list)
    ran: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    ran_on: dict[str, set[str]] = field(default_factory=dict)


SESSION = pytest.StashKey[Session]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Generator[None, object, object]:
    """Put the services' addresses into the environment before any setting is read."""
    session = early_config.stash[SESSION] = Session()
    # A conftest that cannot be imported ends pytest without pytest_unconfigure.
    atexit.register(session.stack.close)
    options = parser.parse_known_args(args)
    if not (options.version or options.help):
        for name in filter(suite.is_console_setting, list(os.environ)):
            del os.environ[name]
        home = tempfile.TemporaryDirectory(prefix="fleet-test-")
        os.environ["FLEET_HOME"] = session.stack.enter_context(home)
        is_worker = "PYTEST_XDIST_WORKER" in os.environ
        if not is_worker:
            _provide_services(session, is_reused=getattr(options, "reuse_db", False))
        # A controller that only hands out tests needs no Redis database of its own.
        if is_worker or not getattr(options, "numprocesses", None):
            _claim_redis(session)
    return (yield)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what was started, give back what was claimed."""
    session = config.stash.get(SESSION, None)
    if session is not None:
        session.stack.close()


def _provide_services(session: Session, *, is_reused: bool) -> None:
    try:
        postgres = services.find_postgres(os.environ, session.stack)
        redis = services.find_redis(os.environ, session.stack)
    except services.ServiceError as error:
        session.stack.close()
        raise pytest.UsageError(str(error)) from error
    session.services = [postgres, redis]
    services.offer_postgres_tools(os.environ)
    for variable, service in (
        ("FLEET_TEST_DATABASE_URL", postgres),
        ("FLEET_TEST_REDIS_URL", redis),
    ):
        if service.url is not None:
            os.environ[variable] = service.url
    if postgres.url is not None:
        claims.drop_stale_databases(postgres.url)
    # With --reuse-db the name must be the same in the next run; else no two runs share one.
    name = "test_fleet_reused" if is_reused else claims.new_database_name("suite")
    os.environ["FLEET_TEST_DATABASE_NAME"] = name


def _claim_redis(session: Session) -> None:
    url = os.environ.get("FLEET_TEST_REDIS_URL")
    if url is None:
        return
    claimed = claims.claim_redis_database(url)
    if claimed is None:
        del os.environ["FLEET_TEST_REDIS_URL"]
        return
    os.environ["FLEET_TEST_REDIS_URL"] = claimed
    session.stack.callback(claims.release_redis_database, claimed)


def is_ci() -> bool:
    """Whether a skipped test of REQUIRED_IN_CI is a failure."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a service that is not there."""
    needs = {"postgres": "FLEET_TEST_DATABASE_URL", "redis": "FLEET_TEST_REDIS_URL"}
    for marker, variable in needs.items():
        if item.get_closest_marker(marker) and variable not in os.environ:
            pytest.skip(f"no {marker}: see the summary for what was tried")
    if item.get_closest_marker("postgres") and os.environ.get("FLEET_TEST_ENGINE") == "sqlite":
        pytest.skip("this run is on SQLite")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip that hides something in CI into a failure."""
    report = yield
    is_skip = report.skipped and not hasattr(report, "wasxfail")
    hidden = [name for name in REQUIRED_IN_CI if item.get_closest_marker(name)]
    if is_skip and hidden and is_ci():
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{', '.join(hidden)} test skipped with CI=true: {reason}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole module that skips itself hides its markers too: in CI that is a failure."""
    report = yield
    if report.outcome == "skipped" and is_ci():
        report.outcome = "failed"
        report.longrepr = f"module skipped with CI=true: {report.longrepr}"
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count, in the process that prints the summary."""
    session = _controller_session
    if session is None:
        return
    for marker in (*REQUIRED_IN_CI, "both_engines"):
        if marker in report.keywords:
            session.ran[marker] += report.when == "call" and not report.skipped
            session.skipped[marker] += report.skipped
    for key, value in report.user_properties:
        if key == RAN_ON:
            name, _, version = str(value).partition("=")
            session.ran_on.setdefault(name, set()).add(version)


# A log report carries no config; this is the one place that remembers whose session it is.
_controller_session: Session | None = None


def pytest_configure(config: pytest.Config) -> None:
    global _controller_session  # noqa: PLW0603 - see above
    if "PYTEST_XDIST_WORKER" not in os.environ:
        _controller_session = config.stash.get(SESSION, None)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """One line that says what ran on what."""
    session = config.stash.get(SESSION, None)
    if session is not None and session.services:
        terminalreporter.ensure_newline()
        terminalreporter.section("ran on", sep="-")
        terminalreporter.write_line(summary_of(session))


def summary_of(session: Session) -> str:
    """Services with their versions, then the tests that ran by marker."""
    engine = "SQLite" if os.environ.get("FLEET_TEST_ENGINE") == "sqlite" else None
    if engine is None and session.services[0].url is None:
        engine = "SQLite, for want of PostgreSQL"
    parts = [f"database of this run: {engine}"] if engine else []
    for service, marker in zip(session.services, ("postgres", "redis"), strict=True):
        parts.append(f"{service.describe()}: {_counts(session, marker)}")
    for marker, label in LABELS.items():
        version = " and ".join(sorted(session.ran_on.get(label, ())))
        parts.append(f"{label}{f' {version}' if version else ''}: {_counts(session, marker)}")
    return " · ".join(parts)


def _counts(session: Session, marker: str) -> str:
    ran, skipped = session.ran[marker], session.skipped[marker]
    return f"ran {ran} test{'' if ran == 1 else 's'}" + (f", skipped {skipped}" if skipped else "")
