"""Unchanged polls from memory: which credential would be told 304 now, and how sure that is.

A web process remembers every poll that it answered from the database. Once a second a thread of its
own looks at what the audit trail says has changed, and asks the database again about whom that
concerns, in one query for many; everything else is asked again every half of FLEET_POLL_CACHE_S.
What could not be confirmed for FLEET_POLL_CACHE_S is not answered from here any more: a revocation
or a publish bites within about a second, and whatever the trail does not name within that time.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import batched
from typing import Final
from uuid import UUID

from django.conf import settings
from django.db import transaction

from agent_client.contract.wire import SCOPE_POLICY
from fleet.lib.clock import now
from fleet.models import (
    ChangeRecord,
    Install,
    InstallCredential,
    InstallPolicy,
    InstallStatus,
    PolicyRevision,
    PolicyTarget,
    SyncState,
)
from fleet.policy.compile import EVERYONE
from fleet.policy.serve import ETAG_NONE

MAX_HELD: Final = 50_000
"""About 25 MB; beyond it those that have not asked for longest are forgotten."""
IDLE_S: Final = 900.0
"""Three times the longest usual poll interval; who stays away longer is asked about no more."""
CHUNK: Final = 1_000
"""Credentials asked about in one query; SQLite takes 32,766 parameters, PostgreSQL 65,535."""
ALL_EVERY_S: Final = 2.0
"""Everything at once is asked about no more often, however much is being changed."""
SEEN_EVERY_S: Final = 60.0
FLUSH_EVERY_S: Final = 5.0
MAX_CHANGES: Final = 500
OF_NO_CONCERN: Final = frozenset(
    {"enrollmenttoken", "enrollmentrequest", "pin", "user", "group", "erasure"}
)
"""Kinds of changed things that no assignment depends on before something else changes as well."""
_MUST_ASK: Final = (SyncState.OFFLINE, SyncState.NEVER_SEEN)
"""Of these the database has to hear at once that they are back."""


@dataclass(slots=True)
class Held:
    """One credential whose next unchanged poll is 304. Times are of the monotonic clock."""

    key_id: str
    digest: str
    install_id: UUID
    etag: str
    until_s: float
    proven_s: float
    asked_s: float
    seen_s: float = 0.0
    address: str = ""


@dataclass(slots=True)
class _Facts:
    """What the database says of a credential right now."""

    digest: str
    etag: str
    left_s: float


def proof_of(authorization: str) -> bytes:
    """What a header is remembered by: never the token itself."""
    return hashlib.sha256(authorization.encode("utf-8", "surrogateescape")).digest()


@dataclass(slots=True)
class _Seen:
    """Who spoke since the last write, and from where."""

    keys: dict[UUID, tuple[str, str]] = field(default_factory=dict)
    at: datetime | None = None


class PollMemory:
    """What one process remembers; safe in threads. ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock: Final = clock
        self._lock: Final = threading.Lock()
        self._held: dict[bytes, Held] = {}
        self._seen = _Seen()
        self._last_change: int | None = None
        self._all_at_s = float("-inf")
        self._flushed_s = float("-inf")
        self.is_on = False

    def __len__(self) -> int:
        return len(self._held)

    # --------------------------------------------------------------------- while requests come

    def find(self, proof: bytes) -> Held | None:
        """Who this is, if it is certain enough that nothing has changed."""
        held = self._held.get(proof)
        if held is None or held.until_s <= self._clock():
            return None
        return held

    def remember(
        self, proof: bytes, credential: InstallCredential, etag: str, *, address: str
    ) -> None:
        """Keep what was just answered from the database.

        It is asked about again at the next look: a change may have been committed, and looked at,
        between the reading and this.
        """
        if not self.is_on or not settings.FLEET_POLL_CACHE_S or credential.is_candidate:
            return
        at_s = self._clock()
        held = Held(
            key_id=credential.key_id,
            digest=credential.digest,
            install_id=credential.install.pk,
            etag=etag,
            until_s=at_s + min(settings.FLEET_POLL_CACHE_S, _left_s(credential.expires_at)),
            proven_s=float("-inf"),
            asked_s=at_s,
            address=address,
        )
        with self._lock:
            self._held[proof] = held

    def note_seen(self, held: Held, address: str) -> None:
        """Somebody was answered from here; the database hears of it within seconds."""
        at_s = self._clock()
        held.asked_s = at_s
        if at_s - held.seen_s < SEEN_EVERY_S:
            return
        held.seen_s = at_s
        with self._lock:
            self._seen.at = self._seen.at or now()
            # An address that is the one of before need not be written.
            self._seen.keys[held.install_id] = (
                held.key_id,
                address if address != held.address else "",
            )
        held.address = address

    # ------------------------------------------------------------------------- once a second

    def look(self) -> None:
        """Ask the database what has changed and about whom it is time. Errors: DatabaseError."""
        with self._lock:
            held = dict(self._held)
        if held:
            try:
                wanted = self._wanted(held)
                for part in batched(wanted.items(), CHUNK):
                    self._renew(dict(part))
            except BaseException:
                self._last_change = None  # what the trail said was not asked about: ask about all
                raise
            self._forget_idle()
        else:
            self._last_change = None
        if self._clock() - self._flushed_s >= FLUSH_EVERY_S:
            self.flush()

    def _wanted(self, held: Mapping[bytes, Held]) -> dict[bytes, Held]:
        at_s = self._clock()
        changed = self._changed()
        is_all = changed is None and at_s - self._all_at_s >= ALL_EVERY_S
        if is_all:
            self._all_at_s = at_s
        elif changed is None:
            self._last_change = None  # remembered by forgetting: the next look finds it again
        if is_all:
            return dict(held)
        stale_s = at_s - settings.FLEET_POLL_CACHE_S / 2
        ids = changed or frozenset()
        return {
            proof: each
            for proof, each in held.items()
            if each.proven_s <= stale_s or str(each.install_id) in ids
        }

    def _changed(self) -> frozenset[str] | None:
        """Ids of the installs that a change since the last look concerns; None: it may be any."""
        if self._last_change is None:
            newest = ChangeRecord.objects.order_by("-id").values_list("id", flat=True).first()
            self._last_change = newest or 0
            return None
        rows = list(
            ChangeRecord.objects.filter(id__gt=self._last_change)
            .order_by("id")
            .values_list("id", "object_type", "object_id")[:MAX_CHANGES]
        )
        if not rows:
            return frozenset()
        self._last_change = rows[-1][0]
        if len(rows) == MAX_CHANGES:
            self._last_change = None
            return None
        if any(kind != "install" and kind not in OF_NO_CONCERN for _id, kind, _object in rows):
            return None
        return frozenset(object_id for _id, kind, object_id in rows if kind == "install")

    def _renew(self, wanted: Mapping[bytes, Held]) -> None:
        at_s = self._clock()
        facts = _ask({each.key_id for each in wanted.values()})
        with self._lock:
            for proof, each in wanted.items():
                found = facts.get(each.key_id)
                if found is None or found.digest != each.digest:
                    if self._held.get(proof) is each:
                        del self._held[proof]
                    continue
                each.etag = found.etag
                each.proven_s = at_s
                each.until_s = at_s + min(settings.FLEET_POLL_CACHE_S, found.left_s)

    def _forget_idle(self) -> None:
        idle_s = self._clock() - IDLE_S
        with self._lock:
            for proof in [one for one, each in self._held.items() if each.asked_s < idle_s]:
                del self._held[proof]
            if len(self._held) > MAX_HELD:
                latest = sorted(self._held.items(), key=lambda item: -item[1].asked_s)
                self._held = dict(latest[: MAX_HELD // 2])

    def flush(self) -> int:
        """Write down who was seen; how many. Errors: DatabaseError; they are then kept."""
        with self._lock:
            seen, self._seen = self._seen, _Seen()
        self._flushed_s = self._clock()
        if not seen.keys or seen.at is None:
            return 0
        try:
            return sum(
                _write_seen(dict(part), seen.at) for part in batched(seen.keys.items(), CHUNK)
            )
        except BaseException:
            with self._lock:
                self._seen.keys = seen.keys | self._seen.keys
                self._seen.at = seen.at
            raise

    def clear(self) -> None:
        """Forget everything; the next poll of each goes to the database."""
        with self._lock:
            self._held = {}
            self._seen = _Seen()


def _left_s(expires_at: datetime | None) -> float:
    return float("inf") if expires_at is None else (expires_at - now()).total_seconds()


def _ask(key_ids: Iterable[str]) -> dict[str, _Facts]:
    """What is served now, by key id; without those whose poll has to go to the database."""
    moment = now()
    targets = _targets()
    names = (
        *("key_id", "digest", "scopes", "expires_at", "install__group_id"),
        *("install__policy__bundle_id", "install__policy__etag"),
        *("install__policy__issued_at", "install__policy__expires_at"),
    )
    rows = (
        InstallCredential.objects.order_by()
        .filter(
            key_id__in=list(key_ids),
            revoked_at=None,
            is_candidate=False,
            install__status=InstallStatus.ACTIVE,
        )
        .exclude(install__sync_state__in=_MUST_ASK)
        .values_list(*names)
    )
    found = {}
    for key_id, digest, scopes, expires_at, group_id, bundle, etag, issued_at, ends_at in rows:
        left_s = _left_s(expires_at)
        if targets:
            target = targets.get(group_id or EVERYONE) or targets.get(EVERYONE)
            if bundle is None or bundle != target:
                continue
            held = InstallPolicy(issued_at=issued_at, expires_at=ends_at)
            left_s = min(left_s, held.fresh_for(moment).total_seconds())
        if left_s > 0 and SCOPE_POLICY in scopes:
            found[key_id] = _Facts(digest, etag if targets else ETAG_NONE, left_s)
    return found


def _targets() -> dict[int, str]:
    """Bundle by group of the newest revision; empty before the first publish."""
    newest = PolicyRevision.objects.order_by("-version").values_list("pk", flat=True).first()
    if newest is None:
        return {}
    return dict(
        PolicyTarget.objects.filter(revision_id=newest)
        .order_by()
        .values_list("group_number", "bundle_id")
    )


def _write_seen(keys: Mapping[UUID, tuple[str, str]], moment: datetime) -> int:
    """One UPDATE for all, less those whose row somebody else is writing just now.

    It never waits for a row while it holds another, so it cannot be part of a deadlock: a publish
    marks many installs at once.
    """
    with transaction.atomic():
        free: Sequence[UUID] = list(
            Install.objects.order_by()
            .filter(pk__in=list(keys))
            .select_for_update(skip_locked=True, no_key=True)
            .values_list("pk", flat=True)
        )
        rows = Install.objects.filter(pk__in=free)
        rows.exclude(last_seen_at__gte=moment).update(last_seen_at=moment)
        by_address: dict[str, list[UUID]] = {}
        for install_id in free:
            address = keys[install_id][1]
            if address:
                by_address.setdefault(address, []).append(install_id)
        for address, ids in by_address.items():
            Install.objects.filter(pk__in=ids).update(last_seen_address=address)
        used = list(
            InstallCredential.objects.order_by()
            .filter(key_id__in=[keys[install_id][0] for install_id in free])
            .select_for_update(skip_locked=True, no_key=True)
            .values_list("pk", flat=True)
        )
        InstallCredential.objects.filter(pk__in=used).update(last_used_at=moment)
    return len(free)


MEMORY: Final = PollMemory()
"""Of this process. Off until the web server switches it on: nobody looks otherwise."""
