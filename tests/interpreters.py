"""Which Python a test hands a fresh environment: the agent's floor where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


def find_python(version: str) -> str:
    """An interpreter of ``version`` ("3.11") that can make environments, else the suite's own.

    Each candidate is run, not only found: a pyenv shim stands on the PATH and fails when inactive.
    """
    return next(
        (path for path in _candidates(version) if _is_usable(path, version)), sys.executable
    )


def _candidates(version: str) -> Iterator[str]:
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        found = shutil.which(f"python{version}", path=folder)
        if found:
            yield found
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from map(str, sorted(root.glob(f"versions/{version}.*/bin/python")))


def _is_usable(path: str, version: str) -> bool:
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [path, "-c", code], capture_output=True, text=True, check=False, timeout=20
        )
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() == version
