"""The plain-file broker: messages whole, each to one worker, whatever happens beside it."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from kombu import Connection
from structlog.testing import capture_logs

from fleet.lib.files_broker import STALE_S, TRANSPORT, Channel, sweep

MESSAGES = 300


def connection(folder: Path) -> Any:  # noqa: ANN401 -- its stubs know no channel of ours
    options = {
        "data_folder_in": str(folder / "queue"),
        "data_folder_out": str(folder / "queue"),
        "control_folder": str(folder / "control"),
    }
    return Connection("filesystem://localhost", transport=TRANSPORT, transport_options=options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("queue", "control"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def channel(folder: Path) -> Iterator[Channel]:
    with connection(folder) as opened:
        yield opened.channel()


def test_messages_come_out_in_their_order(channel: Channel) -> None:
    for number in range(3):
        channel._put("one", {"number": number})
        time.sleep(0.002)
    assert [channel._get("one")["number"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Empty):
        channel._get("one")


def test_each_message_goes_to_one_worker_while_others_write(folder: Path) -> None:
    seen: Counter[int] = Counter()
    is_over = threading.Event()
    faults: list[BaseException] = []

    def write(first: int) -> None:
        with connection(folder) as opened:
            for number in range(first, first + MESSAGES):
                opened.channel()._put("one", {"number": number, "pad": "x" * 20_000})

    def read() -> None:
        with connection(folder) as opened:
            channel = opened.channel()
            while True:
                is_last_look = is_over.is_set()
                try:
                    seen[channel._get("one")["number"]] += 1
                except Empty:
                    if is_last_look:
                        return
                except BaseException as error:  # noqa: BLE001 -- whatever ends a worker
                    faults.append(error)
                    return

    readers = [threading.Thread(target=read) for _ in range(3)]
    writers = [threading.Thread(target=write, args=(at * MESSAGES,)) for at in range(2)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    is_over.set()
    for thread in readers:
        thread.join()
    assert faults == []
    assert seen == Counter(range(2 * MESSAGES))


def test_a_damaged_message_is_passed_over_and_told(folder: Path, channel: Channel) -> None:
    (folder / "queue" / "0_half.one.msg").write_text("")
    channel._put("one", {"number": 1})
    with capture_logs() as logs:
        assert channel._get("one") == {"number": 1}
    assert [entry["event"] for entry in logs] == ["broker_file_damaged"]


def test_bindings_of_processes_that_start_together_are_all_kept(folder: Path) -> None:
    def bind(number: int) -> None:
        with connection(folder) as opened:
            opened.channel()._queue_bind("fleet", "key", "", f"queue-{number}")

    threads = [threading.Thread(target=bind, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with connection(folder) as opened:
        bound = {one.queue for one in opened.channel().get_table("fleet")}
    assert bound == {f"queue-{number}" for number in range(12)}


def test_what_the_dead_left_is_swept_and_nothing_else(folder: Path) -> None:
    queue = folder / "queue"
    for name in (".a.part", ".b.taken", "0_c.one.msg"):
        (queue / name).write_text("{}")
        os.utime(queue / name, (0, time.time() - 2 * STALE_S))
    (queue / ".d.taken").write_text("{}")
    assert sweep(queue) == 2
    assert sorted(path.name for path in queue.iterdir()) == [".d.taken", "0_c.one.msg"]
