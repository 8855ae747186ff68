"""The demo's console side: groups, tokens and pins, and what the simulated fleet reports back."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import CommandError
from django.db import connection, connections

from fleet.bringup import Account, child_environment, loopback_url
from fleet.enroll import mint_token
from fleet.env import make_private_dir
from fleet.lib.clock import ns_to_datetime
from fleet.models import Install, InstallGroup, Pin, PinScope, PolicyRevision
from fleet.policy.publish import publish_revision
from fleet.supervise import Child

ACTOR: Final = "demo"
MARKER: Final = "demo.json"
FOLDER: Final = "simulation"
REPORT: Final = "report.json"
"""Written by the simulation once the whole history is pushed."""

GROUPS: Final = {
    "Platform": "Engineers, build machines and the nightly jobs",
    "Research": "Labs and evaluations, on open models",
    "Support": "The help desk and its chat bots",
}


@dataclass(frozen=True, slots=True)
class DemoPin:
    """A pin of the demo; ``group`` "" is the whole fleet."""

    group: str
    key: str
    value: object
    reason: str


# One tuple a revision: history to look at, and something to roll back to.
REVISIONS: Final[tuple[tuple[str, tuple[DemoPin, ...]], ...]] = (
    (
        "Baseline for every machine",
        (
            DemoPin("", "telemetry.retention_days", 60, "Two months on the machine are enough"),
            DemoPin("", "telemetry.content_redaction", "pii", "Exports never carry personal data"),
            DemoPin("Support", "telemetry.allow_aggregate", value=False, reason="Customer data"),
        ),
    ),
    (
        "Support answers with the small model",
        (
            DemoPin("Support", "model.default", "claude-haiku-4.5", "Same answers, a third of it"),
            DemoPin("", "approvals.mode", "smart", "Ask before commands that change things"),
        ),
    ),
)


def demo_folder() -> Path:
    """Where the simulated homes lie."""
    return Path(settings.FLEET_HOME) / FOLDER


def refuse_real_data() -> bool:
    """Stop where the data is not a demo's; whether this demo ran here before.

    Errors: CommandError.
    """
    marker = Path(settings.FLEET_HOME) / MARKER
    if marker.exists():
        return True
    if Install.objects.exists() or User.objects.exists():
        raise CommandError(
            f"{settings.FLEET_HOME} or its database holds a real console's data; the demo would "
            "mix made-up installs into it.\nUnset FLEET_HOME and FLEET_DEMO, or use 'make up'."
        )
    marker.write_text(json.dumps({"demo": 1}) + "\n")
    return False


def reset_and_restart(arguments: list[str]) -> None:
    """Delete the demo's folder and start this command anew, with new secrets and keys.

    Errors: CommandError when the folder is no demo's or the data lies in another database.
    """
    home = Path(settings.FLEET_HOME)
    if connection.vendor != "sqlite":
        raise CommandError("--reset deletes a folder; drop this demo's database by hand.")
    if any(home.iterdir()) and not (home / MARKER).exists() and (home / "fleet.sqlite3").exists():
        raise CommandError(f"{home} is not a demo's folder; nothing was deleted.")
    connections.close_all()
    shutil.rmtree(home)
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606  # ourselves, no shell


def seed_console() -> Path:
    """Groups, one enrollment token each, published pins; the file with the tokens (0600)."""
    folder = demo_folder()
    make_private_dir(folder)
    path = folder / "tokens.json"
    if not path.exists():
        tokens = {}
        for name, description in GROUPS.items():
            group, _made = InstallGroup.objects.get_or_create(
                name=name, defaults={"description": description}
            )
            _row, tokens[name] = mint_token(actor=ACTOR, group=group, reason="The simulated fleet")
        _write_private(path, json.dumps(tokens))
    if not PolicyRevision.objects.exists():
        for reason, pins in REVISIONS:
            for pin in pins:
                _make_pin(pin)
            publish_revision(actor=ACTOR, reason=reason)
    return path


def _make_pin(pin: DemoPin) -> None:
    group = InstallGroup.objects.get(name=pin.group) if pin.group else None
    row = Pin(
        scope=PinScope.GROUP if group else PinScope.FLEET,
        group=group,
        key=pin.key,
        value=pin.value,
        reason=pin.reason,
        created_by=ACTOR,
    )
    row.full_clean()
    row.save()


def simulation_child(tokens: Path, wanted: Mapping[str, int]) -> Child:
    """The simulated fleet as a process of its own: it runs the agent's client, not ours.

    ``wanted``: numbers for the simulation's options, such as seed, installs and days.
    """
    (demo_folder() / REPORT).unlink(missing_ok=True)
    return Child(
        "agents",
        (
            sys.executable,
            "-m",
            "agent_client.simulation",
            loopback_url(),
            "--folder",
            str(demo_folder()),
            "--tokens",
            str(tokens),
            *(f"--{name}={number}" for name, number in wanted.items()),
        ),
        child_environment(),
        stop_after_s=5.0,
        is_vital=False,
    )


def is_history_there() -> bool:
    """Whether the simulation has pushed all of its history since this start."""
    return (demo_folder() / REPORT).exists()


def age_silent_installs() -> int:
    """Give installs that fell silent the last-seen time of their story; how many there are.

    A fortnight is told in a minute, and the console's clock rightly says that all of them have
    just spoken. Only these times are set by hand; everything else came over the wire.
    """
    report = json.loads((demo_folder() / REPORT).read_text(encoding="utf-8"))
    count = 0
    for entry in report["installs"]:
        if entry["silent_since_ns"] is not None:
            moment = ns_to_datetime(entry["silent_since_ns"])
            count += Install.objects.filter(pk=entry["install_id"]).update(
                last_seen_at=moment, last_checkin_at=moment, last_push_at=moment
            )
    connections.close_all()
    return count


def remembered(account: Account) -> Account:
    """The administrator with the password printed on the demo's first start, while it still fits.

    It is kept in the demo's folder (0600): a demo that cannot be entered again is no use. A real
    console never writes a password down.
    """
    path = demo_folder() / "admin-password"
    if account.password:
        _write_private(path, account.password)
        return account
    try:
        kept = path.read_text(encoding="ascii").strip()
    except OSError:
        return account
    user = User.objects.filter(username=account.username).first()
    fits = user is not None and user.check_password(kept)
    return Account(account.username, kept) if fits else account


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text + "\n")
