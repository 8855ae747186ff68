"""PostgreSQL stopped at once under load, and its disk full: nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from uuid import uuid4

import pytest

from tests.faults import raw, served
from tests.faults.books import read_books
from tests.faults.jobs import Job, jobs_process
from tests.faults.servers import Cluster, can_mount, full
from tests.telemetry import builders as make

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.timeout(served.PATIENCE_S),
]
ROWS = 5


class Own:
    """A console on a cluster of its own."""

    def __init__(self, cluster: Cluster, console: served.Served, tokens: list[str]) -> None:
        self.cluster, self.url, self.tokens = cluster, console.url, tokens


@contextlib.contextmanager
def own_console(folder: Path, *, disk_mb: int = 0) -> Iterator[Own]:
    with contextlib.ExitStack() as stack:
        cluster = Cluster(stack, disk_mb=disk_mb)
        cluster.start()
        environ = {"DATABASE_URL": cluster.url, "FLEET_HOME": str(folder / "home")}
        whole = served.console_environment(**environ)
        tokens = folder / "tokens"
        with jobs_process(whole) as jobs:
            assert jobs.run(Job("migrate")) == [0]
            assert jobs.run(Job("credentials", (str(tokens), "4"))) == [0]
        console = stack.enter_context(served.serve(folder, environ=environ))
        yield Own(cluster, console, tokens.read_text().split())


def batch(number: int) -> bytes:
    return make.ndjson(*(make.tool_call(ROWS * number + at) for at in range(ROWS)))


def check_row_count(own: Own, count: int) -> None:
    books = read_books(own.cluster.ask)
    found = (books.inserted, books.row_count, books.intake, books.received, books.duplicate)
    assert found == (count, count, count, count, 0)


def wait_for_more(answers: Counter[int], status: int, count: int) -> None:
    """Wait for so many more answers of a status."""
    known = answers[status]
    served.wait_until(lambda: answers[status] > known + count)


def test_an_immediate_stop_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with own_console(tmp_path) as own:
        is_over, answers = Event(), Counter[int]()

        def push_meanwhile(token: str) -> int:
            """Batches until the end is called; how many were acknowledged."""
            count = 0
            while not is_over.is_set():
                batch_id = uuid4()
                for _ in range(10_000):
                    answer = raw.push(own.url, token, batch(count), batch_id)
                    answers[answer.status] += 1
                    if answer.status == 200:
                        break
                    assert answer.code == "unavailable"
                    time.sleep(0.02)
                count += 1
            return count

        with ThreadPoolExecutor(len(own.tokens)) as pool:
            pushes = [pool.submit(push_meanwhile, token) for token in own.tokens]
            try:
                for _ in range(2):
                    wait_for_more(answers, 200, 20)
                    own.cluster.stop_immediately()
                    wait_for_more(answers, 503, 5)
                    own.cluster.start()
            finally:
                is_over.set()
            acknowledged = sum(push.result() for push in pushes)
        assert set(answers) == {200, 503}
        check_row_count(own, ROWS * acknowledged)


@pytest.mark.skipif(not can_mount(), reason="no mount namespaces for this user")
def test_a_full_disk_refuses_for_now_and_loses_nothing(tmp_path: Path) -> None:
    with own_console(tmp_path, disk_mb=160) as own:
        token, count = own.tokens[0], 0
        refused: list[tuple[bytes, object]] = []
        for _ in range(3):
            assert raw.push(own.url, token, batch(count), uuid4()).status == 200
            count += 1
        with full(own.cluster.seen_data()):
            while not refused:
                wide = [
                    make.span(1000 * count + at, attrs_json="x" * 16_000, run_id=f"r{count}")
                    for at in range(200)
                ]
                body, batch_id = make.ndjson(*wide), uuid4()
                answer = raw.push(own.url, token, body, batch_id)
                if answer.status == 200:
                    count += len(wide) // ROWS
                    continue
                assert (answer.status, answer.code) == (503, "unavailable")
                refused.append((body, batch_id))
            assert raw.push(own.url, token, *refused[0]).status == 503
        assert "No space left on device" in own.cluster.log_text()
        assert raw.push(own.url, token, *refused[0]).status == 200
        check_row_count(own, ROWS * count + 200)
