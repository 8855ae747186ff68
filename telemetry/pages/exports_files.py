"""The files of an export's result as its page shows them: with links, or without and why."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings

from telemetry.exports.destinations import folder_name
from telemetry.exports.links import signed_manifest_path, signed_path, signed_zip_path
from telemetry.models.exports import ExportFile, ExportJob

MAX_FILES = 500
"""Rows of the table; the manifest has them all."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file; no url: it cannot be had here now."""

    name: str
    row_count: int
    size_bytes: int
    sha256: str
    url: str


@dataclass(frozen=True, slots=True)
class Files:
    """The result. ``where``: its folder at the destination."""

    rows: list[FileRow]
    count: int
    manifest_url: str = ""
    zip_url: str = ""
    manifest_sha256: str = ""
    where: str = ""
    link_minutes: int = 0


def files_of(job: ExportJob, *, is_allowed: bool) -> Files:
    """The files; with links once the export is done, for who may download them."""
    is_ready = job.state == ExportJob.State.DONE
    has_links = is_ready and is_allowed
    query = ExportFile.objects.filter(job=job).order_by("dataset", "part")
    rows = []
    for file in query[:MAX_FILES]:
        file.job = job  # one row a file already costs enough
        url = signed_path(file) if has_links else ""
        rows.append(FileRow(file.name, file.row_count, file.size_bytes, file.sha256, url))
    return Files(
        rows=rows,
        count=query.count(),
        manifest_url=signed_manifest_path(job) if has_links else "",
        zip_url=signed_zip_path(job) if has_links and len(rows) > 1 else "",
        manifest_sha256=job.manifest_sha256 if is_ready else "",
        where=_where(job) if is_ready else "",
        link_minutes=settings.FLEET_EXPORT_LINK_MINUTES if has_links else 0,
    )


def _where(job: ExportJob) -> str:
    place = job.destination
    if place is None:
        return ""
    name = folder_name(job)
    if place.kind == place.Kind.FOLDER:
        return f"{place.folder.rstrip('/')}/{name}/"
    prefix = f"{place.prefix.strip('/')}/" if place.prefix.strip("/") else ""
    return f"s3://{place.bucket}/{prefix}{name}/"
