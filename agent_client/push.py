"""Push the local plane to the operator's console: nothing lost, nothing doubled.

Steps for each batch: 1. the gate is asked again; 2. the batch is encoded and kept on disk under
its id; 3. it is sent, and sent again byte for byte until a receipt that fits it comes; 4. cursor,
receipt and reported losses move in one SQLite transaction; 5. the kept batch is removed. A death
between any two repeats the step: the console knows the id and answers with the same receipt.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from agent_client import __version__, config, health
from agent_client.contract.wire import PATH_TELEMETRY, Receipt
from agent_client.credential import Credential, load_credential
from agent_client.export import MAX_BATCH_ROWS, next_batch
from agent_client.files import exclusive_lock
from agent_client.http import (
    AddressError,
    ApiError,
    ClientError,
    NetworkError,
    Transport,
    connect_to,
)
from agent_client.outbox import (
    Outbox,
    clear_outbox,
    encode_outbox,
    new_batch_id,
    push_dir,
    read_outbox,
    set_outbox_aside,
    write_outbox,
)
from agent_client.policy.posture import Posture, resolve
from agent_client.policy.state import load_state
from agent_client.progress import (
    Blocked,
    LastReceipt,
    blocked_state,
    load_progress,
    outcome_state,
    receipt_state,
)
from agent_client.recovery import recover
from agent_client.store import Store, StoreError

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
MAX_HOLD_S: Final = 3600.0
"""However long a console asks us to stay away, we ask again after an hour."""
BLOCKED_RETRY_S: Final = 3600.0
"""A batch refused for good is tried again hourly: the console may have been mended."""

CHANCE: Final = random.SystemRandom().random
"""Not the module's own generator: the host may have seeded that one."""

_TRANSIENT: Final = frozenset({408, 425, 429})
_NOT_THE_BATCH: Final = frozenset({403, 404, 405, 426})
"""Refusals that say nothing about the batch: a wrong address, a proxy, an old client."""


@dataclass(frozen=True, slots=True)
class PushResult:
    """How a push ended.

    ``status``: pushed, nothing, partial, closed, not_enrolled, rejected (the credential),
    blocked, failed, later or busy. ``retry_after_s`` only with later.
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

    @property
    def rejected(self) -> int:
        """Lines the console refused; it keeps them in quarantine."""
        return sum(self.rejected_counts.values())


@dataclass(frozen=True, slots=True)
class Gate:
    """An open gate: what is pushed may leave, to this place, for this reason."""

    credential: Credential
    posture: Posture
    endpoint: str


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
    """Whether the local plane may leave this home, decided from the files as they are now."""
    credential = load_credential(home)
    if credential is None:
        return PushResult("not_enrolled", EXIT_CREDENTIAL, "not_enrolled")
    settings = config.load(home)
    posture = resolve(settings)
    if posture.install_id != credential.install_id:
        detail = "the install id was cleared or changed since enrollment; enroll again"
        return PushResult("not_enrolled", EXIT_CREDENTIAL, "install_id_changed", detail)
    for key, is_open in (
        ("telemetry.local", posture.local_enabled),
        ("telemetry.export.console.enabled", posture.console_enabled),
    ):
        if not is_open:
            detail = f"{key} is off ({settings.source(key)})"
            return PushResult("closed", EXIT_CLOSED, "plane_closed", detail)
    return Gate(credential, posture, posture.console_endpoint or credential.console_url)


def push_once(
    home: Path | None = None,
    *,
    transport: Transport | None = None,
    timing: Timing | None = None,
    max_batches: int = 0,
    force: bool = False,
    on_batch: Callable[[PushResult], None] | None = None,
) -> PushResult:
    """Push everything that is pending; at most one push at a time for a home.

    ``max_batches`` 0 is all; ``force`` ignores a wait that an earlier answer asked for;
    ``on_batch`` hears of each acknowledged batch. Never raises for what network, console or
    files do.
    """
    root = config.resolve_home(home)
    gate = open_gate(root)
    if isinstance(gate, PushResult):
        return gate
    try:
        recover(root)
        with exclusive_lock(push_dir(root) / "lock") as is_held:
            if not is_held:
                return PushResult("busy", EXIT_LATER, "busy", "another push is under way")
            with Store(root) as store:
                run = _Run(root, store, gate, transport, timing or Timing(), on_batch)
                return run.push(max_batches=max_batches, force=force)
    except (StoreError, sqlite3.Error) as error:
        return PushResult("failed", EXIT_FAILED, "store", str(error))
    except OSError as error:
        return PushResult("failed", EXIT_FAILED, "cannot_store", error.strerror or str(error))


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


class _Run:
    """One push under its lock: the state that its steps share."""

    def __init__(
        self,
        home: Path,
        store: Store,
        gate: Gate,
        transport: Transport | None,
        timing: Timing,
        on_batch: Callable[[PushResult], None] | None,
    ) -> None:
        self.home = home
        self.store = store
        self.gate = gate
        self.given_transport = transport
        self.timing = timing
        self.on_batch = on_batch
        self.cursor = 0
        self.max_rows = MAX_BATCH_ROWS
        self.mismatches = 0
        self.total = PushResult("nothing", EXIT_OK)

    @property
    def fleet_id(self) -> str:
        return self.gate.credential.fleet_id

    def push(self, *, max_batches: int, force: bool) -> PushResult:
        progress = load_progress(self.store, self.fleet_id)
        self.cursor = progress.cursor
        now_ns = self.timing.clock_ns()
        blocked = progress.blocked
        if blocked is not None and not force and _still_blocked(blocked, now_ns):
            return self._ended("blocked", EXIT_FAILED, blocked.code, blocked.detail)
        wait_ns = progress.not_before_ns - now_ns
        if 0 < wait_ns <= MAX_HOLD_S * 1e9 and not force:  # a clock set back must not hold us
            detail = f"the console asked to wait; {wait_ns / 1e9:.0f} s are left"
            return self._ended("later", EXIT_LATER, "asked_to_wait", detail, wait_ns / 1e9)
        result = self._push_batches(max_batches)
        # The outcome is written last; the receipts were kept with their cursor already.
        until_ns = self.timing.clock_ns() + int(min(result.retry_after_s, MAX_HOLD_S) * 1e9)
        self.store.state_set(
            outcome_state(
                at_ns=self.timing.clock_ns(),
                status=result.status,
                reason=result.reason,
                not_before_ns=until_ns if result.retry_after_s else 0,
            )
        )
        return result

    def _push_batches(self, max_batches: int) -> PushResult:
        while True:
            gate = open_gate(self.home)  # a pin or a withdrawal may have come during the push
            if isinstance(gate, PushResult):
                return self._ended(gate.status, gate.exit_code, gate.reason, gate.detail)
            if gate.credential.fleet_id != self.fleet_id:
                return self._ended("later", EXIT_LATER, "enrolled_elsewhere")
            self.gate = gate
            if max_batches and self.total.batches >= max_batches:
                return self._done()
            outbox = self._next_outbox()
            if outbox is None:
                return self._done()
            stopped = self._deliver(outbox)
            if stopped is not None:
                return stopped

    def _next_outbox(self) -> Outbox | None:
        credential = self.gate.credential
        kept = read_outbox(self.home)
        if kept is not None:
            if (kept.fleet_id, kept.install_id) != (self.fleet_id, credential.install_id):
                set_outbox_aside(self.home, "other-install")
            elif kept.last_seq <= self.cursor:
                clear_outbox(self.home)  # acknowledged; death came before it was removed
            else:
                return kept
        batch = next_batch(self.store, after_seq=self.cursor, max_rows=self.max_rows)
        if batch is None:
            return None
        outbox = encode_outbox(
            batch,
            batch_id=new_batch_id(self.timing.clock_ns()),
            fleet_id=self.fleet_id,
            install_id=credential.install_id,
            consent=consent_of(self.home, self.gate.posture),
            losses=health.losses(self.store),
        )
        write_outbox(self.home, outbox)
        return outbox

    def _deliver(self, outbox: Outbox) -> PushResult | None:
        """Send until it is acknowledged (None) or something ends the push."""
        last: ClientError = NetworkError("not sent")
        for attempt in range(self.timing.max_attempts):
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
            headers=outbox.headers,
            token=credential.credential,
        )
        return answer.json()

    def _delay_s(self, attempt: int) -> float:
        """Full jitter: a fleet that lost its console must not come back at once."""
        return self.timing.chance() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * float(2**attempt))

    def _acknowledge(self, outbox: Outbox, receipt: Receipt) -> None:
        rejected_counts = {k: v for k, v in receipt.rejected_counts.items() if v}
        shown = LastReceipt(
            at_ns=self.timing.clock_ns(),
            batch_id=receipt.batch_id,
            received=receipt.received,
            accepted=sum(receipt.accepted.values()),
            duplicates=receipt.duplicates,
            rejected=sum(rejected_counts.values()),
            rejected_counts=rejected_counts,
            policy_etag=receipt.policy_etag,
        )
        self.store.state_set(
            {
                **receipt_state(self.fleet_id, outbox.last_seq, shown),
                **health.reported_state(self.store, outbox.losses),
            }
        )
        self.cursor = outbox.last_seq
        clear_outbox(self.home)
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
        if error.status == 401 or error.code in {"scope", "forbidden"}:
            return self._ended("rejected", EXIT_CREDENTIAL, error.code, error.detail)
        if error.code == "plane_closed":
            return self._ended("closed", EXIT_CLOSED, error.code, error.detail)
        if error.code == "batch_mismatch" and not self.mismatches:
            self.mismatches += 1
            set_outbox_aside(self.home, "mismatch")
            return None
        if error.status == 413 and outbox.row_count > 1:
            self.max_rows = outbox.row_count // 2
            clear_outbox(self.home)  # nothing of it was stored; its rows are past the cursor
            return None
        if error.status in _NOT_THE_BATCH or error.code == "redirect":
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
        self.store.state_set(blocked_state(self.fleet_id, blocked))
        return self._ended("blocked", EXIT_FAILED, error.code, error.detail)

    def _later(self, error: ClientError, retry_after_s: float) -> PushResult:
        reason = error.code if isinstance(error, ApiError) else "network"
        detail = error.detail if isinstance(error, ApiError) else str(error)
        return self._ended("later", EXIT_LATER, reason, detail, retry_after_s)

    def _done(self) -> PushResult:
        return replace(self.total, pending=self.store.pending_count(self.cursor))

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


def consent_of(home: Path, posture: Posture) -> dict[str, object]:
    """The posture that allows a batch, as its header says it."""
    return {
        "consent_state": posture.consent_state,
        "allow_aggregate": posture.allow_aggregate,
        "trajectories": posture.trajectories_enabled,
        "policy_version": load_state(home).applied.bundle_version,
    }


def _still_blocked(blocked: Blocked, now_ns: int) -> bool:
    """Whether it is too early to try again. A new client, or a clock set back, may at once."""
    is_waiting = blocked.at_ns <= now_ns < blocked.retry_ns
    return is_waiting and blocked.client_version == __version__


def _is_transient(error: ApiError) -> bool:
    """Whether the same bytes may be taken later; a digest mismatch is damage on the way."""
    return error.status >= 500 or error.status in _TRANSIENT or error.code == "digest_mismatch"


@dataclass(frozen=True, slots=True)
class Preview:
    """What the next push would send: the first batch in full, the rest counted."""

    endpoint: str
    pending: int
    rows: int
    counts: dict[str, int]
    first_seq: int
    last_seq: int
    wire_bytes: int
    body: bytes
    headers: dict[str, str]
    is_resend: bool


def preview_push(home: Path | None = None) -> Preview | PushResult:
    """What would leave, without sending or keeping anything. Errors: StoreError, sqlite3.Error."""
    import gzip

    root = config.resolve_home(home)
    gate = open_gate(root)
    if isinstance(gate, PushResult):
        return gate
    recover(root)
    credential = gate.credential
    with Store(root) as store:
        cursor = load_progress(store, credential.fleet_id).cursor
        kept = read_outbox(root)
        is_resend = kept is not None and kept.last_seq > cursor
        if kept is None or not is_resend:
            batch = next_batch(store, after_seq=cursor)
            if batch is None:
                return PushResult("nothing", EXIT_OK)
            kept = encode_outbox(
                batch,
                batch_id=new_batch_id(time.time_ns()),
                fleet_id=credential.fleet_id,
                install_id=credential.install_id,
                consent=consent_of(root, gate.posture),
                losses=health.losses(store),
            )
        return Preview(
            endpoint=gate.endpoint,
            pending=store.pending_count(cursor),
            rows=kept.row_count,
            counts=kept.counts,
            first_seq=kept.first_seq,
            last_seq=kept.last_seq,
            wire_bytes=len(kept.body),
            body=gzip.decompress(kept.body),
            headers=kept.headers,
            is_resend=is_resend,
        )
