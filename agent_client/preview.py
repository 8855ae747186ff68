"""What the aggregate plane says of this machine: one summary a run that has ended, and a heartbeat.

``preview`` shows what a push with consent would send, byte for byte: both come from ``encode``.
The number of queries is fixed, however many runs there are.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from agent_client import __version__, config
from agent_client.contract.aggregate import (
    MAX_MODELS,
    MAX_TOOLS,
    AggregateRecord,
    Heartbeat,
    ModelUse,
    WorkflowCompleted,
    as_identifier,
)
from agent_client.contract.events import COST_STATUSES, END_REASONS, ENTRYPOINTS
from agent_client.contract.redact import UNAVAILABLE, redact_record, redact_text
from agent_client.contract.tables import COUNT_MAX, MS_MAX, TIME_MAX_NS, USD_MAX
from agent_client.enroll import host_version
from agent_client.export import REDACTOR_MISSING
from agent_client.hostdb import connect
from agent_client.policy.posture import ensure_install_id
from agent_client.store import StoreError, database_path

Source = Path | sqlite3.Connection
Record = dict[str, object]
"""A record in the form in which it leaves."""

_ENDED: Final = "end_reason IS NOT NULL AND end_ns IS NOT NULL"
_TOKENS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
_COUNTS: Final = ("model_call_count", "tool_call_count", "error_count", "turn_count")
_RUN_COLUMNS: Final = (
    *("run_id", "seq", "start_ns", "end_ns", "end_reason", "entrypoint", "platform"),
    *(*_COUNTS, "estimated_cost_usd", "cost_status"),
)
_ADDED: Final = {"seq": "rowid", "turn_count": "0"}
"""Columns that a host's own tables of the reference design lack, and what stands for them."""
_OS_FAMILIES: Final = {"Linux": "linux", "Darwin": "macos", "Windows": "windows"}


def preview(source: Source, since_ns: int | None = None) -> list[Record]:
    """One summary for each run that has ended, oldest change first; ``since_ns`` by its begin.

    Errors: sqlite3.Error; StoreError when secrets cannot be removed on this machine.
    """
    with _open(source) as connection:
        return [as_sent(event) for event in _summaries(connection, since_ns=since_ns or 0)]


def heartbeat(home: Path, now_ns: int | None = None) -> Record:
    """The heartbeat of this home as it would leave now. Keeps nothing. Errors: StoreError."""
    return as_sent(heartbeat_of(home, time.time_ns() if now_ns is None else now_ns))


def summarize(events: Iterable[Mapping[str, object]]) -> dict[str, object]:
    """``{"counts": {name: number}, "fields": {name: [fields that hold something]}}``."""
    counts: dict[str, int] = {}
    present: dict[str, list[str]] = {}
    for event in events:
        name = str(event["_kind"])
        counts[name] = counts.get(name, 0) + 1
        known = present.setdefault(name, [])
        known += [
            field
            for field, value in event.items()
            if value not in (None, []) and field not in {"_kind", *known}
        ]
    return {"counts": counts, "fields": present}


def encode(event: AggregateRecord) -> bytes:
    """One redacted record as JSON, without the line end: the only way out of this plane.

    Errors: StoreError when the redactor cannot run.
    """
    text = json.dumps(redact_record(event.to_dict()), separators=(",", ":"), ensure_ascii=True)
    if UNAVAILABLE in text:
        raise StoreError(REDACTOR_MISSING)
    return text.encode("ascii")


def as_sent(event: AggregateRecord) -> Record:
    """What a reader of ``encode`` finds."""
    record = json.loads(encode(event))
    assert isinstance(record, dict)  # noqa: S101  # encode wrote an object
    return record


# ------------------------------------------------------------------------------------ for a push


def summaries_after(
    connection: sqlite3.Connection, after_seq: int, *, since_ns: int, max_runs: int
) -> list[WorkflowCompleted]:
    """Ended runs past a cursor, in ``seq`` order; only such as began at ``since_ns`` or later."""
    return list(_summaries(connection, after_seq, since_ns=since_ns, max_runs=max_runs))


def pending_count(connection: sqlite3.Connection, after_seq: int, *, since_ns: int) -> int:
    """How many runs ``summaries_after`` has still to give."""
    row = connection.execute(
        f"SELECT count(*) FROM tel_runs WHERE seq > ? AND start_ns >= ? AND {_ENDED}",
        (after_seq, since_ns),
    ).fetchone()
    return int(row[0])


def heartbeat_of(home: Path, now_ns: int) -> Heartbeat:
    """The heartbeat of a moment; its id changes with the UTC day and with a version."""
    day = time.strftime("%Y-%m-%d", time.gmtime(now_ns // 10**9))
    agent_version = as_identifier(host_version())
    return Heartbeat(
        record_id=as_identifier(f"{day}:{__version__}:{agent_version}"),
        seq=0,
        occurred_ns=now_ns,
        install_id=ensure_install_id(config.load(home)),
        client_version=__version__,
        agent_version=agent_version,
        python_version=as_identifier(platform.python_version()),
        os_family=_OS_FAMILIES.get(platform.system(), "other"),
        entrypoint=_newest_entrypoint(home),
    )


# ------------------------------------------------------------------------------------ the reading


@dataclass(slots=True)
class _Used:
    """What the children of one run add up to."""

    models: list[ModelUse]
    tools: list[str]
    tokens: dict[str, int]


@contextmanager
def _open(source: Source) -> Iterator[sqlite3.Connection]:
    if isinstance(source, sqlite3.Connection):
        yield source
        return
    with closing(connect(source)) as connection:
        yield connection


def _summaries(
    connection: sqlite3.Connection, after_seq: int = -1, *, since_ns: int, max_runs: int = -1
) -> Iterator[WorkflowCompleted]:
    """Four queries on one state of the file: the columns there are, runs, models, tools."""
    there = {row[1] for row in connection.execute("PRAGMA table_info(tel_runs)")}
    names = {name: name if name in there else _ADDED.get(name, "NULL") for name in _RUN_COLUMNS}
    chosen = (
        f"FROM tel_runs WHERE {names['seq']} > :after AND start_ns >= :since AND {_ENDED} "
        f"ORDER BY {names['seq']} LIMIT :most"
    )
    values = {"after": after_seq, "since": since_ns, "most": max_runs}
    is_alone = not connection.in_transaction
    if is_alone:
        connection.execute("BEGIN")
    try:
        rows = connection.execute(f"SELECT {', '.join(names.values())} {chosen}", values).fetchall()
        used = _used(connection, f"SELECT run_id {chosen}", values)
    finally:
        if is_alone:
            connection.execute("COMMIT")
    for row in rows:
        run = dict(zip(_RUN_COLUMNS, row, strict=True))
        yield _summary(run, used.get(run["run_id"]) or _Used([], [], {}))


def _used(
    connection: sqlite3.Connection, runs: str, values: Mapping[str, object]
) -> dict[object, _Used]:
    found: dict[object, _Used] = {}
    sums = ", ".join(f"total({name})" for name in _TOKENS)
    for run_id, provider, model, calls, *tokens in connection.execute(
        f"SELECT run_id, provider, model, count(*), {sums} FROM tel_model_calls "
        f"WHERE run_id IN ({runs}) GROUP BY 1, 2, 3 ORDER BY 4 DESC, 2, 3",
        values,
    ):
        used = found.setdefault(run_id, _Used([], [], {}))
        counts = dict(zip(_TOKENS, (_whole(count) for count in tokens), strict=True))
        for name, count in counts.items():
            used.tokens[name] = _whole(used.tokens.get(name, 0) + count)
        whole = _whole(sum(counts.values()) - counts["reasoning_tokens"])  # a part of output
        used.models.append(ModelUse(_name(provider), _name(model), _whole(calls), whole))
    for run_id, tool, _ in connection.execute(
        f"SELECT run_id, tool_name, count(*) FROM tel_tool_calls WHERE run_id IN ({runs}) "
        "GROUP BY 1, 2 ORDER BY 3 DESC, 2",
        values,
    ):
        found.setdefault(run_id, _Used([], [], {})).tools.append(_name(tool))
    return found


def _summary(run: Mapping[str, object], used: _Used) -> WorkflowCompleted:
    start_ns, end_ns = (_whole(run[name], TIME_MAX_NS) for name in ("start_ns", "end_ns"))
    cost = run["estimated_cost_usd"]
    return WorkflowCompleted(
        record_id=_record_id(run["run_id"]),
        seq=_whole(run["seq"], TIME_MAX_NS),
        occurred_ns=end_ns,
        end_reason=_word(run["end_reason"], END_REASONS, "abandoned"),
        duration_ms=min(round(max(end_ns - start_ns, 0) / 1e6, 1), MS_MAX),
        models_used=tuple(used.models[:MAX_MODELS]),
        tools_used=tuple(dict.fromkeys(used.tools))[:MAX_TOOLS],
        **{name: _whole(run[name]) for name in _COUNTS},
        **{name: used.tokens.get(name, 0) for name in _TOKENS},
        cost_status=_word(run["cost_status"], COST_STATUSES, "unknown"),
        estimated_cost_usd=cost if isinstance(cost, float) and 0 <= cost <= USD_MAX else None,
        entrypoint=_word(run["entrypoint"], ENTRYPOINTS, "cli"),
        platform=_name(run["platform"]) if run["platform"] else None,
    )


def _whole(value: object, most: int = COUNT_MAX) -> int:
    """A count that may be said: missing and odd ones are 0, too large ones the bound."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(min(max(value, 0), most))


@lru_cache(maxsize=1_024, typed=True)
def _name(value: object) -> str:
    """A name as this plane may say it; one with a secret inside is no identifier any more.

    Left as it is, the redactor would make of it what the console refuses, and the run with it.
    """
    text = redact_text(as_identifier(value))
    if UNAVAILABLE in text:
        raise StoreError(REDACTOR_MISSING)
    return as_identifier(text)


def _word(value: object, words: Collection[str], otherwise: str) -> str:
    return value if isinstance(value, str) and value in words else otherwise


def _record_id(run_id: object) -> str:
    """The run's own id; a digest of one that is no identifier, so that runs stay apart."""
    text = str(run_id)
    if as_identifier(text) == text:
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _newest_entrypoint(home: Path) -> str:
    """Where the newest run of this home was started from."""
    with suppress(sqlite3.Error), _open(database_path(home)) as connection:
        row = connection.execute(
            "SELECT entrypoint FROM tel_runs ORDER BY start_ns DESC LIMIT 1"
        ).fetchone()
        return _word(row[0] if row else None, ENTRYPOINTS, "cli")
    return "cli"
