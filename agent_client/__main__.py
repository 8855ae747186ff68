"""``python -m agent_client``: the same as ``hermes-telemetry``."""

from __future__ import annotations

import sys

from agent_client.cli import main

if __name__ == "__main__":
    sys.exit(main())
