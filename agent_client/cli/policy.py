"""``policy show | sync | why``: who pinned what on this machine, and the round that applies it."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from agent_client import config
from agent_client.cli import home_of, is_json
from agent_client.cli.output import (
    EXIT_FAILED,
    EXIT_OK,
    clean,
    number,
    paint,
    rows,
    say,
    say_json,
    talk,
    time_text,
    value_text,
)
from agent_client.cli.shown import shown_value
from agent_client.contract.policy_keys import KEYS, MAX_KEY_CHARS
from agent_client.policy.view import PinView, PolicyView, view_policy

if TYPE_CHECKING:
    from agent_client.policy.ack import DriftItem


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
        say(f"{paint(clean(pin.key), 'bold')} = {_text(pin.key, pin.value)}")
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
    parts = [f"from {clean(pin.layer) or 'the fleet'}"]
    if pin.revision:
        parts.append(f"revision {pin.revision}")
    lines = [", ".join(parts)]
    if pin.reason:
        lines.append(clean(f"why: {pin.reason}" + (f" ({pin.ticket})" if pin.ticket else "")))
    if pin.contact:
        lines.append(clean(f"ask: {pin.contact}"))
    if pin.expires_ns:
        lines.append(f"until {time_text(pin.expires_ns).split(' (')[0]}")
    if not pin.in_force:
        lines.append(f"NOT in force: the agent sees {_text(pin.key, pin.effective)}")
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
        "pins": [_pin_json(pin) for pin in view.pins],
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
                "drift": [_drift_json(item) for item in result.drift],
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
        wanted, found = _text(item.key, item.want), _text(item.key, item.got)
        talk(f"drift: {item.key} is {found}, pinned to {wanted} ({item.cause})")
    if result.status == "not_enrolled":
        talk("Enroll first: hermes-telemetry enroll URL -")
    return result.exit_code


def run_why(args: argparse.Namespace) -> int:
    """Say where one key's value comes from; exit 1 when no file sets it and we know no default."""
    home = home_of(args)
    settings = config.load(home, expand=False)
    missing = object()
    value = settings.get(args.key, missing)
    source = settings.source(args.key)
    below = f"{args.key}."
    pins = [
        pin
        for pin in view_policy(home).pins
        if pin.key == args.key or pin.key.startswith(below) or args.key.startswith(f"{pin.key}.")
    ]
    is_set = value is not missing
    if is_json(args):
        say_json(
            {
                "key": args.key if is_set else _typed_key(args.key),
                "is_set": is_set,
                "value": shown_value(args.key, value) if is_set else None,
                "source": source,
                "pins": [_pin_json(pin) for pin in pins],
            }
        )
        return EXIT_OK if is_set else EXIT_FAILED
    if not is_set:
        say(f"{_typed_key(args.key)} has no value in any file; the host's own default applies.")
        close = _nearest_key(args.key, settings)
        if close:
            talk(f"Did you mean {close}?")
        return EXIT_FAILED
    say(f"{paint(clean(args.key), 'bold')} = {_text(args.key, value)}")
    say(f"    {_source_text(source)}")
    for pin in pins:
        for line in (
            [f"{clean(pin.key)} = {_text(pin.key, pin.value)}"] if pin.key != args.key else []
        ) + _pin_lines(pin):
            say(f"    {line}")
    if args.key in KEYS:
        say(f"    {KEYS[args.key].help}")
    return EXIT_OK


def _typed_key(key: str) -> str:
    """A key that no file has, as typed; it may be anything, a token from the clipboard included."""
    from agent_client.contract.redact import redact_text

    return clean(redact_text(key))


def _nearest_key(key: str, settings: config.ClientConfig) -> str:
    """The known key that was probably meant; "" when none is close."""
    from difflib import get_close_matches

    # A key as long as a document is nobody's mistyping, and comparing it would take minutes.
    if len(key) > MAX_KEY_CHARS:
        return ""
    by_end = {name.removeprefix("telemetry."): name for name in KEYS}
    names = {**by_end, **{name: name for name in (*settings.sources, *KEYS)}}
    close = get_close_matches(key, names, n=1, cutoff=0.75)
    return clean(names[close[0]]) if close else ""


def _text(key: str, value: object) -> str:
    return clean(value_text(shown_value(key, value)))


def _pin_json(pin: PinView) -> dict[str, object]:
    return pin.to_dict() | {
        "value": shown_value(pin.key, pin.value),
        "effective": shown_value(pin.key, pin.effective),
    }


def _drift_json(item: DriftItem) -> dict[str, object]:
    return item.to_dict() | {
        "want": shown_value(item.key, item.want),
        "got": shown_value(item.key, item.got),
    }


def _source_text(source: config.Source) -> str:
    return {
        "managed": "pinned in managed scope; this machine's user cannot change it",
        "user": "set in the user's config.yaml",
        "enroll": "set by enrollment (hermes-telemetry unenroll takes it back)",
        "default": "the default; no file sets it",
    }[source]
