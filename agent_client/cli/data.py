"""``insights`` and ``export``: the recorded rows, read on the machine."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from agent_client.cli import home_of, is_json
from agent_client.cli.output import EXIT_FAILED, EXIT_OK, fail, number, say, say_json, talk
from agent_client.files import telemetry_dir

if TYPE_CHECKING:
    from agent_client.export import ExportReport

DAY_NS = 86_400 * 10**9
NOT_SHOWN = (
    "secrets cannot be removed on this machine, so nothing is shown; "
    "install google-re2 into the agent's environment and run 'hermes-telemetry doctor'"
)


def since_ns(days: float | None) -> int | None:
    """The start of a window of days that ends now; None for all time."""
    return None if days is None else max(0, time.time_ns() - int(days * DAY_NS))


def run_insights(args: argparse.Namespace) -> int:
    """Print the Observability section, or its numbers."""
    from agent_client.contract.redact import UNAVAILABLE, redact_text, redact_value
    from agent_client.insights import overview
    from agent_client.insights_text import render
    from agent_client.recovery import recover
    from agent_client.store import Store, StoreError, database_path

    home = home_of(args)
    if redact_text("a word") == UNAVAILABLE:
        raise StoreError(NOT_SHOWN)
    recover(home)
    if not database_path(home).exists():
        if is_json(args):
            say_json({"has_data": False})
        else:
            say("Nothing recorded yet.")
            talk("Run 'hermes plugins enable telemetry', then use the agent.")
        return EXIT_OK
    with Store(home) as store:  # migrates a database of an earlier version before it is read
        seen = overview(store.connection, since_ns(args.days))
    # A terminal is a way out too: what stands where a name belongs may be a secret.
    found = {name: redact_value(part) for name, part in seen.items()}
    if is_json(args):
        say_json(found)
        return EXIT_OK
    window = "all time" if args.days is None else f"the last {args.days:g} days"
    section = render(found)
    say(section.rstrip("\n") if section else f"Nothing recorded in {window}.")
    if section:
        talk(f"({window})")
    return EXIT_OK


def run_export(args: argparse.Namespace) -> int:
    """Write the redacted records; counts and warnings go to stderr, with ``--json`` as JSON.

    The JSON answer goes to stdout, or to stderr where stdout carries the records.
    """
    if args.otlp:
        from agent_client.cli.otlp import drain_otlp

        return drain_otlp(args)
    from agent_client import config
    from agent_client.cli.ticker import Ticker
    from agent_client.export import export
    from agent_client.recovery import recover

    home = home_of(args)
    recover(home)

    def write(out: BinaryIO) -> ExportReport:
        with Ticker("exporting") as ticker:
            return export(
                out,
                fmt=args.format,
                since_ns=since_ns(args.since),
                include_content=args.include_content,
                config=config.load(home),
                home=home,
                on_progress=lambda count: ticker.note(number(count, "record")),
            )

    if not telemetry_dir(home).exists():
        talk("nothing recorded yet")
    if args.out == "-":
        report = write(sys.stdout.buffer)
        sys.stdout.buffer.flush()
    else:
        path = Path(args.out).expanduser()
        if path.is_dir() or not path.absolute().parent.is_dir():
            what = "is a directory" if path.is_dir() else "is in a directory that is not there"
            fail(f"{path} {what}", "Name a file with --out; '-' is the standard output.")
            return EXIT_FAILED
        report = _to_file(path, write)
    total = sum(report.counts.values())
    for warning in report.warnings:
        talk(f"warning: {warning}")
    if is_json(args):
        answer = {"out": args.out, "counts": report.counts, "warnings": list(report.warnings)}
        say_json({**answer, "rows": total}, to_stderr=args.out == "-")
        return EXIT_OK
    for kind, count in report.counts.items():
        talk(f"  {kind:<20} {count:,}")
    talk(f"{number(total, 'record')} exported" + (f" to {args.out}" if args.out != "-" else ""))
    return EXIT_OK


def _to_file(path: Path, write: Callable[[BinaryIO], ExportReport]) -> ExportReport:
    """Write beside the target and rename: an interrupted export leaves no half file under its name.

    Special files (a pipe, /dev/stdout) are written in place.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as out:
            return write(out)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            report = write(out)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return report
