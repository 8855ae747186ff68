"""The plain-file broker, made safe for several processes: nobody ever reads half of a file.

kombu's own transport writes a message in place and locks it only after it was opened: a worker that
looks in between moves an empty file, fails to parse it and ends. Here every file is written under
another name and takes its own by a rename; a message is claimed by a rename as well, so that one
worker has it. What cannot be read is set aside with a word in the log: the database knows what is
to be done, a message is only a nudge.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty
from typing import Any, Final

import structlog
from kombu.exceptions import ChannelError
from kombu.transport import filesystem
from kombu.utils.json import dumps, loads

TRANSPORT: Final = "fleet.lib.files_broker:Transport"
"""How Celery names it."""
PART, TAKEN = ".part", ".taken"
STALE_S: Final = 3_600.0
"""Nobody writes or reads one message for so long: whoever did is dead."""
logger = structlog.get_logger(__name__)

type Bound = list[filesystem.exchange_queue_t]


_Channel: Any = filesystem.Channel  # Any: its stubs know neither its own overrides nor its files
_Transport: Any = filesystem.Transport


class Channel(_Channel):  # type: ignore[misc]  # as above
    """kombu's channel with whole files."""

    def _put(self, queue: str, payload: object, **_more: object) -> None:
        """A message, under its name only when it is whole. Errors: ChannelError."""
        name = f"{time.monotonic_ns() // 1_000_000}_{uuid.uuid4()}.{queue}.msg"
        try:
            _write_whole(Path(self.data_folder_out) / name, dumps(payload))
        except OSError as error:
            raise ChannelError(f"Cannot write to {self.data_folder_out}") from error

    def _get(self, queue: str) -> Any:  # noqa: ANN401 -- a message is JSON
        """The oldest message of a queue. Errors: Empty."""
        folder, ending = Path(self.data_folder_in), f"{queue}.msg"
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 -- names, thousands of them
            if name.partition(".")[2] != ending:
                continue
            taken = folder / f".{name}{TAKEN}"
            try:
                (folder / name).rename(taken)
                text = taken.read_text(encoding="utf-8")
                taken.unlink()
                return loads(text)
            except OSError:
                continue  # another worker has it
            except ValueError:
                logger.warning("broker_file_damaged", queue=queue)
        raise Empty

    def get_table(self, exchange: str) -> Bound:
        """The queues of an exchange."""
        return self._read_table(self._exchange_file(exchange))

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        bound = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._change(exchange, lambda table: table if bound in table else [bound, *table])

    def _delete(
        self, queue: str, exchange: str, routing_key: str, pattern: str, *_more: object
    ) -> None:
        self._purge(queue)
        bound = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        self._change(exchange, lambda table: [one for one in table if one != bound])

    def _change(self, exchange: str, change: Callable[[Bound], Bound]) -> None:
        """Replace an exchange's table, one process at a time."""
        path = self._exchange_file(exchange)
        try:
            with _locked(self.control_folder):
                before = self._read_table(path)
                after = change(before)
                if after != before:
                    _write_whole(path, dumps(after))
        except OSError as error:
            raise ChannelError(f"Cannot write to {self.control_folder}") from error

    def _read_table(self, path: Path) -> Bound:
        try:
            return [filesystem.exchange_queue_t(*one) for one in loads(path.read_text("utf-8"))]
        except FileNotFoundError:
            return []
        except ValueError:
            return []  # left by a release that wrote in place; whoever binds next writes it anew


class Transport(_Transport):  # type: ignore[misc]  # as above
    """kombu's transport with that channel."""

    Channel = Channel


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f".{uuid.uuid4()}{PART}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def sweep(folder: Path) -> int:
    """Remove what processes left that died over a message; how many files."""
    before_s = time.time() - STALE_S
    gone = 0
    for path in folder.glob(".*"):
        with suppress(OSError):
            if path.suffix in {PART, TAKEN} and path.stat().st_mtime < before_s:
                path.unlink()
                gone += 1
    return gone
