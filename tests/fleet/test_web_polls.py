"""Polls answered by the thread that waits for all connections: only what gunicorn reads alike."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract.wire import PATH_POLICY_ASSIGNMENT as PATH
from agent_client.http import connect_to
from fleet.enroll import revoke_install
from fleet.models import Install, SyncState
from fleet.web_polls import poll_in, stays
from fleet.web_worker import PatientWorker
from tests.builders import enroll_one, make_pin, publish
from tests.faults import served

TOKEN = "hfa_" + "k" * 12 + "_" + "s" * 43
FIELDS = {
    "Host": "fleet.example.org",
    "Authorization": f"Bearer {TOKEN}",
    "If-None-Match": '"abc"',
    "User-Agent": "hermes-fleet-agent/0.1.0",
}


def poll_bytes(line: str = f"GET {PATH} HTTP/1.1", **more: str) -> bytes:
    fields = FIELDS | {name.replace("_", "-"): value for name, value in more.items()}
    lines = [line, *(f"{name}: {value}" for name, value in fields.items() if value)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def test_what_our_agent_sends_is_read() -> None:
    """The bytes of the agent's own client, as they come out of its socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as agent:
        client = connect_to(f"http://127.0.0.1:{listener.getsockname()[1]}")
        tag = {"If-None-Match": '"abc"'}
        polling = agent.submit(client.request, "GET", PATH, token=TOKEN, headers=tag)
        accepted, _address = listener.accept()
        with accepted:
            environ = poll_in(accepted.recv(65_536), "127.0.0.1")
            accepted.sendall(b"HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n")
        assert polling.result().status == 304
    assert environ is not None
    assert not stays(environ)
    assert environ["HTTP_AUTHORIZATION"] == f"Bearer {TOKEN}"


def test_what_a_front_adds_is_read() -> None:
    data = poll_bytes(X_Forwarded_For="203.0.113.7", X_Forwarded_Proto="https")
    environ = poll_in(data, "10.0.0.1")
    assert environ is not None
    assert stays(environ)
    assert environ["HTTP_X_FORWARDED_FOR"] == "203.0.113.7"
    assert environ["REMOTE_ADDR"] == "10.0.0.1"


@pytest.mark.parametrize(
    "data",
    [
        poll_bytes(f"POST {PATH} HTTP/1.1"),
        poll_bytes(f"GET {PATH} HTTP/1.0"),
        poll_bytes(f"GET {PATH}?x=1 HTTP/1.1"),
        poll_bytes(f"GET  {PATH} HTTP/1.1"),
        poll_bytes(f"GET http://evil{PATH} HTTP/1.1"),
        poll_bytes(Content_Length="5"),
        poll_bytes(Transfer_Encoding="chunked"),
        poll_bytes(Expect="100-continue"),
        poll_bytes(Upgrade="h2c"),
        poll_bytes(Connection="upgrade"),
        poll_bytes(Host=""),
        poll_bytes(Range="bytes=0-"),
        poll_bytes(Via="a\x00b"),
        poll_bytes(Via="a\nb"),
        poll_bytes(Via="a\r\n folded"),
        poll_bytes(Via="\xe4"),
        poll_bytes().replace(b"Host:", b"Host :"),
        poll_bytes().replace(b"User-Agent", b"User_Agent"),
        poll_bytes().replace(b"User-Agent", b"host"),
        poll_bytes()[:-1],
        poll_bytes() + b"G",
        poll_bytes() * 2,
        b"",
    ],
    ids=lambda data: repr(data[:30] + b".." + data[-30:]),
)
def test_what_may_mean_something_else_is_left_to_gunicorn(data: bytes) -> None:
    assert poll_in(data, "127.0.0.1") is None


@given(
    at=st.integers(0, len(poll_bytes())),
    gone=st.integers(0, 3),
    put=st.sampled_from(
        [b"", b" ", b"\t", b"\r\n", b"\n", b"\r", b":", b"\0", b"a", b"_", b"\xff", b"Via: x\r\n"]
    ),
)
def test_whatever_is_read_gunicorn_reads_the_same(at: int, gone: int, put: bytes) -> None:
    data = poll_bytes()
    data = data[:at] + put + data[at + gone :]
    environ = poll_in(data, "127.0.0.1")
    if environ is None:
        return
    parser = RequestParser(Config(), iter([data]), ("127.0.0.1", 1))
    request = next(parser)
    assert (request.method, request.path, request.query) == ("GET", PATH, "")
    assert request.version == (1, 1)
    theirs = {f"HTTP_{name.replace('-', '_')}": value for name, value in request.headers}
    assert {name: value for name, value in environ.items() if name.startswith("HTTP_")} == theirs
    assert len(theirs) == len(request.headers)
    assert request.body.read() == b""
    assert request.should_close() is not stays(environ)


def fail(_environ: object) -> None:
    raise ValueError


def test_a_fault_in_the_look_up_leaves_the_request_unread_for_a_thread_of_its_own() -> None:
    """The thread that waits for all connections must outlive whatever one of them brings."""
    worker = object.__new__(PatientWorker)
    worker.cfg, worker.alive, worker.log = Config(), True, logging.getLogger("tests.web")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(poll_bytes())
        conn = TConn(worker.cfg, ours, ("127.0.0.1", 1), ("127.0.0.1", 2))
        worker._headers_of_304 = fail
        assert worker._answer_poll(conn, may_stay=True) is None
        assert ours.recv(4096) == poll_bytes()
        theirs.sendall(poll_bytes())
        worker._headers_of_304 = lambda _environ: [("ETag", '"abc"')]
        assert worker._answer_poll(conn, may_stay=False) is False
        assert b'ETag: "abc"\r\nConnection: close' in theirs.recv(4096)


# ------------------------------------------------------------------------------ on a real server


class Line:
    """A connection to the console, and what comes back over it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.plain = socket.create_connection((parts.hostname, parts.port), timeout=10)
        self.rest = b""

    def ask(self, data: bytes) -> bytes:
        """The head of the next answer."""
        self.plain.sendall(data)
        return self.next()

    def next(self) -> bytes:
        while b"\r\n\r\n" not in self.rest:
            piece = self.plain.recv(65_536)
            if not piece:
                return b""
            self.rest += piece
        head, _end, self.rest = self.rest.partition(b"\r\n\r\n")
        return head

    def close(self) -> None:
        self.plain.close()


def ask_once(url: str, data: bytes) -> bytes:
    """The head of the answer to the first request of a connection."""
    with closing(Line(url)) as line:
        return line.ask(data)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[served.Served]:
    with served.serve(tmp_path, worker_count=1) as console:
        yield console


def known(console: served.Served) -> tuple[Install, dict[str, str]]:
    """An install whose polls are answered from memory, and the headers of its poll."""
    make_pin()
    publish()
    install, credential = enroll_one()
    Install.objects.update(sync_state=SyncState.IN_SYNC)
    sent = {"Authorization": f"Bearer {credential}", "Host": "127.0.0.1", "Connection": "close"}
    head = ask_once(console.url, poll_bytes(**sent))
    (etag,) = (line[6:] for line in head.decode().split("\r\n") if line.startswith("ETag: "))
    del sent["Connection"]
    sent["If_None_Match"] = etag
    served.wait_until(lambda: is_quick(ask_once(console.url, poll_bytes(**sent))), console.log_text)
    return install, sent


def is_quick(head: bytes) -> bool:
    """Whether nothing of Django was in the way: it sets more headers than these."""
    return head.startswith(b"HTTP/1.1 304") and b"X-Content-Type-Options" not in head


@pytest.mark.django_db(transaction=True)
@pytest.mark.both_engines
@pytest.mark.slow
@pytest.mark.timeout(served.PATIENCE_S)
def test_a_connection_serves_polls_and_everything_else_in_any_order(
    console: served.Served,
) -> None:
    install, sent = known(console)
    poll = poll_bytes(**sent)
    health = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with closing(Line(console.url)) as line, closing(Line(console.url)) as other:
        for _ in range(3):
            assert is_quick(line.ask(poll))
        line.plain.sendall(poll[:40])  # in two pieces: gunicorn waits for the rest
        assert line.ask(poll[40:]).startswith(b"HTTP/1.1 304")
        line.plain.sendall(poll + poll)  # two at once are gunicorn's too
        assert line.next().startswith(b"HTTP/1.1 304")
        assert line.next().startswith(b"HTTP/1.1 304")
        assert is_quick(line.ask(poll))
        assert is_quick(other.ask(poll))
        assert other.ask(health).startswith(b"HTTP/1.1 200")
        last = line.ask(poll_bytes(**sent, Connection="close"))
        assert is_quick(last)
        assert b"Connection: close" in last
        assert line.next() == b"", "closed, as it was asked to"
    revoke_install(install, actor="tester")
    served.wait_until(
        lambda: ask_once(console.url, poll).startswith(b"HTTP/1.1 401"), console.log_text
    )
    assert "Traceback" not in console.log_text()
