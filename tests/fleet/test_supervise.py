"""The supervisor with real children: restarts, giving up, order, deadlines and no orphans."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.supervise import Child, RestartPolicy, Supervisor

ROOT = Path(__file__).resolve().parents[2]
HASTY = RestartPolicy(first_delay_s=0.01, longest_delay_s=0.02, quick_s=30.0, quick_deaths_max=3)
SLEEPER = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('ready', flush=True); time.sleep(60)"
)
DEADLINE_S = 20.0


def child(program: str, name: str = "worker", **options: object) -> Child:
    return Child(name, (sys.executable, "-S", "-c", program), **options)  # type: ignore[arg-type]  # a builder


def supervise(
    *children: Child, until: str = "", policy: RestartPolicy = HASTY
) -> tuple[int, list[str]]:
    """Run until the output holds ``until``; exit code and lines."""
    out, ends_s = io.StringIO(), time.monotonic() + DEADLINE_S

    def tick(running: Supervisor) -> None:
        assert time.monotonic() < ends_s, out.getvalue()
        if until and until in out.getvalue():
            running.stop()

    code = Supervisor(children, out=out, policy=policy, tick=tick).run()
    return code, out.getvalue().splitlines()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(claim: Callable[[], bool]) -> bool:
    ends_s = time.monotonic() + DEADLINE_S
    while not claim():
        if time.monotonic() > ends_s:
            return False
        time.sleep(0.02)
    return True


def test_each_line_names_its_child() -> None:
    _code, lines = supervise(
        child("print('one\\ntwo', flush=True);" + SLEEPER, "web"),
        child(SLEEPER, "worker"),
        until="worker | ready",
    )
    assert {"web    | one", "web    | two", "worker | ready"} <= set(lines)


def test_a_last_line_without_an_end_is_not_lost() -> None:
    _code, lines = supervise(child("import sys; sys.stdout.write('unfinished')"))
    assert "worker | unfinished" in lines


def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    program = (
        f"import pathlib, sys; mark = pathlib.Path({str(mark)!r})\n"
        "if not mark.exists(): mark.touch(); sys.exit(3)\n" + SLEEPER
    )
    code, lines = supervise(child(program), until="ready")
    assert code == 0
    assert "worker | ended with status 3; it is started again in 0 s." in lines


def test_a_vital_child_that_keeps_dying_stops_everything() -> None:
    code, lines = supervise(child("raise SystemExit(2)"), child(SLEEPER, "beat"))
    assert code == 1
    assert any(line.startswith("worker ended with status 2, 3 times in a row") for line in lines)


def test_the_rest_goes_on_without_a_child_that_is_not_vital() -> None:
    code, lines = supervise(
        child("raise SystemExit(2)", "sim", is_vital=False),
        child(SLEEPER, "web"),
        until="The rest goes on without sim.",
    )
    assert code == 0
    assert "web | ready" in lines


def test_a_program_that_is_missing_is_named() -> None:
    code, lines = supervise(Child("worker", ("/nonexistent/program",)))
    assert code == 1
    assert any("/nonexistent/program: No such file or directory" in line for line in lines)


def test_children_stop_in_reverse_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = (
        "import signal, sys, time\n"
        f"def on_stop(*_): open({str(log)!r}, 'a').write(sys.argv[1] + '\\n'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, on_stop); print(sys.argv[1], 'ready', flush=True)\n"
        "while True: time.sleep(0.05)"
    )
    named = [Child(name, (sys.executable, "-S", "-c", program, name)) for name in ("web", "worker")]
    out, ends_s = io.StringIO(), time.monotonic() + DEADLINE_S

    def tick(running: Supervisor) -> None:
        assert time.monotonic() < ends_s
        if out.getvalue().count("ready") == 2:
            running.stop()

    Supervisor(named, out=out, tick=tick).run()
    assert log.read_text().split() == ["worker", "web"]


def test_a_child_that_ignores_sigterm_is_killed_after_its_deadline() -> None:
    _code, lines = supervise(child(STUBBORN, stop_after_s=0.05), until="ready")
    assert "worker | did not stop in time and is killed." in lines


def test_what_a_dead_child_left_in_its_group_is_killed() -> None:
    program = (
        "import subprocess, sys;"
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']);"
        "print('pid', p.pid, flush=True); raise SystemExit(2)"
    )
    _code, lines = supervise(child(program))
    pids = [int(line.split()[-1]) for line in lines if " pid " in line]
    assert pids
    assert eventually(lambda: not any(map(is_alive, pids)))


def start_a_supervisor() -> tuple[subprocess.Popen[str], int]:
    """A supervisor in a process of its own, and the pid of its child."""
    grandchild = "import os; print('pid', os.getpid(), flush=True);" + SLEEPER
    program = (
        "import sys; from fleet.supervise import *;"
        f"sys.exit(Supervisor([Child('web', (sys.executable, '-S', '-c', {grandchild!r}))]).run())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline().split()[-1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_stops_the_children(number: signal.Signals) -> None:
    process, pid = start_a_supervisor()
    with process:
        os.kill(process.pid, number)
        assert process.wait(DEADLINE_S) == 0
    assert not is_alive(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux")
def test_a_killed_supervisor_leaves_no_orphan() -> None:
    process, pid = start_a_supervisor()
    with process:
        process.kill()
        process.wait(DEADLINE_S)
        assert eventually(lambda: not is_alive(pid))


def test_a_reader_that_went_away_stops_the_children() -> None:
    process, pid = start_a_supervisor()
    assert process.stdout is not None
    process.stdout.close()
    os.kill(pid, signal.SIGTERM)  # its restart is the first thing said to nobody
    assert process.wait(DEADLINE_S) == 1
    assert not is_alive(pid)


@pytest.mark.parametrize(
    ("quick_deaths", "delay_s"), [(0, 1.0), (1, 1.0), (2, 2.0), (4, 8.0), (5, None)]
)
def test_the_delay_doubles_and_ends(quick_deaths: int, delay_s: float | None) -> None:
    assert RestartPolicy().delay_s(quick_deaths) == delay_s


def test_a_long_life_forgives_earlier_deaths() -> None:
    policy = RestartPolicy(quick_s=10.0)
    assert policy.quick_deaths_after(4, lived_s=11.0) == 0
    assert policy.quick_deaths_after(1, lived_s=9.0) == 2
