"""The doctor's own process, when it cannot even begin."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.ops.boxes import Box
from tests.ops.forks import ROOT


def test_it_works_while_the_database_is_down_and_shows_no_password(tmp_path: Path) -> None:
    box = Box(tmp_path, "postgres://fleet:s3cret-pass@127.0.0.1:1/fleet")
    done = box.manage("doctor", code=2)
    assert "ERROR database: OperationalError" in done.stdout
    assert "ok    files" in done.stdout
    assert "s3cret-pass" not in done.stdout + done.stderr
    refused = box.manage("backup", str(tmp_path / "b"), code=1)
    assert "s3cret-pass" not in refused.stderr
    assert list((tmp_path / "b").iterdir()) == []


def test_a_bad_setting_is_a_finding(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "doctor"],
        env={**Box(tmp_path, "").environ, "FLEET_POLL_SECONDS": "often"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.startswith("ERROR settings: FLEET_POLL_SECONDS")
    assert done.returncode == 2
