#!/usr/bin/env python
"""Django's command line for this project, from a checkout; installed, it is ``hermes-fleet``."""

from __future__ import annotations

from fleet.cli import main

if __name__ == "__main__":
    main()
