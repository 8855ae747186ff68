"""One prune, step by step: expired rows, then their lines in the log, then leftovers.

A step holds the journal's lock for some milliseconds and nothing between two of them. A kill in
between leaves work for the next prune and nothing else: lines go after their rows.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from agent_client.contract.tables import EVENT_TABLES, RUNS, Table
from agent_client.credential import load_credential
from agent_client.eventlog import Segment, closed_segments
from agent_client.files import exclusive_lock, telemetry_dir
from agent_client.health import EXPIRED_KEY
from agent_client.journal import Journal
from agent_client.logtrim import IS_OPEN, LATEST, SegmentTrim
from agent_client.outbox import clear_outbox, outbox_path, push_dir, read_outbox
from agent_client.progress import load_progress
from agent_client.store import DATABASE, Store, add_to_state, put_state

PAGE_ROWS: Final = 2000
"""Rows looked at in one step: some milliseconds, and they block nobody."""
BATCH_ROWS: Final = 500
"""Rows deleted in one transaction: about five milliseconds that other writers wait."""
VACUUM_PAGES: Final = 64
"""Pages given back in one step. Incremental vacuum costs inserts 3 % and halves what a prune of
half the rows leaves; without it a database never shrinks."""
STALE_S: Final = 3600
"""A rewrite that is this old is nobody's any more."""

_OLDEST: Final = "retention.oldest."

Hold = Literal["", "clock", "push"]


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune removed, or with ``dry_run`` would remove.

    ``unsent_rows``: of the rows, those the console had not acknowledged; they are in the ledger
    as expired. ``hold``: why nothing more was removed: ``clock`` (it has jumped, or the machine
    was off for a month; ``force`` overrides), ``push`` (one is running).
    """

    cutoff_ns: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    unsent_rows: int = 0
    log_files: int = 0
    log_bytes: int = 0
    set_aside_files: int = 0
    oldest_kept_ns: int | None = None
    hold: Hold = ""


def _page_sql(table: Table) -> str:
    is_open = IS_OPEN if table is RUNS else "0"
    return (
        f"SELECT seq, {LATEST[table.name]}, {is_open} FROM {table.name} "
        "WHERE seq > ? ORDER BY seq LIMIT ?"
    )


_PAGES: Final = {table.name: _page_sql(table) for table in EVENT_TABLES}


class Pruner:
    """One prune. ``steps`` yields whether the step got on; False: a push is running, come again."""

    def __init__(self, journal: Journal, cutoff_ns: int, *, dry_run: bool = False) -> None:
        self._journal = journal
        self._home = journal.home
        self._folder = telemetry_dir(journal.home)
        self._cutoff_ns = cutoff_ns
        self._dry_run = dry_run
        self.report = PruneReport(cutoff_ns, dict.fromkeys(_PAGES, 0))

    def steps(self) -> Iterator[bool]:
        """Do it, a step at each ``next``. Errors: OSError, sqlite3.Error, StoreError."""
        if not self._dry_run:
            self._begin()
        for table in EVENT_TABLES:
            yield from self._prune_table(table)
        for segment in self._segments():
            with suppress(FileNotFoundError):  # another prune, or its owner, deleted it meanwhile
                yield from self._prune_segment(segment)
        self._prune_set_aside()
        if not self._dry_run:
            yield from self._shrink()

    # -- rows -------------------------------------------------------------------------------

    def _prune_table(self, table: Table) -> Iterator[bool]:
        after_seq = 0
        while True:
            with closing(self._read()) as connection:
                page = connection.execute(_PAGES[table.name], (after_seq, PAGE_ROWS)).fetchall()
            if not page:
                return
            after_seq = page[-1][0]
            expired: list[int] = []
            for seq, latest_ns, is_open in page:
                if latest_ns < self._cutoff_ns and not is_open:
                    expired.append(seq)
                elif self.report.oldest_kept_ns is None or latest_ns < self.report.oldest_kept_ns:
                    self.report = replace(self.report, oldest_kept_ns=latest_ns)
            for start in range(0, len(expired), BATCH_ROWS):
                while not self._delete(table, expired[start : start + BATCH_ROWS]):
                    yield False
                yield True
            yield True

    def _read(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._folder.joinpath(DATABASE).absolute().as_uri() + "?mode=ro", uri=True, timeout=5
        )

    def _delete(self, table: Table, seqs: list[int]) -> bool:
        """Delete rows and count what the console had not; False while a push holds its cursor."""
        if self._dry_run:
            cursor = self._cursor()
            self._count(table, len(seqs), sum(seq > cursor for seq in seqs))
            return True
        if not push_dir(self._home).is_dir():
            return self._delete_rows(table, seqs)
        with exclusive_lock(push_dir(self._home) / "lock") as is_held:
            return is_held and self._delete_rows(table, seqs)

    def _delete_rows(self, table: Table, seqs: list[int]) -> bool:
        cursor = self._cursor()
        self._clear_outboxes_with(seqs)
        with self._journal.locked() as connection:
            # What is deleted is overwritten, or it would stay readable in the file.
            connection.execute("PRAGMA secure_delete = ON").close()
            if seqs[-1] >= self._journal.log.end().segment:
                # Its lines stand in the segment that is written, and only closed ones lose any.
                self._journal.rotate(connection)
            gone = [
                seq
                for seq in seqs  # a run that went on since has another seq, and stays
                if connection.execute(f"DELETE FROM {table.name} WHERE seq = ?", (seq,)).rowcount
            ]
            unsent = sum(seq > cursor for seq in gone)
            if unsent:
                add_to_state(connection, EXPIRED_KEY, unsent)
        self._count(table, len(gone), unsent)
        return True

    def _clear_outboxes_with(self, seqs: list[int]) -> None:
        """Forget a batch with expired rows; its others are past its cursor and go again."""
        for plane in ("local", "aggregate"):
            if outbox_path(self._home, plane).exists():
                outbox = read_outbox(self._home, plane)
                if outbox and any(outbox.first_seq <= seq <= outbox.last_seq for seq in seqs):
                    clear_outbox(self._home, plane)

    def _cursor(self) -> int:
        credential = load_credential(self._home)
        with Store(self._home) as store:
            return load_progress(store, credential.fleet_id if credential else "").cursor

    def _count(self, table: Table, rows: int, unsent: int) -> None:
        counts = {**self.report.rows, table.name: self.report.rows[table.name] + rows}
        self.report = replace(
            self.report, rows=counts, unsent_rows=self.report.unsent_rows + unsent
        )

    # -- the log ----------------------------------------------------------------------------

    def _segments(self) -> list[Segment]:
        """The closed segments that hold something too old; each is read once, then remembered."""
        with Store(self._home) as store:
            known = dict(
                store.connection.execute(
                    "SELECT key, CAST(value AS INTEGER) FROM tel_state WHERE key LIKE ?",
                    (f"{_OLDEST}%",),
                ).fetchall()
            )
        return [
            segment
            for segment in closed_segments(self._folder)
            if known.get(f"{_OLDEST}{segment.first_seq}", 0) < self._cutoff_ns
        ]

    def _prune_segment(self, segment: Segment) -> Iterator[bool]:
        """Take the expired lines out of a closed segment; without others it is deleted."""
        trim = SegmentTrim(self._home, self._cutoff_ns, segment.path)
        for _ in trim.read():
            yield True
        if not self._dry_run:
            if trim.dropped_bytes:
                for _ in trim.write_kept():
                    yield True
            oldest = str(trim.oldest_kept_ns) if trim.kept else None
            with self._journal.locked() as connection:
                if not trim.put():
                    return
                put_state(connection, {f"{_OLDEST}{segment.first_seq}": oldest})
        if trim.dropped_bytes:
            self.report = replace(
                self.report,
                log_files=self.report.log_files + 1,
                log_bytes=self.report.log_bytes + trim.dropped_bytes,
            )

    # -- leftovers --------------------------------------------------------------------------

    def _begin(self) -> None:
        """Close a segment of an earlier day, and remove rewrites that a kill left half done."""
        with self._journal.locked() as connection:
            if self._journal.log.is_due():
                self._journal.rotate(connection)
        for path in self._folder.glob(".events-*.tmp"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink()

    def _prune_set_aside(self) -> None:
        folders = ((self._folder, f"{DATABASE}.corrupt-*"), (push_dir(self._home), "outbox.*"))
        for folder, pattern in folders:
            for path in folder.glob(pattern):
                with suppress(OSError):
                    if path.stat().st_mtime_ns < self._cutoff_ns:
                        if not self._dry_run:
                            path.unlink()
                        count = self.report.set_aside_files + 1
                        self.report = replace(self.report, set_aside_files=count)

    def _shrink(self) -> Iterator[bool]:
        """Give free pages back, and leave no copy of what was deleted in the WAL."""
        if not any(self.report.rows.values()):
            return
        while True:
            with self._journal.locked() as connection:
                free = connection.execute("PRAGMA freelist_count").fetchone()[0]
                connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
                left = connection.execute("PRAGMA freelist_count").fetchone()[0]
            if not left or left == free:
                break
            yield True
        with Store(self._home) as store:
            store.connection.execute("PRAGMA busy_timeout = 100")
            store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
