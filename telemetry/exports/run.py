"""Carries exports out: a lease, one part after the other, a manifest; survives whatever ends it.

Steps: 1. the job is taken by a conditional UPDATE, for a while, renewed while it is worked on; 2.
what a dead worker left unnamed is removed; 3. a part is written whole under a name of its own; 4.
in one transaction, which only the holder of the lease gets through, the job's cursor moves, the
part's row is made and the file takes its name; 5. after the last part the manifest is written the
same way, and the job is done. A death between any two leaves the row as it is: whoever finds its
lease lapsed goes on with the next part.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import structlog
from django.db import DatabaseError, InterfaceError, OperationalError, connections, transaction
from django.db.models import F, Q, Sum
from django.db.models.functions import Coalesce
from django.utils.translation import gettext as _

from agent_client.contract.redact import RULESET_VERSION
from fleet.audit import record_change
from fleet.lib.clock import now
from telemetry.exports.choice import ChoiceRefused, datasets_of
from telemetry.exports.datasets import DATASETS, Dataset
from telemetry.exports.destinations import PART_SUFFIX, ResultStore, open_store
from telemetry.exports.faults import ExportFault, of_disk
from telemetry.exports.orders import cancel_job, described, open_jobs, order_job, retry_job
from telemetry.exports.parts import Part, Place, estimate_rows, key_kinds, schema_of, write_part
from telemetry.exports.rows import RedactionAway
from telemetry.models import ExportFile, ExportJob

__all__ = ["MANIFEST", "cancel_job", "open_jobs", "order_job", "retry_job", "run_job"]
logger = structlog.get_logger(__name__)
MANIFEST: Final = "manifest.json"
BUDGET_S: Final = 20.0
"""Then the next job has its turn."""
LEASE: Final = timedelta(minutes=2)
"""Longer than a page and an upload of a part take; a dead worker's job rests that long."""
RENEW_EVERY_S: Final = 3.0
KEEP_EVERY_S: Final = 30.0
KEEP_MAX_S: Final = 1_800.0
"""A part that goes up a slow line takes longer than a lease, and asks nobody meanwhile."""
MAX_ATTEMPTS: Final = 12
FIRST_DELAY_S: Final = 10
LONGEST_DELAY_S: Final = 900
"""With twelve attempts a destination may be away for an hour and a quarter."""
_OURS: Final = re.compile(
    rf"\.?(?:manifest|(?:{'|'.join(DATASETS)})-\d{{5}}(?:-[0-9a-f]{{6}})?)\.[a-z]+(?:\.gz)?"
    rf"(?:\.[0-9a-f]{{12}}\{PART_SUFFIX})?"
)


class Stopped(Exception):
    """The lease is another's, or somebody asked to stop."""


@dataclass(slots=True)
class _Hold:
    """A job that is ours for now."""

    job: ExportJob
    owner: str
    renewed_s: float

    def mine(self) -> Q:
        """The condition that holds while nobody has taken or cancelled it."""
        return Q(
            pk=self.job.pk,
            lease_owner=self.owner,
            state=ExportJob.State.RUNNING,
            cancel_asked_at__isnull=True,
        )

    def on_page(self, row_count: int) -> None:
        """Look for a cancellation; every few seconds, renew and say how far it is."""
        if time.monotonic() - self.renewed_s >= RENEW_EVERY_S:
            done = self.job.done_count + row_count
            is_ours = ExportJob.objects.filter(self.mine()).update(
                lease_until=now() + LEASE, done_count=done
            )
            self.renewed_s = time.monotonic()
        else:
            is_ours = ExportJob.objects.filter(self.mine()).exists()
        if not is_ours:
            raise Stopped

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A block in which a thread renews the lease, for KEEP_MAX_S at most.

        Whoever lost it all the same learns that at the next step, which is conditional.
        """
        is_over = threading.Event()

        def renew() -> None:
            ends_at_s = time.monotonic() + KEEP_MAX_S
            try:
                while not is_over.wait(KEEP_EVERY_S) and time.monotonic() < ends_at_s:
                    with suppress(DatabaseError, InterfaceError):
                        ExportJob.objects.filter(self.mine()).update(lease_until=now() + LEASE)
            finally:
                connections.close_all()

        thread = threading.Thread(target=renew, name="export-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def run_job(pk: int, *, budget_s: float = BUDGET_S) -> ExportJob:
    """Carry out an export, or what is left of it, for about so long.

    Safe to run twice, in parallel and to kill. Errors: ExportJob.DoesNotExist; OperationalError
    when the database is away, in which case the lease runs out by itself.
    """
    hold = _take(pk)
    if hold is not None:
        try:
            _work(hold, time.monotonic() + budget_s)
        except Stopped:
            _stopped(hold)
        except ExportFault as fault:
            _failed(hold, fault)
        except RedactionAway:
            _failed(hold, ExportFault(_("Secrets cannot be removed on this machine now.")))
        except ChoiceRefused as error:
            _failed(hold, ExportFault(str(error), is_final=True))
        except (OperationalError, InterfaceError):
            _failed(hold, ExportFault(_("The database was away or locked.")))
        except OSError as error:
            _failed(hold, of_disk(error, _("The worker's disk")))
        except (DatabaseError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            logger.exception("export_failed", job=pk)
            name = type(error).__name__
            _failed(hold, ExportFault(_("A row could not be written (%s).") % name))
    return ExportJob.objects.get(pk=pk)


def _take(pk: int) -> _Hold | None:
    """Take a job that nobody works on; None when somebody does, or when it is over."""
    moment = now()
    owner = f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(6)}"
    is_due = Q(not_before__isnull=True) | Q(not_before__lte=moment)
    waits = Q(state=ExportJob.State.WAITING) & is_due
    lapsed = Q(state=ExportJob.State.RUNNING, lease_until__lte=moment)
    taken = ExportJob.objects.filter(waits | lapsed, pk=pk).update(
        state=ExportJob.State.RUNNING,
        lease_owner=owner,
        lease_until=moment + LEASE,
        not_before=None,
        started_at=Coalesce(F("started_at"), moment),
        attempt_count=F("attempt_count") + 1,
    )
    if not taken:
        return None
    job = ExportJob.objects.select_related("destination").get(pk=pk)
    reached("taken")
    return _Hold(job, owner, time.monotonic())


def _work(hold: _Hold, deadline_s: float) -> None:
    """Steps 2 to 5."""
    job = hold.job
    if job.cancel_asked_at is not None:
        raise Stopped
    if job.attempt_count > MAX_ATTEMPTS:
        words = _("The worker died %s times at the same part.") % MAX_ATTEMPTS
        raise ExportFault(words, is_final=True)
    datasets = datasets_of(job.datasets)
    store = open_store(job.destination, job)
    _sweep(store, lambda name: name.endswith(PART_SUFFIX))
    # A dead worker may have told of rows that it had in hand.
    _recount(hold)
    if job.total_count is None:
        job.total_count = estimate_rows(job, datasets)
        ExportJob.objects.filter(hold.mine()).update(total_count=job.total_count)
    while int(job.cursor.get("dataset", 0)) < len(datasets):
        _do_part(hold, datasets, store)
        if time.monotonic() >= deadline_s and int(job.cursor["dataset"]) < len(datasets):
            # The next round goes on at once.
            ExportJob.objects.filter(hold.mine()).update(lease_until=now())
            return
    _finish(hold, datasets, store)


def _recount(hold: _Hold) -> None:
    job = hold.job
    sums = job.files.aggregate(rows=Sum("row_count"), size=Sum("size_bytes"))
    job.done_count, job.done_bytes = sums["rows"] or 0, sums["size"] or 0
    ExportJob.objects.filter(hold.mine()).update(
        done_count=job.done_count, done_bytes=job.done_bytes
    )


def _do_part(hold: _Hold, datasets: list[Dataset], store: ResultStore) -> None:
    """Steps 3 and 4 for the part that the cursor stands before."""
    job = hold.job
    index, number = int(job.cursor.get("dataset", 0)), int(job.cursor.get("part", 1))
    dataset = datasets[index]
    place = Place.from_list(job.cursor.get("place"), key_kinds(dataset))
    with hold.kept():
        part = write_part(job, dataset, number, place, store, on_page=hold.on_page)
    if part is None:
        _move(hold, {"dataset": index + 1, "part": 1, "place": None})
        return
    try:
        reached("written")
        if part.place is None:
            cursor: dict[str, object] = {"dataset": index + 1, "part": 1, "place": None}
        else:
            cursor = {"dataset": index, "part": number + 1, "place": part.place.to_list()}
        with transaction.atomic():
            _move(hold, cursor, part)
            ExportFile.objects.create(
                job=job,
                dataset=dataset.name,
                part=number,
                name=part.file.name,
                row_count=part.row_count,
                size_bytes=part.size_bytes,
                sha256=part.sha256,
                written_at=now(),
            )
            reached("recorded")
            # Inside: whoever lost the lease never comes here, so that no file is put over another.
            part.file.publish()
            reached("named")
        job.done_count += part.row_count
        job.done_bytes += part.size_bytes
    finally:
        part.file.abort()
    reached("part")


def _move(hold: _Hold, cursor: dict[str, object], part: Part | None = None) -> None:
    """Move the cursor. Errors: Stopped when the job is not ours any more."""
    job = hold.job
    rows = part.row_count if part else 0
    moved = ExportJob.objects.filter(hold.mine()).update(
        cursor=cursor,
        done_count=job.done_count + rows,
        done_bytes=job.done_bytes + (part.size_bytes if part else 0),
        redacted_count=F("redacted_count") + (part.redacted_count if part else 0),
        lease_until=now() + LEASE,
        attempt_count=0,
        last_error="",
    )
    if not moved:
        raise Stopped
    job.cursor = cursor


def _product_version() -> str:
    try:
        return version("hermes-fleet")
    except PackageNotFoundError:
        return "source"


def manifest_of(job: ExportJob, datasets: list[Dataset]) -> bytes:
    """What a result consists of; the same for the same result, whoever writes it."""
    document = {
        "manifest_version": 1,
        "export": job.pk,
        "uid": str(job.uid),
        "ordered_by": job.actor,
        "ordered_at": job.created_at.isoformat(),
        "reason": job.reason,
        **described(job),
        "rows": "rows of the window that had arrived by ordered_at; runs as they were when read",
        "row_count": job.done_count,
        "redacted_count": job.redacted_count,
        "ruleset_version": str(RULESET_VERSION),
        "product_version": _product_version(),
        "schema": {
            dataset.name: {"plane": dataset.plane, "columns": schema_of(dataset)}
            for dataset in datasets
        },
        "files": [
            {
                "name": file.name,
                "dataset": file.dataset,
                "part": file.part,
                "row_count": file.row_count,
                "size_bytes": file.size_bytes,
                "sha256": file.sha256,
            }
            for file in job.files.order_by("dataset", "part")
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _finish(hold: _Hold, datasets: list[Dataset], store: ResultStore) -> None:
    """Step 5: what belongs to nobody goes, the manifest comes last."""
    kept = set(hold.job.files.values_list("name", flat=True))
    _sweep(store, lambda name: name not in kept)
    job = ExportJob.objects.select_related("destination").get(pk=hold.job.pk)
    data = manifest_of(job, datasets)
    file = store.create(MANIFEST)
    try:
        file.write(data)
        file.complete()
        moment = now()
        with transaction.atomic():
            if not ExportJob.objects.filter(hold.mine()).update(
                state=ExportJob.State.DONE,
                total_count=F("done_count"),
                finished_at=moment,
                expires_at=moment + timedelta(days=job.keep_days),
                lease_until=None,
                lease_owner="",
                manifest_sha256=hashlib.sha256(data).hexdigest(),
            ):
                raise Stopped
            file.publish()
            job.refresh_from_db()
            record_change(
                actor=job.actor,
                action="export.done",
                target=job,
                pre=None,
                post={
                    "rows": job.done_count,
                    "bytes": job.done_bytes,
                    "redacted": job.redacted_count,
                    "manifest_sha256": job.manifest_sha256,
                },
            )
    finally:
        file.abort()
    reached("done")


def _sweep(store: ResultStore, is_left_over: Callable[[str], bool]) -> None:
    """Remove files of ours that are left over, and none whose name we would not have given."""
    store.delete([name for name in store.names() if _OURS.fullmatch(name) and is_left_over(name)])


def _stopped(hold: _Hold) -> None:
    """Cancelled: what was written goes. Taken by another: nothing of it is ours any more."""
    job = hold.job
    ours = ExportJob.objects.filter(
        pk=job.pk,
        lease_owner=hold.owner,
        state=ExportJob.State.RUNNING,
        cancel_asked_at__isnull=False,
    )
    if not ours.update(lease_until=now() + LEASE):
        return
    reached("stopping")
    try:
        remove_files(job)
    except ExportFault as fault:  # the place is away: the operator is told, the job is over
        ExportJob.objects.filter(pk=job.pk).update(last_error=fault.words)
    with transaction.atomic():
        moment = now()
        if ours.update(
            state=ExportJob.State.CANCELLED,
            finished_at=moment,
            expires_at=moment,
            lease_until=None,
            lease_owner="",
            done_count=0,
            done_bytes=0,
        ):
            ExportFile.objects.filter(job=job).delete()


def remove_files(job: ExportJob) -> list[str]:
    """Remove everything of a job from its place; the names. Errors: ExportFault."""
    store = open_store(job.destination, job)
    names = [name for name in store.names() if _OURS.fullmatch(name)]
    store.delete(names)
    return names


def _failed(hold: _Hold, fault: ExportFault) -> None:
    """Note what is wrong, and when it is tried again, if it is."""
    job = hold.job
    attempts = (
        ExportJob.objects.filter(pk=job.pk).values_list("attempt_count", flat=True).first() or 1
    )
    moment = now()
    is_over = fault.is_final or attempts >= MAX_ATTEMPTS
    delay_s = min(FIRST_DELAY_S * 2 ** max(0, attempts - 1), LONGEST_DELAY_S)
    logger.warning("export_fault", job=job.pk, words=fault.words, is_over=is_over)
    ExportJob.objects.filter(pk=job.pk, lease_owner=hold.owner).update(
        state=ExportJob.State.FAILED if is_over else ExportJob.State.WAITING,
        last_error=fault.words,
        not_before=None if is_over else moment + timedelta(seconds=delay_s),
        finished_at=moment if is_over else None,
        expires_at=moment + timedelta(days=job.keep_days) if is_over else None,
        lease_until=None,
        lease_owner="",
    )


def reached(_point: str) -> None:
    """Does nothing: the places where tests end the process."""
