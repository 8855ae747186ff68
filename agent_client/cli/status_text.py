"""``status`` as a person reads it: what is recorded, what may leave, who decides, what is next."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from agent_client import __version__
from agent_client.cli.output import (
    age_text,
    clean,
    counts_text,
    number,
    paint,
    rows,
    say,
    size_text,
    span_text,
    time_text,
    value_text,
)
from agent_client.cli.shown import shown_url, shown_value
from agent_client.cli.status import Status, not_before_ns
from agent_client.policy.view import PinView
from agent_client.progress import LastReceipt, Progress

Line = tuple[str, str]
MAX_PINS: Final = 5
"""More of them are a list of their own: ``policy show``."""
_SOURCES: Final = {
    "managed": "pinned",
    "user": "config.yaml",
    "enroll": "enrollment",
    "default": "default",
}


def show(status: Status) -> None:
    """Print the status."""
    say(f"{paint('hermes-telemetry', 'bold')} {__version__}   {clean(str(status.settings.home))}")
    for title, lines in (
        ("Recorded here", _recorded(status)),
        ("May leave", _leaving(status)),
        ("Decided by", _deciding(status)),
    ):
        say()
        say(paint(title, "bold"))
        rows(lines, indent="  ")
    for problem in status.settings.problems:
        say(f"{paint('Problem:', 'yellow')} {clean(problem.subject)}: {clean(problem.detail)}")
    say()
    say(next_step(status))


def _recorded(status: Status) -> Iterator[Line]:
    recorded, files = status.recorded, status.files
    local = "telemetry.local"
    if status.posture.local_enabled:
        yield "local", _on(f"what the agent does, never what is said {_source(status, local)}")
    else:
        yield "local", _off(f"nothing is recorded {_source(status, local)}")
    rows_text = counts_text(recorded.counts) or "nothing yet"
    yield "rows", paint(clean(recorded.fault), "red") if recorded.fault else rows_text
    if recorded.losses:
        lost = ", ".join(f"{reason} {count:,}" for reason, count in recorded.losses.items())
        yield "lost", paint(lost, "yellow")
    days = status.settings.get("telemetry.retention_days")
    yield "kept for", f"{days} days {_source(status, 'telemetry.retention_days')}"
    yield "files", clean(str(files.folder))
    if files.log_files or files.database_bytes:
        segments = f" in {files.log_files} files" if files.log_files > 1 else ""
        log, database = size_text(files.log_bytes), size_text(files.database_bytes)
        spool = size_text(files.spool_bytes)
        yield "", f"log {log}{segments}, database {database}, spool {spool}"


def _leaving(status: Status) -> Iterator[Line]:
    settings, posture = status.settings, status.posture
    yield from _console(status)
    yield "otlp", _otlp(status)
    for header in status.otlp.headers:
        mark = paint("set", "green") if header.is_set else paint("NOT set", "red")
        yield "", f"{clean(header.name)} from ${header.variable}: {mark}"
    gate = "yes" if posture.allow_aggregate else "NO"
    consent = (
        f"consent {posture.consent_state} {_source(status, 'telemetry.consent_state')}, "
        f"allowed: {gate} {_source(status, 'telemetry.allow_aggregate')}"
    )
    yield "aggregate", _on(consent) if posture.may_upload_aggregate() else _off(consent)
    if posture.may_upload_aggregate() and status.credential is not None:
        yield "", _summaries_sent(status)
    source = _source(status, "telemetry.trajectories.enabled")
    if posture.may_upload_trajectories():
        where = _source(status, "telemetry.export.console.content")
        yield "trajectories", _on(f"content may be exported {source} and is pushed {where}")
    elif posture.trajectories_enabled:
        yield "trajectories", _on(f"content may be exported to your own places {source}")
    else:
        yield "trajectories", _off(f"no message content leaves {source}")
    personal = settings.get("telemetry.content_redaction")
    source = _source(status, "telemetry.content_redaction")
    yield "redaction", f"secrets on (always); personal data in content: {personal} {source}"


def _console(status: Status) -> Iterator[Line]:
    credential, posture = status.credential, status.posture
    if credential is None:
        yield "console", _off("not enrolled: nothing is sent anywhere")
        return
    enabled = "telemetry.export.console.enabled"
    endpoint = clean(shown_url(posture.console_endpoint or credential.console_url))
    group = f", group {clean(credential.group)}" if credential.group else ""
    where = f"{endpoint}{group}"
    if posture.console_enabled:
        yield "console", _on(f"{where} {_source(status, enabled)}")
        yield "", f"enrolled {time_text(credential.enrolled_ns)}"
    else:
        yield "console", _off(f"pushing is switched off {_source(status, enabled)}; {where}")
    if posture.install_id != credential.install_id:
        yield "", paint("the install id has changed since; enroll again", "yellow")
    yield "last push", _last_push(status)


def _last_push(status: Status) -> str:
    progress, pending = status.recorded.progress, number(status.recorded.pending, "row")
    receipt = progress.receipt
    lines = ["never"]
    if receipt is not None:
        lines = [
            time_text(receipt.at_ns),
            f"{number(receipt.received, 'row')}: {_answer(receipt)}",
            f"receipt {clean(receipt.batch_id)}",
        ]
    lines.append(f"{pending} pending")
    wait_ns = not_before_ns(progress) - time.time_ns()
    if wait_ns > 0:
        lines[-1] += f"; the next attempt is in {span_text(wait_ns)}"
    if progress.last_status not in {"", "pushed", "nothing", "partial"}:
        text = f"the last try ended {progress.last_status}: {clean(progress.last_reason)}"
        lines.append(paint(text, "yellow"))
    return "\n".join((*lines, *_refused(progress)))


def _summaries_sent(status: Status) -> str:
    """How far the aggregate plane got; that it may be behind is seen at the next push."""
    progress = status.recorded.summaries
    receipt = progress.receipt
    sent = "no summary sent yet: the next push begins"
    if receipt is not None:
        age = age_text(time.time_ns() - receipt.at_ns)
        sent = f"last sent {age}, {number(receipt.received, 'record')}: {_answer(receipt)}"
    return "\n".join((sent, *_refused(progress)))


def _answer(receipt: LastReceipt) -> str:
    known, refused = f"{receipt.duplicates:,} known", f"{receipt.rejected:,} refused"
    return f"{receipt.accepted:,} accepted, {known}, {refused}"


def _refused(progress: Progress) -> Iterator[str]:
    if progress.blocked is not None:
        code = clean(progress.blocked.code)
        text = f"a batch is refused by the console ({code}); it is kept: push --force tries again"
        yield paint(text, "yellow")


def _otlp(status: Status) -> str:
    otlp, source = status.otlp, _source(status, "telemetry.export.otlp.enabled")
    if not otlp.is_enabled:
        return _off(f"{clean(otlp.endpoint)} {source}".strip())
    lines = [_on(f"{clean(otlp.endpoint) or 'no endpoint'} {source}")]
    if otlp.problem:
        lines.append(paint(clean(otlp.problem), "red"))
    age = age_text(time.time_ns() - otlp.success_ns) if otlp.success_ns else "never"
    lines.append(f"last sent {age}; {number(otlp.left, 'row')} pending")
    if otlp.last_status not in {"", "sent", "nothing"}:
        why = f"the last try ended {otlp.last_status}: {clean(otlp.last_reason)}"
        lines.append(paint(why, "yellow"))
    return "\n".join(lines)


def _deciding(status: Status) -> Iterator[Line]:
    install_id = status.posture.install_id
    yield "install id", install_id or "none yet; made at the first enrollment"
    view = status.policy
    fleet = view.fleet_pins()
    if view.state == "none" and not view.pins:
        yield "policy", "none; config.yaml and the defaults decide"
        return
    if view.state == "none" and not fleet:
        yield "policy", f"none; {number(len(view.pins), 'key')} pinned by an administrator"
    else:
        because = f" ({clean(view.reason)})" if view.reason else ""
        age_ns = time.time_ns() - view.last_sync_ns
        synced = f", synced {age_text(age_ns)}" if view.last_sync_ns else ""
        pins = number(len(fleet), "pin")
        yield "policy", f"revision {view.bundle_version}, {pins}, {view.state}{because}{synced}"
    for pin in view.pins[:MAX_PINS]:
        yield "", _pin(pin)
    if len(view.pins) > MAX_PINS:
        yield "", f"and {len(view.pins) - MAX_PINS} more: hermes-telemetry policy show"


def _pin(pin: PinView) -> str:
    if pin.holder == "administrator":
        who = "administrator"
    else:
        who = f"{clean(pin.layer) or 'fleet'}, revision {pin.revision}"
    state = "" if pin.in_force else paint(", NOT in force", "red")
    shown = (
        f" = {value_text(shown_value(pin.key, pin.value), 40)}"
        if pin.key.startswith("telemetry.")
        else ""
    )
    return f"{clean(pin.key)}{shown}   {who}{state}"


def _source(status: Status, key: str) -> str:
    return paint(f"({_SOURCES[status.settings.source(key)]})", "dim")


def _on(text: str) -> str:
    return f"{paint('on', 'green')}   {text}"


def _off(text: str) -> str:
    return f"{paint('off', 'dim')}  {text}"


def next_step(status: Status) -> str:
    """The one thing to do next, as a command where there is one."""
    recorded, credential = status.recorded, status.credential
    if recorded.fault:
        return "Next: hermes-telemetry doctor"
    if not status.posture.local_enabled:
        return "Recording is off. To record: hermes config set telemetry.local true"
    if not recorded.total and credential is None:
        enabled = status.settings.get("plugins.enabled")
        is_enabled = isinstance(enabled, list) and "telemetry" in enabled
        if not is_enabled:
            return "Next: hermes plugins enable telemetry   (then use the agent and look again)"
        return "Next: use the agent; what it does shows here and in: hermes-telemetry insights"
    if credential is None:
        return (
            "Next: hermes-telemetry insights   (to join a console: hermes-telemetry enroll URL -)"
        )
    if recorded.progress.last_status == "rejected" or (
        status.posture.install_id != credential.install_id
    ):
        return "Next: ask the operator for a token, then: hermes-telemetry enroll --force URL -"
    if recorded.pending and status.posture.console_enabled:
        return "Next: hermes-telemetry push   (or --dry-run to see what would leave)"
    return "Next: hermes-telemetry insights"
