"""The life of one install of a crowd: it enrolls, polls its policy, checks in and pushes.

What it does at a failure is what the real client does: the batch is kept and sent again byte for
byte, with full jitter between attempts; Retry-After is obeyed; a round that failed is over, and the
next comes an interval later with everything that has gathered, and tries once.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from dataclasses import dataclass, field
from typing import Final

from agent_client import __version__
from agent_client.contract.policy_doc import CheckIn
from agent_client.contract.wire import (
    PATH_CHECKIN,
    PATH_ENROLL,
    PATH_POLICY_ASSIGNMENT,
    PATH_POLICY_BUNDLE,
    PATH_TELEMETRY,
    Receipt,
)
from agent_client.http import http_date
from agent_client.push_send import BACKOFF_BASE_S, BACKOFF_CAP_S, MAX_ATTEMPTS, MAX_WAIT_S
from agent_client.simulation.crowd.batches import MAX_BATCH_ROWS, CrowdBatch, Packer
from agent_client.simulation.crowd.making import Made, Maker, Story
from agent_client.simulation.crowd.members import CAPABILITY, Member
from agent_client.simulation.crowd.meter import Meter
from agent_client.simulation.crowd.wire import Pool, Reply, Unreachable
from agent_client.simulation.script import S, World, version_at

JSON_HEADERS: Final = {"Content-Type": "application/json"}
TRANSIENT: Final = frozenset({408, 425, 429})
MAKING_AT_ONCE: Final = 4
"""Ten thousand that are due at once would make rows for a minute before any answer is read."""
DRIFTED_KEY: Final = "telemetry.retention_days"


class EnrollRefused(Exception):
    """The console does not take this install; ``code`` says why."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code


@dataclass(slots=True)
class Surroundings:
    """What all installs of a crowd share.

    ``story`` and ``packer`` are decided when everybody has enrolled. ``chance`` is for jitter only:
    nothing that is sent depends on it. ``bundles``: those that some install has fetched. ``turn``
    is held while rows are made or packed.
    """

    pool: Pool
    meter: Meter
    interval_ns: int
    chance: random.Random
    story: Story
    packer: Packer
    bundles: set[str] = field(default_factory=set)
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAKING_AT_ONCE))


@dataclass(slots=True)
class Policy:
    """What an install holds of its policy."""

    etag: str = ""
    version: int = 0
    bundle_sha256: str = ""
    nonce: str = ""


class Install:
    """One member, alive. Cancelling any of its coroutines loses nothing: ``finish`` goes on."""

    def __init__(self, around: Surroundings, member: Member) -> None:
        self.around, self.member = around, member
        self.maker = Maker(around.story, member)
        self.credential = ""
        self.out_code = ""
        """Why the console does not take this install any more."""
        self.policy = Policy()
        self._batch: CrowdBatch | None = None
        self._gathered: list[Made] = []
        self._batch_count = 0
        self._checkin_seq = time.time_ns() // 1_000_000
        self._is_behind = False

    @property
    def is_out(self) -> bool:
        """Whether the console has turned it away for good."""
        return bool(self.out_code)

    def begin(self, *, is_behind: bool) -> None:
        """Take up the story that was decided; ``is_behind``: the past comes first."""
        self.maker = Maker(self.around.story, self.member)
        self._is_behind = is_behind

    # -- enrolling -----------------------------------------------------------------------------

    async def enroll(self, token: str) -> None:
        """Get a credential, however long the console asks to wait. Errors: EnrollRefused."""
        body = json.dumps(self._facts()).encode()
        while True:
            try:
                reply = await self._ask("POST", PATH_ENROLL, "enroll", token=token, body=body)
            except Unreachable:
                await asyncio.sleep(self._delay_s(2))
                continue
            if reply.status == 201:
                self.credential = str(reply.json().get("credential", ""))
                self.around.meter.enrolled += 1
                return
            if not _is_transient(reply):
                detail = str(reply.json().get("detail", ""))
                code = "approval_needed" if reply.status == 202 else reply.code
                raise EnrollRefused(code, detail)
            await asyncio.sleep((reply.retry_after_s or 1.0) + self._delay_s(0))

    def _facts(self) -> dict[str, object]:
        persona = self.member.persona
        family, release, arch = persona.system
        return {
            "install_id": str(self.member.install_id),
            "machine_id": self.member.machine_id,
            "agent": {
                "client_version": __version__,
                "host_version": self._version(),
                "python_version": persona.python,
            },
            "host": {
                "os_family": family,
                "os_version": release,
                "arch": arch,
                "hostname": self.member.name,
            },
            "capabilities": [CAPABILITY],
            "consent_state": persona.consent,
        }

    def _version(self) -> str:
        world = World(self.around.story.seed, self.around.story.base_ns or time.time_ns())
        return version_at(world, self.member.persona, time.time_ns())

    # -- living --------------------------------------------------------------------------------

    async def hand_in_history(self, days: int) -> None:
        """Push the days before the story begins."""
        for made in self.maker.history(days):
            self._gathered.append(made)
            if len(self._gathered) >= MAX_BATCH_ROWS:
                await self._push_all("history")
        await self._push_all("history")

    async def live(self, ends_ns: int | None) -> None:
        """Push and sync the policy, each once an interval, until ``ends_ns``."""
        if self.member.habits.is_silent:
            return
        self.around.meter.active += 1
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._push_on(ends_ns))
                both.create_task(self._sync_on(ends_ns))
        finally:
            self.around.meter.active -= 1

    async def _push_on(self, ends_ns: int | None) -> None:
        interval_ns = self.around.interval_ns
        slot_ns = self.around.story.base_ns + self.member.phase_ns(interval_ns)
        while not self.is_out and (ends_ns is None or slot_ns <= ends_ns):
            await _sleep_until(slot_ns)
            if self._is_behind:  # what gathered in an outage goes as one batch
                slot_ns += max(0, time.time_ns() - slot_ns) // interval_ns * interval_ns
            await self._gather(slot_ns)
            wait_s = await self._push_gathered("push", slot_ns)
            self._is_behind = self._batch is not None
            slot_ns += interval_ns
            late_ns = time.time_ns() + int(wait_s * S) - slot_ns
            if wait_s and late_ns > 0:
                slot_ns += -(-late_ns // interval_ns) * interval_ns

    async def finish(self, ends_ns: int) -> None:
        """Hand in what is left of the life up to ``ends_ns``; tries until it is cancelled."""
        if not self.member.habits.is_silent:
            await self._gather(ends_ns)
        await self._push_all("final")

    async def _push_all(self, kind: str) -> None:
        """Push until nothing is left."""
        while not self.is_out:
            wait_s = await self._push_gathered(kind, time.time_ns())
            if self._batch is None and not self._gathered:
                return
            await asyncio.sleep(max(wait_s, 1.0 + self._delay_s(1)))

    def settle(self) -> None:
        """Enter into the ledger what never got a receipt."""
        ledger, batch = self.around.meter.ledger, self._batch
        left = len(self._gathered) + (batch.row_count if batch is not None else 0)
        ledger.made += len(self._gathered)
        if self.is_out:
            ledger.refused[self.out_code] += left
        else:
            ledger.unsent += left

    # -- pushing -------------------------------------------------------------------------------

    async def _gather(self, until_ns: int) -> None:
        async with self.around.turn:
            self._gathered.extend(self.maker.life(until_ns - self.member.habits.late_s * S))
            await asyncio.sleep(0)

    async def _pack(self) -> CrowdBatch | None:
        """The next batch of what is gathered; None when there is nothing."""
        async with self.around.turn:
            rows = self._gathered[:MAX_BATCH_ROWS]
            if not rows:
                return None
            batch = self._batch = self.around.packer.pack(self.member, rows)
            del self._gathered[:MAX_BATCH_ROWS]
            self._batch_count += 1
            self.around.meter.ledger.made += batch.row_count
            self.around.meter.ledger.batches += 1
            self.around.meter.waiting_batches += 1
            await asyncio.sleep(0)
        return batch

    async def _push_gathered(self, kind: str, due_ns: int) -> float:
        """Send batch after batch; how long the console asks to stay away, 0 when it does not."""
        while not self.is_out:
            batch = self._batch or await self._pack()
            if batch is None:
                return 0.0
            wait_s = await self._deliver(batch, kind, due_ns)
            if wait_s is not None:
                return wait_s
        return 0.0

    async def _deliver(self, batch: CrowdBatch, kind: str, due_ns: int) -> float | None:
        """Send until it is acknowledged or refused (None); else how long to stay away at least."""
        most = 1 if self._is_behind and kind == "push" else MAX_ATTEMPTS
        for attempt in range(most):
            delay_s = self._delay_s(attempt)
            try:
                reply = await self._send(batch, kind, due_ns)
            except Unreachable:
                reply = None
            if reply is not None:
                if reply.status == 200:
                    self._acknowledge(batch, reply)
                    await self._resend(batch, reply)
                    return None
                if not _is_transient(reply):
                    self._refused(batch, reply)
                    return None
                asked_s = reply.retry_after_s
                if asked_s is not None:
                    if asked_s > MAX_WAIT_S:
                        return asked_s
                    delay_s = asked_s + self._delay_s(0)
            if attempt + 1 < most:
                await asyncio.sleep(delay_s)
        return 0.0

    async def _send(self, batch: CrowdBatch, kind: str, due_ns: int) -> Reply:
        self.around.meter.ledger.wire_bytes += len(batch.body)
        clock_ns = time.time_ns() + self.member.habits.skew_ms * 1_000_000
        headers = {**batch.headers, "Date": http_date(clock_ns)}
        return await self._ask(
            "POST", PATH_TELEMETRY, kind, due_ns=due_ns, headers=headers, body=batch.body
        )

    def _done_with_batch(self) -> None:
        """Before anything is waited for: a batch is entered into the ledger once."""
        self._batch = None
        self.around.meter.waiting_batches -= 1

    def _acknowledge(self, batch: CrowdBatch, reply: Reply) -> None:
        self._done_with_batch()
        ledger = self.around.meter.ledger
        receipt = _receipt_of(batch, reply)
        if receipt is None:
            ledger.receipts_wrong += 1
            return
        rejected = sum(receipt.rejected_counts.values())
        ledger.accepted += sum(receipt.accepted.values())
        ledger.duplicates += receipt.duplicates
        ledger.rejected.update(receipt.rejected_counts)
        if rejected < batch.row_count:
            ledger.distinct.update(batch.new_counts)
            ledger.partly_rejected += rejected
        self.around.meter.took_rows(batch.row_count)

    async def _resend(self, batch: CrowdBatch, first: Reply) -> None:
        """Now and then, act as if the receipt had not come: the answer has to be the same."""
        every = self.member.habits.resend_every
        if not every or self._batch_count % every:
            return
        ledger = self.around.meter.ledger
        try:
            reply = await self._send(batch, "push", time.time_ns())
        except Unreachable:
            return
        if reply.status == 200:
            ledger.replayed += 1
            ledger.receipts_changed += reply.json() != first.json()

    def _refused(self, batch: CrowdBatch, reply: Reply) -> None:
        self._done_with_batch()
        self.around.meter.ledger.refused[reply.code] += batch.row_count
        if reply.status == 401:
            self.out_code = reply.code

    # -- the policy ----------------------------------------------------------------------------

    async def _sync_on(self, ends_ns: int | None) -> None:
        interval_ns = self.around.interval_ns
        phase_ns = (self.member.phase_ns(interval_ns) + interval_ns // 2) % interval_ns
        slot_ns = self.around.story.base_ns + phase_ns
        slot_ns += max(0, time.time_ns() - slot_ns) // interval_ns * interval_ns
        while not self.is_out and (ends_ns is None or slot_ns <= ends_ns):
            await _sleep_until(slot_ns)
            wait_s = await self._sync(slot_ns)
            slot_ns += interval_ns
            late_ns = time.time_ns() + int(wait_s * S) - slot_ns
            slot_ns += -(-max(0, late_ns) // interval_ns) * interval_ns

    async def _sync(self, due_ns: int) -> float:
        """Poll, fetch what is new, report; how long the console asks to stay away."""
        try:
            reply = await self._ask(
                "GET",
                PATH_POLICY_ASSIGNMENT,
                "poll",
                due_ns=due_ns,
                headers={"If-None-Match": self.policy.etag} if self.policy.etag else None,
            )
            if _is_transient(reply):
                return reply.retry_after_s or 0.0
            if reply.status == 401:
                self.out_code = reply.code
                return 0.0
            if reply.status == 200:
                await self._take(reply)
            elif reply.status == 204:
                self.policy.etag = reply.headers.get("etag", "")
            answer = await self._check_in(time.time_ns())
        except Unreachable:
            return 0.0
        return (answer.retry_after_s or 0.0) if _is_transient(answer) else 0.0

    async def _take(self, reply: Reply) -> None:
        """Take over a new assignment, with its bundle where that is a new one."""
        document = _payload_of(reply)
        sha256 = str(document.get("bundle_sha256", ""))
        if sha256 not in self.around.bundles:
            bundle = await self._ask("GET", PATH_POLICY_BUNDLE + sha256, "poll")
            if bundle.status != 200:
                self.around.meter.failed("poll", bundle.code)
                return
            self.around.bundles.add(sha256)
        version = document.get("version")
        is_new = sha256 != self.policy.bundle_sha256
        self.policy = Policy(
            reply.headers.get("etag", ""),
            version if isinstance(version, int) else 0,
            sha256,
            str(document.get("nonce", "")),
        )
        if is_new:
            self.around.meter.applied_bundle(sha256)

    async def _check_in(self, due_ns: int) -> Reply:
        self._checkin_seq += 1
        policy, has_drift = self.policy, self.member.habits.has_drift
        drift: tuple[dict[str, object], ...] = ()
        if has_drift and policy.bundle_sha256:
            drift = ({"key": DRIFTED_KEY, "want": 60, "got": 365, "cause": "foreign_key"},)
        report = CheckIn(
            seq=self._checkin_seq,
            status="applied" if policy.bundle_sha256 else "pending",
            assignment_version=policy.version,
            bundle_sha256=policy.bundle_sha256,
            desired_sha256=policy.bundle_sha256,
            written_sha256=policy.bundle_sha256,
            effective_sha256="" if drift else policy.bundle_sha256,
            nonce_seen=policy.nonce,
            drift=drift,
            health={"pending_rows": len(self._gathered)},
            versions={"client": __version__, "host": self._version()},
        )
        body = json.dumps(report.to_dict()).encode()
        return await self._ask("POST", PATH_CHECKIN, "checkin", due_ns=due_ns, body=body)

    # -- asking --------------------------------------------------------------------------------

    async def _ask(
        self,
        method: str,
        path: str,
        kind: str,
        *,
        due_ns: int = 0,
        token: str = "",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> Reply:
        """One request, measured. Errors: Unreachable."""
        pool, meter = self.around.pool, self.around.meter
        if body and headers is None:
            headers = JSON_HEADERS
        async with pool.slot():
            began_s = time.perf_counter()
            try:
                reply = await pool.request(
                    method, path, token=token or self.credential, headers=headers, body=body
                )
            except Unreachable as error:
                meter.failed(kind, str(error))
                raise
        took_s = time.perf_counter() - began_s
        lag_s = (time.time_ns() - due_ns) / S if due_ns else took_s
        meter.answered(kind, took_s=took_s, lag_s=lag_s)
        if reply.status >= 400:
            meter.failed(kind, reply.code)
        return reply

    def _delay_s(self, attempt: int) -> float:
        """The real client's back-off with full jitter."""
        return self.around.chance.random() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0**attempt)


async def _sleep_until(at_ns: int) -> None:
    await asyncio.sleep(max(0.0, (at_ns - time.time_ns()) / S))


def _is_transient(reply: Reply) -> bool:
    return reply.status >= 500 or reply.status in TRANSIENT or reply.code == "digest_mismatch"


def _receipt_of(batch: CrowdBatch, reply: Reply) -> Receipt | None:
    """The receipt, when it is one for this batch and adds up."""
    try:
        receipt = Receipt.from_dict(reply.json())
    except ValueError:
        return None
    counts = [*receipt.accepted.values(), receipt.duplicates, *receipt.rejected_counts.values()]
    is_ours = receipt.batch_id == batch.batch_id and receipt.received == batch.row_count
    return receipt if is_ours and min(counts) >= 0 and sum(counts) == batch.row_count else None


def _payload_of(reply: Reply) -> dict[str, object]:
    """The signed document of an envelope; {} when there is none.

    Signatures are not checked: that is the real client's part, and would cost a crowd a millisecond
    of this process for each install.
    """
    try:
        value = json.loads(base64.b64decode(str(reply.json().get("payload", ""))))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
