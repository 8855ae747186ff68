"""Quarantined lines: chosen by a filter, judged again by today's rules, stored or discarded.

What is accepted now is stored on the normal way, as a batch with source "replay" and a ledger row
of its own; what is refused again keeps its place with its new reason. A line that was cut or
scrubbed when it came in is not what the agent sent, and is never replayed.

An order is a row (QuarantineJob), done in steps of one install's lines in the order of their ids. A
step's rows, its ledger row, the lines' removal and the order's counts share one transaction, so an
order that is killed, run twice or in parallel does each line once.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from typing import Final
from uuid import UUID, uuid5

import structlog
from django.db import DatabaseError, InterfaceError, OperationalError, transaction
from django.db.models import F, Q, QuerySet

from agent_client.contract import wire
from fleet.audit import Actor, record_change
from fleet.lib.clock import now
from fleet.models import Install
from fleet.policy.effective import mandatory_values
from telemetry.ingest.decode import Body
from telemetry.ingest.gate import is_open
from telemetry.ingest.receive import (
    BatchHeader,
    bounds_at,
    judge_numbered,
    prepare_hours,
    receive_judged,
)
from telemetry.ingest.validate import Verdicts
from telemetry.models import IngestBatch, QuarantinedLine, QuarantineJob
from telemetry.models.rollups import NO_GROUP
from telemetry.store.locks import install_transaction

logger = structlog.get_logger(__name__)
STEP_LINES: Final = 500
PREVIEW_LINES: Final = 500
"""At most 2 MB of text are judged to say what a replay would do."""
INLINE_LINES: Final = 200
"""So many are done while the person waits; more is a task's."""
BUDGET_S: Final = 20.0
LEASE: Final = timedelta(minutes=1)


WORDS: Final = ("code", "detail", "install", "day", "replayable", "search")
NO_COLUMN: Final = "-"
"""Stands for lines whose reason names no column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which lines are meant; what is empty narrows nothing.

    ``search``: an install's id, a batch's id or the name of a column. ``day`` is in UTC;
    ``replayable`` is yes or no.
    """

    code: str = ""
    detail: str = ""
    install: str = ""
    day: str = ""
    replayable: str = ""
    search: str = ""
    line_ids: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """What an order and its audit row keep: only what narrows."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Choice:
        """A choice from an order's row or a page's address; other names are ignored."""
        ids = data.get("line_ids")
        words = {name: str(data.get(name) or "") for name in WORDS}
        return cls(**words, line_ids=tuple(map(int, ids)) if isinstance(ids, list) else ())

    def lines(self) -> QuerySet[QuarantinedLine]:
        """The lines; none for an id or a day that is none."""
        return self.narrow(QuarantinedLine.objects.all())

    def narrow(self, lines: QuerySet[QuarantinedLine]) -> QuerySet[QuarantinedLine]:
        """Those of some lines that are meant."""
        if self.line_ids:
            lines = lines.filter(pk__in=self.line_ids)
        if self.code:
            lines = lines.filter(code=self.code)
        if self.detail:
            lines = lines.filter(detail="" if self.detail == NO_COLUMN else self.detail)
        if self.replayable:
            lines = lines.filter(is_replayable=self.replayable == "yes")
        if self.install:
            install_id = _uuid(self.install)
            lines = lines.filter(install_id=install_id) if install_id else lines.none()
        if self.search:
            known = _uuid(self.search)
            ids = Q(install_id=known) | Q(batch_id=known)
            lines = lines.filter(ids) if known else lines.filter(detail=self.search)
        return _of_day(lines, self.day) if self.day else lines


@dataclass(frozen=True, slots=True)
class Preview:
    """What a replay would do now: of ``judged`` lines so many would be accepted."""

    total: int
    replayable: int
    judged: int
    accepted: int
    refused: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Step:
    """Lines of one install and plane, with what today's rules say of them."""

    lines: list[QuarantinedLine]
    header: BatchHeader | None
    verdicts: Verdicts


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text.strip())
    except ValueError:
        return None


def _of_day(lines: QuerySet[QuarantinedLine], text: str) -> QuerySet[QuarantinedLine]:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return lines.none()
    return lines.filter(received_at__date=day)


def preview(choice: Choice) -> Preview:
    """Judge a choice's first lines without changing anything."""
    lines = choice.lines()
    replayable = lines.filter(is_replayable=True).order_by("pk")
    moment, refused, judged = now(), Counter[str](), 0
    sample = list(replayable[:PREVIEW_LINES])
    for some in _steps(sample):
        step = _judge(some, moment)
        judged += len(some)
        refused.update(line.code for line in step.verdicts.refused)
        if step.header is None:
            refused["plane_closed"] += len(some)
    return Preview(
        total=lines.count(),
        replayable=replayable.count(),
        judged=judged,
        accepted=judged - refused.total(),
        refused=dict(refused),
    )


def order_job(
    action: QuarantineJob.Action, choice: Choice, *, actor: Actor, reason: str
) -> QuarantineJob:
    """Write down an order and its audit row; ``run_job`` carries it out.

    Lines that come in later are not meant by it. A replay leaves out what cannot be replayed.
    """
    lines = choice.lines()
    if action == QuarantineJob.Action.REPLAY:
        lines = lines.filter(is_replayable=True)
    with transaction.atomic():
        newest = lines.order_by("-pk").values_list("pk", flat=True).first()
        job = QuarantineJob.objects.create(
            action=action,
            actor=str(actor)[:200],
            reason=reason[:300],
            chosen=choice.to_dict(),
            last_line_id=newest or 0,
            total_count=lines.count(),
            created_at=now(),
        )
        record_change(
            actor=actor,
            action=f"quarantine.{action}",
            target=job,
            pre={"lines": job.total_count},
            post=choice.to_dict(),
            reason=reason,
        )
    return job


def run_job(pk: int, *, budget_s: float = BUDGET_S) -> QuarantineJob:
    """Carry out an order, or what is left of it, for at most so long.

    Safe to run twice and in parallel: each step is taken by whoever moves the cursor first.
    Errors: QuarantineJob.DoesNotExist.
    """
    deadline_s = time.monotonic() + budget_s
    job = QuarantineJob.objects.get(pk=pk)
    while job.state != QuarantineJob.State.DONE and time.monotonic() < deadline_s:
        lines = list(_left(job)[:STEP_LINES])
        if not lines:
            _finish(job)
        elif job.action == QuarantineJob.Action.PURGE:
            _purge(job, lines)
        else:
            _try_replay(job, next(_steps(lines)))
        job.refresh_from_db()
    if job.state == QuarantineJob.State.RUNNING:  # the next round goes on at once
        QuarantineJob.objects.filter(pk=pk, cursor=job.cursor).update(lease_until=now())
    return job


def open_jobs() -> list[int]:
    """Orders that nobody works on: new ones, and those whose worker died."""
    waits = Q(state=QuarantineJob.State.WAITING)
    lapsed = Q(state=QuarantineJob.State.RUNNING, lease_until__lt=now())
    return list(
        QuarantineJob.objects.filter(waits | lapsed).order_by("pk").values_list("pk", flat=True)
    )


def _left(job: QuarantineJob) -> QuerySet[QuarantinedLine]:
    lines = Choice.from_dict(job.chosen).lines()
    if job.action == QuarantineJob.Action.REPLAY:
        lines = lines.filter(is_replayable=True)
    return lines.filter(pk__gt=job.cursor, pk__lte=job.last_line_id).order_by("pk")


def _steps(lines: Sequence[QuarantinedLine]) -> Iterator[list[QuarantinedLine]]:
    """The lines in their order, parted where install or plane change."""
    for _key, some in itertools.groupby(lines, key=lambda line: (line.install_id, line.plane)):
        yield list(some)


def _advance(job: QuarantineJob, cursor: int, counts: dict[str, int]) -> bool:
    """Move an order on, unless another did meanwhile; the condition makes the step ours."""
    return bool(
        QuarantineJob.objects.filter(pk=job.pk, cursor=job.cursor)
        .exclude(state=QuarantineJob.State.DONE)
        .update(
            cursor=cursor,
            state=QuarantineJob.State.RUNNING,
            lease_until=now() + LEASE,
            **{f"{name}_count": F(f"{name}_count") + count for name, count in counts.items()},
        )
    )


def _finish(job: QuarantineJob) -> None:
    with transaction.atomic():
        mine = QuarantineJob.objects.filter(pk=job.pk, cursor=job.cursor)
        if not mine.exclude(state=QuarantineJob.State.DONE).update(
            state=QuarantineJob.State.DONE, finished_at=now(), lease_until=None
        ):
            return
        job.refresh_from_db()
        record_change(
            actor=job.actor,
            action=f"quarantine.{job.action}.done",
            target=job,
            pre={"lines": job.total_count},
            post={
                name: getattr(job, f"{name}_count")
                for name in ("stored", "duplicate", "kept", "removed")
            },
            reason=job.reason,
        )


def _purge(job: QuarantineJob, lines: list[QuarantinedLine]) -> None:
    with transaction.atomic():
        ids = [line.pk for line in lines]
        removed, _ = QuarantinedLine.objects.filter(pk__in=ids).delete()
        if not _advance(job, ids[-1], {"removed": removed}):
            transaction.set_rollback(True)


def _judge(lines: list[QuarantinedLine], moment: datetime) -> _Step:
    """What today's rules say; no header when the lines' plane is closed or the install is gone."""
    first = lines[0]
    install = Install.objects.filter(pk=first.install_id).first()
    consent = {"consent_state": install.consent_state} if install else {}
    if install is None or not is_open(
        first.plane, consent=consent, bound=mandatory_values(install)
    ):
        return _Step(lines, None, Verdicts(0))
    numbered = [(at, line.raw_text.encode()) for at, line in enumerate(lines)]
    header = BatchHeader(
        install_id=first.install_id,
        batch_id=first.batch_id,
        plane=first.plane,
        source=IngestBatch.Source.REPLAY,
        client="quarantine",
        group_id=install.group_id or NO_GROUP,
    )
    return _Step(lines, header, judge_numbered(header, numbered, bounds_at(moment)))


def _try_replay(job: QuarantineJob, lines: list[QuarantinedLine]) -> None:
    """One step; lines that cannot be stored stay where they are and hold up no others."""
    try:
        _replay(job, lines)
    except (OperationalError, InterfaceError):
        raise  # the database is away, locked or full: the order goes on later
    except (DatabaseError, ValueError) as error:
        logger.warning("quarantine_step_failed", job=job.pk, kind=type(error).__name__)
        QuarantineJob.objects.filter(pk=job.pk).update(last_error=type(error).__name__)
        _advance(job, lines[-1].pk, {"kept": len(lines)})


def _replay(job: QuarantineJob, lines: list[QuarantinedLine]) -> None:
    """One step: accepted lines are stored and removed, refused ones get their new reason."""
    step = _judge(lines, now())
    cursor = lines[-1].pk
    if step.header is None:
        _advance(job, cursor, {"kept": len(lines)})
        return
    prepare_hours(step.verdicts.rows)
    with install_transaction(step.header.install_id):
        ids = [line.pk for line in lines]
        held = QuarantinedLine.objects.select_for_update().filter(pk__in=ids)
        if set(held.values_list("pk", flat=True)) != set(ids):
            return  # another order took some of them: judge what is left
        refused = {line.line: line for line in step.verdicts.refused}
        accepted = [line for at, line in enumerate(lines) if at not in refused]
        counts = Counter(kept=len(refused))
        if accepted:
            counts += _stored(step, accepted)
            QuarantinedLine.objects.filter(pk__in=[line.pk for line in accepted]).delete()
        changed = []
        for at, verdict in refused.items():
            line = lines[at]
            if (line.code, line.detail) != (verdict.code, verdict.detail):
                line.code, line.detail = verdict.code, verdict.detail
                changed.append(line)
        QuarantinedLine.objects.bulk_update(changed, ["code", "detail"])
        if not _advance(job, cursor, counts):
            transaction.set_rollback(True)


def _stored(step: _Step, accepted: list[QuarantinedLine]) -> Counter[str]:
    """The accepted lines as a batch of their own, in the caller's transaction."""
    assert step.header is not None  # noqa: S101 -- held by the caller
    data = b"".join(line.raw_text.encode() + b"\n" for line in accepted)
    digest = hashlib.sha256(data)
    places = ",".join(f"{line.batch_id}:{line.line}" for line in accepted)
    header = replace(
        step.header, batch_id=uuid5(step.header.install_id, f"replay {digest.hexdigest()} {places}")
    )
    found = replace(step.verdicts, received=len(accepted), refused=[])
    body = Body(data, "identity", len(data), digest.digest(), digest.hexdigest())
    receipt = wire.Receipt.from_dict(receive_judged(header, body, lambda _: found).receipt)
    return Counter(stored=sum(receipt.accepted.values()), duplicate=receipt.duplicates)
