"""The console's jobs in processes of their own, killed where a test says.

``python -m tests.faults.jobs`` loads Django once and forks a child a job: a kill costs
milliseconds. It reads a JSON line a round and answers with the children's return codes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from tests.faults import sabotage

KILLED = -9


@dataclass(frozen=True, slots=True)
class Job:
    """What to run. ``dies``: ``before`` or ``after`` the commit number ``at``; before the
    ``write``, ``fsync`` or ``rename`` of a file with that number; or at the
    ``statement`` of that number; 0 is never."""

    name: str
    arguments: tuple[str, ...] = ()
    dies: str = "before"
    at: int = 0


class Jobs:
    """The process that forks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, *jobs: Job) -> list[int]:
        """Run jobs at the same time; their return codes, negative for a signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([asdict(job) for job in jobs]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the jobs' process died"
        codes: list[int] = json.loads(line)
        return codes


@contextmanager
def jobs_process(environ: dict[str, str]) -> Iterator[Jobs]:
    """The forking process, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.jobs"],
        env=environ,
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield Jobs(process)
        assert process.stdin is not None
        process.stdin.close()


# ----------------------------------------------------------------------------- in the child itself


def _fill(*_: str) -> None:
    from telemetry.rollup.tasks import fill_touched

    fill_touched()


def _maintain(*_: str) -> None:
    from telemetry.store.tasks import maintain_partitions

    maintain_partitions()


def _migrate(*_: str) -> None:
    from django.core.management import call_command

    call_command("migrate", verbosity=0, interactive=False)


def _load(file: str, install_id: str, batch_bytes: str) -> None:
    from django.core.management import call_command

    from telemetry.management.commands import telemetry_load

    telemetry_load.BATCH_BYTES = int(batch_bytes)  # type: ignore[misc]  # small files, many batches
    call_command("telemetry_load", file, install=UUID(install_id), stdout=sys.stderr)


def _export(pk: str, part_rows: str, page_rows: str) -> None:
    """Work on an export, in small parts of small pages, until it is over or waits for its time."""
    from dataclasses import replace

    from telemetry.exports import choice, parts
    from telemetry.exports.datasets import DATASETS
    from telemetry.exports.run import run_job

    parts.PART_ROWS = int(part_rows)  # type: ignore[misc]  # few rows, many parts
    small = {name: replace(one, page_rows=int(page_rows)) for name, one in DATASETS.items()}
    vars(choice)["DATASETS"] = small
    run_job(int(pk), budget_s=60)


def _credentials(file: str, count: str) -> None:
    """Write the credentials of so many new installs, a line each."""
    from tests.faults import raw

    Path(file).write_text("\n".join(raw.credential_of(uuid4()) for _ in range(int(count))))


def _stream(pk: str) -> None:
    from telemetry.models import Stream
    from telemetry.streams.send import send_stream

    # Whoever was killed holds the lease for two minutes; a test does not wait for them.
    Stream.objects.filter(pk=int(pk)).update(lease_until=None, open_until=None)
    send_stream(int(pk))


def _stream_beside(pk: str) -> None:
    """The same beside others: a lease that is held stays held."""
    from telemetry.streams.send import send_stream

    send_stream(int(pk))


def _relay(max_records: str) -> None:
    """Number the feed and run every cursor's round, here and not in threads."""
    from telemetry.models import RelayCursor
    from telemetry.relay import cursor
    from telemetry.relay.feed import feed
    from telemetry.relay.rounds import run_cursor

    cursor.MAX_RECORDS = int(max_records)  # type: ignore[misc]  # few rows, many bodies
    feed()
    for pk in RelayCursor.objects.values_list("pk", flat=True):
        run_cursor(pk)


def _relay_fill(url: str, count: str) -> None:
    from tests.telemetry.relay_helpers import collector, fill

    collector(url)
    fill(int(count))


def _relay_expire() -> None:
    """The leases of the dead run out, and pauses are over."""
    from telemetry.models import RelayCursor

    RelayCursor.objects.update(lease_until=None, open_until=None)


RUNS: dict[str, Callable[..., None]] = {
    "credentials": _credentials,
    "export": _export,
    "fill": _fill,
    "load": _load,
    "maintain": _maintain,
    "migrate": _migrate,
    "stream": _stream,
    "stream_beside": _stream_beside,
    "relay": _relay,
    "relay_expire": _relay_expire,
    "relay_fill": _relay_fill,
}


def _arm(dies: str, at: int) -> None:
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == at:
            sabotage.die()

    if dies == "statement":
        from django.db.backends.signals import connection_created

        def watch(execute: Any, *rest: Any) -> Any:  # noqa: ANN401 -- Django's hook
            count()
            return execute(*rest)

        connection_created.connect(
            lambda connection, **_: connection.execute_wrappers.append(watch), weak=False
        )
    elif dies in {"write", "fsync", "rename"}:
        real = getattr(os, dies)

        def act(*given: Any, **named: Any) -> Any:  # noqa: ANN401 -- whatever the call takes
            count()
            return real(*given, **named)

        setattr(os, dies, act)
    else:
        sabotage.on_commit(
            before=count if dies == "before" else _nothing,
            after=count if dies == "after" else _nothing,
        )


def _nothing(*_: object) -> None:
    pass


def _child(job: dict[str, Any]) -> None:  # Any: JSON
    code = 1
    try:
        _arm(job["dies"], job["at"])
        RUNS[job["name"]](*job["arguments"])
        code = 0
    except BaseException:  # noqa: BLE001 -- whatever it was, the parent gets a code and a traceback
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _fork(jobs: Sequence[dict[str, Any]]) -> list[int]:  # Any: JSON
    pids = []
    for job in jobs:
        pid = os.fork()
        if not pid:
            _child(job)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def _main() -> None:
    import django

    django.setup()
    for line in sys.stdin:
        print(json.dumps(_fork(json.loads(line))), flush=True)  # noqa: T201 -- the protocol


if __name__ == "__main__":
    _main()
