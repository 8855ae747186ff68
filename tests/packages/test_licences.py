"""docs/licences.md lists every package that comes with ours, and none under terms we cannot take.

``WRITE_DOCS=1`` writes the list anew.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packages.bare import ROOT, Bare

pytestmark = [pytest.mark.packages, pytest.mark.timeout(900)]
PAGE = ROOT / "docs/licences.md"
OURS = {"hermes-fleet", "hermes-fleet-agent"}
ALLOWED = {
    *("Apache-2.0", "Apache Software License", "BSD License", "BSD-2-Clause", "BSD-3-Clause"),
    *("3-Clause BSD License", "BSD 3-Clause", "MIT", "MIT License", "MIT-0", "PSF-2.0", "ISC"),
    # Used as they are, through their interfaces, in a wheel of their own that can be exchanged.
    *("LGPL-3.0-only", "Mozilla Public License 2.0 (MPL 2.0)", "MPL-2.0"),
}
EXPLAINED = {
    "qrcode": "BSD License; Other/Proprietary License",
}
"""Packages whose own words are no licence's name; each was read, and the page says what it is."""
HEAD = """\
# Licences of what is installed

Hermes Fleet is under the MIT licence. These are the packages that `pip install` brings with its
two distributions, and the terms that each states for itself. The list is made from bare
environments and held by a test: a package that is not in it, or one under other terms, fails the
build. Versions are not named here; `pip list` on your machine has them.

psycopg is under the LGPL and fido2 partly under the MPL: both are used unchanged, in packages of
their own, which you may exchange. qrcode is under a BSD licence; its "other" is the notice that
"QR Code" is a trademark of Denso Wave.
"""


def terms_in(bare: Bare) -> dict[str, str]:
    """What each installed package says of itself, by its name in small letters."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("pip-licenses"),
            *("--python", bare.python, "--from", "mixed", "--format", "json"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    rows = {row["Name"].lower(): row["License"] for row in json.loads(done.stdout)}
    return {name: terms for name, terms in sorted(rows.items()) if name not in OURS}


def table(title: str, terms: dict[str, str]) -> str:
    rows = "\n".join(f"| {name} | {said} |" for name, said in terms.items())
    return f"## {title}\n\n| package | licence |\n|---|---|\n{rows}\n"


def listed(title: str) -> dict[str, str]:
    part = PAGE.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| ([\w.-]+) \| (.+) \|$", part, re.MULTILINE)[1:])


def is_allowed(name: str, terms: str) -> bool:
    return EXPLAINED.get(name) == terms or all(
        any(word in ALLOWED for word in part.split(" OR ")) for part in re.split(r"; | AND ", terms)
    )


def test_terms_are_taken_apart() -> None:
    assert is_allowed("x", "GPL-3.0-only OR MIT")
    assert not is_allowed("x", "GPL-3.0-only AND MIT")
    assert not is_allowed("x", "MIT; Other/Proprietary License")
    assert not is_allowed("x", "UNKNOWN")


def check_terms(title: str, installed: dict[str, str]) -> None:
    assert {name: terms for name, terms in installed.items() if not is_allowed(name, terms)} == {}
    assert {
        name: terms for name, terms in installed.items() if listed(title).get(name) != terms
    } == {}
    # Both Pythons are tried: neither has a package that only the other needs.
    assert set(listed(title)) <= set(installed)


def test_every_package_of_the_console_is_listed_under_terms_that_we_can_take(
    console: Bare, agent_alone: Bare
) -> None:
    installed = terms_in(console)
    if os.environ.get("WRITE_DOCS") == "1":
        tables = [table("Console", installed), table("Agent", terms_in(agent_alone))]
        PAGE.write_text("\n".join([HEAD, *tables]))
    check_terms("Console", installed)


def test_every_package_of_the_agent_is_listed_under_terms_that_we_can_take(
    agent_alone: Bare,
) -> None:
    check_terms("Agent", terms_in(agent_alone))
