"""A console with a small simulated fleet, for looking around; nothing of it is real."""

from __future__ import annotations

import os
import sys

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from fleet import bringup, demo
from fleet.supervise import Supervisor


class Command(BaseCommand):
    help = "Start a console with a simulated fleet that pushes over the real wire, until Ctrl-C."
    requires_system_checks = []  # they run after migrating, in prepare()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reset", action="store_true", help="delete the demo's data first")
        parser.add_argument("--seed", type=int, default=7, help="same seed, same fleet")
        parser.add_argument("--installs", type=int, default=24, help="how many, at most 24")
        parser.add_argument("--days", type=int, default=14, help="days of history")

    def handle(self, *args: object, **options: object) -> None:
        if not settings.FLEET_DEMO:
            raise CommandError("Start it as './manage.py demo' or 'make demo'.")
        os.umask(bringup.PRIVATE_UMASK)
        try:
            with bringup.hold_home():
                bringup.check_port_free(settings.FLEET_BIND)
                if options["reset"]:
                    demo.reset_and_restart([each for each in sys.argv if each != "--reset"])
                names = ("seed", "installs", "days")
                code = self._serve({name: int(str(options[name])) for name in names})
        except bringup.CannotStart as error:
            raise CommandError(str(error)) from error
        if code:
            sys.exit(code)

    def _serve(self, wanted: dict[str, int]) -> int:
        bringup.prepare(self.stdout.write)
        if demo.refuse_real_data():
            self.stdout.write(f"Going on with the demo in {settings.FLEET_HOME} (--reset: anew).")
        tokens = demo.seed_console()
        account = demo.remembered(bringup.ensure_admin())
        self.stdout.write(f"Starting web, worker, beat and agents on {connection.display_name}.")
        children = [*bringup.console_children(), demo.simulation_child(tokens, wanted)]
        return bringup.serve(children, DemoTick(account))


class DemoTick:
    """Says when the console answers, and again when the whole history is there."""

    def __init__(self, account: bringup.Account) -> None:
        self._account = account
        self._readiness = bringup.Readiness(self._on_ready)
        self._is_told = False

    def __call__(self, supervisor: Supervisor) -> None:
        self._readiness(supervisor)
        if self._readiness.is_ready and not self._is_told and demo.is_history_there():
            self._is_told = True
            demo.age_silent_installs()
            supervisor.say(bringup.framed(self._lines("The demo is complete.")))

    def _on_ready(self, supervisor: Supervisor) -> None:
        supervisor.say(bringup.framed(self._lines("The console is up; its history is arriving.")))

    def _lines(self, title: str) -> list[str]:
        return [
            f"{title} All installs and runs are simulated.",
            "",
            f"Address   {settings.FLEET_PUBLIC_URL}/",
            *bringup.account_lines(self._account, "kept with the demo"),
            "",
            f"Data      {settings.FLEET_HOME}   (kept{_how_to_reset()})",
            "Ctrl-C stops everything.",
        ]


def _how_to_reset() -> str:
    return "; 'manage.py demo --reset' starts over" if connection.vendor == "sqlite" else ""
