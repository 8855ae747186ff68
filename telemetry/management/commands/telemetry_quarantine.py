"""Quarantined lines on the command line: what there is and why, replay, discard."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Final

from django.core.management.base import BaseCommand, CommandError
from django.db.models import Count

from telemetry.ingest.quarantine import WORDS, Choice, order_job, preview, run_job
from telemetry.models import QuarantinedLine, QuarantineJob

MAX_LISTED: Final = 100
ACTOR: Final = "manage.py"


class Command(BaseCommand):
    help = "List quarantined lines by reason, show one, replay or discard what a filter chooses."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("verb", choices=("list", "show", "replay", "purge"))
        parser.add_argument("line", type=int, nargs="?", help="show: the line's number in the list")
        parser.add_argument("--code", help="only lines refused with this code")
        parser.add_argument("--column", dest="detail", help='only this column; "-": without one')
        parser.add_argument("--install", help="only lines of the install with this id")
        parser.add_argument("--day", help="only lines received on this day (UTC), as 2026-01-31")
        parser.add_argument("--batch", dest="search", help="only lines of the batch with this id")
        parser.add_argument("--lines", action="store_true", help="list: each line, not the counts")
        parser.add_argument(
            "--reason", default="", help="replay, purge: why; the audit log keeps it"
        )
        parser.add_argument("--yes", action="store_true", help="replay, purge: do it")

    def handle(
        self,
        *args: object,
        verb: str,
        line: int | None = None,
        lines: bool = False,
        reason: str = "",
        yes: bool = False,
        **options: object,
    ) -> None:
        choice = Choice.from_dict({name: options.get(name) for name in WORDS})
        if verb == "show":
            self._show(line)
        elif verb == "list":
            self._list_lines(choice) if lines else self._list(choice)
        elif verb == "replay":
            self._replay(choice, reason, is_meant=yes)
        else:
            self._purge(choice, reason, is_meant=yes)

    def _list(self, choice: Choice) -> None:
        found = choice.lines().order_by().values_list("code", "detail")
        for code, detail, number in found.annotate(number=Count("pk")).order_by("-number", "code"):
            self.stdout.write(f"{number:>9}  {code}  {detail or '-'}")
        self.stdout.write(f"{choice.lines().count()} lines")

    def _list_lines(self, choice: Choice) -> None:
        for item in choice.lines()[:MAX_LISTED]:
            mark = "" if item.is_replayable else "  (not kept whole)"
            self.stdout.write(
                f"{item.pk}  {item.received_at:%Y-%m-%d %H:%M}  {item.install_id}  "
                f"{item.code} {item.detail}{mark}"
            )
        total = choice.lines().count()
        self.stdout.write(f"{min(total, MAX_LISTED)} of {total} lines")

    def _show(self, line: int | None) -> None:
        item = QuarantinedLine.objects.filter(pk=line).first() if line is not None else None
        if item is None:
            raise CommandError("No such line; `list --lines` gives the numbers.")
        self.stdout.write(
            f"install {item.install_id}, batch {item.batch_id}, line {item.line}, "
            f"{item.plane} plane\n"
            f"received {item.received_at:%Y-%m-%d %H:%M:%S} UTC\n"
            f"refused: {item.code} {item.detail}\n"
            f"replayable: {'yes' if item.is_replayable else 'no, it was not kept whole'}\n"
            # A terminal obeys control characters; what an agent sent must not reach it.
            f"{item.raw_text.encode('unicode_escape').decode('ascii')}"
        )

    def _replay(self, choice: Choice, reason: str, *, is_meant: bool) -> None:
        found = preview(choice)
        self.stdout.write(
            f"{found.total} lines, {found.replayable} of them can be replayed; of the first "
            f"{found.judged} today's rules accept {found.accepted}"
        )
        self._need(reason, is_meant=is_meant)
        job = self._run(QuarantineJob.Action.REPLAY, choice, reason)
        self.stdout.write(
            f"{job.stored_count} rows stored, {job.duplicate_count} were there already, "
            f"{job.kept_count} lines stay in quarantine"
        )

    def _purge(self, choice: Choice, reason: str, *, is_meant: bool) -> None:
        self.stdout.write(f"{choice.lines().count()} lines")
        self._need(reason, is_meant=is_meant)
        job = self._run(QuarantineJob.Action.PURGE, choice, reason)
        self.stdout.write(f"{job.removed_count} lines discarded")

    def _need(self, reason: str, *, is_meant: bool) -> None:
        if not is_meant or not reason.strip():
            raise CommandError('Nothing was done. Add --yes and --reason "…" to do it.')

    def _run(self, action: QuarantineJob.Action, choice: Choice, reason: str) -> QuarantineJob:
        job = order_job(action, choice, actor=ACTOR, reason=reason.strip())
        while job.state != QuarantineJob.State.DONE:
            job = run_job(job.pk)
        return job
