"""The command line of the console: ``hermes-fleet WORDS`` and ``manage.py WORDS`` are one."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run a management command. Errors: as the command says, by the exit code."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")
    if sys.argv[1:2] == ["demo"]:
        from fleet.demo_home import enter_demo

        enter_demo(os.environ)  # before any setting is read
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        if sys.argv[1:2] != ["doctor"]:
            raise
        sys.stdout.write(f"ERROR settings: {error}\n      → Correct it in the environment.\n")
        sys.exit(2)
