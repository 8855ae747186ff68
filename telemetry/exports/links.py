"""Signed links to files of a result: bound to one file and one purpose, over after a while.

A link is as good as the file it names, for FLEET_EXPORT_LINK_MINUTES: whoever has it needs nothing
else. Content is the exception: there the permission and a signed-in session are asked for as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, PermissionsMixin
from django.core import signing
from django.urls import reverse

from fleet.audit import record_change
from fleet.lib.clock import now
from fleet.models import ChangeRecord
from telemetry.exports.allowed import DOWNLOAD, has_content, lacking_for
from telemetry.exports.archive import Entry, zip_stream
from telemetry.exports.datasets import DATASETS, EXPORT_CONTENT
from telemetry.exports.destinations import ResultStore, open_store
from telemetry.exports.run import MANIFEST
from telemetry.models import ExportFile, ExportJob

SALT: Final = "telemetry.exports.links.file"
"""The purpose: a token signed for anything else is none here."""
WHOLE: Final = "zip"
LINK_ACTOR: Final = "export link"
DOWNLOADED: Final = "export.download"
MEDIA: Final = {
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}

type Person = AbstractBaseUser | AnonymousUser | None


class LinkRefused(Exception):
    """A link that is forged, over, or for something that is not there any more."""


class LinkForbidden(Exception):
    """A link that is good, in the hands of somebody who may not have the content."""


@dataclass(frozen=True, slots=True)
class Served:
    """One file to hand out. ``size_bytes`` None: not known before it was made (a zip)."""

    job: ExportJob
    name: str
    media: str
    size_bytes: int | None
    sha256: str
    content: bytes | None = None

    def open(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes ``[start, end)``. Errors: ExportFault, before the first piece."""
        if self.content is not None:
            return iter([self.content[start:end]])
        store = open_store(self.job.destination, self.job)
        if self.size_bytes is None:
            manifest = store.read_all(MANIFEST)
            return zip_stream(_entries(self.job, store, manifest))
        return store.read(self.name, start, self.size_bytes if end is None else end)


def may_download(job: ExportJob, person: Person) -> bool:
    """Whether somebody may have the result, or a link to it: as who ordered it had to."""
    is_known = all(name in DATASETS for name in job.datasets)
    return is_known and not lacking_for(person or AnonymousUser(), job.datasets, also=DOWNLOAD)


def signed_path(file: ExportFile) -> str:
    """The path of a link to one file, signed now."""
    return _path(file.job, str(file.pk))


def signed_manifest_path(job: ExportJob) -> str:
    """The path of a link to the manifest."""
    return _path(job, MANIFEST)


def signed_zip_path(job: ExportJob) -> str:
    """The path of a link to the whole result as one .zip."""
    return _path(job, WHOLE)


def _path(job: ExportJob, what: str) -> str:
    token = signing.TimestampSigner(salt=SALT).sign_object([job.uid.hex, what])
    return reverse("telemetry-api-export-download", args=[token])


def check(token: str, person: Person = None) -> Served:
    """What a link stands for. Errors: LinkRefused, LinkForbidden; ExportFault for a manifest."""
    signer = signing.TimestampSigner(salt=SALT)
    try:
        uid, what = signer.unsign_object(token, max_age=settings.FLEET_EXPORT_LINK_MINUTES * 60)
        key = UUID(hex=uid)
    except (signing.BadSignature, ValueError, TypeError):
        raise LinkRefused from None
    jobs = ExportJob.objects.select_related("destination")
    job = jobs.filter(uid=key, state=ExportJob.State.DONE).first()
    if job is None:
        raise LinkRefused
    if has_content(job.datasets) and not (may_download(job, person) and _has_content_right(person)):
        raise LinkForbidden
    return _served(job, what)


def _has_content_right(person: Person) -> bool:
    rights: object = person
    return isinstance(rights, PermissionsMixin) and rights.has_perm(EXPORT_CONTENT)


def _served(job: ExportJob, what: str) -> Served:
    if what == WHOLE:
        return Served(job, f"export-{job.pk}.zip", "application/zip", None, "")
    if what == MANIFEST:
        data = open_store(job.destination, job).read_all(MANIFEST)
        return Served(
            job, MANIFEST, "application/json", len(data), job.manifest_sha256, content=data
        )
    file = ExportFile.objects.filter(job=job, pk=what).first() if what.isdecimal() else None
    if file is None:
        raise LinkRefused
    media = "application/gzip" if file.name.endswith(".gz") else MEDIA[job.fmt]
    return Served(job, file.name, media, file.size_bytes, file.sha256)


def _entries(job: ExportJob, store: ResultStore, data: bytes) -> Iterator[Entry]:
    yield Entry(MANIFEST, job.finished_at or job.created_at, len(data), iter([data]))
    for file in job.files.order_by("dataset", "part"):
        pieces = store.read(file.name, 0, file.size_bytes)
        yield Entry(file.name, file.written_at, file.size_bytes, pieces)


def record_download(served: Served, person: Person, *, is_later_part: bool = False) -> None:
    """The audit row of a download that begins.

    A later part needs none when the same caller had a row of this file while the link was good:
    a player or a resumed copy asks for many. Without one it is a download like any other, or
    everything but the first byte could be had unseen.
    """
    is_known = isinstance(person, AbstractBaseUser)
    actor = person if isinstance(person, AbstractBaseUser) else LINK_ACTOR
    post = {"file": served.name, "sha256": served.sha256, "by_session": is_known}
    if is_later_part:
        life = timedelta(minutes=settings.FLEET_EXPORT_LINK_MINUTES)
        rows = ChangeRecord.objects.filter(
            action=DOWNLOADED,
            object_type=served.job._meta.model_name,  # Django's public Meta API
            object_id=str(served.job.pk),
            actor=str(actor)[:200],
            at__gte=now() - life,
        )
        if any(row.post == post for row in rows):
            return
    record_change(
        actor=actor,
        action=DOWNLOADED,
        target=served.job,
        pre=None,
        post=post,
        reason=served.job.reason,
    )
