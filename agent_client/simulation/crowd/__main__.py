"""``python -m agent_client.simulation.crowd``: bring a crowd to a console; its report as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent_client.files import write_json
from agent_client.http import AddressError
from agent_client.simulation.crowd.crowd import Crowd, CrowdError, Outage, Plan
from agent_client.simulation.crowd.making import tempo_of

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_LEDGER: Final = 3


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m agent_client.simulation.crowd",
        description="Simulate thousands of installs in one process, over the real wire.",
        epilog="Exit codes: 0 every row is accounted for, 1 refused or not reachable, 2 usage, "
        "3 the ledger does not add up.",
    )
    made.add_argument("url", help="the console's address, e.g. http://127.0.0.1:8000")
    made.add_argument(
        "--tokens",
        type=Path,
        required=True,
        metavar="FILE",
        help='JSON map of group name to enrollment string; the key "" serves all other groups; '
        "-: one line on stdin, whose end then stops the crowd",
    )
    made.add_argument("--report", type=Path, metavar="FILE", help="write the report here as JSON")
    made.add_argument("--insecure-http", action="store_true", help="plain http beyond loopback")
    add_options(made)
    return made


def add_options(made: argparse.ArgumentParser) -> None:
    """What is simulated; ``manage.py simulate`` passes the same on."""
    made.add_argument("--installs", type=int, default=300, metavar="N", help="how many")
    made.add_argument("--seed", type=int, default=7, help="same seed and base, same crowd")
    made.add_argument("--base", type=int, default=0, metavar="NS", help="when life begins")
    made.add_argument("--minutes", type=float, default=0.0, help="0: until stopped")
    made.add_argument("--interval", type=float, default=60.0, metavar="S", help="between pushes")
    made.add_argument("--rate", type=float, default=5.0, help="rows a minute; 0: as in life")
    made.add_argument("--always-on", action="store_true", help="no nights and no weekends")
    made.add_argument("--history", type=int, default=0, metavar="DAYS", help="days before")
    made.add_argument("--outage", default="", metavar="AFTER:S", help="seconds of life: seconds")
    made.add_argument("--connections", type=int, default=64, help="kept alive at most")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a crowd; its exit code."""
    chosen = parser().parse_args(arguments)
    try:
        plan = _plan_of(chosen)
    except (OSError, ValueError) as error:
        return _fail(str(error), EXIT_USAGE)
    try:
        report = asyncio.run(_run(plan, is_tied=str(chosen.tokens) == "-"))
    except (CrowdError, AddressError) as error:
        return _fail(str(error), EXIT_FAILED)
    if chosen.report:
        write_json(chosen.report, report)
    ledger = report["ledger"]
    is_exact = isinstance(ledger, dict) and ledger["is_exact"]
    return EXIT_OK if is_exact else EXIT_LEDGER


def _plan_of(chosen: argparse.Namespace) -> Plan:
    """The plan of a command line. Errors: OSError, ValueError with what is wrong."""
    is_piped = str(chosen.tokens) == "-"
    tokens = json.loads(sys.stdin.readline() if is_piped else chosen.tokens.read_text("utf-8"))
    if not isinstance(tokens, dict):
        raise ValueError(f"{chosen.tokens} is not a JSON map")  # noqa: TRY004  # one error for usage
    positive = {name: getattr(chosen, name) for name in ("installs", "interval", "connections")}
    wrong = [f"--{name} must be above zero" for name, value in positive.items() if value <= 0]
    wrong += [
        f"--{name} must not be below zero"
        for name in ("base", "minutes", "rate", "history")
        if getattr(chosen, name) < 0
    ]
    if wrong:
        raise ValueError("; ".join(wrong))
    return Plan(
        url=chosen.url,
        tokens={str(group): str(token) for group, token in tokens.items()},
        installs=chosen.installs,
        seed=chosen.seed,
        interval_s=chosen.interval,
        lasts_s=chosen.minutes * 60,
        tempo=tempo_of(chosen.rate, is_always_on=chosen.always_on),
        base_ns=chosen.base,
        history_days=chosen.history,
        outage=_outage_of(chosen.outage),
        connections=chosen.connections,
        allow_plain_http=chosen.insecure_http,
    )


def _outage_of(text: str) -> Outage | None:
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,7}(?:\.\d+)?):(\d{1,7}(?:\.\d+)?)", text)
    if match is None:
        raise ValueError("--outage is AFTER:SECONDS, as in 120:600")
    return Outage(float(match[1]), float(match[2]))


async def _run(plan: Plan, *, is_tied: bool) -> dict[str, object]:
    crowd = Crowd(plan, _say)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, crowd.stop)
    if is_tied:  # who started us is gone, however it ended

        def on_stdin() -> None:
            if not os.read(sys.stdin.fileno(), 4096):
                loop.remove_reader(sys.stdin.fileno())
                crowd.stop()

        loop.add_reader(sys.stdin.fileno(), on_stdin)
    return await crowd.run()


def _say(text: str) -> None:
    sys.stderr.write(f"\r\x1b[2K{text}\n" if sys.stderr.isatty() else f"{text}\n")
    sys.stderr.flush()


def _fail(text: str, code: int) -> int:
    sys.stderr.write(f"crowd: {text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
