"""Backups: what is in them, that they are whole, and that a restore is an equal console."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ops.boxes import Box
from tests.settings import ENGINE

pytestmark = [pytest.mark.both_engines, pytest.mark.slow, pytest.mark.timeout(600)]

VERIFY_AS_THE_AGENT = """
from django.test import Client
from fleet.models import Install, InstallPolicy
from fleet.lib.clock import now_ns, now
from fleet.policy.signing import current_root, seal_bundle
from fleet.policy.serve import assignment_for, bundle_for
from agent_client.policy.verify import verify_update, Here, Verified
from agent_client.policy.state import Trust
from agent_client.policy.allow import AllowList
from fleet.policy.signing import fleet_id
install = Install.objects.get()
root = current_root()
# What the agent saw after the backup: nine versions more than the backup knows of.
seen = Trust(fleet_id=fleet_id(), install_id=str(install.pk), root_version=root.version,
             assignment_version=SEEN, bundle_sha256="f" * 64, last_issued_ns=now_ns())
served = assignment_for(install, moment=now())
allow = AllowList()
here = Here(now_ns=now_ns(), install_id=str(install.pk), fleet_id=fleet_id(),
            fingerprint=root.fingerprint, client_version="0.1.0", allow=allow)
bundle = seal_bundle(bundle_for(install, served.bundle_sha256).payload)
verdict = verify_update(seen, root.envelope, served.envelope, bundle, here)
assert isinstance(verdict, Verified), verdict
print("VERSION", served.version)
from agent_client.contract.wire import PATH_POLICY_ASSIGNMENT, PATH_POLICY_BUNDLE
agent = Client(headers={"Authorization": "Bearer CREDENTIAL", "Host": "127.0.0.1"})
for path in (PATH_POLICY_ASSIGNMENT, PATH_POLICY_BUNDLE + served.bundle_sha256):
    answer = agent.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
from tests.telemetry import builders as make
from telemetry.models import Run
before = Run.objects.count()
make.push(make.run(9, run_id="after"), install_id=install.pk)
assert Run.objects.count() == before + 1
from fleet.audit import verify_chain
assert verify_chain() is None
"""


BEAT = """
from fleet.celery import app
app.start(["beat", "--schedule", f"{os.environ['FLEET_HOME']}/schedule"])
"""


def backup_of(box: Box, *words: str) -> Path:
    return Path(box.manage("backup", str(box.home / "b"), *words).stdout.strip())


def as_agent(original: Box, seen: int) -> str:
    """With the credential that the agent has had since before the backup."""
    credential = (original.home / "credential").read_text()
    return VERIFY_AS_THE_AGENT.replace("SEEN", str(seen)).replace("CREDENTIAL", credential)


def test_a_restored_console_equals_the_original_and_agents_obey_it(
    filled: Box, new_box: Callable[[str], Box]
) -> None:
    path = backup_of(filled)
    before = filled.digests()
    other = new_box("other")
    done = other.manage("restore", str(path))
    # What a restore itself changes: the floor, the renewal, its row in the trail.
    changed = {"fleet_fleet", "fleet_installpolicy", "fleet_changerecord"}
    after = other.digests()
    assert {name for name in before if before[name] != after[name]} <= changed | {"django_session"}
    assert before.keys() == after.keys()
    assert "1 assignments will be issued anew" in done.stderr
    for name in ("keys/root.key", "keys/policy.key", "secrets/token_pepper"):
        assert (other.home / name).read_bytes() == (filled.home / name).read_bytes()
        assert (other.home / name).stat().st_mode & 0o077 == 0
    said = other.script(as_agent(filled, seen=12)).stdout
    version = int(re.search(r"VERSION (\d+)", said)[1])  # type: ignore[index]  # it is printed
    assert version > 1_700_000_000
    refused = other.manage("restore", str(path), code=1)
    assert "not empty" in refused.stderr


def test_a_backup_is_private_whole_and_says_what_is_in_it(filled: Box) -> None:
    sealed_with = filled.home / "passphrase"
    sealed_with.write_text("correct horse battery\n")
    plain = backup_of(filled)
    assert plain.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(plain) as opened:
        manifest = json.loads(opened.read("manifest.json"))
        secrets = json.loads(opened.read("secrets.json"))
    assert manifest["engine"] == ("postgresql" if ENGINE == "postgres" else "sqlite")
    assert manifest["tables"]["telemetry_run"]["row_count"] == 2
    assert "telemetry.0001_events" in manifest["migrations"]
    assert secrets["FLEET_ROOT_KEY"] == (filled.home / "keys/root.key").read_text().strip()
    assert "whole" in filled.manage("backup", "--verify", str(plain)).stdout
    damaged = bytearray(plain.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    plain.write_bytes(damaged)
    assert "damaged" in filled.manage("backup", "--verify", str(plain), code=1).stderr
    plain.write_bytes(damaged[: len(damaged) // 2])
    assert "no backup" in filled.manage("backup", "--verify", str(plain), code=1).stderr
    sealed = backup_of(filled, "--passphrase-file", str(sealed_with), "--keep", "1")
    assert [each.name for each in (filled.home / "b").iterdir()] == [sealed.name]
    assert b"FLEET_ROOT_KEY" not in sealed.read_bytes()
    assert "sealed" in filled.manage("backup", "--verify", str(sealed), code=1).stderr
    assert (
        "whole"
        in filled.manage(
            "backup", "--verify", str(sealed), "--passphrase-file", str(sealed_with)
        ).stdout
    )


@pytest.mark.parametrize("point", ["write_backup", "sync_folder", "thin_out"])
def test_a_killed_backup_leaves_no_half_archive(filled: Box, point: str) -> None:
    good = backup_of(filled)
    module = "files" if point == "sync_folder" else "backup"
    kill = f"""
import io
from fleet.ops import {module} as module
real = module.{point}
def killed(*args, **more):
    if {point!r} == "write_backup":
        args[0].write(b"half of it"); args[0].flush()
    os.kill(os.getpid(), signal.SIGKILL)
module.{point} = killed
from django.core.management import call_command
call_command("backup", {str(good.parent)!r}, keep=1)
"""
    filled.script(kill, code=-9)
    for path in good.parent.glob("fleet-backup-*"):
        filled.manage("backup", "--verify", str(path))
    newest = backup_of(filled, "--keep", "1")
    assert list(good.parent.iterdir()) == [newest]


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_killed_restore_leaves_the_old_or_the_new(filled: Box, point: str) -> None:
    path = backup_of(filled)
    filled.script("from tests.builders import make_group\nmake_group('since the backup')")
    (filled.home / "secrets/token_pepper").write_text("x" * 96)
    name = filled.database_name
    kill = f"""
from fleet.ops import staging
for kind in (staging.SqliteStaging, staging.PostgresStaging):
    def swap(self, real=kind.swap):
        if {point!r} == "after":
            real(self)
        os.kill(os.getpid(), signal.SIGKILL)
    kind.swap = swap
from django.core.management import call_command
call_command("restore", {str(path)!r}, replace=True, confirm={name!r})
"""
    filled.script(kill, code=-9)
    doctor = filled.manage("doctor", code=2).stdout
    assert "ERROR fleet.E006: A restore was cut short" in doctor
    if point == "after":  # the database is of the backup, the keys are not: nothing may serve it
        for refused in (
            filled.manage("migrate", code=1),
            filled.manage("up", code=1),
            filled.manage("backup", code=1),
            filled.script("import fleet.wsgi", code=1),
            filled.script("from fleet.celery import app\napp.worker_main(['worker'])", code=1),
            filled.script(BEAT, code=1),
        ):
            assert "restore --finish" in refused.stderr, refused
    said = filled.manage("restore", "--finish").stderr
    groups = "from fleet.models import InstallGroup\nprint(InstallGroup.objects.count())"
    left = filled.script(groups).stdout.strip()
    pepper = (filled.home / "secrets/token_pepper").read_text()
    if point == "before":
        assert "nothing had changed" in said
        assert (left, pepper) == ("1", "x" * 96)
    else:
        assert "now it is complete" in said
        assert left == "0"
        assert pepper != "x" * 96
    assert not list(filled.home.glob("*restore*"))
    assert "No restore" in filled.manage("restore", "--finish").stderr


def test_replacing_says_what_is_lost_and_keeps_the_old_one(filled: Box) -> None:
    path = backup_of(filled)
    filled.script(
        "from tests.builders import make_group, make_pin, publish\n"
        "make_pin(group=make_group('late'))\npublish('since')"
    )
    assert "not empty" in filled.manage("restore", str(path), code=1).stderr
    wrong = filled.manage("restore", str(path), "--replace", stdin="yes\n", code=1)
    assert "Nothing was changed" in wrong.stderr
    name = filled.database_name
    done = filled.manage("restore", str(path), "--replace", stdin=f"{name}\n")
    assert re.search(r"lost: \S+ \S+ operator publish", done.stderr)
    assert "fleet_policyrevision: 1 rows came after" in done.stderr
    kept = re.search(r"is kept: (\S+)\. ", done.stderr)
    assert kept is not None
    if not filled.is_postgres:
        assert Path(kept[1]).exists()
    lost = json.loads(next(filled.home.glob("lost-changes-*.json")).read_text())
    assert [row["action"] for row in lost][-1] == "publish"
    # Three versions were issued before; the agent saw thirty.
    filled.script(as_agent(filled, seen=30))


def test_a_newer_backup_and_another_engine_are_refused(filled: Box) -> None:
    path = backup_of(filled)
    for change, word in (
        ({"migrations": ["telemetry.9999_future"]}, "newer version"),
        ({"format": 99}, "newer version"),
        ({"engine": "sqlite" if ENGINE == "postgres" else "postgresql"}, "DATABASE_URL"),
    ):
        odd = path.with_name("odd.zip")
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(odd, "w") as new:
            for name in old.namelist():
                data = old.read(name)
                if name == "manifest.json":
                    data = json.dumps(json.loads(data) | change).encode()
                new.writestr(name, data)
        done = filled.manage("restore", str(odd), "--replace", "--confirm=x", code=1)
        assert word in done.stderr, done.stderr


def test_a_backup_taken_during_ingest_is_consistent(filled: Box) -> None:
    """The ledger and the rows of one moment agree, though 10,000 rows come in meanwhile."""
    script = f"""
import threading
from django.core.management import call_command
from django.db import connection
from telemetry.models import Run
from tests.telemetry import builders as make
stop = threading.Event(); begun = threading.Event(); pushed = [0]
def ingest():
    for batch in range(100):
        make.push(*(make.run(seq, run_id=f"r{{batch}}-{{seq}}") for seq in range(1, 101)))
        pushed[0] += 1; begun.set()
        if stop.is_set() and batch > 5: break
    connection.close()
thread = threading.Thread(target=ingest); thread.start(); begun.wait(60)
call_command("backup", {str(filled.home / "b")!r})
during = pushed[0]; stop.set(); thread.join()
print("BATCHES", during)
"""
    filled.script(script)
    path = next((filled.home / "b").glob("*.zip"))
    with zipfile.ZipFile(path) as opened:
        tables = json.loads(opened.read("manifest.json"))["tables"]
    batches = tables["telemetry_ingestbatch"]["row_count"]
    assert tables["telemetry_run"]["row_count"] == 2 + 100 * (batches - 2)
    assert batches > 2


SENDER_NAMES = ("ExportDestination", "ExportSchedule", "RelayDestination", "Stream")
SENDERS = """
from datetime import timedelta
from fleet.lib.clock import now
from telemetry.models import (ExportDestination, ExportJob, ExportSchedule, RelayDestination,
    Stream)
from tests.telemetry import export_jobs as exports
RelayDestination.objects.create(name="Grafana", endpoint="https://otlp.example", since_at=now())
Stream.objects.create(name="SIEM", kind="syslog", endpoint="tls://siem.example:6514")
place = ExportDestination.objects.create(name="nas", kind="folder", folder="/srv/exports")
ExportSchedule.objects.create(name="weekly", datasets=["runs"], fmt="csv", destination=place,
    owner="root", keep_days=7, next_at=now() - timedelta(hours=1))
from django.conf import settings
settings.FLEET_EXPORT_FOLDERS = ["/srv"]
exports.order("runs", destination=place)
exports.order("runs")
"""
SENDING = """
from telemetry.models import (ExportDestination, ExportJob, ExportSchedule, RelayDestination,
    Stream)
for model in (ExportDestination, ExportSchedule, RelayDestination, Stream):
    print(model.__name__, model.objects.count(), model.objects.filter(is_enabled=True).count())
print("orders", *ExportJob.objects.order_by("id").values_list("state", flat=True))
"""


def test_a_rehearsal_sends_nothing_of_its_own_and_a_restore_goes_on(
    filled: Box, new_box: Callable[[str], Box]
) -> None:
    filled.script(SENDERS)
    path = backup_of(filled)
    copy, again = new_box("copy"), new_box("again")
    said = copy.manage("restore", str(path), "--rehearsal").stderr
    assert "4 collectors, streams, schedules and destinations are switched off, 1 exports" in said
    assert copy.script(SENDING).stdout.split("\n")[:5] == [
        *(f"{name} 1 0" for name in SENDER_NAMES),
        "orders cancelled waiting",
    ]
    again.manage("restore", str(path))
    assert again.script(SENDING).stdout.split("\n")[:5] == [
        *(f"{name} 1 1" for name in SENDER_NAMES),
        "orders waiting waiting",
    ]
