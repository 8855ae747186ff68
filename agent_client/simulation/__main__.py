"""``python -m agent_client.simulation``: bring a simulated fleet to a console and keep it alive."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from agent_client.simulation.cast import CAST
from agent_client.simulation.drive import Plan, SimulatedFleet, SimulationError

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m agent_client.simulation",
        description="Simulate a fleet of agents: record their history, enroll them with a console, "
        "push through the real wire, then go on with new runs until stopped.",
        epilog="Exit codes: 0 done or stopped, 1 refused or not reachable, 2 usage.",
    )
    made.add_argument("url", help="the console's address, e.g. http://127.0.0.1:8000")
    made.add_argument(
        "--folder",
        type=Path,
        required=True,
        help="where the simulated homes are kept; run again with it, the fleet goes on",
    )
    made.add_argument(
        "--tokens",
        type=Path,
        required=True,
        metavar="FILE",
        help='JSON map of group name to enrollment string; the key "" serves all other groups',
    )
    made.add_argument("--installs", type=int, default=len(CAST), help="how many (default: all)")
    made.add_argument("--days", type=int, default=14, help="days of history (default: 14)")
    made.add_argument("--seed", type=int, default=7, help="same seed, same fleet (default: 7)")
    made.add_argument(
        "--every",
        type=float,
        default=4.0,
        metavar="S",
        help="seconds between live runs (default: 5)",
    )
    made.add_argument("--no-live", action="store_true", help="end after the history")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the simulation; its exit code."""
    chosen = parser().parse_args(arguments)
    if chosen.installs < 1 or chosen.days < 0 or chosen.every <= 0:
        return _fail("installs and every must be positive, days not negative", EXIT_USAGE)
    try:
        tokens = json.loads(chosen.tokens.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return _fail(f"{chosen.tokens} cannot be read: {error}", EXIT_USAGE)
    if not isinstance(tokens, dict):
        return _fail(f"{chosen.tokens} is not a JSON map", EXIT_USAGE)
    plan = Plan(
        folder=chosen.folder.absolute(),
        url=chosen.url,
        tokens={str(group): str(token) for group, token in tokens.items()},
        seed=chosen.seed,
        days=chosen.days,
        cast=CAST[: chosen.installs],
    )
    try:
        return _run(SimulatedFleet(plan, _say, _stop_on_signals()), chosen)
    except (SimulationError, OSError) as error:
        return _fail(str(error), EXIT_FAILED)


def _run(fleet: SimulatedFleet, chosen: argparse.Namespace) -> int:
    fleet.wait_for_console()
    enrolled = fleet.enroll_all()
    _say(f"{enrolled} installs enrolled, {len(fleet.plan.cast) - enrolled} were already")
    runs, rows = fleet.write_history()
    if fleet.stopping.is_set():
        return EXIT_OK
    fleet.report()
    _say(f"history is complete: {runs} runs, {rows} rows")
    if not chosen.no_live:
        fleet.live_forever(chosen.every)
    return EXIT_OK


def _stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set: we stop between two installs, nothing half-told."""
    stopping = threading.Event()

    def on_stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_stop)
    return stopping


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _fail(text: str, code: int) -> int:
    sys.stderr.write(f"simulation: {text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
