"""Fixtures every test may ask for: Redis, a database of its own, a browser page."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from django.db import connections
from hypothesis import HealthCheck, settings
from playwright.sync_api import Browser, Page, sync_playwright

from tests import append_only, chromium, claims
from tests.plugin import RAN_ON

# No deadline: a busy two-core machine makes any single example slow. CI repeats the same examples.
settings.register_profile("local", deadline=None)
settings.register_profile(
    "ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
append_only.let_flush_pass()
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture
def ran_on(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Tell the summary what a test ran on: ``ran_on("real agent", "0.19.0")``."""

    def note(name: str, version: str) -> None:
        request.node.user_properties.append((RAN_ON, f"{name}={version}"))

    return note


@pytest.fixture
def redis_url() -> str:
    """An empty Redis database that no other process uses. The test is marked ``redis``."""
    url = os.environ.get("FLEET_TEST_REDIS_URL")
    if url is None:
        pytest.skip("no Redis")
    claims.empty_redis_database(url)
    return url


@pytest.fixture
def fresh_database_url() -> Iterator[str]:
    """An empty PostgreSQL database, dropped afterwards. The test is marked ``postgres``.

    For tests that start a whole console as a process of its own.
    """
    server = os.environ.get("FLEET_TEST_DATABASE_URL")
    if server is None:
        pytest.skip("no PostgreSQL")
    name = claims.new_database_name("own")
    url = claims.create_database(server, name)
    yield url
    claims.drop_database(server, name)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One headless Chromium a process. Ask for ``page`` instead, unless a test needs contexts."""
    # Playwright's synchronous API runs an event loop. Beside one Django keeps other connections
    # than without: those of before are lost from sight here and found again by a process that is
    # forked, which would talk over this one's socket.
    connections.close_all()
    # And beside one it refuses the ORM.
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    try:
        with sync_playwright() as playwright:
            program = chromium.find_chromium(os.environ, playwright.chromium.executable_path)
            if program is None:
                pytest.skip("no Chromium: set FLEET_TEST_CHROMIUM or install chromium")
            started = chromium.launch(playwright, program)
            yield started
            started.close()
    finally:
        if before is None:
            del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]
        else:
            os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = before


@pytest.fixture
def page(browser: Browser, ran_on: Callable[[str, str], None]) -> Iterator[Page]:
    """A page in a context of its own. The test is marked ``browser``."""
    ran_on("browser", f"Chromium {browser.version.split('.')[0]}")
    with browser.new_context() as context:
        yield context.new_page()
