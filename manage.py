#!/usr/bin/env python
"""Django's command line for this project."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run a management command."""
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


if __name__ == "__main__":
    main()
