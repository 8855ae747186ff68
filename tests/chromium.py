"""Which Chromium the browser tests drive, and how it is started."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from playwright.sync_api import Browser, Playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium(environ: Mapping[str, str], own: str) -> str | None:
    """The path of a Chromium: FLEET_TEST_CHROMIUM, else one on the PATH, else playwright's own.

    Errors: FileNotFoundError if FLEET_TEST_CHROMIUM names no file.
    """
    given = environ.get("FLEET_TEST_CHROMIUM")
    if given:
        if not Path(given).is_file():
            raise FileNotFoundError(f"FLEET_TEST_CHROMIUM names no file: {given}")
        return given
    for name in PROGRAMS:
        found = shutil.which(name, path=environ.get("PATH"))
        if found:
            return found
    return own if Path(own).is_file() else None


def launch(playwright: Playwright, program: str) -> Browser:
    """A headless browser that works in a container: little shared memory, no user namespaces."""
    return playwright.chromium.launch(
        executable_path=program,
        chromium_sandbox=False,
        args=["--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"],
    )
