"""The database of the release before, with rows, put through ``upgrade`` while others insert."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.ops.boxes import HEAD, Box
from tests.ops.forks import ROOT

pytestmark = [pytest.mark.both_engines, pytest.mark.slow, pytest.mark.timeout(600)]

OLD = """
from django.core.management import call_command
from django.db.migrations.loader import MigrationLoader
from django.db import connection
for app in ("contenttypes", "auth", "admin", "sessions", "axes"):
    call_command("migrate", app, verbosity=0)
call_command("migrate", "fleet", "0002", verbosity=0)
call_command("migrate", "telemetry", "0010", verbosity=0)
call_command("telemetry_partitions", "apply", verbosity=0)
"""
OLD_MODELS = """
import uuid
from datetime import timedelta
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from fleet.lib.clock import now, datetime_to_ns
old = MigrationLoader(connection).project_state(
    [("telemetry", "0010_drop_hourly"), ("fleet", "0002_erasure")]).apps
Batch, Run = old.get_model("telemetry", "IngestBatch"), old.get_model("telemetry", "Run")
def insert(number):
    moment = now()
    batch = Batch.objects.create(install_id=uuid.UUID(int=7), batch_id=uuid.uuid4(),
                                 received_at=moment)
    Run.objects.create(install_id=uuid.UUID(int=7), batch_id=batch.batch_id, seq=1,
                       received_at=moment, start_at=moment, start_ns=datetime_to_ns(moment),
                       run_id=f"old-{number}")
"""
FILL = (
    OLD_MODELS
    + """
for number in range(200):
    insert(number)
from fleet.audit import record_change
fleet = old.get_model("fleet", "Fleet").objects.create()
record_change(actor="old", action="create", target=fleet, pre=None, post={"x": 1})
"""
)
INSERTER = (
    OLD_MODELS
    + """
import threading, time
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
number, slowest = 1000, 0.0
while not stop.is_set():
    began = time.monotonic()
    insert(number); number += 1
    slowest = max(slowest, time.monotonic() - began)
    if number == 1005: print("going", flush=True)
    stop.wait(0.02)
print("INSERTED", number - 1000, "SLOWEST", slowest)
"""
)


@pytest.fixture
def old_box(new_box: Callable[[str], Box]) -> Box:
    box = new_box("old")
    box.script(OLD + FILL)
    return box


def child(box: Box, text: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + "import django\ndjango.setup()\n" + text],
        env=box.environ,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


COUNT = """
from telemetry.models import IngestBatch, Run
from fleet.audit import verify_chain
assert verify_chain() is None
assert IngestBatch.objects.filter(is_fed=False).count() == IngestBatch.objects.count()
print(IngestBatch.objects.count(), Run.objects.count())
"""


def test_every_row_is_kept_while_the_release_before_goes_on_inserting(old_box: Box) -> None:
    refused = old_box.manage("upgrade", "--yes", code=2)
    assert "This console knows of none" in refused.stdout
    # With the new release's code on the old release's tables.
    path = old_box.manage("backup", str(old_box.home / "b")).stdout.strip()
    check = old_box.manage("upgrade", "--check").stdout
    assert "telemetry.0012_feed: safe while the console works" in check
    inserter = child(old_box, INSERTER)
    # A long report: without patience all inserts would queue up behind the one that waits for it.
    reader = psycopg.connect(old_box.url) if old_box.is_postgres else None
    try:
        assert inserter.stdout is not None
        assert inserter.stdout.readline() == "going\n"
        if reader is not None:
            reader.execute("SELECT count(*) FROM telemetry_ingestbatch")
        done = upgrade_beside(old_box, reader)
        said = inserter.communicate(input="", timeout=300)[0]
    finally:
        if reader is not None:
            reader.close()
        inserter.kill()
        with inserter:
            pass
    inserted = re.search(r"INSERTED (\d+) SLOWEST ([\d.]+)", said)
    assert inserted is not None, said
    assert inserter.returncode == 0
    count = 200 + int(inserted[1])
    assert old_box.script(COUNT).stdout.split() == [str(count), str(count)]
    assert "rows of" in done
    if reader is not None:
        busy = re.search(r"busy (\d+) times", done)
        assert busy is not None
        assert int(busy[1]) >= 1
        # Behind a reader that holds on until it is let go; for ever, if upgrade waited for it.
        assert float(inserted[2]) < 60
    # And the backup of before goes into the new release: it is migrated on the way.
    name = old_box.database_name
    old_box.manage("restore", path, "--replace", "--confirm", name)
    assert old_box.script(COUNT).stdout.split() == ["200", "200"]
    assert "None is pending" in old_box.manage("upgrade", "--check", "--no-backup").stdout


def upgrade_beside(box: Box, reader: psycopg.Connection[Any] | None) -> str:
    """Run it; the reader lets go when a table was found busy."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), "upgrade", "--yes"],
        env=box.environ,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "busy; try" in line and reader is not None:
                reader.close()
    assert process.returncode == 0, lines
    return "".join(lines)
