"""``policy show | sync | why``: who pinned what on this machine, and the round that applies it."""

from __future__ import annotations

import argparse
import time

from agent_client import config
from agent_client.cli import home_of, is_json
from agent_client.cli.output import (
    EXIT_FAILED,
    EXIT_OK,
    number,
    paint,
    rows,
    say,
    say_json,
    talk,
    time_text,
    value_text,
)
from agent_client.contract.policy_keys import KEYS
from agent_client.policy.view import PinView, PolicyView, view_policy


def run_show(args: argparse.Namespace) -> int:
    """Show the pins in force with their sources."""
    view = view_policy(home_of(args))
    if is_json(args):
        say_json(_view_json(view))
        return EXIT_OK
    if not view.pins and view.state == "none":
        say("No policy: nothing is pinned on this machine.")
        for problem in view.problems:
            talk(f"{problem.subject}: {problem.detail}")
        return EXIT_OK
    rows(_head(view))
    for pin in view.pins:
        say()
        say(f"{paint(pin.key, 'bold')} = {value_text(pin.value)}")
        for line in _pin_lines(pin):
            say(f"    {line}")
    for problem in view.problems:
        talk(f"{problem.subject}: {problem.detail}")
    return EXIT_OK


def _head(view: PolicyView) -> list[tuple[str, str]]:
    lines = [
        ("Policy", f"revision {view.bundle_version}, {view.state}"),
        ("Fleet", f"{view.fleet_id or 'unknown'} at {view.console_url or 'unknown'}"),
        ("Written", f"{time_text(view.written_ns)} to {view.managed_dir or 'nowhere'}"),
        ("Last sync", time_text(view.last_sync_ns)),
    ]
    if view.reason:
        lines.append(("Because", view.reason))
    if view.expires_ns:
        is_past = view.expires_ns <= time.time_ns()
        note = " (stale: it stays in force)" if is_past else ""
        lines.append(("Good until", time.strftime("%Y-%m-%d %H:%M UTC", _utc(view)) + note))
    return lines


def _utc(view: PolicyView) -> time.struct_time:
    return time.gmtime(view.expires_ns / 1e9)


def _pin_lines(pin: PinView) -> list[str]:
    if pin.holder == "administrator":
        return ["pinned by this machine's administrator, not by the fleet"]
    parts = [f"from {pin.layer or 'the fleet'}"]
    if pin.revision:
        parts.append(f"revision {pin.revision}")
    lines = [", ".join(parts)]
    if pin.reason:
        lines.append(f"why: {pin.reason}" + (f" ({pin.ticket})" if pin.ticket else ""))
    if pin.contact:
        lines.append(f"ask: {pin.contact}")
    if pin.expires_ns:
        lines.append(f"until {time_text(pin.expires_ns).split(' (')[0]}")
    if not pin.in_force:
        lines.append(f"NOT in force: the agent sees {value_text(pin.effective)}")
    return lines


def _view_json(view: PolicyView) -> dict[str, object]:
    return {
        "state": view.state,
        "reason": view.reason,
        "managed_dir": view.managed_dir,
        "fleet_id": view.fleet_id,
        "console_url": view.console_url,
        "assignment_version": view.assignment_version,
        "revision": view.bundle_version,
        "written_ns": view.written_ns,
        "last_sync_ns": view.last_sync_ns,
        "expires_ns": view.expires_ns,
        "pins": [pin.to_dict() for pin in view.pins],
        "problems": [{"code": p.code, "detail": p.detail} for p in view.problems],
    }


def run_sync(args: argparse.Namespace) -> int:
    """One round of policy; the exit code says whether it is in force."""
    from agent_client import policy

    result = policy.sync(home_of(args), verify_host=args.verify_host)
    if is_json(args):
        say_json(
            {
                "status": result.status,
                "exit_code": result.exit_code,
                "reason": result.reason,
                "detail": result.detail,
                "assignment_version": result.assignment_version,
                "revision": result.bundle_version,
                "changed": list(result.changed),
                "drift": [item.to_dict() for item in result.drift],
                "reported": result.is_reported,
            }
        )
        return result.exit_code
    if result.status == "applied":
        changed = number(len(result.changed), "key") + " changed" if result.changed else "no change"
        state = "with drift" if result.drift else "in force"
        say(f"Policy revision {result.bundle_version} is {state}: {changed}.")
    elif result.status == "none":
        say("The console has published no policy for this install.")
    else:
        say(f"Policy {result.status}: {result.reason}. What was in force stays in force.")
    if result.detail:
        talk(result.detail)
    for item in result.drift:
        wanted, found = value_text(item.want), value_text(item.got)
        talk(f"drift: {item.key} is {found}, pinned to {wanted} ({item.cause})")
    if result.status == "not_enrolled":
        talk("Enroll first: hermes-telemetry enroll URL -")
    return result.exit_code


def run_why(args: argparse.Namespace) -> int:
    """Say where one key's value comes from; exit 1 when it has no value at all."""
    home = home_of(args)
    settings = config.load(home)
    missing = object()
    value = settings.get(args.key, missing)
    source = settings.source(args.key)
    below = f"{args.key}."
    pins = [
        pin
        for pin in view_policy(home).pins
        if pin.key == args.key or pin.key.startswith(below) or args.key.startswith(f"{pin.key}.")
    ]
    if is_json(args):
        say_json(
            {
                "key": args.key,
                "is_set": value is not missing,
                "value": None if value is missing else value,
                "source": source,
                "pins": [pin.to_dict() for pin in pins],
            }
        )
        return EXIT_OK if value is not missing else EXIT_FAILED
    if value is missing:
        say(f"{args.key} has no value in any file; the host's own default applies.")
        return EXIT_FAILED
    say(f"{paint(args.key, 'bold')} = {value_text(value)}")
    say(f"    {_source_text(source)}")
    for pin in pins:
        for line in ([f"{pin.key} = {value_text(pin.value)}"] if pin.key != args.key else []) + (
            _pin_lines(pin)
        ):
            say(f"    {line}")
    if args.key in KEYS:
        say(f"    {KEYS[args.key].help}")
    return EXIT_OK


def _source_text(source: config.Source) -> str:
    return {
        "managed": "pinned in managed scope; this machine's user cannot change it",
        "user": "set in the user's config.yaml",
        "enroll": "set by enrollment (hermes-telemetry unenroll takes it back)",
        "default": "the default; no file sets it",
    }[source]
