"""On what a benchmark was measured."""

from __future__ import annotations

import os
import platform


def machine() -> dict[str, object]:
    """Processors, load averages of 1, 5 and 15 minutes, Python and platform, for the results."""
    return {
        "cpus": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
