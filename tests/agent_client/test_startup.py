"""What is loaded, not how long it takes: benchmarks/startup.py has the times.

Each module in these lists costs every start of ``status``, the verb that is typed most. A new one
is a decision: add it here, or import it where it is used.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from agent_client.store import Store
from tests.agent_client.homes import record

REPOSITORY = Path(__file__).parents[2]
HEAVY = frozenset(
    "asyncio bz2 cryptography difflib email hashlib http.client logging lzma platform random re2"
    " secrets shutil socket ssl subprocess tempfile textwrap urllib.request uuid yaml zlib".split()
)
"""Milliseconds each, and none is needed to say how things stand."""
FRESH = {
    "agent_client",
    "agent_client.cli",
    "agent_client.cli.output",
    "agent_client.cli.parser",
    "agent_client.cli.shown",
    "agent_client.cli.status",
    "agent_client.cli.status_text",
    "agent_client.config",
    "agent_client.contract",
    "agent_client.contract.policy_keys",
    "agent_client.credential",
    "agent_client.files",
    "agent_client.policy",
    "agent_client.policy.leaves",
    "agent_client.policy.posture",
    "agent_client.policy.state",
    "agent_client.policy.view",
    "agent_client.progress",
}
WITH_ROWS = FRESH | {
    "agent_client.contract.tables",
    "agent_client.health",
    "agent_client.schema",
    "agent_client.store",
}


def loaded(home: Path, code: str) -> set[str]:
    """The modules a new process has after running the code."""
    environ = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"{code}\nimport sys; print(*sys.modules)"],
        env={**environ, "HERMES_HOME": str(home), "HERMES_MANAGED_DIR": str(home / "none")},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


STATUS = "from agent_client.cli import main; main(['status'])"


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] == "agent_client"}


def test_status_of_a_fresh_home_loads_what_it_needs(tmp_path: Path) -> None:
    modules = loaded(tmp_path, STATUS)
    assert ours(modules) == FRESH
    assert modules & (HEAVY | {"sqlite3"}) == set()


def test_status_of_a_recorded_home_loads_the_store_and_not_the_recorder(tmp_path: Path) -> None:
    record(tmp_path)
    loaded(tmp_path, STATUS)  # takes in what there may be
    modules = loaded(tmp_path, STATUS)
    assert ours(modules) == WITH_ROWS
    assert modules & HEAVY == set()


def test_status_takes_in_what_an_ended_process_left(tmp_path: Path) -> None:
    code = (
        "import os, pathlib; from agent_client.emitter import Emitter\n"
        "from agent_client.contract.events import RunEvent\n"
        f"Emitter(pathlib.Path({str(tmp_path)!r})).emit(RunEvent('r', start_ns=1)); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)
    loaded(tmp_path, STATUS)
    assert list((tmp_path / "telemetry/spool").iterdir()) == []
    with Store(tmp_path) as store:
        assert store.counts()["tel_runs"] == 1


def test_help_and_version_load_no_verb(tmp_path: Path) -> None:
    for word in ("--help", "--version"):
        code = (
            "import contextlib\nfrom agent_client.cli import main\n"
            f"with contextlib.suppress(SystemExit): main(['{word}'])"
        )
        modules = loaded(tmp_path, code)
        assert ours(modules) == {
            "agent_client",
            "agent_client.cli",
            "agent_client.cli.output",
            "agent_client.cli.parser",
        }


def test_the_plugin_loads_neither_network_nor_verbs(tmp_path: Path) -> None:
    modules = loaded(tmp_path, "import agent_client.plugin")
    network = {"ssl", "http.client", "urllib.request", "asyncio", "socket", "cryptography", "yaml"}
    assert modules & network == set()
    assert {name for name in ours(modules) if name.startswith("agent_client.cli")} == set()


def test_importing_any_module_of_the_agent_starts_nothing(tmp_path: Path) -> None:
    code = (
        "import os, threading\n"
        "import agent_client.plugin, agent_client.cli.status, agent_client.doctor\n"
        "assert threading.active_count() == 1\n"
        f"assert os.listdir({str(tmp_path)!r}) == []"
    )
    loaded(tmp_path, code)
