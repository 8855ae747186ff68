"""One plane of a push: its batches sent until acknowledged, nothing lost, nothing doubled.

Steps for each batch: 1. the gate is asked again; 2. the batch is encoded and kept on disk under
its id; 3. it is sent, and sent again byte for byte until a receipt that fits it comes; 4. cursor,
receipt and reported losses move in one SQLite transaction; 5. the kept batch is removed. A death
between any two repeats the step: the console knows the id and answers with the same receipt.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from agent_client import __version__, config
from agent_client.content import MAX_BATCH_MESSAGES
from agent_client.contract.aggregate import OTHER
from agent_client.contract.wire import PATH_TELEMETRY, Receipt
from agent_client.credential import Credential, load_credential
from agent_client.export import MAX_BATCH_ROWS
from agent_client.http import (
    AddressError,
    ApiError,
    ClientError,
    NetworkError,
    Transport,
    connect_to,
    http_date,
)
from agent_client.outbox import (
    Outbox,
    clear_outbox,
    purge_outbox,
    read_outbox,
    set_outbox_aside,
    write_outbox,
)
from agent_client.policy.posture import Posture, resolve
from agent_client.progress import (
    Blocked,
    LastReceipt,
    blocked_state,
    load_progress,
    receipt_state,
)
from agent_client.push_planes import MAX_BATCH_RUNS, PLANES, Plane, Sender, closed_planes
from agent_client.store import Store

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CLOSED: Final = 3
EXIT_CREDENTIAL: Final = 4
EXIT_LATER: Final = 5
EXIT_PARTIAL: Final = 6

MAX_ATTEMPTS: Final = 5
BACKOFF_BASE_S: Final = 1.0
BACKOFF_CAP_S: Final = 30.0
MAX_WAIT_S: Final = 60.0
"""A longer Retry-After ends this push; the next one keeps to it."""
BLOCKED_RETRY_S: Final = 3600.0
"""A batch refused for good is tried again hourly: the console may have been mended."""

MAX_ROWS: Final = {
    "local": MAX_BATCH_ROWS,
    "aggregate": MAX_BATCH_RUNS,
    "trajectories": 2 * MAX_BATCH_MESSAGES,
}

CHANCE: Final = random.SystemRandom().random
"""Not the module's own generator: the host may have seeded that one."""

MAX_ETAG_CHARS: Final = 80
"""A quoted SHA-256 has 66."""
_CODE: Final = re.compile(r"[a-z][a-z_]{0,39}", re.ASCII)
"""A code of ``wire.LINE_CODES``, also of one that a later console has."""

_TRANSIENT: Final = frozenset({408, 425, 429})
_NOT_THE_BATCH: Final = frozenset({403, 404, 405, 426})
"""Refusals that say nothing about the batch: a wrong address, a proxy, an old client."""


@dataclass(frozen=True, slots=True)
class PushResult:
    """How a push ended, or the push of one plane.

    ``status``: pushed, nothing, partial, closed, not_enrolled, rejected (the credential),
    blocked, failed, later or busy. ``retry_after_s`` only with later. ``planes`` has each plane
    that was looked at; a plane's own result has none.
    """

    status: str
    exit_code: int
    reason: str = ""
    detail: str = ""
    batches: int = 0
    rows: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected_counts: dict[str, int] = field(default_factory=dict)
    pending: int = 0
    retry_after_s: float = 0.0
    planes: dict[str, PushResult] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        """Lines the console refused; it keeps them in quarantine."""
        return sum(self.rejected_counts.values())


@dataclass(frozen=True, slots=True)
class Gate:
    """The way to the console is open; ``closed`` planes may not take it, each for a reason."""

    credential: Credential
    posture: Posture
    endpoint: str
    closed: dict[str, str]


@dataclass(frozen=True, slots=True)
class Timing:
    """The outside world of a push, injectable: the clock, sleep and chance."""

    clock_ns: Callable[[], int] = time.time_ns
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = CHANCE
    max_attempts: int = MAX_ATTEMPTS


class ReceiptError(Exception):
    """An answer that is no receipt for what was sent; the cursor stays."""


def open_gate(home: Path) -> Gate | PushResult:
    """Whether anything may leave this home, and which planes, from the files as they are now."""
    credential = load_credential(home)
    if credential is None:
        return PushResult("not_enrolled", EXIT_CREDENTIAL, "not_enrolled")
    settings = config.load(home)
    if settings.unread:
        return PushResult("closed", EXIT_CLOSED, "plane_closed", settings.unread)
    posture = resolve(settings)
    if posture.install_id != credential.install_id:
        detail = "the install id was cleared or changed since enrollment; enroll again"
        return PushResult("not_enrolled", EXIT_CREDENTIAL, "install_id_changed", detail)
    closed = closed_planes(settings, posture)
    if not posture.console_enabled:
        source = settings.source("telemetry.export.console.enabled")
        detail = f"telemetry.export.console.enabled is off ({source})"
        return PushResult("closed", EXIT_CLOSED, "plane_closed", detail)
    return Gate(credential, posture, posture.console_endpoint or credential.console_url, closed)


def judge_receipt(answer: dict[str, object], outbox: Outbox) -> Receipt:
    """The receipt of an answer, when it is one for this batch. Errors: ReceiptError."""
    try:
        receipt = Receipt.from_dict(answer)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReceiptError("the answer is not a receipt") from error
    if receipt.batch_id != outbox.batch_id:
        raise ReceiptError("the receipt is for another batch")
    counts = [*receipt.accepted.values(), receipt.duplicates, *receipt.rejected_counts.values()]
    if any(count < 0 for count in counts):
        raise ReceiptError("the receipt counts below zero")
    if receipt.received != outbox.row_count or sum(counts) != outbox.row_count:
        raise ReceiptError("the receipt's counts do not add up to what was sent")
    return receipt


class PlanePush:
    """The push of one plane under the lock: the state that its steps share."""

    def __init__(
        self,
        plane: str,
        home: Path,
        store: Store,
        gate: Gate,
        *,
        transport: Transport | None,
        timing: Timing,
        on_batch: Callable[[PushResult], None] | None,
    ) -> None:
        self.plane: Plane = PLANES[plane]
        self.home = home
        self.store = store
        self.gate = gate
        self.given_transport = transport
        self.timing = timing
        self.on_batch = on_batch
        self.max_rows = MAX_ROWS[plane]
        self.mismatches = 0
        self.total = PushResult("nothing", EXIT_OK)

    @property
    def fleet_id(self) -> str:
        """The fleet that is pushed to."""
        return self.gate.credential.fleet_id

    def push(self, *, max_batches: int, force: bool) -> PushResult:
        """Send what is pending; ``max_batches`` 0 is all. Errors: StoreError, OSError."""
        closed = self._closed()
        if closed is not None:
            return closed
        blocked = load_progress(self.store, self.fleet_id, self.plane.name).blocked
        if blocked is not None and not force and _still_blocked(blocked, self.timing.clock_ns()):
            status, code = _ends_of(blocked.code)
            return self._ended(status, code, blocked.code, blocked.detail)
        self.plane.begin(self.store, self._sender())
        while True:
            closed = self._closed()
            if closed is not None:
                return closed
            if max_batches and self.total.batches >= max_batches:
                return self._done()
            outbox = self._next_outbox()
            if outbox is None:
                return self._done()
            stopped = self._deliver(outbox)
            if stopped is not None:
                return stopped

    def _closed(self) -> PushResult | None:
        """Ask the gate again: a pin or a withdrawal may have come during the push."""
        gate = open_gate(self.home)
        if isinstance(gate, PushResult):
            return self._ended(gate.status, gate.exit_code, gate.reason, gate.detail)
        if gate.credential.fleet_id != self.fleet_id:
            return self._ended("later", EXIT_LATER, "enrolled_elsewhere")
        self.gate = gate
        detail = gate.closed.get(self.plane.name)
        if detail is None:
            return None
        return self._ended("closed", EXIT_CLOSED, "plane_closed", detail)

    def _sender(self) -> Sender:
        credential, now_ns = self.gate.credential, self.timing.clock_ns()
        return Sender(self.home, self.fleet_id, credential.install_id, self.gate.posture, now_ns)

    def _next_outbox(self) -> Outbox | None:
        name = self.plane.name
        kept = read_outbox(self.home, name)
        if kept is not None:
            if (kept.fleet_id, kept.install_id) != (
                self.fleet_id,
                self.gate.credential.install_id,
            ):
                self._set_aside("other-install")
            elif not self.plane.is_current(self.store, kept):
                clear_outbox(self.home, name)  # acknowledged; death came before it was removed
            else:
                return kept
        outbox = self.plane.next_outbox(self.store, self._sender(), self.max_rows)
        if outbox is not None:
            write_outbox(self.home, outbox)
        return outbox

    def _set_aside(self, reason: str) -> None:
        """Keep a batch that cannot be sent as evidence; of planes under consent none is kept."""
        if self.plane.name == "local":
            set_outbox_aside(self.home, reason)
        else:
            purge_outbox(self.home, self.plane.name)

    def _deliver(self, outbox: Outbox) -> PushResult | None:
        """Send until it is acknowledged (None) or something ends the push."""
        last: ClientError = NetworkError("not sent")
        for attempt in range(self.timing.max_attempts):
            if attempt and (closed := self._closed()) is not None:
                return closed
            try:
                receipt = judge_receipt(self._send(outbox), outbox)
            except ReceiptError as error:
                return self._ended("failed", EXIT_FAILED, "bad_receipt", str(error))
            except AddressError as error:
                return self._ended("failed", EXIT_FAILED, "address_refused", str(error))
            except ApiError as error:
                if not _is_transient(error):
                    return self._refused(outbox, error)
                last = error
                asked_s = error.retry_after_s
                if asked_s is not None and asked_s > MAX_WAIT_S:
                    return self._later(error, asked_s)
                delay_s = self._delay_s(attempt) if asked_s is None else asked_s
            except NetworkError as error:
                last, delay_s = error, self._delay_s(attempt)
            else:
                self._acknowledge(outbox, receipt)
                return None
            if attempt + 1 < self.timing.max_attempts:
                self.timing.sleep(delay_s)
        return self._later(last, 0.0)

    def _send(self, outbox: Outbox) -> dict[str, object]:
        credential = self.gate.credential
        transport = self.given_transport or connect_to(
            self.gate.endpoint, allow_plain_http=credential.allow_plain_http
        )
        answer = transport.request(
            "POST",
            PATH_TELEMETRY,
            body=outbox.body,
            headers={**outbox.headers, "Date": http_date(self.timing.clock_ns())},
            token=credential.credential,
        )
        return answer.json()

    def _delay_s(self, attempt: int) -> float:
        """Full jitter: a fleet that lost its console must not come back at once."""
        return self.timing.chance() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * float(2**attempt))

    def _acknowledge(self, outbox: Outbox, receipt: Receipt) -> None:
        rejected_counts = _counts_by_code(receipt)
        shown = LastReceipt(
            at_ns=self.timing.clock_ns(),
            batch_id=receipt.batch_id,
            received=receipt.received,
            accepted=sum(receipt.accepted.values()),
            duplicates=receipt.duplicates,
            rejected=sum(rejected_counts.values()),
            rejected_counts=rejected_counts,
            policy_etag=receipt.policy_etag[:MAX_ETAG_CHARS],
        )
        self.store.state_set(
            {
                **receipt_state(self.fleet_id, outbox.last_seq, shown, self.plane.name),
                **self.plane.acknowledged(self.store, outbox),
            }
        )
        clear_outbox(self.home, self.plane.name)
        counts = dict(self.total.rejected_counts)
        for code, count in rejected_counts.items():
            counts[code] = counts.get(code, 0) + count
        self.total = replace(
            self.total,
            status="partial" if counts else "pushed",
            exit_code=EXIT_PARTIAL if counts else EXIT_OK,
            batches=self.total.batches + 1,
            rows=self.total.rows + outbox.row_count,
            accepted=self.total.accepted + shown.accepted,
            duplicates=self.total.duplicates + shown.duplicates,
            rejected_counts=counts,
        )
        if self.on_batch is not None:
            self.on_batch(self.total)

    def _refused(self, outbox: Outbox, error: ApiError) -> PushResult | None:
        """What a refusal that no waiting mends leads to; None goes on with another batch."""
        if error.status == 401 or error.code in {"scope", "forbidden", "install_erased"}:
            return self._ended("rejected", EXIT_CREDENTIAL, error.code, error.detail)
        if error.code == "batch_mismatch" and not self.mismatches:
            self.mismatches += 1
            self._set_aside("mismatch")
            return None
        if error.status == 413 and outbox.row_count > 1:
            self.max_rows = outbox.row_count // 2
            # Nothing of it was stored; its rows are past the cursor.
            clear_outbox(self.home, self.plane.name)
            return None
        is_closed = error.code == "plane_closed"
        if not is_closed and (error.status in _NOT_THE_BATCH or error.code == "redirect"):
            return self._ended("failed", EXIT_FAILED, error.code, error.detail)
        now_ns = self.timing.clock_ns()
        blocked = Blocked(
            batch_id=outbox.batch_id,
            code=error.code,
            detail=error.detail,
            at_ns=now_ns,
            retry_ns=now_ns + int(BLOCKED_RETRY_S * 1e9),
            client_version=__version__,
        )
        if not is_closed or self.plane.name != "local":
            # The local plane asks every time: whoever opens it on the console waits for it.
            self.store.state_set(blocked_state(self.fleet_id, blocked, self.plane.name))
        status, code = _ends_of(error.code)
        return self._ended(status, code, error.code, error.detail)

    def _later(self, error: ClientError, retry_after_s: float) -> PushResult:
        reason = error.code if isinstance(error, ApiError) else "network"
        detail = error.detail if isinstance(error, ApiError) else str(error)
        return self._ended("later", EXIT_LATER, reason, detail, retry_after_s)

    def _done(self) -> PushResult:
        pending = self.plane.pending_count(self.store, self.fleet_id)
        return replace(self.total, pending=pending)

    def _ended(
        self, status: str, exit_code: int, reason: str, detail: str = "", retry_after_s: float = 0.0
    ) -> PushResult:
        return replace(
            self._done(),
            status=status,
            exit_code=exit_code,
            reason=reason,
            detail=detail,
            retry_after_s=retry_after_s,
        )


def _counts_by_code(receipt: Receipt) -> dict[str, int]:
    """Refused lines by code; what a console says in a code's place is neither shown nor kept."""
    counts: dict[str, int] = {}
    for said, count in receipt.rejected_counts.items():
        if count:
            code = said if _CODE.fullmatch(said) else OTHER
            counts[code] = counts.get(code, 0) + count
    return counts


def _ends_of(code: str) -> tuple[str, int]:
    """Status and exit code of a refusal that no waiting mends."""
    return ("closed", EXIT_CLOSED) if code == "plane_closed" else ("blocked", EXIT_FAILED)


def _still_blocked(blocked: Blocked, now_ns: int) -> bool:
    """Whether it is too early to try again. A new client, or a clock set back, may at once."""
    is_waiting = blocked.at_ns <= now_ns < blocked.retry_ns
    return is_waiting and blocked.client_version == __version__


def _is_transient(error: ApiError) -> bool:
    """Whether the same bytes may be taken later; a digest mismatch is damage on the way."""
    return error.status >= 500 or error.status in _TRANSIENT or error.code == "digest_mismatch"
