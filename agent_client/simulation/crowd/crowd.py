"""The crowd in motion: all members enrolled, their history handed in, their life lived and told."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent_client.contract.tokens import parse_enrollment
from agent_client.contract.wire import PATH_DISCOVERY
from agent_client.enroll import HINTS
from agent_client.simulation.crowd.batches import Packer, has_zstd
from agent_client.simulation.crowd.life import EnrollRefused, Install, Surroundings
from agent_client.simulation.crowd.making import Story, Tempo
from agent_client.simulation.crowd.members import member_of
from agent_client.simulation.crowd.meter import Meter
from agent_client.simulation.crowd.wire import Pool, Unreachable
from agent_client.simulation.script import S

AT_ONCE: Final = 16
"""Installs that enroll, or hand in history, at the same time."""
WARM_UP_PER_S: Final = 400
"""Installs whose runs under way are made in a second of CPU, on a slow machine."""
CONSOLE_WAIT_S: Final = 60.0
FINISH_S: Final = 300.0
"""How long the last rows are tried for after a life that ended by itself."""
FINISH_STOPPED_S: Final = 20.0
"""And after Ctrl-C, by a person who waits."""
TELL_EVERY_S: Final = 5.0
RECOVERY_S: Final = 120.0
PEAK_SPAN_S: Final = 10
LIVING: Final = ("poll", "checkin", "push")
FATAL: Final = frozenset(
    {
        "approval_needed",
        "cidr_denied",
        "client_too_old",
        "malformed",
        "token_exhausted",
        "token_expired",
        "token_revoked",
        "token_unknown",
    }
)
"""Refusals that every other install would meet too."""

LIFE: Final = Tempo()

Say = Callable[[str], None]


class CrowdError(Exception):
    """The crowd cannot go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Outage:
    """When, after the begin of life, the console cannot be reached, and for how long."""

    after_s: float
    lasts_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What to simulate. ``base_ns`` 0: life begins when everybody is enrolled.

    ``tokens``: group to enrollment string; the key ``""`` serves every other group.
    ``lasts_s`` 0: until stopped.
    """

    url: str
    tokens: Mapping[str, str]
    installs: int = 300
    seed: int = 7
    interval_s: float = 60.0
    lasts_s: float = 0.0
    tempo: Tempo = LIFE
    base_ns: int = 0
    history_days: int = 0
    outage: Outage | None = None
    connections: int = 64
    allow_plain_http: bool = False


class Crowd:
    """One run of a plan. ``stop`` ends it in order, as often as it is called."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self.plan, self.say = plan, say
        self.meter = Meter()
        self._began_at_s = time.time()
        self.story = Story(plan.seed, plan.base_ns, plan.tempo)
        self.stopping = asyncio.Event()
        self.is_stopped = False
        self._pool = Pool(plan.url, plan.connections, allow_plain_http=plan.allow_plain_http)
        self._installs: list[Install] = []
        self._outage_s: tuple[float, float] | None = None
        self._live_s = (0.0, 0.0)

    def stop(self) -> None:
        """End the life now; what is left is still handed in."""
        self.is_stopped = True
        self.stopping.set()

    async def run(self) -> dict[str, object]:
        """Everything, in order; the report. Errors: CrowdError."""
        telling = asyncio.create_task(self._tell())
        try:
            await self._wait_for_console()
            self._gather_members()
            await self._enroll_all()
            await self._begin()
            if self.plan.history_days and not self.stopping.is_set():
                await self._hand_in_histories()
            ends_ns = await self._live()
            await self._finish(ends_ns)
        finally:
            telling.cancel()
            self._pool.close()
        for install in self._installs:
            install.settle()
        self._say_line()
        return self.report()

    # -- steps ---------------------------------------------------------------------------------

    async def _wait_for_console(self) -> None:
        ends_s = time.monotonic() + CONSOLE_WAIT_S
        while not self.stopping.is_set():
            try:
                async with self._pool.slot():
                    reply = await self._pool.request("GET", PATH_DISCOVERY)
            except Unreachable as error:
                if time.monotonic() > ends_s:
                    raise CrowdError(f"{self.plan.url} does not answer: {error}") from error
                await asyncio.sleep(0.25)
                continue
            if reply.status == 200 and reply.json().get("fleet_id"):
                return
            if reply.status not in {429, 503}:
                raise CrowdError(f"no Hermes Fleet console answers there ({reply.status})")
            await asyncio.sleep(reply.retry_after_s or 1.0)

    def _gather_members(self) -> None:
        plan = self.plan
        self._around = Surroundings(
            pool=self._pool,
            meter=self.meter,
            interval_ns=int(plan.interval_s * S),
            chance=random.Random(),
            story=self.story,
            packer=Packer("", is_zstd_there=False),
        )
        numbers = range(1, plan.installs + 1)
        self._installs = [Install(self._around, member_of(plan.seed, each)) for each in numbers]

    async def _begin(self) -> None:
        """Decide when life begins: every id and every batch depends on it.

        A little ahead, so that what is under way by then can be made before anybody has to push.
        """
        plan = self.plan
        ahead_s = 1 + plan.installs // WARM_UP_PER_S
        base_ns = plan.base_ns or (time.time_ns() // S + ahead_s) * S
        self.story = self._around.story = Story(plan.seed, base_ns, plan.tempo)
        self._around.packer = Packer(self.story.mark, is_zstd_there=has_zstd())
        self.say(f"seed {plan.seed}, base {base_ns}, mark {self.story.mark}")
        for install in self._installs:
            # With a base of the past every interval is told anew, batch for batch; else only what
            # took longer to prepare than was thought.
            install.begin(is_behind=plan.history_days > 0 or not plan.base_ns)
            install.maker.warm_up()
            await asyncio.sleep(0)  # a signal, or the line

    async def _enroll_all(self) -> None:
        tokens = {group: _written(text) for group, text in self.plan.tokens.items()}
        began_s = time.monotonic()

        async def enroll(install: Install) -> None:
            token = tokens.get(install.member.persona.group) or tokens.get("", "")
            try:
                await install.enroll(token)
            except EnrollRefused as error:
                if error.code in FATAL:
                    hint = HINTS.get(error.code, "")
                    raise CrowdError(f"enrollment is refused: {error}. {hint}".strip()) from error
                install.out_code = error.code

        await self._few_at_once(enroll)
        took_s = time.monotonic() - began_s
        count = self.meter.enrolled
        self.say(f"{count} enrolled in {took_s:.0f} s ({count / max(took_s, 1e-3):.0f}/s)")
        if not count and not self.stopping.is_set():
            raise CrowdError("the console took none of the installs; its audit trail says why")

    async def _hand_in_histories(self) -> None:
        began_s, days = time.monotonic(), self.plan.history_days
        self.say(f"history: {days} days of {self.meter.enrolled} installs")
        await self._few_at_once(lambda install: install.hand_in_history(days))
        rows, took_s = self.meter.rows_by_second.total(), time.monotonic() - began_s
        self.say(f"history: {rows} rows in {took_s:.0f} s ({rows / max(took_s, 1e-3):.0f}/s)")

    async def _few_at_once(self, work: Callable[[Install], Awaitable[None]]) -> None:
        """Do something for every install that is not out; ends early when stopped."""
        waiting = iter([install for install in self._installs if not install.is_out])

        async def worker() -> None:
            for install in waiting:
                await work(install)

        await self._until_stopped(worker() for _index in range(AT_ONCE))

    async def _live(self) -> int:
        """Everybody's life; when it ended."""
        plan, begins_ns = self.plan, max(self.story.base_ns, time.time_ns())
        ends_ns = begins_ns + int(plan.lasts_s * S) if plan.lasts_s else None
        began_s = time.monotonic() - self.meter.began_s + (begins_ns - time.time_ns()) / S
        outage = asyncio.create_task(self._fail_for_a_while(begins_ns))
        alive = [install.live(ends_ns) for install in self._installs if install.credential]
        await self._until_stopped(alive)
        outage.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await outage
        self._pool.come_back()
        self._live_s = (began_s, time.monotonic() - self.meter.began_s)
        return min(ends_ns or time.time_ns(), time.time_ns())

    async def _until_stopped(self, work: Iterable[Coroutine[object, object, None]]) -> None:
        """Run coroutines to their end, or cancel them when the crowd is stopped."""
        tasks = [asyncio.ensure_future(each) for each in work]
        stop = asyncio.ensure_future(self.stopping.wait())
        everything = asyncio.gather(*tasks)
        waited: set[asyncio.Future[Any]] = {everything, stop}  # Any: results of two kinds
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if everything.done():
                await everything
        finally:
            stop.cancel()
            everything.cancel()
            await asyncio.gather(everything, *tasks, return_exceptions=True)

    async def _finish(self, ends_ns: int) -> None:
        """Hand in what is left, for a bounded time."""
        rest = [install.finish(ends_ns) for install in self._installs if install.credential]
        limit_s = FINISH_STOPPED_S if self.is_stopped else FINISH_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await asyncio.gather(*rest)

    # -- outage --------------------------------------------------------------------------------

    async def _fail_for_a_while(self, begins_ns: int) -> None:
        outage = self.plan.outage
        if outage is None:
            return
        await asyncio.sleep(max(0.0, (begins_ns - time.time_ns()) / S) + outage.after_s)
        began_s = time.monotonic() - self.meter.began_s
        self.say(f"outage: nobody reaches the console for {outage.lasts_s:.0f} s")
        self._pool.go_down()
        await asyncio.sleep(outage.lasts_s)
        self._pool.come_back()
        ended_s = time.monotonic() - self.meter.began_s
        self.say("outage: over")
        self._outage_s = (began_s, ended_s)

    def _surge(self) -> dict[str, object]:
        """How the crowd came back: its busiest ten seconds against those before the outage."""
        if self._outage_s is None:
            return {}
        began_s, ended_s = self._outage_s
        found: dict[str, object] = {"began_s": round(began_s, 1), "ended_s": round(ended_s, 1)}
        steady_from_s = self._live_s[0] + self.plan.interval_s
        for name, kinds in {"all": LIVING, **{kind: (kind,) for kind in LIVING}}.items():
            mean = self.meter.mean_per_s(kinds, steady_from_s, began_s)
            before = self.meter.peak_per_s(kinds, steady_from_s, began_s, PEAK_SPAN_S)
            peak = self.meter.peak_per_s(kinds, ended_s, ended_s + RECOVERY_S, PEAK_SPAN_S)
            found[name] = {
                "steady_per_s": round(mean, 2),
                "steady_peak_per_s": round(before, 2),
                "peak_per_s": round(peak, 2),
                "ratio": round(peak / mean, 2) if mean else 0.0,
            }
        return found

    # -- telling -------------------------------------------------------------------------------

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(1.0 if sys.stderr.isatty() else TELL_EVERY_S)
            self._write(self.meter.line())

    def _say_line(self) -> None:
        """The last line, which stays."""
        self._write(self.meter.line())
        self._write("\n" if sys.stderr.isatty() else "")

    def _write(self, line: str) -> None:
        """One line that is written over on a terminal, a line of its own elsewhere."""
        if sys.stderr.isatty():
            sys.stderr.write(line if line == "\n" else f"\r\x1b[2K{line}")
        elif line:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def report(self) -> dict[str, object]:
        """What happened, as JSON.

        ``mark``: the first digits of every id that was made. ``began_at_s`` is seconds since the
        epoch; ``live_from_s`` and the outage's times are seconds from there.
        """
        return {
            "seed": self.plan.seed,
            "base_ns": self.story.base_ns,
            "mark": self.story.mark,
            "interval_s": self.plan.interval_s,
            "installs": self.plan.installs,
            "is_stopped": self.is_stopped,
            "is_rerun": self.plan.base_ns != 0,
            "began_at_s": round(self._began_at_s, 3),
            "live_from_s": round(self._live_s[0], 1),
            "live_seconds": round(self._live_s[1] - self._live_s[0], 1),
            **self.meter.to_dict(),
            "outage": self._surge(),
            "install_ids": [str(each.member.install_id) for each in self._installs],
        }


def _written(enrollment: str) -> str:
    """The token of an enrollment string. Errors: CrowdError."""
    parsed = parse_enrollment(enrollment)
    if parsed is None:
        raise CrowdError("that is not a whole enrollment string (hfe_….<fingerprint>)")
    return parsed[0].text()
