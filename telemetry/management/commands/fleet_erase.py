"""Erase an install with everything that is known of it, or verify the report of an erasure."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from fleet.enroll.erasure import ErasureError
from fleet.enroll.erasure_report import ReportError, open_report
from fleet.models import Erasure, Install
from fleet.policy.signing import SigningError, root_fingerprint
from telemetry.store.erase import count_rows, erase_install


class Command(BaseCommand):
    help = "Erase all of an install and sign a report; --verify FILE proves a report, offline."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("install", type=UUID, nargs="?", help="the install's id")
        parser.add_argument("--reason", default="", help="why; the audit log and report keep it")
        parser.add_argument("--yes", action="store_true", help="erase without asking")
        parser.add_argument("--by", default="command line", help="who asks for it")
        parser.add_argument("--out", type=Path, help="file for the signed report (default stdout)")
        parser.add_argument("--verify", type=Path, metavar="FILE", help="verify a signed report")
        parser.add_argument(
            "--fingerprint", default="", help="root key's fingerprint (default: this console's)"
        )

    def handle(self, *args: object, install: UUID | None, **options: object) -> None:
        file = options["verify"]
        if isinstance(file, Path):
            self._verify(file, str(options["fingerprint"]))
            return
        if install is None:
            raise CommandError("Name the install, or a report with --verify FILE.")
        self._erase(install, options)

    def _erase(self, install_id: UUID, options: dict[str, object]) -> None:
        reason = str(options["reason"]).strip()
        known = Erasure.objects.filter(pk=install_id).first()
        if known is None:
            if not reason:
                raise CommandError("Say why with --reason; the audit log and the report keep it.")
            counts = count_rows(install_id)
            install = Install.objects.filter(pk=install_id).first()
            if install is None and not any(counts.values()):
                raise CommandError("No such install.")
            self.stderr.write(f"{install or install_id}: {sum(counts.values())} rows of telemetry.")
            if not options["yes"] and input("Erase them for ever? Type yes: ") != "yes":
                raise CommandError("Nothing was erased.")
        try:
            erasure = erase_install(
                install_id, actor=str(options["by"]), reason=reason, on_step=self._say
            )
        except (ErasureError, SigningError) as error:
            raise CommandError(f"{error}; run the same command again to go on.") from None
        if not erasure.is_done:
            raise CommandError("Another process is erasing this install; look again in a minute.")
        self._hand_out(erasure, options["out"])

    def _say(self, step: str) -> None:
        self.stderr.write(f"erased {step}")

    def _hand_out(self, erasure: Erasure, out: object) -> None:
        rows = sum((erasure.counts_before or {}).values())
        self.stderr.write(
            f"erased {rows} rows; the sums of {len(erasure.hours)} hours are made anew, "
            f"those of {len(erasure.frozen_hours)} hours without rows stay as they are"
        )
        if isinstance(out, Path):
            out.write_text(erasure.report + "\n", encoding="ascii")
            self.stderr.write(f"signed report: {out}")
        else:
            self.stdout.write(erasure.report)

    def _verify(self, file: Path, fingerprint: str) -> None:
        try:
            report = open_report(file.read_bytes(), fingerprint=fingerprint or root_fingerprint())
        except (ReportError, SigningError, OSError) as error:
            raise CommandError(str(error)) from None
        self.stdout.write(json.dumps(report, indent=2, ensure_ascii=False))
        self.stderr.write("The signature holds.")
