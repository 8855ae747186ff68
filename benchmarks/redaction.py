"""The scrubber measured: `make bench-redaction`, or `python -m benchmarks.redaction --corpus FILE`.

Prints what is found by kind, what is taken by mistake, megabytes a second beside a scrubber of
plain `re` expressions in the same run, the time of hostile texts of 1 MiB, and how time grows with
length. A labelled set has one JSON object a line: text, secret (null when benign), kind, label;
a `pii` stratum or `--pii` scrubs personal data as well. Without one the set is made from the rule
table's examples and this project's own texts, so its recall says that rules survive their
contexts, not that other formats are known. Results go to benchmarks/results/redaction.json.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import re
import statistics
import string
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent_client.contract.redact import (
    RULESET_VERSION,
    redact_record,
    redact_text,
)
from agent_client.contract.redact_table import ALL_RULES
from benchmarks.facts import machine
from tests.contract.redact_examples import expand

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parent / "results" / "redaction.json"
MIB = 1 << 20
ROUNDS = 5

CONTEXTS: dict[str, Callable[[str], str]] = {
    "bare": lambda s: s,
    "env": lambda s: f"HOME=/root\nSERVICE_TOKEN={s}\nSHLVL=1",
    "export": lambda s: f'export SERVICE_API_KEY="{s}"',
    "yaml": lambda s: f"services:\n  web:\n    environment:\n      API_SECRET: {s}\n",
    "header": lambda s: f"> authorization: Bearer {s}\r\n> accept: */*",
    "curl": lambda s: f'curl -H "X-Api-Key: {s}" https://api.example.com/v1',
    "url": lambda s: f"GET https://api.example.com/v1?limit=20&access_token={s} HTTP/1.1",
    "argument": lambda s: f"service login --token {s} --verbose",
    "tool call": lambda s: json.dumps(
        {"name": "terminal", "arguments": json.dumps({"command": f"export API_TOKEN={s}"})}
    ),
    "prose": lambda s: f"sure, the api key is {s} - use it for the deploy.",
    "table": lambda s: f"| service | `{s}` | production |",
    "source": lambda s: f'const client = new Client({{ apiKey: "{s}" }});',
}


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled text; `secret` is None when nothing in it may go."""

    text: str
    secret: str | None
    kind: str
    is_pii: bool


def own_cases() -> Iterator[Case]:
    """Every vendor example in every context, and the lines of this project's sources and texts."""
    for rule in ALL_RULES:
        for template in rule.matches:
            secret = expand(template)
            if rule.group == 0 and "\n" not in secret and '"' not in secret:
                for form in CONTEXTS.values():
                    yield Case(form(secret), secret, rule.id, is_pii=False)
    for line in own_lines():
        yield Case(line, None, "own text", is_pii=False)


def own_lines() -> list[str]:
    """The project's sources and documents but for those that hold examples of credentials."""
    files = [*ROOT.glob("agent_client/**/*.py"), *ROOT.glob("fleet/**/*.py"), *ROOT.glob("*.md")]
    files += ROOT.glob("docs/*.md")
    texts = [path.read_text("utf-8") for path in sorted(files) if "redact" not in path.name]
    return [line for text in texts for line in text.splitlines() if line.strip()]


def read_cases(path: Path, *, is_pii: bool) -> Iterator[Case]:
    """The cases of a labelled set."""
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        personal = is_pii or str(row.get("stratum", "")).startswith("pii")
        secret = row["secret"] if row["label"] else None
        yield Case(row["text"], secret, row["kind"], personal or "pii" in path.name)


def is_visible(secret: str, text: str) -> bool:
    """Whether more than a quarter of the secret stands in the text in one piece."""
    piece = len(secret) // 4 + 1
    return any(secret[i : i + piece] in text for i in range(len(secret) - piece + 1))


def score(cases: Iterable[Case], *, strict: bool) -> dict[str, object]:
    """Recall (gone; and no more than a quarter left) and false positives, by kind."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    taken: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for case in cases:
        scrubbed = redact_text(case.text, strict=strict, pii=case.is_pii)
        if case.secret is None:
            taken[case.kind][0] += 1
            taken[case.kind][1] += scrubbed != case.text
        else:
            tally = found[case.kind]
            tally[0] += 1
            tally[1] += case.secret not in scrubbed
            tally[2] += not is_visible(case.secret, scrubbed)
    total, gone, hidden = (sum(t[n] for t in found.values()) for n in range(3))
    benign, wrong = (sum(t[n] for t in taken.values()) for n in range(2))
    return {
        "cases": total,
        "kinds": len(found),
        "recall": round(gone / total, 4) if total else None,
        "recall_quarter": round(hidden / total, 4) if total else None,
        "benign": benign,
        "false_positives": round(wrong / benign, 5) if benign else None,
        "missed": {k: f"{t[1]}/{t[0]}" for k, t in sorted(found.items()) if t[1] < t[0]},
        "taken": {k: f"{t[1]}/{t[0]}" for k, t in sorted(taken.items()) if t[1]},
    }


def random_text(rng: random.Random, length: int) -> str:
    """Letters and digits."""
    return "".join(rng.choices(string.ascii_letters + string.digits, k=length))


def mixed_text(secret_every: int) -> str:
    """The project's own texts, with a secret on every so many lines."""
    rng = random.Random(5)
    forms = list(CONTEXTS.values())
    lines: list[str] = []
    for number, line in enumerate(own_lines()):
        lines.append(line)
        if secret_every and number % secret_every == 0:
            lines.append(rng.choice(forms)(random_text(rng, 36)))
    return "\n".join(lines)


NAIVE = [
    re.compile(pattern)
    for pattern in (
        r"sk-[A-Za-z0-9_-]{20,}",
        r"gh[pousr]_[A-Za-z0-9]{36,}",
        r"AKIA[0-9A-Z]{16}",
        r"xox[abps]-[A-Za-z0-9-]{10,}",
        r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----",
        r"(?i)bearer\s+[A-Za-z0-9._~+/-]+=*",
        r"(?i)([\w.-]*(?:api_?key|token|secret|password)[\w.-]*)\s*[=:]\s*[\"']?([^\s\"',]+)",
        r"(?i)://[^/\s:@]+:[^/\s@]+@",
        r"[\w.+-]+@[\w-]+\.[\w.-]+",
    )
]


def naive_scrub(text: str) -> str:
    """What most projects do: a list of expressions, one after another."""
    for pattern in NAIVE:
        text = pattern.sub("[REDACTED]", text)
    return text


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure_speed() -> dict[str, object]:
    """Megabytes a second of one core on mixed text; alternated with the naive scrubber."""
    rows: dict[str, object] = {}
    for name, every in (("no secrets", 0), ("a secret in 50 lines", 50), ("one in 10", 10)):
        text = mixed_text(every)
        took: dict[str, list[float]] = defaultdict(list)
        for _ in range(ROUNDS):
            took["standard"].append(seconds(lambda: redact_text(text)))  # noqa: B023 - called now
            took["strict, pii"].append(
                seconds(lambda: redact_text(text, strict=True, pii=True))  # noqa: B023
            )
            took["naive"].append(seconds(lambda: naive_scrub(text)))  # noqa: B023
        size = len(text.encode()) / 1e6
        speed = {way: round(size / statistics.median(times), 2) for way, times in took.items()}
        rows[name] = {"MB_per_s": speed, "vs_naive": round(speed["standard"] / speed["naive"], 2)}
    rows["rows_per_s"] = measure_rows()
    return rows


def measure_rows(count: int = 50_000) -> int:
    """Export rows a second: model calls with ids of their own and names that repeat."""
    rng = random.Random(3)
    rows = [
        {
            "span_id": f"{rng.getrandbits(128):032x}", "run_id": f"{n // 20:032x}",
            "provider": "openrouter", "model": "anthropic/claude-sonnet-5",
            "base_url": "openrouter.ai", "input_tokens": n, "output_tokens": 340,
            "cache_read_tokens": 800, "latency_ms": 1432.5, "estimated_cost_usd": 0.01,
            "cost_status": "estimated", "retry_count": 0, "trace_id": f"{n // 20:032x}",
            "parent_span_id": None, "start_ns": n, "end_ns": n + 1, "finish_reason": "stop",
            "api_request_id": f"20261122_094211_c57e6c:task:abcd1234:api:{n}",
        }
        for n in range(count)
    ]  # fmt: skip
    redact_record(rows[0])
    return round(count / seconds(lambda: [redact_record(row) for row in rows]))


def hostile_texts(size: int) -> dict[str, str]:
    """Texts of `size` characters made to cost as much as they can."""
    rng = random.Random(11)

    def repeated(unit: str) -> str:
        return (unit * (size // len(unit) + 1))[:size]

    def many(unit: Callable[[int], str]) -> str:
        pieces: list[str] = []
        length = 0
        while length < size:
            pieces.append(unit(len(pieces)))
            length += len(pieces[-1])
        return "".join(pieces)[:size]

    return {
        "assignments": repeated("token=a "),
        "names without an end": repeated("a.")[:-2] + "=x",
        "distinct secrets, one line": many(lambda n: f"token{n}={random_text(rng, 20)} "),
        "distinct secrets, lines": many(lambda n: f"PASSWORD_{n}={random_text(rng, 14)}\n"),
        "one key": repeated(expand("ghp_<w36> ")),
        "key: value": many(lambda n: f"key{n}: value {n}\n"),
        "json with secrets": json.dumps(
            [{"id": n, "api_key": random_text(rng, 32)} for n in range(size // 64)]
        ),
        "json in json": json.dumps(
            json.dumps([{"token": random_text(rng, 20)} for n in range(size // 48)])
        ),
        "base64": base64.b64encode(rng.randbytes(size * 3 // 4)).decode(),
        "unfinished key blocks": repeated("-----BEGIN RSA PRIVATE KEY-----\n"),
        "addresses": many(lambda n: f"https://u:{random_text(rng, 9)}@h{n}/?token={n}a "),
        "e-mail and telephones": many(lambda n: f"u{n}@example.com +1415555{n % 10000:04d} "),
        "headers": repeated("authorization: "),
        "random characters": many(lambda n: random_text(rng, 3 + n % 37) + " -./+=:"[n % 7]),
        "prefixes of every rule": many(
            lambda n: expand(ALL_RULES[n % len(ALL_RULES)].matches[0])[: 6 + n % 9] + " "
        ),
        "prose": repeated("Passwort: vergessen?\n"),
        "deep": repeated('{"a":'),
    }


def measure_hostile() -> dict[str, object]:
    """Seconds for 1 MiB in both modes, and how many times those of half of it."""
    rows: dict[str, object] = {}
    halves = hostile_texts(MIB // 2)
    for name, text in hostile_texts(MIB).items():
        standard = min(seconds(lambda: redact_text(text)) for _ in range(2))  # noqa: B023
        strict = min(
            seconds(lambda: redact_text(text, strict=True, pii=True))  # noqa: B023 - called now
            for _ in range(2)
        )
        half = min(seconds(lambda: redact_text(halves[name])) for _ in range(2))  # noqa: B023
        growth = round(standard / half, 2) if half > 0.01 else None
        rows[name] = {"s": round(standard, 3), "strict_pii_s": round(strict, 3), "growth": growth}
    return rows


def main() -> None:
    """Run, print the tables, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--corpus", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--pii", action="store_true", help="scrub personal data in every case")
    chosen = parser.parse_args()
    sets: dict[str, list[Case]] = {
        path.name: list(read_cases(path, is_pii=chosen.pii)) for path in chosen.corpus
    } or {"own": list(own_cases())}
    results: dict[str, object] = {
        "machine": machine(),
        "ruleset": RULESET_VERSION,
        "recall": {
            name: {"standard": score(cases, strict=False), "strict": score(cases, strict=True)}
            for name, cases in sets.items()
        },
        "speed": measure_speed(),
        "hostile_1_mib": measure_hostile(),
    }
    sys.stdout.write(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
