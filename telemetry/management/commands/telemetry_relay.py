"""The relays by hand: look at them, try a collector, send what waits, replay dead letters."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from typing import Final

from django.core.management.base import BaseCommand, CommandError

from telemetry.models import DeadLetter, RelayDestination
from telemetry.relay.dispatch import relay_all
from telemetry.relay.feed import feed
from telemetry.relay.replay import MAX_ORDER, ask_replay, discard
from telemetry.relay.state import RelayState, states
from telemetry.relay.test import test_destination

FOLLOW_EVERY_S: Final = 2.0


class Command(BaseCommand):
    help = "Show where telemetry is sent on to, test a collector, send what waits, replay."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "verb", choices=("list", "test", "run-once", "replay", "discard"), nargs="?"
        )
        parser.add_argument("name", nargs="?", help="the collector; run-once and list take all")
        parser.add_argument("--reason", default="", help="replay, discard: why, for the audit log")
        parser.add_argument("--follow", action="store_true", help="list, run-once: until Ctrl-C")
        parser.add_argument("--seconds", type=float, default=600.0, help="run-once: at most these")
        parser.add_argument("--rounds", type=int, default=0, help="--follow: end after these")

    def handle(
        self,
        *args: object,
        verb: str | None = None,
        name: str | None = None,
        reason: str = "",
        follow: bool = False,
        seconds: float = 600.0,
        rounds: int = 0,
        **options: object,
    ) -> None:
        if verb == "test":
            self._test(_named(name))
            return
        if verb in {"replay", "discard"}:
            self._order(verb, _named(name), reason)
            return
        done = 0
        while True:
            if verb == "run-once":
                numbered, sent = feed(), relay_all(budget_s=seconds).record_count
                self.stdout.write(f"numbered {numbered} batches, sent {sent} records")
            self._list()
            done += 1
            if not follow or done == rounds:
                return
            time.sleep(FOLLOW_EVERY_S)

    def _list(self) -> None:
        found = states()
        if not found:
            self.stdout.write("No collector. Add one on the console: Data → Relay.")
        for state in found:
            self.stdout.write(_line(state))
            if state.mend:
                self.stdout.write(f"    {state.mend}")

    def _test(self, destination: RelayDestination) -> None:
        report = test_destination(destination, actor="manage.py")
        for step in report.steps:
            self.stdout.write(f"{step.mark:<8} {step.title}: {step.text}")
        if not report.is_ok:
            raise CommandError(f"{destination.name} did not take the test.")

    def _order(self, verb: str, destination: RelayDestination, reason: str) -> None:
        if not reason.strip():
            raise CommandError("Say why with --reason: it goes into the audit log.")
        letters = list(
            DeadLetter.objects.filter(destination=destination, replayed_at=None)
            .defer("body")
            .order_by("pk")[:MAX_ORDER]
        )
        act = ask_replay if verb == "replay" else discard
        count = act(letters, actor="manage.py", reason=reason)
        what = "will be sent again" if verb == "replay" else "discarded"
        self.stdout.write(f"{count} dead letters {what}")


def _named(name: str | None) -> RelayDestination:
    found = RelayDestination.objects.filter(name=name or "").first()
    if found is None:
        known = ", ".join(RelayDestination.objects.values_list("name", flat=True)) or "none"
        raise CommandError(f"Name a collector; there are: {known}")
    return found


def _line(state: RelayState) -> str:
    lag = "" if state.lag_s is None else f", {state.lag_s:.0f} s behind"
    numbers = (
        f"sent {state.sent_count}, rejected {state.rejected_count}, dead {state.dead_count}, "
        f"expired {state.expired_count}, retries {state.retry_count}, "
        f"waiting {state.waiting_count}{lag}"
    )
    return f"{state.name} {state.signal}: {state.word}. {state.text} ({numbers})"
