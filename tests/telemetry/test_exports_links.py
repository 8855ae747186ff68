"""Downloads: links that are bound and over after a while, ranges, a zip, and who may what."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import Permission, User
from django.core import signing
from django.test import Client

from fleet.lib.clock import now
from fleet.models import ChangeRecord
from telemetry.exports import links
from telemetry.exports.archive import Entry, zip_stream
from telemetry.exports.datasets import DATASETS
from telemetry.models import ExportFile, ExportJob
from tests import builders
from tests.telemetry import builders as make
from tests.telemetry import content_rows as content
from tests.telemetry import export_jobs as exports
from tests.telemetry.export_jobs import Settings

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]
URL = "/api/v1/exports"
ADD, VIEW = "telemetry.add_exportjob", "telemetry.view_exportjob"
CANCEL, DOWNLOAD = "telemetry.cancel_exportjob", "telemetry.download_exportjob"
CONTENT = "telemetry.export_content"
ALL = (ADD, VIEW, CANCEL, DOWNLOAD, "telemetry.view_toolcall")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, settings: Settings) -> Path:
    settings.FLEET_HOME = tmp_path / "home"
    builders.make_install(install_id=make.INSTALL)
    return tmp_path


def somebody(*permissions: str, name: str = "ada", is_staff: bool = True) -> User:
    user = User.objects.create_user(name, is_staff=is_staff)
    for permission in permissions:
        app, _dot, code = permission.partition(".")
        user.user_permissions.add(
            Permission.objects.get(content_type__app_label=app, codename=code)
        )
    return User.objects.get(pk=user.pk)


def signed_in(*permissions: str, **values: Any) -> Client:  # noqa: ANN401 -- of somebody
    client = Client()
    client.force_login(
        somebody(*permissions, **values), backend="django.contrib.auth.backends.ModelBackend"
    )
    return client


def body_of(response: Any) -> bytes:  # noqa: ANN401 -- a streaming answer of the test client
    return b"".join(response.streaming_content) if response.streaming else response.content


def the_file(job: ExportJob) -> ExportFile:
    return job.files.get()


def asked(**values: object) -> dict[str, object]:
    defaults: dict[str, object] = {
        "datasets": ["tool_calls"],
        "format": "csv",
        "from": (now() - timedelta(days=1)).isoformat(),
        "to": now().isoformat(),
    }
    return defaults | values


# ------------------------------------------------------------------------------------------ links


def test_a_link_gives_the_file_to_whoever_has_it_and_leaves_a_row() -> None:
    exports.push_calls(3)
    job = exports.finished(reason="a monthly report")
    file = the_file(job)
    answer = Client().get(links.signed_path(file))
    assert body_of(answer) == exports.data_of(file)
    assert answer["Content-Disposition"] == f'attachment; filename="{file.name}"'
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Content-Length"] == str(file.size_bytes)
    assert "no-store" in answer["Cache-Control"]
    row = ChangeRecord.objects.get(action="export.download")
    assert (row.actor, row.reason) == (links.LINK_ACTOR, "a monthly report")


def test_a_link_is_over_after_its_time(settings: Settings) -> None:
    path = links.signed_path(the_file(exports.finished()))
    settings.FLEET_EXPORT_LINK_MINUTES = 5
    with time_machine.travel(now() + timedelta(minutes=4)):
        assert Client().get(path).status_code == 200
    with time_machine.travel(now() + timedelta(minutes=6)):
        assert Client().get(path).status_code == 404


@pytest.mark.parametrize("what", ["cut", "turned", "other_purpose", "other_file", "no_file"])
def test_a_forged_link_is_none(what: str) -> None:
    job = exports.finished()
    path = links.signed_path(the_file(job))
    token = path.rpartition("/")[2]
    forged = {
        "cut": token[:-1],
        "turned": token[1:] + token[:1],
        "other_purpose": signing.TimestampSigner(salt="x").sign_object([job.uid.hex, "zip"]),
        "other_file": links._path(job, str(the_file(exports.finished()).pk)).rpartition("/")[2],
        "no_file": links._path(job, "../../etc/passwd").rpartition("/")[2],
    }[what]
    assert Client().get(f"{URL}/download/{forged}").status_code == 404
    assert not ChangeRecord.objects.filter(action="export.download").exists()


def test_a_link_dies_with_its_result() -> None:
    job = exports.finished()
    path = links.signed_path(the_file(job))
    ExportJob.objects.update(state=ExportJob.State.EXPIRED)
    assert Client().get(path).status_code == 404


@pytest.mark.parametrize(
    ("header", "status", "start", "end"),
    [
        ("bytes=0-9", 206, 0, 10),
        ("bytes=5-", 206, 5, None),
        ("bytes=-7", 206, -7, None),
        ("bytes=3-3", 206, 3, 4),
        ("bytes=0-99999999", 206, 0, None),
        ("bytes=9-3", 200, 0, None),
        ("bytes=0-1,3-4", 200, 0, None),
        ("lines=0-1", 200, 0, None),
        ("bytes=-", 200, 0, None),
    ],
)
def test_a_range_of_a_file_is_given(header: str, status: int, start: int, end: int | None) -> None:
    exports.push_calls(3)
    file = the_file(exports.finished())
    whole = exports.data_of(file)
    answer = Client().get(links.signed_path(file), headers={"Range": header})
    assert (answer.status_code, body_of(answer)) == (status, whole[start:end])
    if status == 206:
        first = start % len(whole)
        last = first + len(whole[start:end]) - 1
        assert answer["Content-Range"] == f"bytes {first}-{last}/{len(whole)}"


def test_a_range_beyond_the_end_is_refused_with_the_size() -> None:
    file = the_file(exports.finished())
    path = links.signed_path(file)
    for header in ("bytes=99999999-", "bytes=-0"):
        answer = Client().get(path, headers={"Range": header})
        assert answer.status_code == 416
        assert answer["Content-Range"] == f"bytes */{file.size_bytes}"


def test_a_download_that_is_resumed_leaves_one_row_and_knows_a_changed_file() -> None:
    exports.push_calls(3)
    path = links.signed_path(the_file(exports.finished()))
    client = Client()
    first = client.get(path, headers={"Range": "bytes=0-99"})
    headers = {"Range": "bytes=100-", "If-Range": first["ETag"]}
    second = client.get(path, headers=headers)
    assert (first.status_code, second.status_code) == (206, 206)
    assert client.get(path, headers=headers | {"If-Range": '"x"'}).status_code == 200
    body_of(first)
    body_of(second)
    assert ChangeRecord.objects.filter(action="export.download").count() == 2


@pytest.mark.parametrize("header", ["bytes=1-", "bytes=-{less}", "bytes=1-1"])
def test_a_part_of_a_file_leaves_its_row_as_the_whole_does(header: str) -> None:
    exports.push_calls(3)
    file = the_file(exports.finished())
    asked = header.format(less=file.size_bytes - 1)
    for _ in range(2):
        answer = Client().get(links.signed_path(file), headers={"Range": asked})
        assert (answer.status_code, len(body_of(answer)) > 0) == (206, True)
    assert ChangeRecord.objects.filter(action="export.download").count() == 1
    with time_machine.travel(now() + timedelta(days=1)):
        body_of(Client().get(links.signed_path(file), headers={"Range": asked}))
    assert ChangeRecord.objects.filter(action="export.download").count() == 2


def test_a_zip_whose_place_is_away_is_an_answer_and_not_a_broken_file() -> None:
    job = exports.finished()
    path = links.signed_zip_path(job)
    exports.folder(job).rename(exports.folder(job).with_name("moved"))
    assert Client().get(path).status_code == 503
    assert not ChangeRecord.objects.filter(action="export.download").exists()


def test_the_whole_result_is_one_zip() -> None:
    exports.push_calls(3)
    job = exports.finished("tool_calls", "runs", fmt="parquet")
    answer = Client().get(links.signed_zip_path(job))
    archive = zipfile.ZipFile(io.BytesIO(body_of(answer)))
    assert archive.testzip() is None
    assert set(archive.namelist()) == {*exports.digests(job), "manifest.json"}
    manifest = json.loads(archive.read("manifest.json"))
    assert manifest["row_count"] == 3
    assert answer["Content-Disposition"].endswith(f'export-{job.pk}.zip"')


def test_a_zip_is_made_while_it_is_sent() -> None:
    held = [0]

    def pieces() -> Any:  # noqa: ANN401 -- a generator
        for _ in range(1000):
            held[0] += 100_000
            yield b"x" * 100_000

    sent = 0
    for piece in zip_stream([Entry("big", now(), 100_000_000, pieces())]):
        sent += len(piece)
        assert held[0] - sent < 400_000
    assert sent > 100_000_000


def test_the_manifest_is_handed_out_as_it_was_written() -> None:
    import hashlib

    job = exports.finished()
    data = body_of(Client().get(links.signed_manifest_path(job)))
    assert hashlib.sha256(data).hexdigest() == job.manifest_sha256


def test_a_file_that_is_gone_from_its_place_is_told() -> None:
    job = exports.finished()
    path = links.signed_path(the_file(job))
    for lies in exports.folder(job).iterdir():
        lies.unlink()
    answer = Client().get(path)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


# ---------------------------------------------------------------------------------------- content


def content_job() -> ExportJob:
    content.push(content.session(), content.message(), content.message(2))
    return exports.finished(
        "content_messages", "content_sessions", reason="an incident of last week"
    )


@pytest.fixture
def trajectories(settings: Settings) -> None:
    settings.FLEET_TRAJECTORIES = True


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("has_right", [True, False])
@pytest.mark.parametrize("reason", ["an incident of last week", "short", ""])
def test_content_needs_the_switch_the_right_and_a_reason(
    settings: Settings, is_on: bool, has_right: bool, reason: str
) -> None:
    settings.FLEET_TRAJECTORIES = is_on
    client = signed_in(ADD, VIEW, *([CONTENT] if has_right else []))
    answer = client.post(
        URL,
        asked(datasets=["content_messages"], reason=reason),
        content_type="application/json",
    )
    is_allowed = is_on and has_right and len(reason) > 9
    assert answer.status_code == (201 if is_allowed else 422)
    rows = ChangeRecord.objects.filter(action="export.order")
    assert [row.reason for row in rows] == ([reason] if is_allowed else [])


def test_content_is_exported_scrubbed_in_strict_mode(trajectories: None) -> None:
    from telemetry.models import ContentMessage

    content.push(content.session(), content.message())
    token = "ghp_" + "x7Kq9ZtB2mWv4Rn8Lp3Yc6Hd1Fs5Gj0Aw2Ee"
    ContentMessage.objects.update(content_json=json.dumps(f"the key is {token}"))
    job = exports.finished("content_messages", reason="an incident of last week")
    (row,) = exports.read(job)
    assert "[REDACTED:" in row["content_json"]
    assert token not in row["content_json"]


def test_a_link_to_content_needs_the_right_and_a_session(trajectories: None) -> None:
    job = content_job()
    path = links.signed_path(job.files.get(dataset="content_messages"))
    assert Client().get(path).status_code == 403
    assert signed_in(DOWNLOAD, name="b").get(path).status_code == 403
    assert signed_in(CONTENT, name="c").get(path).status_code == 403
    answer = signed_in(DOWNLOAD, CONTENT).get(path)
    assert b"Which river" in body_of(answer)
    row = ChangeRecord.objects.get(action="export.download")
    assert (row.actor, row.reason) == ("ada", "an incident of last week")
    for other in (links.signed_zip_path(job), links.signed_manifest_path(job)):
        assert Client().get(other).status_code == 403


# ------------------------------------------------------------------------------------ permissions


def ask(client: Client, what: str, job: ExportJob) -> int:
    answer = {
        "list": lambda: client.get(URL),
        "order": lambda: client.post(URL, asked(), content_type="application/json"),
        "look": lambda: client.get(f"{URL}/{job.pk}"),
        "cancel": lambda: client.post(f"{URL}/{job.pk}/cancel"),
        "files": lambda: client.get(f"{URL}/{job.pk}/files"),
    }[what]()
    return answer.status_code


NEEDED = {
    "list": {VIEW},
    "order": {ADD, "telemetry.view_toolcall"},
    "look": {VIEW},
    "cancel": {CANCEL},
    "files": {DOWNLOAD, "telemetry.view_toolcall"},
}


@pytest.mark.parametrize("what", NEEDED)
@pytest.mark.parametrize("missing", [None, *ALL])
def test_each_thing_needs_its_permissions_and_no_other(what: str, missing: str | None) -> None:
    job = exports.finished()
    status = ask(signed_in(*(set(ALL) - {missing})), what, job)
    if missing in NEEDED[what]:
        assert status in {403, 422}
    else:
        assert status in {200, 201}


@pytest.mark.parametrize("what", NEEDED)
def test_nobody_and_no_outsider_may_do_anything(what: str) -> None:
    job = exports.finished()
    assert ask(Client(), what, job) in {401, 403}
    assert ask(signed_in(*ALL, is_staff=False), what, job) == 403


@pytest.mark.parametrize("name", DATASETS)
def test_each_dataset_needs_its_own_permission(name: str, settings: Settings) -> None:
    settings.FLEET_TRAJECTORIES = True
    body = asked(datasets=[name], reason="an incident of last week")
    without = signed_in(ADD, name="without")
    assert without.post(URL, body, content_type="application/json").status_code == 422
    having = signed_in(ADD, DATASETS[name].permission, name="having")
    assert having.post(URL, body, content_type="application/json").status_code == 201


def test_an_order_without_the_forms_token_is_refused() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(somebody(*ALL), backend="django.contrib.auth.backends.ModelBackend")
    assert client.post(URL, asked(), content_type="application/json").status_code == 403
    assert ExportJob.objects.count() == 0


# -------------------------------------------------------------------------------------------- API


def test_an_export_is_ordered_watched_and_fetched_over_the_api() -> None:
    exports.push_calls(3)
    client = signed_in(*ALL)
    ordered = client.post(
        URL, asked(to=(now() + timedelta(hours=1)).isoformat()), content_type="application/json"
    ).json()
    assert (ordered["state"], ordered["ordered_by"]) == ("waiting", "ada")
    assert client.get(f"{URL}/{ordered['id']}/files").json()["files"] == []
    exports.done(ExportJob.objects.get(pk=ordered["id"]))
    seen = client.get(f"{URL}/{ordered['id']}").json()
    assert (seen["state"], seen["done_count"], seen["total_count"]) == ("done", 3, 3)
    (file,) = client.get(f"{URL}/{ordered['id']}/files").json()["files"]
    assert len(body_of(client.get(file["link"]))) == file["size_bytes"]


def test_the_list_is_paged_from_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telemetry.api.exports.PAGE_JOBS", 2)
    made = [exports.order().pk for _ in range(3)]
    client = signed_in(*ALL)
    first = client.get(URL).json()
    assert [one["id"] for one in first["exports"]] == made[:0:-1]
    rest = client.get(f"{URL}?before={first['next_before']}").json()
    assert [one["id"] for one in rest["exports"]] == made[:1]
    assert rest["next_before"] is None
    assert client.get(f"{URL}?before=x").status_code == 422


@pytest.mark.parametrize(
    "values",
    [
        {"datasets": []},
        {"datasets": ["secrets"]},
        {"format": "xlsx"},
        {"filter": {"groups": ["no such group"]}},
        {"filter": {"installs": ["01890000-0000-7000-8000-0000000000ff"]}},
        {"filter": {"models": ["m-1"]}},
        {"filter": {"tools": ["no such tool"]}},
        {"destination": "nowhere"},
        {"keep_days": 0},
        {"from": "2027-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"},
        {"from": "yesterday"},
        {"from": "0001-01-02T00:00:00Z"},
        {"to": "9999-12-30T00:00:00Z"},
    ],
)
def test_a_wrong_order_is_refused_before_anything_is_made(values: dict[str, object]) -> None:
    client = signed_in(*ALL)
    answer = client.post(URL, asked(**values), content_type="application/json")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert ExportJob.objects.count() == 0
