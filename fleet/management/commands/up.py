"""The whole console in one terminal: web, worker and beat, supervised."""

from __future__ import annotations

import os
import sys

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from fleet import bringup
from fleet.supervise import Supervisor


class Command(BaseCommand):
    help = "Start the console: migrate, make the first administrator, serve until Ctrl-C."
    requires_system_checks = []  # they run after migrating, in prepare()

    def handle(self, *args: object, **options: object) -> None:
        os.umask(bringup.PRIVATE_UMASK)
        try:
            with bringup.hold_home():
                bringup.check_port_free(settings.FLEET_BIND)
                bringup.prepare(self.stdout.write)
                account = bringup.ensure_admin()
                engine = connection.display_name
                self.stdout.write(f"Starting web, worker and beat on {engine}.")

                def on_ready(supervisor: Supervisor) -> None:
                    supervisor.say(bringup.framed(ready_lines(account)))

                code = bringup.serve(bringup.console_children(), bringup.Readiness(on_ready))
        except bringup.CannotStart as error:
            raise CommandError(str(error)) from error
        if code:
            sys.exit(code)


def ready_lines(account: bringup.Account) -> list[str]:
    """What an operator needs once the console answers."""
    return [
        "The console is up.",
        "",
        f"Address   {settings.FLEET_PUBLIC_URL}/",
        *bringup.account_lines(account),
        "",
        f"Data      {settings.FLEET_HOME}",
        f"Next      {bringup.manage_command('enrollment_token')}",
        "Ctrl-C stops everything.",
    ]
