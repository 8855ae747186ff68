"""``enroll``, ``unenroll``, ``push``: the verbs through which something leaves the machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Final

from agent_client.cli import home_of, is_json
from agent_client.cli.output import (
    EXIT_CREDENTIAL,
    EXIT_FAILED,
    EXIT_NETWORK,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_USAGE,
    fail,
    is_terminal,
    number,
    rows,
    say,
    say_json,
    size_text,
    talk,
)
from agent_client.cli.shown import shown_url
from agent_client.enroll import (
    WAIT_S,
    EnrollError,
    EnrollOptions,
    Waiting,
    enroll,
    read_token,
    unenroll,
)
from agent_client.push import Preview, PushResult, preview_push, push_once

_ENROLL_EXITS: Final = {
    "malformed_token": EXIT_USAGE,
    "token_unknown": EXIT_CREDENTIAL,
    "token_expired": EXIT_CREDENTIAL,
    "token_revoked": EXIT_CREDENTIAL,
    "token_exhausted": EXIT_CREDENTIAL,
    "cidr_denied": EXIT_REFUSED,
    "pending": EXIT_NETWORK,
    "rate_limited": EXIT_NETWORK,
    "unavailable": EXIT_NETWORK,
}
PREVIEW_LINES: Final = 3


def run_enroll(args: argparse.Namespace) -> int:
    """Enroll this home; the secret is stored and never shown."""
    allows_plain = args.insecure_http or os.environ.get("HERMES_TELEMETRY_INSECURE_HTTP") == "1"
    options = EnrollOptions(
        new_id=args.new_id,
        force=args.force,
        wait_s=0.0 if args.no_wait else WAIT_S,
        allow_plain_http=allows_plain,
        on_wait=_waiter(),
    )
    try:
        is_typed = args.token == "-" and is_terminal(sys.stdin)  # noqa: S105  # a dash is no secret
        token = _typed_token() if is_typed else read_token(args.token, args.token_file, os.environ)
        enrolled = enroll(home_of(args), args.url, token, options=options)
    except EnrollError as error:
        if is_json(args):
            say_json({"enrolled": False, "code": error.code, "detail": str(error)})
        fail(str(error), error.hint)
        return _ENROLL_EXITS.get(error.code, EXIT_FAILED)
    if is_json(args):
        say_json(
            {
                "enrolled": True,
                "console_url": enrolled.console_url,
                "install_id": enrolled.install_id,
                "fleet_id": enrolled.fleet_id,
                "group": enrolled.group,
                "scopes": list(enrolled.scopes),
            }
        )
        return EXIT_OK
    group = f", group {enrolled.group}" if enrolled.group else ""
    say(f"Enrolled with {enrolled.console_url}{group} as {enrolled.install_id}")
    say("Next: hermes-telemetry push --dry-run   (then push, and policy sync)")
    return EXIT_OK


def _typed_token() -> str:
    """The enrollment string from the keyboard; it is not shown."""
    from getpass import getpass

    return getpass("Enrollment string (not shown while you paste it): ", sys.stderr).strip()


def _waiter() -> Callable[[Waiting], None]:
    """Says once which code to compare, then shows that the wait goes on."""
    told: list[str] = []

    def on_wait(waiting: Waiting) -> None:
        if waiting.user_code not in told:
            told.append(waiting.user_code)
            talk(f"Waiting for an operator to approve this install; code {waiting.user_code}")
        elif sys.stderr.isatty():
            sys.stderr.write(".")
            sys.stderr.flush()

    return on_wait


def run_unenroll(args: argparse.Namespace) -> int:
    """Forget the credential; nothing leaves from then on."""
    was_enrolled = unenroll(home_of(args))
    if is_json(args):
        say_json({"was_enrolled": was_enrolled})
    elif was_enrolled:
        say("Not enrolled any more: nothing leaves this machine. Recorded data stays here.")
        talk("Pins a fleet wrote stay in managed scope; the console still lists the install.")
    else:
        say("This home was not enrolled.")
    return EXIT_OK


def run_push(args: argparse.Namespace) -> int:
    """Send what is pending, or show it."""
    if args.dry_run or args.lines:
        return _show_preview(args)
    home = home_of(args)
    result = push_once(home, force=args.force, on_batch=_progress)
    if is_json(args):
        say_json(_result_json(result))
    else:
        for line in _ends(result):
            say(line)
    if result.exit_code:
        for line in _advice(result):
            talk(line)
    return result.exit_code


def _progress(total: PushResult) -> None:
    talk(f"{number(total.batches, 'batch', 'batches')}, {number(total.rows, 'row')} acknowledged")


def result_text(result: PushResult) -> str:
    """One line that says how a push ended."""
    done = (
        f"{number(result.rows, 'row')} sent in {number(result.batches, 'batch', 'batches')}: "
        f"{result.accepted} accepted, {result.duplicates} known, {result.rejected} refused"
    )
    if result.status == "nothing":
        return "Nothing to send: the console has everything."
    if result.status == "pushed":
        return f"Pushed. {done}."
    if result.status == "partial":
        codes = ", ".join(f"{code} {count}" for code, count in result.rejected_counts.items())
        return f"Pushed in part. {done} ({codes})."
    parts = [result.status.replace("_", " "), result.reason, result.detail]
    if result.reason == result.status:
        del parts[1]
    why = ": ".join(part for part in parts if part)
    text = f"Not pushed, {why}" if not result.batches else f"{done}; then {why}"
    return f"{text}. {number(result.pending, 'row')} pending."


def _ends(result: PushResult) -> list[str]:
    """How a push ended: in one line, or a line a plane when another than the local had its turn."""
    names = {"local": "records", "aggregate": "summaries", "trajectories": "content"}
    # What a key shuts on this machine is no news: the owner set it.
    had_a_turn = {
        name: part
        for name in names
        if (part := result.planes.get(name)) is not None
        and (name == "local" or not _is_shut_here(part))
    }
    if len(had_a_turn) < 2 or all(part.status == "nothing" for part in had_a_turn.values()):
        return [result_text(result)]
    return [f"{names[name] + ':':<10} {result_text(part)}" for name, part in had_a_turn.items()]


def _is_shut_here(part: PushResult) -> bool:
    return part.status == "closed" and part.detail.startswith("telemetry.")


def _advice(result: PushResult) -> list[str]:
    if result.status == "not_enrolled":
        return ["Enroll first: hermes-telemetry enroll URL -   (paste the string, press Enter)"]
    if result.status == "rejected":
        return [
            "The console does not accept this install's credential; policy in force is held.",
            "Ask the operator, then: hermes-telemetry enroll --force URL -",
        ]
    if result.status == "later":
        wait = f" in {result.retry_after_s:.0f} s" if result.retry_after_s else ""
        return [f"Nothing is lost; run the same command again{wait}."]
    if result.status == "blocked":
        return ["The batch is kept and tried again in an hour, or now with --force."]
    return []


def _result_json(result: PushResult) -> dict[str, object]:
    planes = {name: _result_json(part) for name, part in result.planes.items()}
    return {
        "status": result.status,
        "exit_code": result.exit_code,
        "reason": result.reason,
        "detail": result.detail,
        "batches": result.batches,
        "rows": result.rows,
        "accepted": result.accepted,
        "duplicates": result.duplicates,
        "rejected": result.rejected,
        "rejected_counts": result.rejected_counts,
        "pending": result.pending,
        "retry_after_s": result.retry_after_s,
        **({"planes": planes} if planes else {}),
    }


def _show_preview(args: argparse.Namespace) -> int:
    found = preview_push(home_of(args))
    if isinstance(found, PushResult):
        if is_json(args):
            say_json(_result_json(found))
        else:
            say(result_text(found))
        for line in _advice(found):
            talk(line)
        return found.exit_code
    if args.lines:
        for preview in found:
            talk(f"{preview.plane} plane:")
            sys.stdout.write(preview.body.decode("ascii", "replace"))
            sys.stdout.flush()
        return EXIT_OK
    if is_json(args):
        say_json(
            {
                "endpoint": shown_url(found[0].endpoint),
                "rows": sum(preview.rows for preview in found),
                "pending": sum(preview.pending for preview in found),
                "planes": {preview.plane: _preview_json(preview) for preview in found},
            }
        )
        return EXIT_OK
    for preview in found:
        _show_plane(preview)
    talk("Nothing was sent.")
    return EXIT_OK


def _show_plane(preview: Preview) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in preview.counts.items())
    rows(
        [
            ("Plane", preview.plane),
            ("To", shown_url(preview.endpoint)),
            ("Rows", f"{preview.rows} of {max(preview.pending, preview.rows)} pending: {counts}"),
            (
                "Bytes",
                f"{size_text(len(preview.body))}, {size_text(preview.wire_bytes)} on the wire",
            ),
            ("Headers", "\n".join(f"{name}: {value}" for name, value in preview.headers.items())),
        ]
    )
    say()
    for line in preview.body.decode("ascii", "replace").splitlines()[:PREVIEW_LINES]:
        say(line)
    if preview.rows > PREVIEW_LINES:
        say(f"… {preview.rows - PREVIEW_LINES} more; see all with --dry-run --lines")
    say()


def _preview_json(preview: Preview) -> dict[str, object]:
    return {
        "pending": preview.pending,
        "rows": preview.rows,
        "counts": preview.counts,
        "first_seq": preview.first_seq,
        "last_seq": preview.last_seq,
        "body_bytes": len(preview.body),
        "wire_bytes": preview.wire_bytes,
        "headers": preview.headers,
        "is_resend": preview.is_resend,
    }
