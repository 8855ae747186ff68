"""Where exports go: folders that are listed and stay inside, a real S3 server, keys by name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from fleet import env
from telemetry.exports import parts
from telemetry.exports.destinations import folder_name, open_store, test_destination
from telemetry.exports.faults import ExportFault
from telemetry.exports.orders import cancel_job
from telemetry.exports.run import run_job
from telemetry.exports.s3 import endpoint_fault
from telemetry.models import ExportDestination, ExportJob
from tests import builders
from tests.rclone import BUCKET, KEY_ID, SECRET, Rclone, serve_s3
from tests.telemetry import builders as make
from tests.telemetry import export_jobs as exports
from tests.telemetry.export_jobs import Settings
from tests.telemetry.test_exports_run import due, stop_at

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
State = ExportJob.State


@pytest.fixture(autouse=True)
def home(tmp_path: Path, settings: Settings) -> Path:
    settings.FLEET_HOME = tmp_path / "home"
    settings.FLEET_EXPORT_FOLDERS = [str(tmp_path / "allowed")]
    (tmp_path / "allowed" / "nas").mkdir(parents=True)
    builders.make_install(install_id=make.INSTALL)
    return tmp_path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rclone]:
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, server: Rclone, settings: Settings) -> Rclone:
    monkeypatch.setenv("FLEET_S3_KEY", KEY_ID)
    monkeypatch.setenv("FLEET_S3_SECRET", SECRET)
    settings.FLEET_S3_HOSTS = [server.endpoint]
    return server


def folder(path: Path | str) -> ExportDestination:
    return ExportDestination(name="nas", kind="folder", folder=str(path))


def bucket(server: Rclone, **values: Any) -> ExportDestination:  # noqa: ANN401 -- fields
    defaults = {
        "name": "store",
        "kind": "s3",
        "bucket": BUCKET,
        "prefix": "fleet/exports",
        "endpoint": server.endpoint,
        "key_id_env": "FLEET_S3_KEY",
        "secret_env": "FLEET_S3_SECRET",
    }
    return ExportDestination(**(defaults | values))


def kept(destination: ExportDestination) -> ExportDestination:
    destination.save()
    return destination


# ---------------------------------------------------------------------------------------- folders


def test_a_folder_below_a_listed_one_is_written_read_back_and_left_empty(home: Path) -> None:
    assert test_destination(folder(home / "allowed" / "nas")) == ""
    assert exports.names_in(home / "allowed" / "nas") == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("elsewhere", "FLEET_EXPORT_FOLDERS"),
        ("allowed/../elsewhere", "FLEET_EXPORT_FOLDERS"),
        ("allowed/link", "FLEET_EXPORT_FOLDERS"),
        ("allowed/away", "Is it mounted?"),
        ("allowed/file", "is not there"),
        ("allowed/loop", "symbolic link"),
    ],
)
def test_a_folder_that_leads_out_or_is_away_is_refused_in_words(
    home: Path, name: str, words: str
) -> None:
    (home / "elsewhere").mkdir()
    (home / "allowed" / "link").symlink_to(home / "elsewhere")
    (home / "allowed" / "loop").symlink_to(home / "allowed" / "loop")
    (home / "allowed" / "file").write_text("x")
    assert words in test_destination(folder(home / name))
    assert exports.names_in(home / "elsewhere") == []


def test_a_path_that_is_not_absolute_is_refused() -> None:
    assert "absolute" in test_destination(folder("allowed/nas"))


def test_a_jobs_folder_that_is_a_link_is_not_followed(home: Path) -> None:
    (home / "elsewhere").mkdir()
    job = exports.order(destination=kept(folder(home / "allowed" / "nas")))
    (home / "allowed" / "nas" / folder_name(job)).symlink_to(home / "elsewhere")
    assert "symbolic link" in run_job(job.pk).last_error or run_job(job.pk).last_error
    assert exports.names_in(home / "elsewhere") == []


def test_a_folder_that_becomes_a_link_after_it_was_looked_at_is_not_followed(home: Path) -> None:
    """By somebody who may write below the listed folder, while the export runs."""
    (home / "elsewhere").mkdir()
    nas = home / "allowed" / "nas"
    job = exports.order(destination=kept(folder(nas)))
    store = open_store(job.destination, job)
    nas.rename(home / "allowed" / "moved")
    nas.symlink_to(home / "elsewhere")
    for act in (lambda: store.create("a.ndjson"), store.names, lambda: store.delete(["x"])):
        with pytest.raises(ExportFault):
            act()
    assert exports.names_in(home / "elsewhere") == []


def test_a_file_that_is_a_link_is_not_read(home: Path) -> None:
    job = exports.finished(destination=kept(folder(home / "allowed" / "nas")))
    place = home / "allowed" / "nas" / folder_name(job)
    (home / "secret").write_text("secret")
    (name,) = exports.digests(job)
    (place / name).unlink()
    (place / name).symlink_to(home / "secret")
    with pytest.raises(ExportFault):
        open_store(job.destination, job).read(name, 0, 10)


def test_what_a_cancelled_export_wrote_is_removed_and_nothing_else(home: Path) -> None:
    job = exports.order(destination=kept(folder(home / "allowed" / "nas")))
    place = home / "allowed" / "nas" / folder_name(job)
    place.mkdir()
    (place / "notes-of-the-operator.txt").write_text("mine")
    (place / ".tool_calls-00001.ndjson.0123456789ab.part").write_text("left over")
    exports.done(job)
    assert (place / "notes-of-the-operator.txt").read_text() == "mine"
    assert not list(place.glob(".*.part"))


def test_a_folder_that_may_not_be_written_is_told(home: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (home / "allowed" / "nas").chmod(0o500)
    assert "owner and mode" in test_destination(folder(home / "allowed" / "nas"))


# --------------------------------------------------------------------------------------------- S3


def test_a_real_s3_server_is_written_read_back_and_left_empty(keys: Rclone) -> None:
    assert test_destination(bucket(keys)) == ""
    assert list((keys.folder / BUCKET).rglob("fleet-test-*")) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bucket": "nothere"}, "no such bucket"),
        ({"bucket": "No/Such"}, "bucket's name"),
        ({"endpoint": "http://127.0.0.1:1"}, "FLEET_S3_HOSTS"),
        ({"endpoint": "https://169.254.169.254"}, "FLEET_S3_HOSTS"),
        ({"endpoint": "ftp://example.com"}, "not an http"),
        ({"endpoint": "https://a:b@example.com"}, "Only scheme, host and port"),
        ({"key_id_env": "AWS_SECRET_ACCESS_KEY"}, "begin with FLEET_S3_"),
        ({"key_id_env": "FLEET_SECRET_KEY"}, "begin with FLEET_S3_"),
        ({"key_id_env": "FLEET_S3_HOSTS"}, "begin with FLEET_S3_"),
        ({"key_id_env": "FLEET_S3_GONE"}, "environment has no FLEET_S3_GONE"),
    ],
)
def test_what_is_wrong_with_a_store_is_said_in_words(
    keys: Rclone, values: dict[str, str], words: str
) -> None:
    found = test_destination(bucket(keys, **values))
    assert words in found
    assert SECRET not in found


def test_a_wrong_secret_is_said_in_words_and_not_quoted(
    keys: Rclone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEET_S3_SECRET", "wrong-secret-value")
    found = test_destination(bucket(keys))
    assert "refused" in found
    assert "wrong-secret-value" not in found


def test_a_secret_may_come_from_a_file(
    keys: Rclone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FLEET_S3_SECRET")
    monkeypatch.setenv("FLEET_S3_SECRET_FILE", str(tmp_path / "secret"))
    assert "cannot be read" in test_destination(bucket(keys))
    (tmp_path / "secret").write_text(SECRET + "\n")
    assert test_destination(bucket(keys)) == ""


def test_a_store_that_does_not_answer_is_told(keys: Rclone, settings: Settings) -> None:
    settings.FLEET_S3_HOSTS = ["http://127.0.0.1:9"]
    assert "cannot be reached" in test_destination(bucket(keys, endpoint="http://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("listed", "endpoint", "is_fine"),
    [
        ("s3.example.com", "https://s3.example.com", True),
        ("s3.example.com", "https://s3.example.com:9000", True),
        ("s3.example.com:9000", "https://s3.example.com:9000", True),
        ("s3.example.com:9000", "https://s3.example.com:9001", False),
        ("s3.example.com", "http://s3.example.com", False),
        ("http://s3.example.com", "http://s3.example.com", True),
        ("http://s3.example.com", "https://s3.example.com", False),
        ("s3.example.com", "https://s3.example.com.evil.org", False),
        ("s3.example.com", "https://s3.example.com/path", False),
        ("", "", True),
    ],
)
def test_an_endpoint_is_one_of_the_listed_hosts(
    settings: Settings, listed: str, endpoint: str, *, is_fine: bool
) -> None:
    settings.FLEET_S3_HOSTS = [listed]
    assert (endpoint_fault(endpoint) == "") is is_fine


def objects(server: Rclone, job: ExportJob) -> dict[str, bytes]:
    place = server.folder / BUCKET / "fleet/exports" / folder_name(job)
    return {path.name: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_an_export_to_s3_is_whole_and_its_manifest_last(keys: Rclone) -> None:
    exports.push_calls(30)
    job = exports.finished(destination=kept(bucket(keys)), fmt="json", is_gzipped=True)
    held = objects(keys, job)
    manifest = json.loads(held["manifest.json"])
    assert {file["name"] for file in manifest["files"]} | {"manifest.json"} == set(held)
    (file,) = job.files.all()
    store = open_store(job.destination, job)
    assert b"".join(store.read(file.name, 0, file.size_bytes)) == held[file.name]


def test_a_large_part_goes_up_in_parts(keys: Rclone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.exports.s3.MULTIPART_BYTES", 5 * 1024**2)
    job = exports.order(destination=kept(bucket(keys)))
    store = open_store(job.destination, job)
    file = store.create("runs-00001.ndjson")
    data = os.urandom(12 * 1024**2)
    file.write(data)
    file.complete()
    file.publish()
    assert objects(keys, job)[file.name] == data
    assert b"".join(store.read(file.name, 3, len(data) - 3)) == data[3:-3]
    file.abort()


def test_a_store_that_goes_away_in_the_middle_is_gone_on_with(
    keys: Rclone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 5_000)
    exports.push_calls(5_001)
    job = exports.order(destination=kept(bucket(keys)))
    run_job(job.pk, budget_s=0)
    keys.stop()
    held = run_job(job.pk)
    assert (held.state, held.files.count()) == (State.WAITING, 1)
    assert "cannot be reached" in held.last_error
    keys.start()
    due(job)
    job = exports.done(job)
    assert job.done_count == 5_001
    assert set(objects(keys, job)) == {*exports.digests(job), "manifest.json"}


def test_an_object_nobody_knows_of_is_removed_before_the_manifest(
    keys: Rclone, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports.push_calls(3)
    job = exports.order(destination=kept(bucket(keys)))
    stop_at("written", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_job(job.pk)
    assert len(objects(keys, job)) == 1
    ExportJob.objects.filter(pk=job.pk).update(lease_until=job.created_at)
    job = exports.done(job)
    assert set(objects(keys, job)) == {*exports.digests(job), "manifest.json"}


def test_what_a_cancelled_export_put_there_is_removed(
    keys: Rclone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 5_000)
    exports.push_calls(5_001)
    job = exports.order(destination=kept(bucket(keys)))
    run_job(job.pk, budget_s=0)
    assert len(objects(keys, job)) == 1
    cancel_job(job.pk, "somebody")
    assert run_job(job.pk).state == State.CANCELLED
    assert objects(keys, job) == {}


def test_lists_in_the_environment_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_S3_HOSTS", " a.example, http://b:9000 ,")
    assert env.envlist("FLEET_S3_HOSTS") == ["a.example", "http://b:9000"]
    monkeypatch.setenv("FLEET_EXPORT_LINK_MINUTES", "0")
    with pytest.raises(ImproperlyConfigured):
        env.envint("FLEET_EXPORT_LINK_MINUTES", 60, minimum=1, maximum=10)
