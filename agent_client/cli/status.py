"""``status``: what a newcomer reads first. Reads only; recovers the spools of dead processes."""

from __future__ import annotations

import argparse
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from agent_client import config
from agent_client.cli import home_of, is_json
from agent_client.cli.output import (
    EXIT_OK,
    number,
    paint,
    rows,
    say,
    say_json,
    size_text,
    time_text,
)
from agent_client.credential import Credential, load_credential
from agent_client.health import Snapshot, snapshot
from agent_client.policy.posture import Posture, resolve
from agent_client.policy.view import PolicyView, view_policy
from agent_client.progress import Progress, load_progress


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the store holds; ``fault`` says why it could not be asked."""

    counts: dict[str, int]
    pending: int
    losses: dict[str, int]
    progress: Progress
    fault: str = ""

    @property
    def total(self) -> int:
        """Rows in all tables."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that ``status`` shows."""

    settings: config.ClientConfig
    posture: Posture
    credential: Credential | None
    recorded: Recorded
    policy: PolicyView
    files: Snapshot


def run_status(args: argparse.Namespace) -> int:
    """Show the status of a home."""
    status = gather(home_of(args))
    if is_json(args):
        say_json(as_json(status))
        return EXIT_OK
    say(paint("Telemetry of this agent", "bold") + f"  {status.settings.home}")
    say()
    rows(_lines(status))
    for problem in status.settings.problems:
        say(f"{paint('Problem', 'yellow')}      {problem.subject}: {problem.detail}")
    say()
    say(next_step(status))
    return EXIT_OK


def gather(home: Path) -> Status:
    """The status of a home; makes no file where nothing was ever recorded."""
    settings = config.load(home)
    credential = load_credential(home)
    return Status(
        settings=settings,
        posture=resolve(settings),
        credential=credential,
        recorded=_recorded(home, credential),
        policy=view_policy(home),
        files=snapshot(home),
    )


def _recorded(home: Path, credential: Credential | None) -> Recorded:
    from agent_client import health
    from agent_client.files import telemetry_dir
    from agent_client.recovery import recover
    from agent_client.store import Store, StoreError, database_path

    nothing = Recorded({}, 0, {}, Progress())
    try:
        if not telemetry_dir(home).exists():
            return nothing
        recover(home)
        if not database_path(home).exists():
            return nothing
        with Store(home) as store:
            progress = load_progress(store, credential.fleet_id if credential else "")
            return Recorded(
                store.counts(),
                store.pending_count(progress.cursor),
                health.losses(store),
                progress,
            )
    except (StoreError, OSError, sqlite3.Error) as error:
        return Recorded({}, 0, {}, Progress(), fault=str(error))


def _lines(status: Status) -> list[tuple[str, str]]:
    settings, posture = status.settings, status.posture
    recording = "on" if posture.local_enabled else "off: nothing is recorded"
    content = "open" if posture.trajectories_enabled else "closed: no message content leaves"
    personal = settings.get("telemetry.content_redaction")
    return [
        ("Recording", f"{recording} ({settings.source('telemetry.local')})"),
        ("Aggregate", _aggregate(settings, posture)),
        ("Content", f"{content} ({settings.source('telemetry.trajectories.enabled')})"),
        ("Redaction", f"secrets are always removed; personal data in content: {personal}"),
        ("Install id", posture.install_id or "none yet; made at the first enrollment"),
        ("Console", _console(status)),
        ("Last push", _last_push(status)),
        ("Recorded", _recorded_text(status.recorded)),
        ("Lost", _pairs(status.recorded.losses) or "nothing"),
        ("Policy", _policy(status.policy)),
        ("Files", _files(status.files)),
    ]


def _aggregate(settings: config.ClientConfig, posture: Posture) -> str:
    consent = f"consent {posture.consent_state} ({settings.source('telemetry.consent_state')})"
    if posture.may_upload_aggregate():
        return f"open: {consent}"
    if not posture.allow_aggregate:
        where = settings.source("telemetry.allow_aggregate")
        return f"closed: telemetry.allow_aggregate is off ({where}); {consent}"
    return f"closed: {consent}"


def _console(status: Status) -> str:
    credential = status.credential
    if credential is None:
        return "not enrolled: nothing leaves this machine"
    source = status.settings.source("telemetry.export.console.enabled")
    if not status.posture.console_enabled:
        return f"{credential.console_url}, pushing is off ({source})"
    endpoint = status.posture.console_endpoint or credential.console_url
    group = f", group {credential.group}" if credential.group else ""
    text = f"{endpoint}{group}, since {time_text(credential.enrolled_ns)}"
    if status.posture.install_id != credential.install_id:
        text += "\nthe install id has changed since; enroll again"
    return text


def _last_push(status: Status) -> str:
    progress = status.recorded.progress
    pending = number(status.recorded.pending, "row") + " pending"
    if status.credential is None:
        return f"never; {number(status.recorded.total, 'row')} here"
    receipt = progress.receipt
    if receipt is None:
        text = f"never; {pending}"
    else:
        text = (
            f"{time_text(receipt.at_ns)}: {number(receipt.received, 'row')}, "
            f"{receipt.accepted} accepted, {receipt.duplicates} known, "
            f"{receipt.rejected} refused; {pending}\nreceipt {receipt.batch_id}"
        )
    if progress.last_status not in {"", "pushed", "nothing", "partial"}:
        text += f"\nthe last try ended {progress.last_status}: {progress.last_reason}"
    if progress.blocked is not None:
        text += f"\na batch is refused by the console ({progress.blocked.code}); it is kept"
    return text


def _recorded_text(recorded: Recorded) -> str:
    if recorded.fault:
        return recorded.fault
    if not recorded.total:
        return "nothing yet"
    return ", ".join(
        f"{count:,} {name.removeprefix('tel_').replace('_', ' ')}"
        for name, count in recorded.counts.items()
    )


def _policy(view: PolicyView) -> str:
    pins = len(view.fleet_pins())
    if view.state == "none" and not pins:
        others = len(view.pins)
        return "none" + (f"; {number(others, 'key')} pinned by an administrator" if others else "")
    text = f"revision {view.bundle_version}, {number(pins, 'pin')}, {view.state}"
    return text + (f" ({view.reason})" if view.reason else "")


def _files(files: Snapshot) -> str:
    return (
        f"{files.folder}\nlog {size_text(files.log_bytes)}, database "
        f"{size_text(files.database_bytes)}, spool {size_text(files.spool_bytes)}"
    )


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items())


def next_step(status: Status) -> str:
    """The one thing to do next, as a command where there is one."""
    if status.recorded.fault:
        return "Next: hermes-telemetry doctor"
    if not status.posture.local_enabled:
        return "Recording is off. To record: hermes config set telemetry.local true"
    if not status.recorded.total and status.credential is None:
        enabled = status.settings.get("plugins.enabled")
        is_enabled = isinstance(enabled, list) and "telemetry" in enabled
        first = "use the agent" if is_enabled else "hermes plugins enable telemetry, then use it"
        return f"Next: {first}; what the agent does shows here and in: hermes-telemetry insights"
    if status.credential is None:
        return (
            "Next: hermes-telemetry insights   (to join a console: hermes-telemetry enroll URL -)"
        )
    if status.recorded.progress.last_status == "rejected" or (
        status.posture.install_id != status.credential.install_id
    ):
        return "Next: ask the operator for a token, then: hermes-telemetry enroll --force URL -"
    if status.recorded.pending and status.posture.console_enabled:
        return "Next: hermes-telemetry push   (or --dry-run to see what would leave)"
    return "Next: hermes-telemetry insights"


def as_json(status: Status) -> dict[str, object]:
    """The status for programs; no secret is in it."""
    settings, posture, policy = status.settings, status.posture, status.policy
    credential, recorded = status.credential, status.recorded
    receipt = recorded.progress.receipt
    return {
        "home": str(settings.home),
        "install_id": posture.install_id,
        "planes": {
            "local": posture.local_enabled,
            "aggregate": posture.may_upload_aggregate(),
            "trajectories": posture.trajectories_enabled,
        },
        "consent_state": posture.consent_state,
        "allow_aggregate": posture.allow_aggregate,
        "redaction": {
            "secrets": True,
            "content_redaction": settings.get("telemetry.content_redaction"),
        },
        "sources": {
            key: source for key, source in settings.sources.items() if key.startswith("telemetry.")
        },
        "enrollment": None
        if credential is None
        else {
            "console_url": credential.console_url,
            "endpoint": posture.console_endpoint,
            "enabled": posture.console_enabled,
            "fleet_id": credential.fleet_id,
            "group": credential.group,
            "enrolled_ns": credential.enrolled_ns,
            "install_id": credential.install_id,
        },
        "push": {
            "cursor": recorded.progress.cursor,
            "pending": recorded.pending,
            "last_status": recorded.progress.last_status,
            "last_reason": recorded.progress.last_reason,
            "last_ns": recorded.progress.last_at_ns,
            "blocked": recorded.progress.blocked.code if recorded.progress.blocked else "",
            "receipt": None
            if receipt is None
            else {
                "at_ns": receipt.at_ns,
                "batch_id": receipt.batch_id,
                "received": receipt.received,
                "accepted": receipt.accepted,
                "duplicates": receipt.duplicates,
                "rejected": receipt.rejected,
            },
        },
        "rows": recorded.counts,
        "losses": recorded.losses,
        "fault": recorded.fault,
        "policy": {
            "state": policy.state,
            "reason": policy.reason,
            "revision": policy.bundle_version,
            "assignment_version": policy.assignment_version,
            "pins": len(policy.fleet_pins()),
            "managed_dir": policy.managed_dir,
        },
        "files": {
            "folder": str(status.files.folder),
            "log_bytes": status.files.log_bytes,
            "database_bytes": status.files.database_bytes,
            "spool_bytes": status.files.spool_bytes,
        },
        "problems": [
            {"code": p.code, "subject": p.subject, "detail": p.detail} for p in settings.problems
        ],
        "next": next_step(status),
    }
