"""``status``: everything about one home, gathered once; the text is in ``status_text``.

Reads only, but for taking in what ended processes left. Where nothing was recorded, neither the
database nor the recorder is loaded.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent_client import __version__, config
from agent_client.cli import home_of, is_json
from agent_client.cli.output import EXIT_OK, say_json
from agent_client.cli.shown import shown_url
from agent_client.credential import Credential, load_credential
from agent_client.files import telemetry_dir
from agent_client.policy.posture import Posture, resolve
from agent_client.policy.view import PolicyView, view_policy
from agent_client.progress import Progress

DATABASE: Final = "telemetry.db"
LOGS: Final = ("events.jsonl", "events-*.jsonl")
"""The event log and, once it was rotated, its earlier segments."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the store holds; ``fault`` says why it could not be asked.

    ``progress`` is the local plane's, ``summaries`` the aggregate plane's.
    """

    counts: dict[str, int] = field(default_factory=dict)
    pending: int = 0
    losses: dict[str, int] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    summaries: Progress = field(default_factory=Progress)
    fault: str = ""

    @property
    def total(self) -> int:
        """Rows in all tables."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Files:
    """What lies on the disk; sizes in bytes, 0 for what is not there."""

    folder: Path
    log_files: int = 0
    log_bytes: int = 0
    database_bytes: int = 0
    spool_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """A header of the OTLP destination: the variable that holds it, never its value."""

    name: str
    variable: str
    is_set: bool


@dataclass(frozen=True, slots=True)
class Otlp:
    """The collector: what is configured and, when it is switched on, what has been sent."""

    is_enabled: bool
    endpoint: str
    headers: tuple[Header, ...]
    problem: str = ""
    left: int = 0
    success_ns: int = 0
    last_ns: int = 0
    last_status: str = ""
    last_reason: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that ``status`` shows."""

    settings: config.ClientConfig
    posture: Posture
    credential: Credential | None
    recorded: Recorded
    policy: PolicyView
    files: Files
    otlp: Otlp


def run_status(args: argparse.Namespace) -> int:
    """Show the status of a home."""
    from agent_client.cli import status_text

    status = gather(home_of(args))
    if is_json(args):
        say_json(as_json(status) | {"next": status_text.next_step(status)})
    else:
        status_text.show(status)
    return EXIT_OK


def gather(home: Path) -> Status:
    """The status of a home; makes no file where nothing was ever recorded."""
    settings = config.load(home)
    credential = load_credential(home)
    recorded = _recorded(home, credential)  # first: it moves spools into the log
    return Status(
        settings=settings,
        posture=resolve(settings),
        credential=credential,
        recorded=recorded,
        policy=view_policy(home),
        files=_files(telemetry_dir(home)),
        otlp=_otlp(home, settings),
    )


def _otlp(home: Path, settings: config.ClientConfig) -> Otlp:
    found = settings.get("telemetry.export.otlp.headers_env")
    named = found if isinstance(found, dict) else {}
    headers = tuple(
        Header(str(name), str(variable), bool(settings.environ.get(str(variable))))
        for name, variable in sorted(named.items())
    )
    endpoint = shown_url(settings.get("telemetry.export.otlp.endpoint"))
    if settings.get("telemetry.export.otlp.enabled") is not True:
        return Otlp(is_enabled=False, endpoint=endpoint, headers=headers)
    # Loaded only where it is switched on: it knows what has been sent to this very endpoint.
    from agent_client.otlp.state import otlp_state

    state = otlp_state(home, settings)
    return Otlp(
        is_enabled=True,
        endpoint=endpoint,
        headers=tuple(Header(h.name, h.variable, h.is_set) for h in state.headers),
        problem=state.problem,
        left=state.left,
        success_ns=state.success_ns,
        last_ns=state.last_ns,
        last_status=state.last_status,
        last_reason=state.last_reason,
    )


def _recorded(home: Path, credential: Credential | None) -> Recorded:
    folder = telemetry_dir(home)
    try:
        if not any((folder / name).exists() for name in (DATABASE, "events.jsonl", "spool")):
            return Recorded()
    except OSError as error:
        return Recorded(fault=str(error))
    import sqlite3

    from agent_client import health
    from agent_client.progress import load_progress
    from agent_client.store import Store, StoreError

    try:
        if any((folder / "spool").glob("*")):
            _take_in(home)
        with Store(home) as store:
            if store.connection.execute("SELECT 1 FROM tel_open_runs LIMIT 1").fetchone():
                _take_in(home)
            fleet_id = credential.fleet_id if credential else ""
            progress = load_progress(store, fleet_id)
            return Recorded(
                counts=store.counts(),
                pending=store.pending_count(progress.cursor),
                losses=health.losses(store),
                progress=progress,
                summaries=load_progress(store, fleet_id, "aggregate"),
            )
    except (StoreError, OSError, sqlite3.Error) as error:
        return Recorded(fault=str(error))


def _take_in(home: Path) -> None:
    """What ended processes left; the recorder's modules are loaded only where there may be some."""
    from agent_client.recovery import recover

    recover(home)


def _files(folder: Path) -> Files:
    logs = [_size(path) for name in LOGS for path in folder.glob(name)]
    return Files(
        folder=folder,
        log_files=len(logs),
        log_bytes=sum(logs),
        database_bytes=_size(folder / DATABASE) + _size(folder / f"{DATABASE}-wal"),
        spool_bytes=sum(_size(path) for path in folder.glob("spool/*/*.ring")),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def as_json(status: Status) -> dict[str, object]:
    """The status for programs; no secret is in it. Its fields are in docs/cli-json.md."""
    settings, posture, files = status.settings, status.posture, status.files
    return {
        "version": __version__,
        "home": str(settings.home),
        "install_id": posture.install_id,
        "planes": {
            "local": posture.local_enabled,
            "aggregate": posture.may_upload_aggregate(),
            "trajectories": posture.trajectories_enabled,
        },
        "consent_state": posture.consent_state,
        "allow_aggregate": posture.allow_aggregate,
        "retention_days": settings.get("telemetry.retention_days"),
        "redaction": {
            "secrets": True,
            "content_redaction": settings.get("telemetry.content_redaction"),
        },
        "sources": {
            key: source for key, source in settings.sources.items() if key.startswith("telemetry.")
        },
        "enrollment": _enrollment_json(status),
        "push": _push_json(status),
        "otlp": {
            "enabled": status.otlp.is_enabled,
            "endpoint": status.otlp.endpoint,
            "headers": [
                {"header": h.name, "variable": h.variable, "is_set": h.is_set}
                for h in status.otlp.headers
            ],
            "problem": status.otlp.problem,
            "left": status.otlp.left,
            "success_ns": status.otlp.success_ns,
            "last_ns": status.otlp.last_ns,
            "last_status": status.otlp.last_status,
            "last_reason": status.otlp.last_reason,
        },
        "rows": status.recorded.counts,
        "losses": status.recorded.losses,
        "fault": status.recorded.fault,
        "policy": _policy_json(status.policy),
        "files": {
            "folder": str(files.folder),
            "log_files": files.log_files,
            "log_bytes": files.log_bytes,
            "database_bytes": files.database_bytes,
            "spool_bytes": files.spool_bytes,
        },
        "problems": [
            {"code": p.code, "subject": p.subject, "detail": p.detail} for p in settings.problems
        ],
    }


def _enrollment_json(status: Status) -> dict[str, object] | None:
    credential = status.credential
    if credential is None:
        return None
    return {
        "console_url": credential.console_url,
        "endpoint": shown_url(status.posture.console_endpoint),
        "enabled": status.posture.console_enabled,
        "fleet_id": credential.fleet_id,
        "group": credential.group,
        "enrolled_ns": credential.enrolled_ns,
        "install_id": credential.install_id,
    }


def _push_json(status: Status) -> dict[str, object]:
    progress, summaries = status.recorded.progress, status.recorded.summaries
    return {
        "cursor": progress.cursor,
        "pending": status.recorded.pending,
        "last_status": progress.last_status,
        "last_reason": progress.last_reason,
        "last_ns": progress.last_at_ns,
        "not_before_ns": not_before_ns(progress),
        **_answers_json(progress),
        "aggregate": {"cursor": summaries.cursor, **_answers_json(summaries)},
    }


def _answers_json(progress: Progress) -> dict[str, object]:
    """What the console last said of a plane."""
    receipt = progress.receipt
    return {
        "blocked": progress.blocked.code if progress.blocked else "",
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
    }


def not_before_ns(progress: Progress) -> int:
    """When the next push is allowed: what the console asked for, or a refused batch's retry."""
    return max(progress.not_before_ns, progress.blocked.retry_ns if progress.blocked else 0)


def _policy_json(policy: PolicyView) -> dict[str, object]:
    return {
        "state": policy.state,
        "reason": policy.reason,
        "revision": policy.bundle_version,
        "assignment_version": policy.assignment_version,
        "managed_dir": policy.managed_dir,
        "last_sync_ns": policy.last_sync_ns,
        "pins": [
            {
                "key": pin.key,
                "holder": pin.holder,
                "layer": pin.layer,
                "revision": pin.revision,
                "in_force": pin.in_force,
            }
            for pin in policy.pins
        ],
    }
