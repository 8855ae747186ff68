"""What a start costs: `python -m benchmarks.startup [--with-typer]`.

Processes are started one after the other, round about, and timed from the spawn to the end: wall
clock, and user + system time of the child, which other load on the machine disturbs less. The
interpreter itself is one of them; what a row costs above it is in its own column. The plugin is
measured in a process that has loaded what every host has loaded before it comes to plugins.
``--with-typer`` makes a virtual environment with typer and rich as the reference for a command
line of the same verbs. Results go to benchmarks/results/startup.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

from agent_client.cli.parser import EXITS_OF_VERB
from agent_client.contract.events import ModelCallEvent, RunEvent
from agent_client.emitter import Emitter
from benchmarks.facts import machine

ROUNDS = 25
RESULTS = Path(__file__).parent / "results" / "startup.json"
STATUS_LIMIT_MS, PLUGIN_LIMIT_MS = 150, 15
HOST = (
    "import argparse, asyncio, copy, dataclasses, datetime, functools, hashlib, http.client,"
    " inspect, json, logging, mmap, pathlib, platform, queue, re, shutil, socket, sqlite3, ssl,"
    " subprocess, tempfile, textwrap, threading, typing, urllib.parse, uuid, weakref"
)
"""The standard library as any command-line agent with an HTTP client has it loaded."""


SESSION = """
class Context:
    hooks = {}
    def register_hook(self, name, callback): self.hooks[name] = callback
    def register_cli_command(self, *rest): pass
context = Context()
plugin.register(context)
context.hooks["on_session_start"](session_id="s", platform="cli")
""".strip()


@dataclass(frozen=True)
class Way:
    """One command to start; ``above`` names the row that it is compared with."""

    name: str
    argv: tuple[str, ...]
    above: str
    environ: dict[str, str]


def start(way: Way) -> tuple[float, float]:
    """Milliseconds of wall clock and of processor time."""
    null = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in (0, 1, 2)]
    began_s = time.perf_counter()
    child = os.posix_spawn(way.argv[0], way.argv, {**os.environ, **way.environ}, file_actions=null)
    _pid, status, used = os.wait4(child, 0)
    took_s = time.perf_counter() - began_s
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{way.name} failed: {' '.join(way.argv)}")
    return took_s * 1000, (used.ru_utime + used.ru_stime) * 1000


def recorded_home(home: Path, runs: int = 500) -> None:
    """A home with some thousand rows."""
    emitter = Emitter(home)
    for number in range(runs):
        run_id, at_ns = f"{number:032x}", time.time_ns()
        for call in range(3):
            emitter.emit(ModelCallEvent(f"{number}.{call}", run_id, "openai", "m", start_ns=at_ns))
        emitter.emit(RunEvent(run_id, start_ns=at_ns, end_ns=at_ns + 10**9, end_reason="completed"))
    emitter.flush(60)
    emitter.close()


def typer_python(folder: Path) -> str:
    """The interpreter of a new environment with typer and rich, and with its own verbs' module."""
    venv.create(folder, with_pip=True)
    python = str(folder / "bin/python")
    command = [python, "-m", "pip", "install", "--quiet", "typer", "rich"]
    subprocess.run(command, check=True)  # noqa: S603  # this file's own words
    functions = "\n".join(
        f"@app.command({name!r})\ndef _{number}(home: str = '', json: bool = False):\n"
        "    rich.print('[bold]status[/bold]')\n"
        for number, name in enumerate(EXITS_OF_VERB)
    )
    text = f"import typer, rich\napp = typer.Typer()\n{functions}\napp()\n"
    (folder / "reference.py").write_text(text)
    return python


def ways(folder: Path, *, with_typer: bool) -> list[Way]:
    """Every row of the table, in its order."""
    fresh, full = folder / "fresh", folder / "full"
    fresh.mkdir()
    recorded_home(full)
    python, root = sys.executable, str(Path(__file__).parents[1])
    nowhere = str(folder / "no managed scope")

    def way(name: str, code: str, above: str, home: Path = fresh, **environ: str) -> Way:
        known = {"HERMES_HOME": str(home), "HERMES_MANAGED_DIR": nowhere, "PYTHONPATH": root}
        return Way(name, (python, "-c", code), above, {**known, **environ})

    main = "import sys; from agent_client.cli import main; sys.argv = ['x', {}]; main()"
    status, bare = main.format("'status'"), "python"
    found = [
        way(bare, "pass", ""),
        way("hermes-telemetry -h", main.format("'-h'"), bare),
        way("status, fresh home", status, bare),
        way("status, 2,000 rows", status, bare, full),
        way("status, nothing compiled", status, bare, PYTHONDONTWRITEBYTECODE="1",
            PYTHONPYCACHEPREFIX=str(folder / "no cache")),
        way("a host's modules", HOST, bare),
        way("a host's modules + the plugin", f"{HOST}; import agent_client.plugin",
            "a host's modules"),
    ]  # fmt: skip
    first = f"{HOST}; import agent_client.plugin as plugin\n{SESSION}"
    found.append(way("… + a session's first hook", first, "a host's modules", folder / "hook"))
    if with_typer:
        reference = typer_python(folder / "typer")
        argv = (reference, str(folder / "typer/reference.py"), "status")
        found.append(Way("typer + rich, status", argv, bare, {}))
    return found


def slowest_imports(count: int = 12) -> list[dict[str, object]]:
    """Those of our modules that take longest when a host imports the plugin."""
    code = f"{HOST}; import agent_client.plugin"
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # as above
    lines = re.findall(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(agent_client\S*)", done.stderr)
    rows = [
        {"module": m, "own_ms": int(own) / 1000, "all_ms": int(a) / 1000} for own, a, m in lines
    ]
    return sorted(rows, key=lambda row: -float(str(row["own_ms"])))[:count]


def measure(rows: list[Way], rounds: int) -> list[dict[str, object]]:
    """Medians and ranges, each way once a round."""
    took: dict[str, list[tuple[float, float]]] = {way.name: [] for way in rows}
    for way in rows:
        start(way)  # compiles, and fills the page cache
    for _ in range(rounds):
        for way in rows:
            took[way.name].append(start(way))
    results: list[dict[str, object]] = []
    cpu = {name: statistics.median(c for _, c in pairs) for name, pairs in took.items()}
    for way in rows:
        wall = [w for w, _ in took[way.name]]
        result = {
            "way": way.name,
            "wall_ms": round(statistics.median(wall), 1),
            "wall_range_ms": [round(min(wall), 1), round(max(wall), 1)],
            "cpu_ms": round(cpu[way.name], 1),
            "above": way.above,
            "above_cpu_ms": round(cpu[way.name] - cpu[way.above], 1) if way.above else 0.0,
        }
        results.append(result)
        sys.stdout.write(
            f"{way.name:<32}{result['wall_ms']:>8} ms wall ({min(wall):.0f}-{max(wall):.0f})"
            f"{result['cpu_ms']:>8} ms cpu"
            + (f"{result['above_cpu_ms']:>8} above {way.above}\n" if way.above else "\n")
        )
    return results


def main() -> None:
    """Run, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--with-typer", action="store_true", help="install the reference for it")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(ways(Path(folder), with_typer=args.with_typer), args.rounds)
    imports = slowest_imports()
    for row in imports:
        sys.stdout.write(f"  {row['own_ms']:>6} ms  {row['module']}\n")
    limits = {"status_wall_ms": STATUS_LIMIT_MS, "plugin_above_cpu_ms": PLUGIN_LIMIT_MS}
    written = {"machine": machine(), "limits": limits, "rows": results, "plugin_imports": imports}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
