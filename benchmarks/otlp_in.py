"""OTLP spans taken in per second, visible when answered: `python -m benchmarks.otlp_in`.

Two agents send traces as exporters do (children first, root last, bodies of 500 spans with 17
attributes on average, protobuf, gzip) to gunicorn with two workers on PostgreSQL. The clock stops
at the last answer; then the rows are counted, and every span has to be one: a run, a model call, a
tool call or a span. CPU per 1,000 spans is that of the console's workers and of their database
sessions. Needs PostgreSQL: FLEET_BENCH_DATABASE_URL or the local server. Results go to
benchmarks/results/otlp_in.json.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from psycopg import sql

from benchmarks.facts import machine
from benchmarks.ingest import SERVER, cpu_seconds, database, prepare, served

ROUNDS = 5
BODIES = 40
BODY_SPANS = 500
CLIENTS = 2
ROW_TABLES = ("telemetry_run", "telemetry_modelcall", "telemetry_toolcall", "telemetry_span")
TABLES = (*ROW_TABLES, "telemetry_errorevent", "telemetry_otlptrace", "telemetry_replacedrun")
LEDGER = ("telemetry_ingestbatch", "telemetry_touchedhour")
RESULTS = Path(__file__).parent / "results" / "otlp_in.json"
S = 1_000_000_000
MS = 1_000_000
RESOURCE = {
    "service.name": "checkout-bot",
    "service.version": "1.4.0",
    "service.instance.id": "0b5f3d1e-8a1c-4b55-9d0e-1f2a3b4c5d6e",
    "telemetry.sdk.language": "python",
    "telemetry.sdk.name": "opentelemetry",
    "telemetry.sdk.version": "1.45.2",
    "host.name": "worker-7",
    "process.runtime.name": "cpython",
}


def chat(rng: random.Random) -> Mapping[str, object]:
    """The attributes of an inference span, as instrumentations set them."""
    model = rng.choice(["claude-sonnet-5", "gpt-6", "gemini-4"])
    read = rng.randrange(4000)
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": rng.choice(["anthropic", "openai", "gcp.gemini"]),
        "gen_ai.request.model": model,
        "gen_ai.response.model": f"{model}-2026-10",
        "gen_ai.response.id": f"chatcmpl-{rng.getrandbits(116):029x}",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": rng.uniform(0.1, 2),
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.7,
        "gen_ai.request.max_tokens": 4096,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.conversation.id": f"conv-{rng.randrange(10**9)}",
        "gen_ai.usage.input_tokens": read + rng.randrange(9000),
        "gen_ai.usage.output_tokens": rng.randrange(900),
        "gen_ai.usage.cache_read.input_tokens": read,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": rng.randrange(400),
        "gen_ai.output.type": "text",
        "server.address": "api.provider.example",
        "server.port": 443,
    }


def tool(rng: random.Random) -> Mapping[str, object]:
    """The attributes of a tool span."""
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": rng.choice(["terminal", "read_file", "browser", "search"]),
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": f"call_{rng.getrandbits(96):024x}",
        "gen_ai.tool.description": "Reads a file of the workspace and gives its text",
        "gen_ai.agent.name": "checkout-bot",
        "code.function.name": "tools.call",
        "code.file.path": "/app/tools.py",
        "code.line.number": 71,
        "thread.id": 140_003,
        "thread.name": "worker-3",
        "app.tenant": "acme",
        "app.region": "eu-1",
        "app.release": "2026.11",
    }


def agent(rng: random.Random) -> Mapping[str, object]:
    """The attributes of the root."""
    more = {f"app.setting.{n}": f"value-{n}" for n in range(10)}
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "checkout-bot",
        "gen_ai.agent.id": "agent-7",
        "gen_ai.conversation.id": f"conv-{rng.randrange(10**9)}",
        "gen_ai.request.model": "claude-sonnet-5",
        **more,
    }


def web(rng: random.Random) -> Mapping[str, object]:
    """The attributes of a span that is none of the conventions' own."""
    more = {f"app.label.{n}": f"value-{rng.randrange(9)}" for n in range(10)}
    return {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.full": "https://shop.example/items/7",
        "server.address": "shop.example",
        "server.port": 443,
        "network.protocol.version": "1.1",
        **more,
    }


def make_spans(seed: int, count: int) -> Iterator[Span]:
    """Whole traces of one agent, each child before its root, the last one perhaps cut short."""
    rng, made = random.Random(seed), 0
    while True:
        trace, root = rng.randbytes(16), rng.randbytes(8)
        at_ns = time.time_ns() - rng.randrange(20 * 3600) * S
        kinds = [chat, tool, chat, tool, web, chat, tool]
        for step, kind in enumerate(kinds):
            begin_ns = at_ns + (step + 1) * 400 * MS
            names = {chat: "chat model", tool: "execute_tool search", web: "GET"}
            yield _span(trace, rng.randbytes(8), root, names[kind], begin_ns, kind(rng))
            made += 1
        yield _span(trace, root, b"", "invoke_agent checkout-bot", at_ns, agent(rng), 4 * S)
        made += 1
        if made >= count:
            return


def _span(
    trace: bytes,
    span_id: bytes,
    parent: bytes,
    name: str,
    begin_ns: int,
    attributes: Mapping[str, object],
    took_ns: int = 300 * MS,
) -> Span:
    span = Span(trace_id=trace, span_id=span_id, parent_span_id=parent, name=name, flags=0x101)
    is_call = name.startswith(("chat", "GET"))
    span.kind = Span.SPAN_KIND_CLIENT if is_call else Span.SPAN_KIND_INTERNAL
    span.start_time_unix_nano, span.end_time_unix_nano = begin_ns, begin_ns + took_ns
    _put(span.attributes, attributes)
    return span


def _put(into: Any, attributes: Mapping[str, object]) -> None:  # noqa: ANN401 -- a repeated field
    for key, value in attributes.items():
        pair = into.add()
        pair.key = key
        if isinstance(value, bool):
            pair.value.bool_value = value
        elif isinstance(value, int):
            pair.value.int_value = value
        elif isinstance(value, float):
            pair.value.double_value = value
        elif isinstance(value, str):
            pair.value.string_value = value
        elif isinstance(value, list):
            for item in value:
                pair.value.array_value.values.add().string_value = item


def make_bodies(seed: int) -> tuple[list[bytes], int, float, int]:
    """An agent's bodies, how many spans and attributes a span they hold, and of how many bytes."""
    spans = list(make_spans(seed, BODIES // CLIENTS * BODY_SPANS))
    bodies: list[bytes] = []
    raw_bytes = 0
    for first in range(0, len(spans), BODY_SPANS):
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        _put(group.resource.attributes, RESOURCE)
        scope = group.scope_spans.add()
        scope.scope.name = "benchmark"
        scope.spans.extend(spans[first : first + BODY_SPANS])
        raw = request.SerializeToString()
        raw_bytes += len(raw)
        bodies.append(gzip.compress(raw, 1))
    return bodies, len(spans), statistics.mean(len(s.attributes) for s in spans), raw_bytes


def send_all(port: int, senders: list[tuple[str, list[bytes]]]) -> float:
    """Seconds until every body is answered, each agent sending its own one after the other."""

    def send(sender: tuple[str, list[bytes]]) -> None:
        token, bodies = sender
        for body in bodies:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/x-protobuf",
                "Content-Encoding": "gzip",
            }
            connection.request("POST", "/v1/traces", body, headers)
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
            if answer.status != 200 or text:
                raise SystemExit(f"export failed: {answer.status} {text[:300]!r}")

    begun = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(send, senders))
    return time.perf_counter() - begun


def visible(url: str) -> int:
    """Rows that spans have become."""
    with psycopg.connect(url) as connection:
        counts = [
            connection.execute(
                sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
            ).fetchone()
            for table in ROW_TABLES
        ]
    return sum(int(found[0]) for found in counts if found)


def empty(url: str) -> None:
    """No rows, and a ledger that has seen nothing: the same bodies are new again."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join((*TABLES, *LEDGER))}".encode())


def run(name: str, url: str) -> dict[str, object]:
    """All rounds; the figures."""
    senders: list[tuple[str, list[bytes]]] = []
    span_count = raw_bytes = 0
    attribute_means: list[float] = []
    for seed in range(CLIENTS):
        _, token = prepare()
        bodies, count, attributes, size = make_bodies(seed)
        senders.append((token, bodies))
        span_count += count
        raw_bytes += size
        attribute_means.append(attributes)
    seconds: list[float] = []
    cpu_s: list[float] = []
    with served() as (port, process):
        send_all(port, senders)  # warms both workers
        for _ in range(ROUNDS):
            empty(url)
            before = cpu_seconds(process, name)
            seconds.append(send_all(port, senders))
            cpu_s.append((cpu_seconds(process, name) - before) / span_count * 1000)
            if visible(url) != span_count:
                raise SystemExit(f"{visible(url)} rows of {span_count} spans are visible")
    rates = [span_count / taken for taken in seconds]
    return {
        "spans_a_round": span_count,
        "rounds": ROUNDS,
        "spans_a_body": BODY_SPANS,
        "attributes_a_span": round(statistics.mean(attribute_means), 1),
        "bytes_a_span": round(raw_bytes / span_count),
        "visible_spans_per_s": round(statistics.median(rates)),
        "visible_spans_per_s_range": [round(min(rates)), round(max(rates))],
        "cpu_s_per_1000_spans": round(statistics.median(cpu_s), 4),
        "cpu_s_per_1000_spans_range": [round(min(cpu_s), 4), round(max(cpu_s), 4)],
        "machine": machine(),
    }


def main() -> None:
    """Run, print, and write the results."""
    name = f"fleet_bench_{os.getpid()}"
    with database(name) as url, tempfile.TemporaryDirectory() as home:
        os.environ |= {
            "DATABASE_URL": url,
            "FLEET_HOME": home,
            "DJANGO_SETTINGS_MODULE": "fleet.settings",
            "FLEET_RATE_INSTALL_PER_MIN": "1000000",
            "FLEET_RATE_ADDRESS_PER_MIN": "1000000",
            "FLEET_LOG_LEVEL": "ERROR",
            "FLEET_VALVE": "shut",  # what is spooled is not visible when it is answered
        }
        os.environ.pop("REDIS_URL", None)
        figures = run(name, url)
        from django.db import connections

        connections.close_all()
    figures["server"] = urlsplit(SERVER).hostname
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    sys.stdout.write(RESULTS.read_text())


if __name__ == "__main__":
    main()
