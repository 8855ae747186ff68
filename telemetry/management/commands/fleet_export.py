"""Exports from the shell: order one, watch it, list them, cancel one, see what would expire."""

from __future__ import annotations

import getpass
import sys
import time
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from typing import Final

from django.core.management.base import BaseCommand, CommandError
from django.utils.dateparse import parse_date, parse_datetime

from fleet.lib.clock import now
from telemetry.exports.choice import Choice, ChoiceRefused
from telemetry.exports.datasets import DATASETS
from telemetry.exports.faults import ExportRefused
from telemetry.exports.orders import Order, cancel_job, order_job, retry_job
from telemetry.exports.retention import going
from telemetry.exports.run import run_job
from telemetry.models import ExportDestination, ExportFormat, ExportJob

MAX_LISTED: Final = 50
REST_S: Final = 0.5
"""Between two looks at a job that another process works on."""


class Command(BaseCommand):
    help = "Export telemetry, insights or the audit trail to files; list, cancel, retry exports."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("datasets", nargs="*", help=f"of: {', '.join(DATASETS)}")
        parser.add_argument("--format", choices=ExportFormat.values, default="ndjson")
        parser.add_argument("--gzip", action="store_true", help="pack text with gzip")
        parser.add_argument("--days", type=int, default=1, help="the last so many days (default 1)")
        parser.add_argument("--from", dest="start", help="a day or a time, UTC; instead of --days")
        parser.add_argument("--to", dest="end", help="a day or a time, UTC, itself left out")
        for name in ("group", "install", "model", "tool", "result"):
            parser.add_argument(
                f"--{name}", action="append", default=[], help=f"only this {name}; may be repeated"
            )
        parser.add_argument("--destination", help="the name of a destination; default: the console")
        parser.add_argument("--keep-days", type=int, default=7)
        parser.add_argument("--reason", default="", help="why; content is not exported without it")
        parser.add_argument("--wait", action="store_true", help="carry it out here, with progress")
        parser.add_argument("--list", action="store_true", dest="is_list", help="show exports")
        parser.add_argument("--cancel", type=int, metavar="ID")
        parser.add_argument("--retry", type=int, metavar="ID", help="let a failed one go on")
        parser.add_argument(
            "--expiring", action="store_true", help="show what would be removed now; change nothing"
        )

    def handle(self, *args: object, **options: object) -> None:
        actor = f"manage.py {_login()}".strip()
        if options["is_list"]:
            self._list()
        elif options["expiring"]:
            self._expiring()
        elif options["cancel"] is not None:
            self._must(cancel_job(_number(options["cancel"]), actor), "is not open")
            self.stdout.write("It stops.")
        elif options["retry"] is not None:
            pk = _number(options["retry"])
            self._must(retry_job(pk, actor), "has not failed")
            self._follow(pk, is_waited_for=bool(options["wait"]))
        else:
            try:
                job = order_job(_order(options), actor=actor)
            except (ChoiceRefused, ExportRefused) as error:
                raise CommandError(str(error)) from None
            self._follow(job.pk, is_waited_for=bool(options["wait"]))

    def _must(self, is_done: bool, problem: str) -> None:  # noqa: FBT001 -- what a call answered
        if not is_done:
            raise CommandError(f"There is no such export, or it {problem}.")

    def _follow(self, pk: int, *, is_waited_for: bool) -> None:
        """The id on stdout; with ``--wait`` the work itself, its progress on stderr."""
        self.stdout.write(str(pk))
        if not is_waited_for:
            return
        said = ""
        while True:
            job = run_job(pk, budget_s=1.0)
            told = _progress(job)
            if told != said:
                self.stderr.write(said := told)
            if not job.is_open:
                break
            if job.state == ExportJob.State.WAITING or job.lease_owner:
                time.sleep(REST_S)
        if job.state != ExportJob.State.DONE:
            raise CommandError(f"Export {pk}: {job.get_state_display()}. {job.last_error}".strip())
        for file in job.files.order_by("dataset", "part"):
            self.stderr.write(f"  {file.name}  {file.row_count} rows  {file.sha256}")
        self.stderr.write(f"  manifest.json  {job.manifest_sha256}")

    def _list(self) -> None:
        for job in ExportJob.objects.order_by("-pk")[:MAX_LISTED]:
            self.stdout.write(
                f"{job.pk:>6}  {job.state:<9}  {job.created_at:%Y-%m-%d %H:%M}  {job.fmt:<7}  "
                f"{job.done_count:>10} rows  {','.join(job.datasets)}  {job.last_error}".rstrip()
            )

    def _expiring(self) -> None:
        for item in going():
            where = "the console's store" if item.is_own else "kept where they are"
            self.stdout.write(
                f"export {item.job_id}  since {item.expired_at:%Y-%m-%d %H:%M}  "
                f"{item.file_count} files  {item.size_bytes} bytes  ({where})"
            )


def _order(options: dict[str, object]) -> Order:
    """Errors: CommandError, ChoiceRefused, ExportRefused."""
    datasets = options["datasets"]
    assert isinstance(datasets, list)  # noqa: S101 -- argparse makes it one
    start, end = _window(options)
    name = options["destination"]
    destination = ExportDestination.objects.filter(name=name).first() if name else None
    if name and destination is None:
        raise CommandError("There is no destination of that name.")
    return Order(
        datasets=tuple(datasets),
        fmt=str(options["format"]),
        start_at=start,
        end_at=end,
        choice=Choice.from_dict({f"{one}s": options[one] for one in _DIMENSIONS}),
        destination=destination,
        keep_days=_number(options["keep_days"]),
        reason=str(options["reason"]),
        is_gzipped=bool(options["gzip"]),
    )


_DIMENSIONS: Final = ("group", "install", "model", "tool", "result")


def _window(options: dict[str, object]) -> tuple[datetime, datetime]:
    end = _moment(options["end"], "--to") or now()
    start = _moment(options["start"], "--from")
    return start or end - timedelta(days=_number(options["days"])), end


def _moment(value: object, name: str) -> datetime | None:
    if not value:
        return None
    text = str(value)
    try:
        day = parse_date(text)
        moment = datetime(day.year, day.month, day.day, tzinfo=UTC) if day else parse_datetime(text)
    except ValueError:
        moment = None
    if moment is None:
        raise CommandError(f"{name}: write 2026-11-28 or 2026-11-28T09:00:00Z.")
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _number(value: object) -> int:
    assert isinstance(value, int)  # noqa: S101 -- argparse makes it one
    return value


def _progress(job: ExportJob) -> str:
    of = f" of about {job.total_count}" if job.is_open and job.total_count else ""
    words = f" – {job.last_error}" if job.last_error else ""
    return f"{job.get_state_display()}: {job.done_count}{of} rows, {job.done_bytes} bytes{words}"


def _login() -> str:
    try:
        return getpass.getuser() if sys.stdin is not None else ""
    except (KeyError, OSError):
        return ""
