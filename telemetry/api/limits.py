"""How much one install may push: bytes before its body is read, rows before they are judged.

Two quotas a minute and install (FLEET_RATE_INSTALL_BYTES_PER_MIN, …_ROWS_PER_MIN). An install that
has used half of either is *heavy*: it has one push at a time in each web process, so that it cannot
hold all threads while others wait. A client that pushes one batch after the other never notices.
A repeated batch is given back nearly all of what it cost. Who was told to wait and comes back at
once is refused by his credential alone, before the database is asked anything.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn
from uuid import UUID

from django.conf import settings

from agent_client.contract import wire
from fleet.api.buckets import WINDOW_S, Quota, Want, take, whole_seconds
from fleet.api.errors import ApiProblem

ROW_BYTES: Final = 2048
"""A line of telemetry has 300 to 700 bytes; lines that are larger in the mean count by size."""
REPLAY_SHARE: Final = 0.1
"""What a repeated batch costs of its bytes: it was read and hashed, nothing else."""
HEAVY_SHARE: Final = 0.5
BUSY_RETRY_S: Final = 1
"""A second push of a heavy install waits for its first, which takes less than this."""


_LOCK: Final = threading.Lock()
_RUNNING: Final[Counter[str]] = Counter()
"""Pushes in hand in this process, by install; under the lock."""
TOO_MANY_ROWS: Final = "more rows a minute than this install may push"
TOO_MANY_BYTES: Final = "more bytes a minute than this install may push"
TOLD_TO_WAIT: Final = "this install was told to wait"
HOLD_MAX_S: Final = 5.0
"""A smaller batch might fit earlier than the one that was refused; not for longer than this."""
MAX_HOLDS: Final = 10_000
ONE_AT_A_TIME: Final = "another push of this install is in hand; send one after the other"


class Holds:
    """Credentials that were told to wait, by digest, and until when; of this process only."""

    def __init__(self, *, most: int = MAX_HOLDS) -> None:
        self._until_s: dict[bytes, float] = {}
        self._most = most
        self._lock = threading.Lock()

    def add(self, authorization: str, wait_s: float) -> None:
        """Hold a credential for so long."""
        now_s, key = time.monotonic(), _digest(authorization)
        with self._lock:
            if len(self._until_s) >= self._most:
                held = self._until_s.items()
                self._until_s = {name: until_s for name, until_s in held if until_s > now_s}
            if len(self._until_s) < self._most or key in self._until_s:
                self._until_s[key] = now_s + wait_s

    def left_s(self, authorization: str) -> float:
        """How long a credential is still held; 0 when it is not."""
        until_s = self._until_s.get(_digest(authorization), 0.0) if self._until_s else 0.0
        return max(0.0, until_s - time.monotonic())


def _digest(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode("utf-8", errors="surrogateescape")).digest()


_HOLDS: Final = Holds()


def check_hold(authorization: str) -> None:
    """Refuse whoever was told to wait a moment ago. Errors: ApiProblem rate_limited."""
    left_s = _HOLDS.left_s(authorization)
    if left_s:
        raise ApiProblem("rate_limited", TOLD_TO_WAIT, retry_after_s=whole_seconds(left_s))


def rows_in(data: bytes) -> int:
    """What a decoded body counts for: its lines, or its size when lines are long."""
    return max(
        data.count(b"\n") + (not data.endswith(b"\n") and bool(data)), len(data) // ROW_BYTES
    )


class Meter:
    """One push of one install against its quotas."""

    def __init__(self, install_id: UUID, *, authorization: str = "") -> None:
        self._who = str(install_id)
        self._authorization = authorization
        self._rows = Quota("rows", settings.FLEET_RATE_INSTALL_ROWS_PER_MIN)
        self._bytes = Quota("bytes", settings.FLEET_RATE_INSTALL_BYTES_PER_MIN)
        self._held_rows = 0
        self._held_bytes = 0
        self._rows_s = 0.0
        self._bytes_s = 0.0

    def take_bytes(self, wire_bytes: int | None) -> None:
        """Before the body is read; None: its length is not known, it is charged afterwards.

        One row is taken with it: who is out of rows is refused before the body is read, too.
        Errors: ApiProblem rate_limited.
        """
        # More than the limit is never read; a false length must not be a debt of hours.
        byte_count = 1 if wire_bytes is None else min(wire_bytes, wire.MAX_BODY_BYTES)
        level = take(self._who, Want(self._rows, 1), Want(self._bytes, byte_count))
        self._rows_s, self._bytes_s = level.backlogs_s
        if not level.is_taken:
            is_rows = self._rows_s > WINDOW_S - self._rows.seconds(1)
            self._hold(level.wait_s)
            self._refuse(TOO_MANY_ROWS if is_rows else TOO_MANY_BYTES, level.wait_s)
        self._held_rows, self._held_bytes = 1, byte_count

    def take_rows(self, row_count: int, *, wire_bytes: int) -> bool:
        """After decoding, before anything is judged: whether there is room for the rows.

        After a refusal the bytes stay charged, the body was read; ``refuse_rows`` then says until
        when. Bytes that no header promised are charged here, whatever the level is.
        """
        if wire_bytes > self._held_bytes:
            want = Want(self._bytes, wire_bytes, self._held_bytes)
            (self._bytes_s,) = take(self._who, want, is_forced=True).backlogs_s
            self._held_bytes = wire_bytes
        level = take(self._who, Want(self._rows, row_count, self._held_rows))
        (self._rows_s,) = level.backlogs_s
        if level.is_taken:
            self._held_rows = row_count
        return level.is_taken

    def refuse_rows(self, row_count: int) -> None:
        """Say when both the rows and the same bytes again will fit. Errors: ApiProblem."""
        (self._rows_s,) = take(
            self._who, Want(self._rows, 0, self._held_rows), is_forced=True
        ).backlogs_s
        rows_s, bytes_s = self._rows.seconds(row_count), self._bytes.seconds(self._held_bytes)
        wait_s = max(
            self._rows_s - max(0.0, WINDOW_S - rows_s), self._bytes_s - max(0.0, WINDOW_S - bytes_s)
        )
        self._hold(wait_s)
        self._refuse(TOO_MANY_ROWS, wait_s)

    def _hold(self, wait_s: float) -> None:
        if self._authorization:
            _HOLDS.add(self._authorization, min(wait_s, HOLD_MAX_S))

    def repeated(self) -> None:
        """The batch was known: give back what it did not cost."""
        self._keep(self._held_bytes * REPLAY_SHARE)

    def _keep(self, byte_count: float) -> None:
        level = take(
            self._who,
            Want(self._rows, 0, self._held_rows),
            Want(self._bytes, byte_count, self._held_bytes),
            is_forced=True,
        )
        self._rows_s, self._bytes_s = level.backlogs_s
        self._held_rows = self._held_bytes = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """This install's turn in this process. Errors: ApiProblem rate_limited when heavy."""
        is_heavy = max(self._rows_s, self._bytes_s) > WINDOW_S * HEAVY_SHARE
        with _LOCK:
            may_run = not (is_heavy and _RUNNING[self._who])
            if may_run:
                _RUNNING[self._who] += 1
        if not may_run:
            self._keep(0)
            self._refuse(ONE_AT_A_TIME, BUSY_RETRY_S)
        try:
            yield
        finally:
            with _LOCK:
                _RUNNING[self._who] -= 1
                if not _RUNNING[self._who]:
                    del _RUNNING[self._who]

    def headers(self) -> dict[str, str]:
        """The quotas and what is left of them, as the RateLimit draft of the IETF writes them.

        Source: draft-ietf-httpapi-ratelimit-headers, the two-field form.
        """
        known = (
            (self._rows, "rows", self._rows_s),
            (self._bytes, "content-bytes", self._bytes_s),
        )
        quotas = [entry for entry in known if entry[0].per_minute]
        if not quotas:
            return {}
        return {
            "RateLimit-Policy": ", ".join(
                f'"{quota.name}";q={quota.per_minute};w={WINDOW_S};qu="{unit}"'
                for quota, unit, _backlog_s in quotas
            ),
            "RateLimit": ", ".join(
                f'"{quota.name}";r={_left(quota, backlog_s)};t={math.ceil(backlog_s)}'
                for quota, _unit, backlog_s in quotas
            ),
        }

    def _refuse(self, text: str, wait_s: float) -> NoReturn:
        raise ApiProblem(
            "rate_limited", text, retry_after_s=whole_seconds(wait_s), headers=self.headers()
        )


def _left(quota: Quota, backlog_s: float) -> int:
    return max(0, int(quota.per_minute * (WINDOW_S - backlog_s) / WINDOW_S))
