"""Bulk export against the reference's way of it, alternated: `python -m benchmarks.export`.

Reference: every row fetched into a dictionary, one `json.dumps` of the whole list, no redaction.
Ours redacts every value and streams. Both write the same rows, a real mix of kinds with ids as the
host makes them, to /dev/null, each round in processes of their own so that memory is counted from
nothing. Growth is the peak of resident memory past what the process held before it began. `--rows`
takes another size, `--rounds` another number of them. Results: benchmarks/results/export.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agent_client.contract.tables import BY_NAME, EVENT_TABLES
from agent_client.export import export
from agent_client.store import Store
from benchmarks.facts import machine

ROWS = 1_000_000
ROUNDS = 3
RESULTS = Path(__file__).parent / "results" / "export.json"
START_NS = 1_790_000_000_000_000_000
# As the recorder writes them: no cost and no time to first token on a call, few retries. Of 16
# rows: a run, a span for its turn, six model calls, seven tool calls, one error.
SHARES = {
    "tel_runs": 1,
    "tel_spans": 1,
    "tel_model_calls": 6,
    "tel_tool_calls": 7,
    "tel_error_events": 1,
}
_RUN = "lower(printf('%032x', n / {share} * 2654435761 + 77))"
_VALUES = {
    "span_id": "lower(hex(randomblob(16)))",
    "run_id": _RUN,
    "trace_id": _RUN,
    "parent_span_id": _RUN,
    "session_id": "printf('20261122_%06d_%06x', n / {share} % 240000, n / {share} % 16777216)",
    "profile_id": "'default'",
    "entrypoint": "CASE n % 3 WHEN 0 THEN 'cli' WHEN 1 THEN 'tui' ELSE 'gateway' END",
    "platform": "CASE n % 3 WHEN 0 THEN 'cli' WHEN 1 THEN 'tui' ELSE 'telegram' END",
    "start_ns": f"{START_NS} + n * 1000003",
    "end_ns": f"{START_NS} + n * 1000003 + n % 7919 * 1000000",
    "ts_ns": f"{START_NS} + n * 1000003",
    "end_reason": "CASE n % 9 WHEN 0 THEN 'failed' ELSE 'completed' END",
    "cost_status": "'estimated'",
    "retry_count": "n % 50 = 0",
    "turn_count": "n % 5 + 1",
    "error_count": "n % 7 = 0",
    "provider": "CASE n % 2 WHEN 0 THEN 'openrouter' ELSE 'anthropic' END",
    "model": "'anthropic/claude-sonnet-' || (n % 12)",
    "response_model": "'claude-sonnet-' || (n % 12) || '-20260901'",
    "base_url": "'openrouter.ai'",
    "finish_reason": "CASE n % 4 WHEN 0 THEN 'tool_calls' ELSE 'stop' END",
    "api_request_id": (
        "printf('20261122_%06d_%06x:task:%08x:api:%d', n / 6 % 240000, n / 6 % 16777216, n, n % 6)"
    ),
    "tool_name": "'tool_' || (n % 40)",
    "result_class": "CASE n % 20 WHEN 0 THEN 'error' ELSE 'ok' END",
    "tool_call_id": "'call_' || lower(hex(randomblob(12)))",
    "error_class": "CASE n % 2 WHEN 0 THEN 'rate_limit' ELSE 'provider_timeout' END",
    "recovery": "'retried'",
    "subsystem": "'provider'",
    "name": "'turn'",
    "kind": "'turn'",
    "status": "'ok'",
    "agent_version": "'0.19.0'",
    "schema_v": "1",
}
_BY_KIND = {"count": "n % 4001", "ms": "n % 90001 / 8.0", "flag": "n % 2"}
_ONLY = {
    ("tel_runs", "estimated_cost_usd"): "n % 997 / 7919.0",
    ("tel_model_calls", "end_reason"): "'completed'",
    ("tel_model_calls", "cost_status"): "'unknown'",
    ("tel_model_calls", "ttft_ms"): "NULL",
    ("tel_model_calls", "status_code"): "NULL",
    ("tel_error_events", "status_code"): "429 + n % 3 * 37",
    ("tel_error_events", "retry_count"): "n % 3",
}


def fill(home: Path, rows: int) -> None:
    """A local plane of so many rows, put into its database by SQL."""
    with Store(home) as store:
        store.connection.execute("BEGIN")
        seq = 0
        for name, share in SHARES.items():
            count = rows * share // sum(SHARES.values())
            table = BY_NAME[name]
            values = [
                _ONLY.get(
                    (name, column.name),
                    _VALUES.get(column.name, _BY_KIND.get(column.kind, "NULL")),
                ).format(share=share)
                for column in table.columns
            ]
            store.connection.execute(
                "WITH RECURSIVE k(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM k WHERE n < ?) "  # noqa: S608  # names of ours
                f"INSERT INTO {name} ({', '.join(table.column_names())}, seq) "
                f"SELECT {', '.join(values)}, ? + n + 1 FROM k",
                (count - 1, seq),
            )
            seq += count
        store.connection.execute("COMMIT")
        store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def ours(home: Path) -> int:
    """The export of this project."""
    with Path(os.devnull).open("wb") as out:
        return sum(export(out, home=home, config={}).counts.values())


def reference(home: Path) -> int:
    """The reference's: all rows, then one text."""
    with Store(home) as store, Path(os.devnull).open("wb") as out:
        store.connection.row_factory = sqlite3.Row
        records = []
        for table in EVENT_TABLES:
            rows = store.connection.execute(f"SELECT * FROM {table.name}").fetchall()  # noqa: S608  # a name of ours
            records += [{"_kind": table.name, **dict(row)} for row in rows]
        out.write(json.dumps({"records": records}).encode())
        return len(records)


WAYS = {"ours": ours, "reference": reference}


def run_one(way: str, home: Path) -> None:
    """One export in this process; its figures as JSON on stdout."""
    from agent_client.contract.redact import redact_text

    # What is compiled once a process is compiled before anything is measured.
    redact_text("call_0123456789abcdef01234567")
    redact_text("20261122_094211_c57e6c:task:0123abcd:api:1 anthropic/claude-sonnet-5")
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu_s, start_s = time.process_time(), time.perf_counter()
    rows = WAYS[way](home)
    took_s, used_s = time.perf_counter() - start_s, time.process_time() - cpu_s
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    figures = {"rows": rows, "s": took_s, "cpu_s": used_s, "growth_mb": grown_kb / 1024}
    sys.stdout.write(json.dumps(figures))


def measure(way: str, home: Path) -> dict[str, float]:
    """The figures of one export in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.export", "--one", way, str(home)]
    figures: dict[str, float] = json.loads(subprocess.check_output(command))  # noqa: S603  # ours
    return figures


def summary(way: str, rows: int, rounds: list[dict[str, float]]) -> dict[str, object]:
    """Medians and ranges of a way's rounds."""
    rates = [figures["rows"] / figures["cpu_s"] for figures in rounds]
    return {
        "way": way,
        "rows": rows,
        "rows_per_cpu_s": round(statistics.median(rates)),
        "rows_per_cpu_s_range": [round(min(rates)), round(max(rates))],
        "rows_per_s": round(statistics.median(f["rows"] / f["s"] for f in rounds)),
        "growth_mb": round(max(figures["growth_mb"] for figures in rounds), 1),
    }


def main() -> None:
    """Run, print the table, write the results."""
    parser = argparse.ArgumentParser(description="Measure the bulk export.")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "HOME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one[0], Path(args.one[1]))
        return
    results = []
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in (args.rows // 5, args.rows):
            home = Path(folder) / str(rows)
            fill(home, rows)
            found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for _ in range(args.rounds):
                for way, rounds in found.items():
                    rounds.append(measure(way, home))
            results += [summary(way, rows, rounds) for way, rounds in found.items()]
            ratios = [
                theirs["cpu_s"] / mine["cpu_s"]
                for mine, theirs in zip(found["ours"], found["reference"], strict=True)
            ]
    for line in results:
        sys.stdout.write(
            f"{line['way']:<10} {line['rows']:>9,} rows  {line['rows_per_cpu_s']:>8,} rows/CPU s  "
            f"{line['rows_per_s']:>8,} rows/s  +{line['growth_mb']} MB\n"
        )
    ratio = round(statistics.median(ratios), 2)
    sys.stdout.write(f"ours / reference at {args.rows:,} rows: {ratio} (in CPU time)\n")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"machine": machine(), "rows": results, "ratio": ratio}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
