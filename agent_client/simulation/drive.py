"""The simulated installs in motion: homes, history, enrollment, pushes, policy and live runs.

Each install has a home and a managed scope of its own under one folder. They are driven one
after another in one process, because the client reads ``HERMES_MANAGED_DIR`` from the process's
environment, as it does on a real machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent_client import config, policy
from agent_client.contract.events import Event
from agent_client.contract.wire import PATH_CHECKIN, PATH_DISCOVERY, PATH_ENROLL
from agent_client.credential import load_credential
from agent_client.emitter import Emitter
from agent_client.enroll import EnrollError, EnrollOptions, enroll
from agent_client.files import write_atomic, write_json
from agent_client.http import MAX_ANSWER_BYTES, Answer, ClientError, Transport, connect_to
from agent_client.journal import Journal
from agent_client.push import PushResult, push_once
from agent_client.simulation.cast import CAST, Persona
from agent_client.simulation.script import (
    DAY_NS,
    HOUR_NS,
    Run,
    World,
    make_run,
    runs_between,
    version_at,
    wakefulness,
)

STATE_FILE: Final = "simulation.json"
REPORT_FILE: Final = "report.json"
CHUNK_EVENTS: Final = 2_000
"""Events a transaction of history: the journal's lock is held, but nobody else wants it."""
TOLD_EVERY: Final = 15
"""A line for each live run would push everything else off the screen."""
LIVE_BACK_NS: Final = 6 * HOUR_NS
"""Live runs are written when they are over; none of ours lasts longer."""

ONCE: Final = EnrollOptions(wait_s=0.0)
"""Nobody is there to approve a simulated install by hand."""

Say = Callable[[str], None]


class SimulationError(Exception):
    """The simulation cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to simulate: where, towards which console, with whom and from when."""

    folder: Path
    url: str
    tokens: Mapping[str, str]
    """Group to enrollment string; the key ``""`` serves every other group."""
    seed: int = 7
    days: int = 14
    cast: tuple[Persona, ...] = CAST


@dataclass(frozen=True, slots=True)
class StagedHost:
    """The wire of a simulated machine: the real client, with the machine's name and kind replaced.

    Only what an agent says of the machine it stands on is changed; nothing else is touched.
    """

    inner: Transport
    persona: Persona
    version: str

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        token: str = "",
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> Answer:
        """One request of the real client. Errors: as ``http.Client``."""
        if body is not None and path in {PATH_ENROLL, PATH_CHECKIN}:
            body = json.dumps(self._staged(json.loads(body), path)).encode()
        return self.inner.request(
            method, path, body=body, headers=headers, token=token, max_bytes=max_bytes
        )

    def _staged(self, data: dict[str, object], path: str) -> dict[str, object]:
        versions = {"host": self.version, "python": self.persona.python}
        if path == PATH_CHECKIN:
            known = data.get("versions")
            return {**data, "versions": {**(known if isinstance(known, dict) else {}), **versions}}
        agent, (family, release, arch) = data.get("agent"), self.persona.system
        told = {f"{name}_version": text for name, text in versions.items()}
        return {
            **data,
            "agent": {**(agent if isinstance(agent, dict) else {}), **told},
            "host": {
                "os_family": family,
                "os_version": release,
                "arch": arch,
                "hostname": self.persona.name,
            },
        }


class SimulatedFleet:
    """All installs of a plan. ``stopping`` ends every loop at the next install or run."""

    def __init__(self, plan: Plan, say: Say, stopping: threading.Event) -> None:
        self.plan, self.say, self.stopping = plan, say, stopping
        plan.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.world, self.until_ns = self._begin()
        self._live_count = 0
        self._sync_count = 0

    def _begin(self) -> tuple[World, dict[str, int]]:
        """The world of this folder, and up to when each install's history is written."""
        path = self.plan.folder / STATE_FILE
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            state = json.loads(path.read_bytes())
            until_ns = {str(name): int(at_ns) for name, at_ns in state["until_ns"].items()}
            return World(int(state["seed"]), int(state["anchor_ns"])), until_ns
        return World(self.plan.seed, time.time_ns()), {}

    def _keep(self, persona: Persona, until_ns: int) -> None:
        self.until_ns[persona.name] = until_ns
        state = {"seed": self.world.seed, "anchor_ns": self.world.anchor_ns}
        write_json(self.plan.folder / STATE_FILE, {**state, "until_ns": self.until_ns})

    # -- the past ------------------------------------------------------------------------------

    def wait_for_console(self, timeout_s: float = 60.0) -> None:
        """Until the console answers. Errors: SimulationError when it does not in time."""
        ends_s, client = time.monotonic() + timeout_s, connect_to(self.plan.url)
        while not self.stopping.is_set():
            try:
                client.request("GET", PATH_DISCOVERY)
            except ClientError as error:
                if time.monotonic() > ends_s:
                    raise SimulationError(f"{self.plan.url} does not answer: {error}") from error
            else:
                return
            self.stopping.wait(0.25)

    def enroll_all(self) -> int:
        """Make the homes and enroll those that are not yet; how many. Errors: SimulationError."""
        count = 0
        for persona in self._cast():
            with self.standing_at(persona) as home:
                prepare_home(home, self.world.seed, persona)
                if load_credential(home) is None:
                    self._enroll(persona, home)
                    count += 1
        return count

    def _enroll(self, persona: Persona, home: Path) -> None:
        token = self.plan.tokens.get(persona.group) or self.plan.tokens.get("", "")
        try:
            enroll(home, self.plan.url, token, options=ONCE, transport=self._wire(persona))
        except (EnrollError, ClientError) as error:
            raise SimulationError(f"{persona.name} cannot enroll: {error}") from error

    def write_history(self) -> tuple[int, int]:
        """Record, push and settle the policy of every install up to now; runs and rows."""
        run_count = row_count = 0
        begin_ns = self.world.anchor_ns - self.plan.days * DAY_NS
        cast = list(self._cast())
        for number, persona in enumerate(cast, 1):
            if self.stopping.is_set():
                return run_count, row_count
            with self.standing_at(persona) as home:
                after_ns, until_ns = self.until_ns.get(persona.name, begin_ns), time.time_ns()
                runs = list(runs_between(self.world, persona, after_ns, until_ns))
                rows = record(home, runs)
                self._keep(persona, until_ns)
                self._settle(persona, home)
                pushed = push_once(home, transport=self._wire(persona))
            run_count, row_count = run_count + len(runs), row_count + rows
            self.say(
                f"history {number}/{len(cast)}: {persona.name}, {len(runs)} runs, "
                f"{rows} rows, {outcome(pushed)}"
            )
        return run_count, row_count

    def _settle(self, persona: Persona, home: Path) -> None:
        """Fetch the policy and report; once more, so that what was applied is what is reported."""
        result = policy.sync(home, transport=self._wire(persona))
        if result.exit_code and result.reason != "drifted":
            self.say(f"policy of {persona.name}: {result.status} {result.reason} {result.detail}")

    def report(self) -> None:
        """Write down who is who, for whoever prepares the console around us."""
        installs = []
        for persona in self._cast():
            credential = load_credential(self.home_of(persona))
            if credential is None:
                continue
            installs.append(
                {
                    "install_id": credential.install_id,
                    "name": persona.name,
                    "silent_since_ns": int(self.world.anchor_ns - persona.silent_days * DAY_NS)
                    if persona.silent_days
                    else None,
                }
            )
        first_ns = self.world.anchor_ns - self.plan.days * DAY_NS
        write_json(
            self.plan.folder / REPORT_FILE, {"history_from_ns": first_ns, "installs": installs}
        )

    # -- the present ---------------------------------------------------------------------------

    def live_forever(self, every_s: float) -> None:
        """A new run every ``every_s`` seconds, and between two runs one install's policy check."""
        while not self.stopping.wait(every_s / 2):
            self.sync_next()
            if self.stopping.wait(every_s / 2):
                return
            self.live_once()

    def live_once(self) -> Run | None:
        """One install that is awake finishes a run and pushes it; None when everybody sleeps."""
        now_ns = time.time_ns()
        self._live_count += 1
        rng = random.Random(f"{self.world.seed}/live/{now_ns // DAY_NS}/{self._live_count}")
        living = [persona for persona in self._cast() if not persona.silent_days]
        weights = [wakefulness(each, now_ns) * each.runs_per_day for each in living]
        if not any(weights):
            return None
        persona = rng.choices(living, weights=weights)[0]
        run = ended_at(make_run(self.world, persona, now_ns, rng), now_ns)
        with self.standing_at(persona) as home:
            emit_all(home, run.events)
            pushed = push_once(home, transport=self._wire(persona))
        self._keep(persona, now_ns)
        if pushed.exit_code or self._live_count % TOLD_EVERY == 0:
            self.say(f"live: {self._live_count} runs so far, {persona.name}: {outcome(pushed)}")
        return run

    def sync_next(self) -> None:
        """The next living install asks for its policy and checks in, round robin."""
        living = [persona for persona in self._cast() if not persona.silent_days]
        persona = living[self._sync_count % len(living)]
        self._sync_count += 1
        with self.standing_at(persona) as home:
            self._settle(persona, home)

    # -- where they stand ----------------------------------------------------------------------

    def _cast(self) -> Iterable[Persona]:
        return self.plan.cast

    def home_of(self, persona: Persona) -> Path:
        """The HERMES_HOME of an install."""
        return self.plan.folder / "installs" / persona.name / "home"

    def _wire(self, persona: Persona) -> Transport:
        version = version_at(self.world, persona, time.time_ns())
        return StagedHost(connect_to(self.plan.url), persona, version)

    @contextlib.contextmanager
    def standing_at(self, persona: Persona) -> Iterator[Path]:
        """The home of an install, with the process's environment pointing at its machine."""
        home = self.home_of(persona)
        managed = home.parent / "managed"
        managed.mkdir(mode=0o755, parents=True, exist_ok=True)
        former = {name: os.environ.get(name) for name in ("HERMES_HOME", "HERMES_MANAGED_DIR")}
        os.environ.update(HERMES_HOME=str(home), HERMES_MANAGED_DIR=str(managed))
        try:
            yield home
        finally:
            for name, value in former.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def prepare_home(home: Path, seed: int, persona: Persona) -> None:
    """The files a machine has before the fleet comes: an id, a configuration, managed scope."""
    if (home / "config.yaml").exists():
        return
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    install_id = uuid.uuid5(uuid.NAMESPACE_DNS, f"{seed}.{persona.name}.simulation.invalid")
    write_atomic(config.install_id_path(home), f"{install_id}\n".encode("ascii"))
    if persona.managed_before:
        # JSON is YAML; the client and the host read it as such.
        text = json.dumps(dict(persona.managed_before), indent=2)
        write_atomic(home.parent / "managed" / "config.yaml", f"{text}\n".encode())
    settings = {
        "model": {"default": max(persona.models, key=lambda name: persona.models[name])},
        "telemetry": {"consent_state": persona.consent},
    }
    write_atomic(home / "config.yaml", f"{json.dumps(settings, indent=2)}\n".encode())


def record(home: Path, runs: Iterable[Run]) -> int:
    """Write finished runs through the real journal, many to a transaction; rows written."""
    events = [event.to_dict() for run in runs for event in run.events]
    journal = Journal(home)
    try:
        for start in range(0, len(events), CHUNK_EVENTS):
            with journal.locked() as connection:
                journal.append_events(connection, events[start : start + CHUNK_EVENTS])
    finally:
        journal.close()
    return len(events)


def emit_all(home: Path, events: Iterable[Event]) -> None:
    """Record one run the way a live agent does: emitted, then carried to disk by the writer."""
    emitter = Emitter(home)
    try:
        for event in events:
            emitter.emit(event)
        emitter.flush(5.0)
    finally:
        emitter.close()


def ended_at(run: Run, end_ns: int) -> Run:
    """The same run, moved so that it has just ended."""
    back_ns = min(run.end_ns - end_ns, LIVE_BACK_NS)
    return Run(
        run.start_ns - back_ns,
        run.end_ns - back_ns,
        tuple(_moved(event, back_ns) for event in run.events),
    )


def _moved(event: Event, back_ns: int) -> Event:
    names = [name for name in ("start_ns", "end_ns", "ts_ns") if getattr(event, name, None)]
    times = {name: getattr(event, name) - back_ns for name in names}
    return replace(event, **times)


def outcome(pushed: PushResult) -> str:
    """How a push ended, for a progress line."""
    if pushed.exit_code == 0:
        return f"{pushed.accepted} accepted" if pushed.rows else "nothing to push"
    return f"{pushed.status}: {pushed.reason} {pushed.detail}".strip()
