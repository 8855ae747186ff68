"""Supervised children: started, their output named, restarted with back-off, stopped in order.

One thread, one loop over pipes and signals. Each child leads a process group of its own, so that
Ctrl-C reaches only the supervisor, which then stops them one by one; what a child leaves behind
in its group is killed. On Linux the kernel also ends each child when the supervisor itself is
killed, so that nothing stays behind holding the port.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Final, TextIO

PR_SET_PDEATHSIG: Final = 1
"""prctl(2): the signal this process gets when its parent dies."""
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_DEADLINE_S: Final = 25.0
"""For all children together; service managers kill after 30 to 90 seconds."""
HEAD_START_S: Final = 1.0
IDLE_S: Final = 0.5
"""How often ``tick`` runs while nothing happens."""
MAX_LINE_BYTES: Final = 64 * 1024
"""A child that never ends its line must not fill our memory."""
COLOURS: Final = (36, 33, 35, 32, 34)


@dataclass(frozen=True, slots=True)
class Child:
    """What to run. ``is_vital``: when it is given up, everything stops."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    stop_after_s: float = 10.0
    is_vital: bool = True


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a dead child is started again; one that lived shorter than ``quick_s`` died quickly."""

    first_delay_s: float = 1.0
    longest_delay_s: float = 30.0
    quick_s: float = 10.0
    quick_deaths_max: int = 5

    def quick_deaths_after(self, quick_deaths: int, lived_s: float) -> int:
        """The count of quick deaths in a row, one death later."""
        return quick_deaths + 1 if lived_s < self.quick_s else 0

    def delay_s(self, quick_deaths: int) -> float | None:
        """Seconds until the next start; None: give up."""
        if quick_deaths >= self.quick_deaths_max:
            return None
        delay_s = self.first_delay_s * 2.0 ** max(quick_deaths - 1, 0)
        return min(delay_s, self.longest_delay_s)


@dataclass(slots=True)
class _Slot:
    """A child's place: its process, or when the next one is due."""

    child: Child
    label: str
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    due_s: float | None = None
    quick_deaths: int = 0
    rest: bytes = b""


class Supervisor:
    """Runs children until a signal, ``stop`` or a vital child that will not stay up.

    ``tick`` is called every half second or so from the loop; it must not block.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        out: TextIO | None = None,
        policy: RestartPolicy | None = None,
        tick: Callable[[Supervisor], None] = lambda _supervisor: None,
    ) -> None:
        self._out = sys.stdout if out is None else out
        self._policy = policy or RestartPolicy()
        self._tick = tick
        width = max([len(child.name) for child in children], default=0)
        self._slots = [
            _Slot(child, _label(child.name.ljust(width), index, self._out))
            for index, child in enumerate(children)
        ]
        self._selector = selectors.DefaultSelector()
        self._exit_code: int | None = None
        self._stop_count = 0

    def run(self) -> int:
        """Start all, serve until stopped, stop all; the exit code. Call it from the main thread."""
        with self._woken_by_signals():
            try:
                for slot in self._slots:
                    self._start(slot)
                while self._exit_code is None:
                    self._wait(self._idle_s())
                    self._reap()
                    self._start_due()
                    self._tick(self)
            finally:
                self._stop_all()
                self._selector.close()
        return self._exit_code or 0

    def stop(self, exit_code: int = 0) -> None:
        """Ask the loop to stop everything; a second call kills instead of asking."""
        self._stop_count += 1
        if self._exit_code is None:
            self._exit_code = exit_code

    def say(self, text: str) -> None:
        """Print lines of our own between the children's."""
        try:
            self._out.write(text + "\n")
            self._out.flush()
        except (BrokenPipeError, ValueError):
            # Nobody reads us any more (``… | head``); a console nobody watches is not left behind.
            self.stop(1)

    def is_running(self, name: str) -> bool:
        """Whether a child has a process right now."""
        return any(slot.child.name == name and slot.process is not None for slot in self._slots)

    def _start(self, slot: _Slot) -> None:
        slot.due_s = None
        slot.started_s = time.monotonic()
        try:
            process = subprocess.Popen(  # noqa: S603  # our own programs, no shell
                slot.child.argv,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **slot.child.env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent(os.getpid()),  # noqa: PLW1509  # we have one thread
            )
        except OSError as error:
            slot.quick_deaths += 1
            self._after_death(slot, f"cannot be started ({slot.child.argv[0]}: {error.strerror})")
            return
        slot.process = process
        if process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)
            self._selector.register(process.stdout, selectors.EVENT_READ, slot)

    def _start_due(self) -> None:
        for slot in self._slots:
            is_due = slot.due_s is not None and slot.due_s <= time.monotonic()
            if is_due and self._exit_code is None:
                self._start(slot)

    def _idle_s(self) -> float:
        waits = [slot.due_s - time.monotonic() for slot in self._slots if slot.due_s is not None]
        return max(min([*waits, IDLE_S]), 0.0)

    def _wait(self, timeout_s: float) -> None:
        """Pass on what children print until something happens or the time is up."""
        for key, _events in self._selector.select(timeout_s):
            if isinstance(key.data, _Slot):
                self._pass_on(key.data)
            else:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 4096)

    def _pass_on(self, slot: _Slot) -> bool:
        """Print what a child has written; whether there may be more."""
        process = slot.process
        if process is None or process.stdout is None:
            return False
        try:
            data = os.read(process.stdout.fileno(), 65_536)
        except BlockingIOError:
            return False
        if not data:
            self._close_pipe(process)
        *lines, slot.rest = (slot.rest + data).split(b"\n")
        if len(slot.rest) > MAX_LINE_BYTES or (not data and slot.rest):
            lines.append(slot.rest)
            slot.rest = b""
        for line in lines:
            self.say(slot.label + line.decode("utf-8", "replace").rstrip("\r"))
        return bool(data)

    def _close_pipe(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is not None:
            self._selector.unregister(process.stdout)
            process.stdout.close()
            process.stdout = None

    def _reap(self) -> None:
        for slot in self._slots:
            if slot.process is None or slot.process.poll() is None:
                continue
            code = slot.process.returncode
            self._clear(slot)
            if self._exit_code is None:
                lived_s = time.monotonic() - slot.started_s
                slot.quick_deaths = self._policy.quick_deaths_after(slot.quick_deaths, lived_s)
                self._after_death(slot, _how(code))

    def _clear(self, slot: _Slot) -> None:
        """Forget an ended process, after its last words and with what it left in its group."""
        process = slot.process
        if process is None:
            return
        _signal_group(process.pid, signal.SIGKILL)
        while self._pass_on(slot):
            pass
        self._close_pipe(process)
        slot.process = None
        slot.rest = b""

    def _after_death(self, slot: _Slot, how: str) -> None:
        name, policy = slot.child.name, self._policy
        delay_s = policy.delay_s(slot.quick_deaths)
        if delay_s is not None:
            self.say(f"{slot.label}{how}; it is started again in {delay_s:.0f} s.")
            slot.due_s = time.monotonic() + delay_s
            return
        self.say(
            f"{name} {how}, {slot.quick_deaths} times in a row within {policy.quick_s:.0f} s of "
            f"its start. Its last lines above say why."
        )
        if slot.child.is_vital:
            self.say("Nothing works without it: stopping everything.")
            self.stop(1)
        else:
            self.say(f"The rest goes on without {name}.")

    def _stop_all(self) -> None:
        """Last started first: whoever makes work stops before whoever does it.

        Each gets a head start over the next, no more: waiting for all of them in turn would add
        up. What still runs at its deadline is killed.
        """
        ends_s = time.monotonic() + STOP_DEADLINE_S
        deadlines_s: dict[str, float] = {}
        for slot in reversed(self._slots):
            if slot.process is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                slot.process.terminate()
            deadlines_s[slot.child.name] = min(time.monotonic() + slot.child.stop_after_s, ends_s)
            self._wait_for_end(slot, time.monotonic() + HEAD_START_S)
        for slot in reversed(self._slots):
            if slot.process is None:
                continue
            self._wait_for_end(slot, deadlines_s[slot.child.name])
            if slot.process.poll() is None:
                self.say(f"{slot.label}did not stop in time and is killed.")
                _signal_group(slot.process.pid, signal.SIGKILL)
                slot.process.wait()
            self._clear(slot)

    def _wait_for_end(self, slot: _Slot, until_s: float) -> None:
        """Until a child has ended, its time is up, or somebody asked a second time."""
        while slot.process is not None and slot.process.poll() is None:
            if self._stop_count >= 2 or time.monotonic() >= until_s:
                return
            self._wait(min(0.1, max(until_s - time.monotonic(), 0.0)))

    @contextlib.contextmanager
    def _woken_by_signals(self) -> Iterator[None]:
        """Signals end ``select``: a stop signal at once, SIGCHLD so that the dead are seen."""
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            os.set_blocking(end.fileno(), False)
        self._selector.register(reader, selectors.EVENT_READ, None)

        def on_stop(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        former = {number: signal.signal(number, on_stop) for number in STOP_SIGNALS}
        former[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        former_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(former_fd)
            for number, handler in former.items():
                signal.signal(number, handler)
            reader.close()
            writer.close()


def _label(name: str, index: int, out: TextIO) -> str:
    if out.isatty() and not os.environ.get("NO_COLOR"):
        return f"\x1b[{COLOURS[index % len(COLOURS)]}m{name} |\x1b[0m "
    return f"{name} | "


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with status {code}"


def _signal_group(leader_pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader_pid, number)


def _end_with_parent(parent_pid: int) -> Callable[[], None] | None:
    """For the child, between fork and exec: SIGTERM when we die. None off Linux."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded here: a freshly forked child only calls it

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent_pid:  # died in between: no signal will come any more
            os._exit(1)

    return arrange
