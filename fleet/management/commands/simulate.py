"""Drive a console with thousands of simulated installs over the real wire, and check its ledger."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from django.core.management.base import BaseCommand, CommandError, CommandParser

from fleet import simulate
from fleet.bringup import loopback_url

PASSED_ON = ("installs", "seed", "minutes", "interval", "rate", "history", "outage", "connections")
STDIN = "-"
EXIT_LEDGER = 3
"""The crowd's own code for rows that no receipt accounts for."""


class Command(BaseCommand):
    help = "Simulate N installs that enroll, poll, check in and push; check that nothing is lost."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--installs", type=int, default=300, help="how many (default 300)")
        parser.add_argument("--seed", type=int, default=7, help="same seed and base, same crowd")
        parser.add_argument("--base", type=int, default=0, help="when life begins, as printed (ns)")
        parser.add_argument("--minutes", type=float, default=0.0, help="0 (default): until Ctrl-C")
        parser.add_argument("--interval", type=float, default=60.0, help="seconds between pushes")
        parser.add_argument(
            "--rate", type=float, default=5.0, help="rows a minute and install; 0: as in life"
        )
        parser.add_argument("--always-on", action="store_true", help="no nights and no weekends")
        parser.add_argument("--history", type=int, default=0, help="days of history first")
        parser.add_argument(
            "--outage", default="", metavar="AFTER:S", help="the console is out of reach, seconds"
        )
        parser.add_argument("--connections", type=int, default=64, help="kept alive at most")
        parser.add_argument("--url", default="", help="default: this console")
        parser.add_argument("--token", default="", help="of another console; - reads it from stdin")
        parser.add_argument("--insecure-http", action="store_true", help="no TLS beyond loopback")
        parser.add_argument("--json", action="store_true", help="print the report as JSON")
        parser.add_argument("--remove", action="store_true", help="delete all simulated installs")
        parser.add_argument("--yes", action="store_true", help="with --remove: do not ask")

    def handle(self, *args: object, **options: object) -> None:
        if options["remove"]:
            self._remove(is_sure=bool(options["yes"]))
            return
        url = str(options["url"]) or loopback_url()
        token = str(options["token"])
        if token:
            text = sys.stdin.readline().strip() if token == STDIN else token
            result = simulate.run_crowd(url, {"": text}, _passed_on(options))
        else:
            with simulate.minted_tokens(int(str(options["installs"]))) as tokens:
                result = simulate.run_crowd(url, tokens, _passed_on(options))
        if result.report is None:
            raise CommandError("The crowd did not run; the line above says why.")
        report = dict(result.report)
        verdict = None if token else self._verdict(report)
        if verdict is not None:
            report["database"] = {
                name: getattr(verdict, name) for name in simulate.Verdict.__slots__
            }
        report.pop("install_ids", None)
        self.stdout.write(json.dumps(report, indent=2) if options["json"] else _told(report))
        if result.exit_code or (verdict is not None and not verdict.is_exact):
            raise CommandError("The ledger does not add up; see above.", returncode=EXIT_LEDGER)

    def _verdict(self, report: Mapping[str, object]) -> simulate.Verdict:
        """What the database holds of this crowd's rows."""
        ids, ledger = report["install_ids"], report["ledger"]
        assert isinstance(ids, list)  # noqa: S101  # our own report
        assert isinstance(ledger, dict)  # noqa: S101  # our own report
        spooled = simulate.wait_until_stored(ids, self.stderr.write)
        held = simulate.telemetry_of(ids, f"--mark={report['mark']}")["tables"]
        return simulate.judge_held(
            ledger["distinct"],
            held,  # type: ignore[arg-type]  # counts by table, from our own command
            partly_rejected=int(ledger["partly_rejected"]),
            unsent=int(ledger["unsent"]),
            spooled=spooled,
            was_there=bool(report["is_rerun"]),
        )

    def _remove(self, *, is_sure: bool) -> None:
        count = simulate.simulated_installs().count()
        if count and not is_sure:
            self.stderr.write(
                f"This deletes {count} simulated installs and all their telemetry for good."
            )
            if input("Type yes to go on: ").strip().lower() != "yes":
                raise CommandError("Nothing was deleted.")
        installs, rows = simulate.remove_crowd()
        self.stdout.write(f"{installs} simulated installs and {rows} rows of theirs are gone.")


def _passed_on(options: Mapping[str, object]) -> list[str]:
    """The crowd's own options."""
    words = [f"--{name}={options[name]}" for name in PASSED_ON]
    words += [f"--base={options['base']}"] if options["base"] else []
    flags = [name for name in ("always_on", "insecure_http") if options[name]]
    return words + [f"--{name.replace('_', '-')}" for name in flags]


def _told(report: Mapping[str, object]) -> str:
    """The report as a person reads it."""
    ledger, latency, found = report["ledger"], report["latency"], report.get("database")
    assert isinstance(ledger, dict)  # noqa: S101  # our own report
    assert isinstance(latency, dict)  # noqa: S101  # our own report
    told = [
        _line(
            "crowd",
            f"seed {report['seed']}, base {report['base_ns']}: {report['enrolled']} of",
            f"{report['installs']} installs enrolled, {report['live_seconds']} s of life",
        )
    ]
    told += [
        _line(kind, f"{each['count']} requests, p50 {each['p50_ms']} ms, p99 {each['p99_ms']} ms")
        for kind, each in latency.items()
        if each["count"]
    ]
    rejected, refused = ledger["rejected"], ledger["refused"]
    told.append(
        _line(
            "rows",
            f"{ledger['made']} made = {ledger['accepted']} accepted",
            f"+ {ledger['duplicates']} duplicate + {_counted(rejected, 'rejected')}",
            f"+ {_counted(refused, 'refused')} + {ledger['unsent']} unsent;",
            f"unexplained {ledger['unexplained']}",
        )
    )
    told.append(
        _line(
            "batches",
            f"{ledger['batches']}, {ledger['replayed']} sent again after their receipt,",
            f"{ledger['receipts_changed']} of those answered otherwise",
        )
    )
    if report["errors"]:
        told.append(_line("errors", str(report["errors"])))
    if isinstance(found, dict):
        told.append(_line("database", ", ".join(f"{name} {found[name]}" for name in found)))
    return "\n".join(told)


def _line(name: str, *words: str) -> str:
    return f"{name:10}" + " ".join(words)


def _counted(by_code: Mapping[str, int], word: str) -> str:
    codes = ", ".join(f"{code} {count}" for code, count in sorted(by_code.items()))
    return f"{sum(by_code.values())} {word}" + (f" ({codes})" if codes else "")
