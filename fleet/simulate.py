"""The console's side of a simulated crowd: its groups and tokens, its process, its removal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Final

from django.core.management import call_command
from django.db import connections, transaction
from django.db.models import QuerySet

from fleet.audit import record_change
from fleet.bringup import child_environment
from fleet.enroll import mint_token, revoke_token
from fleet.lib.clock import now
from fleet.models import EnrollmentToken, Install, InstallCredential, InstallGroup

ACTOR: Final = "simulate"
"""Who minted a crowd's tokens; by that its installs are known, whatever they say of themselves."""
GROUPS: Final = {
    "Platform": "Simulation Platform",
    "Research": "Simulation Research",
    "Support": "Simulation Support",
}
"""The script's groups, by names that nobody takes for his own."""
TOKEN_LIFE: Final = timedelta(hours=6)
CHUNK: Final = 500
SPOOL_WAIT_S: Final = 300.0
"""The spool is drained every five seconds; more than this, and it holds more than our rows."""
SPOOL_LOOK_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class CrowdResult:
    """How the crowd's process ended; ``report`` is None when it could not begin."""

    exit_code: int
    report: Mapping[str, object] | None


@contextlib.contextmanager
def minted_tokens(installs: int) -> Iterator[dict[str, str]]:
    """Enrollment strings by the script's group; revoked when the crowd is done with them."""
    rows: list[EnrollmentToken] = []
    texts: dict[str, str] = {}
    for key, name in GROUPS.items():
        group, _made = InstallGroup.objects.get_or_create(
            name=name, defaults={"description": "Made up by manage.py simulate"}
        )
        row, texts[key] = mint_token(
            actor=ACTOR,
            group=group,
            max_uses=installs,
            expires_at=now() + TOKEN_LIFE,
            reason="A simulated crowd",
        )
        rows.append(row)
    try:
        yield texts
    finally:
        for row in rows:
            revoke_token(row, actor=ACTOR, reason="The crowd has enrolled")


def run_crowd(url: str, tokens: Mapping[str, str], options: Sequence[str]) -> CrowdResult:
    """Run the crowd as a process of its own, which speaks the agent's side of the wire.

    Tokens go in by a pipe, never on the command line; when we die, the pipe ends and the crowd
    with it. Ctrl-C and SIGTERM are the crowd's to obey: we wait for its report.
    """
    connections.close_all()  # a long wait; ours would only count against the limit
    with tempfile.TemporaryDirectory(prefix="fleet-simulate-") as folder:
        report = Path(folder) / "report.json"
        command = [
            *(sys.executable, "-m", "agent_client.simulation.crowd", url),
            *("--tokens", "-", "--report", str(report), *options),
        ]
        process = subprocess.Popen(  # noqa: S603  # ourselves, no shell
            command, stdin=subprocess.PIPE, env={**os.environ, **child_environment()}
        )
        assert process.stdin is not None  # noqa: S101  # asked for above
        with _obeyed_by(process), process.stdin:
            process.stdin.write(json.dumps(dict(tokens)).encode() + b"\n")
            process.stdin.flush()
            code = process.wait()
        try:
            found = json.loads(report.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
    return CrowdResult(code, found if isinstance(found, dict) else None)


@contextlib.contextmanager
def _obeyed_by(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Signals that stop us stop the crowd instead."""

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        process.send_signal(signal.SIGTERM)

    try:
        former = {
            number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:  # not in the main thread, where nobody sends us signals
        former = {}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def simulated_installs() -> QuerySet[Install]:
    """The installs that a crowd's tokens let in."""
    return Install.objects.filter(enrolled_with__created_by=ACTOR)


def telemetry_of(install_ids: Sequence[str], *options: str) -> dict[str, object]:
    """What ``telemetry_held`` says of installs: fleet itself knows nothing of telemetry."""
    out = io.StringIO()
    with tempfile.NamedTemporaryFile("w", prefix="fleet-simulate-", suffix=".json") as file:
        json.dump(list(install_ids), file)
        file.flush()
        call_command("telemetry_held", file.name, *options, stdout=out)
    found = json.loads(out.getvalue())
    assert isinstance(found, dict)  # noqa: S101  # our own command
    return found


def wait_until_stored(install_ids: Sequence[str], say: Callable[[str], None]) -> int:
    """Wait for what an overloaded console took into its spool; rows that are there after all."""
    ends_s, spooled = time.monotonic() + SPOOL_WAIT_S, -1
    while True:
        found = int(str(telemetry_of(install_ids)["spooled"]))
        if not found or time.monotonic() > ends_s:
            return found
        if found != spooled:
            say(f"{found} rows wait in the spool")
            spooled = found
        time.sleep(SPOOL_LOOK_S)


def remove_crowd() -> tuple[int, int]:
    """Delete every simulated install with all that is held of it; installs and event rows.

    Steps: 1. installs are revoked, so that none pushes meanwhile; 2. their telemetry goes; 3. they
    go themselves, with used tokens and groups that nobody uses. Killed in between, it is run again.
    The audit trail keeps what it says.
    """
    ids = [str(pk) for pk in simulated_installs().values_list("pk", flat=True)]
    for some in _chunks(ids):
        InstallCredential.objects.filter(install_id__in=some).delete()
    removed = telemetry_of(ids, "--remove", "--yes")["removed"] if ids else 0
    for some in _chunks(ids):
        with transaction.atomic():
            simulated_installs().filter(pk__in=some).delete()
    with transaction.atomic():
        EnrollmentToken.objects.filter(created_by=ACTOR, installs=None).delete()
        groups = InstallGroup.objects.filter(
            name__in=GROUPS.values(), installs=None, pins=None, enrollment_tokens=None
        )
        for group in groups:
            name, pk = group.name, group.pk
            group.delete()
            group.pk = pk
            record_change(
                actor=ACTOR, action="remove_simulation", target=group, pre={"name": name}, post=None
            )
    return len(ids), int(str(removed))


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the database says of a crowd's rows, each counted once.

    ``made`` by the crowd's own count, ``held`` in the tables. ``spooled``: acknowledged and still
    on its way there. ``lost``: made and acknowledged, but neither. ``doubled``: held more than
    once. ``unexplained``: held, and not made by this run nor by an earlier one of the same seed and
    base; nor on its way, without a receipt, when the crowd was stopped.
    """

    made: int
    held: int
    spooled: int
    lost: int
    doubled: int
    unexplained: int

    @property
    def is_exact(self) -> bool:
        """Whether the database holds what the receipts say, once."""
        return not (self.spooled or self.lost or self.doubled or self.unexplained)


def judge_held(
    distinct: Mapping[str, int],
    held: Mapping[str, Mapping[str, int]],
    *,
    partly_rejected: int,
    unsent: int,
    spooled: int,
    was_there: bool,
) -> Verdict:
    """Compare what a crowd made with what is held of it. Pure.

    ``was_there``: rows of the same seed and base were held before, and may be more than this run's.
    ``partly_rejected``: rejected rows of batches that were taken otherwise; they may be any.
    ``unsent``: rows without a receipt; some of them may have arrived.
    """
    lost = doubled = unexplained = made = total = 0
    for table in {*distinct, *held}:
        mine, found = distinct.get(table, 0), held.get(table, {"rows": 0, "distinct": 0})
        made, total = made + mine, total + found["distinct"]
        doubled += found["rows"] - found["distinct"]
        lost += max(0, mine - found["distinct"])
        unexplained += 0 if was_there else max(0, found["distinct"] - mine)
    return Verdict(
        made=made,
        held=total,
        spooled=spooled,
        lost=max(0, lost - partly_rejected - spooled),
        doubled=doubled,
        unexplained=max(0, unexplained - unsent),
    )
