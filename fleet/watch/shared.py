"""The counters of several web processes: a folder of mapped files, one set a process.

Each web server has a folder of its own under FLEET_HOME/metrics, named by its process, so that what
a former one left is told from what lives. A worker that ended is summed into one file of the dead:
its counts stay, and the folder does not grow.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fleet.lib.processes import is_running

VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
DEAD: Final = "dead"


def share(home: Path) -> Path:
    """Count in files that this web server's processes share; before prometheus_client is imported.

    The folders of web servers that have ended are removed, whatever ended them.
    """
    root = home / "metrics"
    mine = root / _name_of(os.getppid())
    mine.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in root.iterdir():
        if folder != mine and not _is_alive(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
    os.environ[VARIABLE] = str(mine)
    return mine


def folder() -> Path | None:
    """Where the processes of this web server count; None when this one counts for itself."""
    text = os.environ.get(VARIABLE, "")
    return Path(text) if text else None


@contextlib.contextmanager
def still(where: Path) -> Iterator[None]:
    """Nobody sums up the dead while it is read."""
    descriptor = os.open(where / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def bury_dead(where: Path) -> int:
    """Sum the files of ended processes into one; how many there were. Call it inside ``still``."""
    from prometheus_client.mmap_dict import MmapedDict

    count = 0
    for path in sorted(where.glob("*_[0-9]*.db")):
        kind, _line, pid = path.stem.rpartition("_")
        if is_running(int(pid)):
            continue
        total = MmapedDict(str(where / f"{kind}_{DEAD}.db"))  # type: ignore[no-untyped-call]  # untyped library
        for key, value, _at, _place in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]  # untyped library
            held, _then = total.read_value(key)  # type: ignore[no-untyped-call]  # untyped library
            total.write_value(key, held + value, 0.0)  # type: ignore[no-untyped-call]  # untyped library
        total.close()  # type: ignore[no-untyped-call]  # untyped library
        path.unlink()
        count += 1
    return count


def _name_of(pid: int) -> str:
    return f"web-{pid}-{_born(pid)}"


def _is_alive(name: str) -> bool:
    _web, _line, rest = name.partition("-")
    pid, _line, born = rest.partition("-")
    return pid.isdigit() and is_running(int(pid)) and _born(int(pid)) == born


def _born(pid: int) -> str:
    """When a process began, in ticks since boot: a number that is used again is told apart."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"
