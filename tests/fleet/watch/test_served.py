"""A real web server: polls from memory that see changes, counts of all workers, a graceful end."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from fleet.enroll import revoke_install
from fleet.lib.clock import now
from fleet.models import Install, InstallCredential
from telemetry.models import IngestBatch, ToolCall
from tests.builders import enroll_one, make_pin, publish
from tests.faults import raw, served
from tests.telemetry import builders as make

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    pytest.mark.timeout(served.PATIENCE_S),
]
POLL = "/api/v1/policy/assignment"
DRAIN_S = 4
FROM_MEMORY = r'fleet_policy_polls_total\{by="memory",status="304"\} (\S+)'


@pytest.fixture
def console(tmp_path: Path) -> Iterator[served.Served]:
    make_pin()
    publish()
    environ = {"FLEET_DRAIN_S": str(DRAIN_S), "FLEET_POLL_CACHE_S": "30"}
    with served.serve(tmp_path, worker_count=2, environ=environ) as console:
        yield console


def poll(url: str, token: str, etag: str = "") -> raw.Answer:
    headers = {"Authorization": f"Bearer {token}", "If-None-Match": f'"{etag}"'}
    return raw.request(url, method="GET", path=POLL, headers=headers)


def scraped(url: str, pattern: str) -> float:
    text = raw.request(url, method="GET", path="/metrics").body.decode()
    found = re.search(pattern, text)
    return float(found[1]) if found else 0.0


def learn(console: served.Served, token: str) -> str:
    """Poll until both workers answer from memory; the tag."""
    etag = poll(console.url, token).headers["etag"].strip('"')

    def is_learnt() -> bool:
        before = scraped(console.url, FROM_MEMORY)
        assert {poll(console.url, token, etag).status for _index in range(8)} == {304}
        return scraped(console.url, FROM_MEMORY) == before + 8

    served.wait_until(is_learnt, console.log_text)
    return etag


def test_memory_answers_until_something_changes(console: served.Served) -> None:
    install, token = enroll_one()
    etag = learn(console, token)
    make_pin("telemetry.retention_days", 30)
    publish()
    published_s = time.monotonic()
    served.wait_until(
        lambda: {poll(console.url, token, etag).status for _index in range(8)} == {200},
        console.log_text,
        timeout_s=60,
    )
    etag = learn(console, token)
    revoke_install(install, actor="op")
    revoked_s = time.monotonic()
    served.wait_until(
        lambda: {poll(console.url, token, etag).status for _index in range(8)} == {401},
        console.log_text,
        timeout_s=60,
    )
    assert time.monotonic() - revoked_s < 60
    assert revoked_s > published_s


def test_a_kept_connection_is_kept_and_a_body_is_never_the_next_request(
    console: served.Served,
) -> None:
    _install, token = enroll_one()
    etag = learn(console, token)
    head = (
        f"GET {POLL} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f'If-None-Match: "{etag}"\r\n'
    )
    smuggled = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with_body = f"{head}Content-Length: {len(smuggled)}\r\n\r\n".encode() + smuggled
    last = f"{head}Connection: close\r\n\r\n".encode()
    answer = raw.exchange(
        console.url, f"{head}\r\n".encode() * 3 + with_body + last, is_ended=False
    )
    assert answer.count(b"HTTP/1.1 304 Not Modified") == 5
    assert answer.count(b"HTTP/1.1 ") == 5


def test_who_was_seen_is_written_when_the_process_ends(console: served.Served) -> None:
    install, token = enroll_one()
    etag = learn(console, token)
    long_ago = now() - timedelta(hours=2)
    Install.objects.filter(pk=install.pk).update(last_seen_at=long_ago)
    other, other_token = enroll_one()
    etag = learn(console, other_token)
    Install.objects.filter(pk=other.pk).update(last_seen_at=long_ago)
    poll(console.url, other_token, etag)
    stop(console)
    assert not InstallCredential.objects.filter(install=other, last_used_at=None).exists()
    assert "Traceback" not in console.log_text()


def stop(console: served.Served) -> None:
    console.process.terminate()
    assert console.process.wait(30) == 0


def connected(console: served.Served) -> socket.socket:
    parts = urlsplit(console.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def test_told_to_stop_it_says_not_ready_takes_what_comes_and_finishes_what_it_began(
    console: served.Served,
) -> None:
    token = raw.credential_of()
    rows = [make.tool_call(seq, start_ns=make.recent_ns(3600)) for seq in range(1, 2001)]
    body = make.ndjson(*rows)
    batch_id = uuid4()
    data = raw.raw_request(raw.push_headers(token, batch_id), body)
    half = len(data) // 2
    assert raw.request(console.url, method="GET", path="/readyz").status == 200
    with connected(console) as begun:
        begun.sendall(data[:half])
        console.process.terminate()
        served.wait_until(lambda: readiness(console.url) == 503, console.log_text, timeout_s=10)
        answer = raw.push(console.url, token, make.ndjson(make.tool_call(9001)))
        assert answer.status == 200  # a load balancer that has not looked yet
        begun.sendall(data[half:])
        received = b""
        while piece := begun.recv(65_536):
            received += piece
    assert raw.status_of(received) == 200
    assert console.process.wait(30) == 0
    assert IngestBatch.objects.get(batch_id=batch_id).received_count == 2000
    assert ToolCall.objects.count() == 2001
    assert "Traceback" not in console.log_text()


def readiness(url: str) -> int:
    with contextlib.suppress(OSError):
        return raw.request(url, method="GET", path="/readyz").status
    return 0
