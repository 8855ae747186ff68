"""Erasing while the install pushes, and while the eraser is killed: nothing comes back."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from django.db import connection, connections

from fleet.enroll import erasure
from fleet.models import Erasure, Install
from telemetry.ingest.decode import IngestError
from telemetry.models import Run, TouchedHour
from telemetry.rollup.fill import fill_pending
from telemetry.store import erase
from telemetry.store.erase import count_rows, erase_install, resume_erasures
from telemetry.store.partitions import ensure_partitions
from tests import builders as fleet
from tests.telemetry import builders as make
from tests.telemetry import content_rows as content

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.postgres]
OTHER = UUID("01890000-0000-7000-8000-000000000002")


def left(install_id: UUID = make.INSTALL) -> dict[str, int]:
    return {table: count for table, count in count_rows(install_id).items() if count}


def push_until_refused(number: int, started: threading.Barrier) -> int:
    """Rows that one thread got in before the tombstone."""
    started.wait()
    seq = 0
    try:
        for seq in range(1, 200):
            name = f"{number}-{seq}"
            make.push(make.run(seq, run_id=name), make.error(seq, span_id=name))
            content.push(content.message(number * 1000 + seq))
    except IngestError as error:
        if error.code != "install_erased":
            raise
        return seq
    finally:
        connections.close_all()
    raise AssertionError("never refused")


def test_pushes_in_parallel_leave_nothing_behind() -> None:
    fleet.make_install(install_id=make.INSTALL)
    make.push(make.run(), install_id=OTHER)
    content.push(content.message(1))
    threads = 3
    started = threading.Barrier(threads + 1)
    with ThreadPoolExecutor(threads) as pool:
        pushes = [pool.submit(push_until_refused, at, started) for at in range(threads)]
        started.wait()
        while Run.objects.filter(install_id=make.INSTALL).count() < 5:
            time.sleep(0.01)
        done = erase_install(make.INSTALL, actor="operator", reason="test")
        assert all(one.result() > 1 for one in pushes)
    assert done.is_done
    assert left() == {}
    assert not Install.objects.filter(pk=make.INSTALL).exists()
    assert Run.objects.get().install_id == OTHER


def test_two_erasers_do_the_work_once() -> None:
    fleet.make_install(install_id=make.INSTALL)
    make.push(*make.one_of_each())

    def work(_number: int) -> str:
        try:
            return erase_install(make.INSTALL, actor="operator", reason="test").state
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        states = list(pool.map(work, range(4)))
    assert Erasure.State.DONE in states
    assert Erasure.objects.get().is_done
    assert left() == {}


@pytest.mark.parametrize(
    "point", ["in tombstone", "tombstone", "counted", "in day", "day", "in others", "in finish"]
)
def test_an_eraser_killed_at_a_point_is_followed_by_one_that_finishes(
    monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    fleet.make_install(install_id=make.INSTALL)
    make.push(*make.one_of_each(), make.run(40, run_id="y", start_ns=make.recent_ns(90_000)))
    content.push(content.session(), content.message())
    make.push(make.run(), install_id=OTHER)
    fill_pending()
    before = left()
    connections.close_all()
    child = os.fork()
    if child == 0:  # pragma: no cover -- it dies
        _erase_and_die(monkeypatch, point)
    _pid, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    if point != "in tombstone":
        with pytest.raises(IngestError):
            make.push(make.run(77, run_id="late"))
        assert resume_erasures() == 1
    else:
        assert left() == before
        erase_install(make.INSTALL, actor="operator", reason="test")
    done = Erasure.objects.get()
    assert done.is_done
    assert (done.counts_before or {}).items() >= before.items()
    assert left() == {}
    assert TouchedHour.objects.filter(batch_id=None).count() >= 2
    assert Run.objects.get().install_id == OTHER


def _erase_and_die(monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """SIGKILL at a point between two commits, or in the middle of a transaction."""

    def die(*_: object, **__: object) -> None:
        connection.connection.execute("SELECT 1")  # what it did so far has reached the server
        os.kill(os.getpid(), signal.SIGKILL)

    inside = {
        "in tombstone": (erasure.__dict__, "record_change"),
        "in day": (erase.__dict__, "_seconds"),
        "in others": (erase.__dict__, "restore_first_seen"),
        "in finish": (erasure.__dict__, "seal_report"),
    }
    try:
        if point in inside:
            names, name = inside[point]
            monkeypatch.setitem(names, name, die)
        else:
            monkeypatch.setattr(
                erase, "_reached", lambda at: die() if at.startswith(point) else None
            )
        erase_install(make.INSTALL, actor="operator", reason="test")
    finally:
        os._exit(1)


def test_an_enrollment_and_an_erasure_at_once_never_leave_an_install() -> None:
    ensure_partitions(set())
    for _round in range(5):
        install, _credential = fleet.enroll_one()
        started = threading.Barrier(2)

        def enroll(install_id: UUID = install.pk, started: threading.Barrier = started) -> None:
            from fleet.enroll import EnrollRefused

            try:
                started.wait()
                fleet.enroll_one(install_id=install_id)
            except EnrollRefused as refused:
                # Forbidden: it looked when the install was revoked and no tombstone stood yet.
                if refused.code not in {"install_erased", "forbidden"}:
                    raise
            finally:
                connections.close_all()

        thread = threading.Thread(target=enroll)
        thread.start()
        started.wait()
        erase_install(install.pk, actor="operator", reason="test")
        thread.join()
        assert not Install.objects.filter(pk=install.pk).exists()
