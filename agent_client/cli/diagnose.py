"""``doctor``: every check with its finding, and a hint where something is to mend."""

from __future__ import annotations

import argparse

from agent_client.cli import home_of, is_json
from agent_client.cli.output import EXIT_FAILED, EXIT_OK, clean, number, paint, say, say_json
from agent_client.doctor import Check, examine

_MARKS = {
    "ok": ("ok", "green"),
    "info": ("info", "dim"),
    "warn": ("warn", "yellow"),
    "fail": ("FAIL", "red"),
}


def run_doctor(args: argparse.Namespace) -> int:
    """Run the checks; exit 1 when one failed."""
    checks = examine(home_of(args), offline=args.offline)
    failed = [check for check in checks if check.level == "fail"]
    if is_json(args):
        say_json({"ok": not failed, "checks": [check.to_dict() for check in checks]})
        return EXIT_FAILED if failed else EXIT_OK
    for check in checks:
        _show(check)
    warned = sum(check.level == "warn" for check in checks)
    found = number(len(failed), "problem") + " found" if failed else "No problem found"
    say()
    say(f"{found}, {number(warned, 'warning')}." if warned else f"{found}.")
    return EXIT_FAILED if failed else EXIT_OK


def _show(check: Check) -> None:
    mark, style = _MARKS[check.level]
    say(f"{paint(f'{mark:<5}', style)} {check.name}: {clean(check.finding)}")
    if check.hint:
        say(f"      → {clean(check.hint)}")
