"""What the tests run on: services, claims, the browser and the plugin that reports on them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from django.db import connection

from tests import chromium, claims, plugin, services

ROOT = Path(__file__).resolve().parent.parent


# ---------------------------------------------------------------------------------- services
def test_a_given_database_that_does_not_answer_is_an_error() -> None:
    closed = f"postgresql://nobody@127.0.0.1:{services.free_port()}/x"
    with contextlib.ExitStack() as stack, pytest.raises(services.ServiceError):
        services.find_postgres({"FLEET_TEST_DATABASE_URL": closed}, stack)


def test_a_given_redis_that_does_not_answer_is_an_error() -> None:
    closed = f"redis://127.0.0.1:{services.free_port()}"
    with contextlib.ExitStack() as stack, pytest.raises(services.ServiceError):
        services.find_redis({"FLEET_TEST_REDIS_URL": closed}, stack)


@pytest.mark.slow
@pytest.mark.postgres
def test_a_private_postgres_starts_answers_and_is_gone_afterwards() -> None:
    with contextlib.ExitStack() as stack:
        service = services.find_postgres({"FLEET_TEST_PRIVATE": "1"}, stack)
        assert service.url is not None, service.origin
        with psycopg.connect(service.url) as database:
            assert database.execute("SELECT 1").fetchone() == (1,)
        assert services.postgres_version(service.url) == service.version
    assert services.postgres_version(service.url) is None


@pytest.fixture(scope="module")
def own_redis() -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        service = services.start_redis(stack)
        if service.url is None:
            pytest.skip(service.origin)
        yield service.url


def connect(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, decode_responses=True)


@pytest.mark.redis
def test_two_claims_get_two_databases_and_never_the_first(own_redis: str) -> None:
    one = claims.claim_redis_database(own_redis)
    two = claims.claim_redis_database(own_redis)
    assert one is not None
    assert two is not None
    assert len({one, two, f"{own_redis}/0"}) == 3


@pytest.mark.redis
def test_a_database_with_foreign_keys_is_neither_claimed_nor_changed(own_redis: str) -> None:
    with connect(f"{own_redis}/7") as foreign:
        foreign.set("theirs", "1")
        claimed = claims.claim_redis_database(f"{own_redis}/7")
        assert claimed != f"{own_redis}/7"
        assert foreign.keys() == ["theirs"]


@pytest.mark.redis
def test_the_database_of_a_dead_process_is_taken_over_empty(own_redis: str) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    with connect(f"{own_redis}/9") as left:
        host = claims._own_claim().rpartition(":")[0]
        left.mset({claims.CLAIM_KEY: f"{host}:{done.pid}", "left": "1"})
        assert claims.claim_redis_database(f"{own_redis}/9") == f"{own_redis}/9"
        assert left.keys() == [claims.CLAIM_KEY]


@pytest.mark.redis
def test_a_released_database_is_empty(own_redis: str) -> None:
    url = claims.claim_redis_database(own_redis)
    assert url is not None
    with connect(url) as claimed:
        claimed.set("a", "1")
        claims.release_redis_database(url)
        assert claimed.dbsize() == 0


def test_only_old_databases_of_killed_runs_are_stale() -> None:
    now_s = time.time()
    old = f"test_fleet_{int(now_s - 86_400):x}_12_suite"
    names = ["postgres", "test_fleet_reused", claims.new_database_name("suite"), old]
    assert claims.stale_databases(names, now_s) == [old]


@pytest.mark.postgres
def test_a_database_of_ones_own_is_empty_and_reachable(fresh_database_url: str) -> None:
    with psycopg.connect(fresh_database_url) as database:
        tables = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        assert database.execute(tables).fetchone() == (0,)


@pytest.mark.both_engines
@pytest.mark.django_db
def test_the_suite_runs_on_the_engine_it_was_asked_for() -> None:
    is_sqlite = os.environ.get("FLEET_TEST_ENGINE") == "sqlite"
    is_postgres_there = "FLEET_TEST_DATABASE_URL" in os.environ
    wanted = "postgresql" if is_postgres_there and not is_sqlite else "sqlite"
    assert connection.vendor == wanted


# ---------------------------------------------------------------------------------- chromium
def test_a_chromium_that_is_named_and_missing_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        chromium.find_chromium({"FLEET_TEST_CHROMIUM": "/nowhere"}, own="")


def test_a_chromium_on_the_path_comes_before_playwrights_own(tmp_path: Path) -> None:
    for name in ("chromium", "own"):
        (tmp_path / name).touch(mode=0o755)
    own = str(tmp_path / "own")
    assert chromium.find_chromium({"PATH": str(tmp_path)}, own) == str(tmp_path / "chromium")
    assert chromium.find_chromium({"PATH": "/nowhere"}, own) == own
    assert chromium.find_chromium({"PATH": "/nowhere"}, "/nowhere") is None


# ------------------------------------------------------------------------------------ plugin
def run_pytest(tmp_path: Path, test: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run one test file under the plugin alone, outside this project's configuration."""
    (tmp_path / "test_it.py").write_text(textwrap.dedent(test))
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  redis\n  browser\n")
    outer = ("PYTEST_XDIST_WORKER", "COVERAGE_FILE", "COVERAGE_PROCESS_CONFIG", "CI")
    clean = {name: value for name, value in os.environ.items() if name not in outer}
    options = ["-p", "tests.plugin", "-p", "no:django", "-p", "no:cacheprovider", "-q"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        env={**clean, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


SKIPPED = """
    import pytest

    @pytest.mark.browser
    def test_that_needs_a_browser():
        pytest.skip("none here")
"""


def test_a_skipped_browser_test_is_a_failure_in_ci(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, SKIPPED, CI="true")
    assert done.returncode == 1
    assert "browser test skipped with CI=true" in done.stdout


def test_a_skipped_browser_test_is_only_counted_elsewhere(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, SKIPPED)
    assert done.returncode == 0
    assert "browser: ran 0 tests, skipped 1" in done.stdout


def test_a_module_that_skips_itself_is_a_failure_in_ci(tmp_path: Path) -> None:
    module = "import pytest\npytest.skip('no package', allow_module_level=True)\n"
    done = run_pytest(tmp_path, module, CI="true")
    assert done.returncode != 0
    assert "module skipped with CI=true" in done.stdout


def test_the_summary_says_what_ran_on_what_and_shows_no_password() -> None:
    postgres = services.Service("PostgreSQL", "postgresql://u:pw@127.0.0.1:5432/x", "15.2", "found")
    absent = services.Service("Redis", None, "", "none answers")
    session = plugin.Session(services=[postgres, absent], ran_on={"real agent": {"0.19.0"}})
    session.ran.update({"postgres": 3, "real_agent": 7})
    session.skipped.update({"redis": 2})
    text = plugin.summary_of(session)
    assert "PostgreSQL 15.2 at 127.0.0.1:5432 (found): ran 3 tests" in text
    assert "Redis: none (none answers): ran 0 tests, skipped 2" in text
    assert "real agent 0.19.0: ran 7 tests" in text
    assert "pw" not in text


def test_a_machine_without_pg_dump_is_given_the_wheels(tmp_path: Path) -> None:
    environ = {"PATH": str(tmp_path)}
    services.offer_postgres_tools(environ)
    assert environ["PATH"].startswith(f"{tmp_path}:")
    assert shutil.which("pg_dump", path=environ["PATH"])
    assert shutil.which("pg_restore", path=environ["PATH"])


def test_a_machine_with_pg_dump_keeps_its_own(tmp_path: Path) -> None:
    own = tmp_path / "pg_dump"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    environ = {"PATH": str(tmp_path)}
    services.offer_postgres_tools(environ)
    assert environ == {"PATH": str(tmp_path)}
