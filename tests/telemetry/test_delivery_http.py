"""The client: pinned to the address that was checked, bounded in time and size, silent on secrets."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pytest_socket import SocketConnectBlockedError

from telemetry.delivery.guard import check_endpoint
from telemetry.delivery.http import MAX_ANSWER_BYTES, DeliveryError, Limits, Sender, tls_context
from tests.agent_client.test_enroll_tls import certificate
from tests.telemetry.flaky_receiver import FlakyReceiver, Fault, allow_here, receiver

__all__ = ["receiver"]
SHORT = Limits(connect_s=0.5, step_s=0.4, total_s=0.5)


def sender(url: str, **values: Any) -> Sender:  # noqa: ANN401 -- a builder's overrides
    return Sender(check_endpoint(url), {"x-key": "zzTOPsecretzz"}, **values)


def test_a_connection_is_kept_and_opened_again_when_it_died(receiver: FlakyReceiver) -> None:
    with sender(receiver.url) as client:
        for _ in range(3):
            assert client.post("/v1/traces", b"", {}).status == 200
        assert receiver.connection_count == 1
        connection = client._connection
        assert connection is not None
        connection.sock.shutdown(socket.SHUT_RDWR)
        assert client.post("/v1/traces", b"", {}).status == 200
    assert receiver.connection_count == 2
    assert receiver.requests[0].headers["x-key"] == "zzTOPsecretzz"
    assert receiver.requests[0].headers["host"] == f"127.0.0.1:{receiver.port}"


def test_a_name_that_answers_differently_a_moment_later_gains_nothing(
    receiver: FlakyReceiver,
    settings: Any,  # noqa: ANN401 -- pytest-django's
) -> None:
    settings.FLEET_OTLP_HOSTS = []
    answers = [["93.184.215.14"], ["127.0.0.1"]]
    asked: list[str] = []

    def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    url = f"http://rebind.example:{receiver.port}"
    client = sender(url, limits=SHORT, resolve=rebinding)
    # The first answer is public: pinned to it, the connection goes there and nowhere else.
    with pytest.raises(SocketConnectBlockedError, match=r"93\.184\.215\.14"):
        client.post("/v1/traces", b"", {})
    # The second is this machine: refused, not connected to.
    with pytest.raises(DeliveryError, match="this machine itself") as second:
        client.post("/v1/traces", b"", {})
    assert second.value.kind == "refused"
    assert (len(asked), receiver.connection_count) == (2, 0)


def test_one_answer_is_asked_for_once_and_used_for_the_connection(receiver: FlakyReceiver) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    with sender(f"http://collector.example:{receiver.port}", resolve=resolve) as client:
        for _ in range(3):
            assert client.post("/v1/traces", b"", {}).status == 200
    assert asked == ["collector.example"]
    assert receiver.requests[0].headers["host"] == f"collector.example:{receiver.port}"


def test_proxies_of_the_environment_are_not_used(
    receiver: FlakyReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with sender(receiver.url) as client:
        assert client.post("/v1/traces", b"", {}).status == 200


def test_a_redirect_is_an_answer(receiver: FlakyReceiver) -> None:
    receiver.faults = [Fault(status=307, headers=(("Location", receiver.url),))]
    with sender(receiver.url) as client:
        assert client.post("/v1/traces", b"", {}).status == 307
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(hangs=True), "timeout"),
        (Fault(drips=True, body=b"x" * 500), "timeout"),
        (Fault(cut_request=0), "cut"),
        (Fault(loses_answer=True), "cut"),
        (Fault(cut_answer=20), "cut"),
        (Fault(headers=(("Content-Length", "99"),)), "timeout"),
        (Fault(body=b"x" * (MAX_ANSWER_BYTES + 1)), "answer"),
        (Fault(body=b"x", headers=(("Content-Encoding", "br"),)), "answer"),
        (Fault(body=b"no gzip", headers=(("Content-Encoding", "gzip"),)), "answer"),
        (
            Fault(
                body=gzip.compress(bytes(MAX_ANSWER_BYTES + 1)),
                headers=(("Content-Encoding", "gzip"),),
            ),
            "answer",
        ),
        (
            Fault(body=gzip.compress(b"hello" * 99)[:-9], headers=(("Content-Encoding", "gzip"),)),
            "cut",
        ),
    ],
)
def test_a_bad_answer_ends_in_time_and_in_words(
    receiver: FlakyReceiver, fault: Fault, kind: str
) -> None:
    receiver.faults = [fault]
    client = sender(receiver.url, limits=SHORT)
    began_s = time.monotonic()
    with pytest.raises(DeliveryError) as failed:
        client.post("/v1/traces", b"", {})
    assert failed.value.kind == kind
    assert "zzTOP" not in str(failed.value)
    assert time.monotonic() - began_s < 10
    receiver.release()


@pytest.mark.parametrize(
    ("packed", "name"),
    [(gzip.compress(b"hi"), "gzip"), (zlib.compress(b"hi"), "deflate"), (b"hi", "identity")],
)
def test_a_compressed_answer_is_read(receiver: FlakyReceiver, packed: bytes, name: str) -> None:
    receiver.faults = [Fault(body=packed, headers=(("Content-Encoding", name),))]
    with sender(receiver.url) as client:
        assert client.post("/v1/traces", b"", {}).body == b"hi"


def test_an_early_refusal_is_heard(receiver: FlakyReceiver) -> None:
    receiver.faults = [Fault(status=413, early=True)]
    with sender(receiver.url) as client:
        assert client.post("/v1/traces", b"x" * 200, {}).status == 413
        assert client.post("/v1/traces", b"", {}).status == 200


def test_a_peer_that_does_not_read_meets_the_deadline(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    allow_here(settings)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = sender(f"http://127.0.0.1:{server.getsockname()[1]}", limits=SHORT)
        with pytest.raises(DeliveryError) as failed:
            client.post("/v1/traces", bytes(64 * 1024**2), {})
    assert failed.value.kind == "timeout"


def test_nothing_listening_is_said(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    allow_here(settings)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DeliveryError, match="Nothing listens"):
        sender(f"http://127.0.0.1:{port}").post("/v1/traces", b"", {})


@pytest.fixture
def secure(tmp_path: Path, settings: Any) -> Iterator[tuple[int, Path, list[str]]]:  # noqa: ANN401 -- pytest-django's
    """The port of a TLS server for 127.0.0.1, its certificate, and the names it was asked for."""
    allow_here(settings)
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    names: list[str] = []
    context.sni_callback = lambda _sock, name, _context: names.append(str(name))
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = server.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as peer:
                    while b"\r\n\r\n" not in peer.recv(65_536):
                        pass
                    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            except OSError:
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1], path, names
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(10)


def test_tls_is_checked_against_the_name_and_the_authorities(
    secure: tuple[int, Path, list[str]],
    settings: Any,  # noqa: ANN401 -- pytest-django's
) -> None:
    port, path, names = secure
    with pytest.raises(DeliveryError, match="FLEET_OTLP_CA_FILE") as unknown:
        sender(f"https://127.0.0.1:{port}").post("/v1/traces", b"", {})
    assert unknown.value.kind == "tls"
    tls_context.cache_clear()
    settings.FLEET_OTLP_CA_FILE = str(path)
    with sender(f"https://127.0.0.1:{port}") as client:
        assert client.post("/v1/traces", b"", {}).status == 200
    # Another name for the same address: its SNI is sent, and the certificate is not for it.
    with pytest.raises(DeliveryError, match="is not valid for it") as other:
        sender(f"https://collector.example:{port}", resolve=lambda host, port: ["127.0.0.1"]).post(
            "/v1/traces", b"", {}
        )
    assert other.value.kind == "tls"
    assert "collector.example" in names


def test_plain_http_behind_an_https_address_is_said(receiver: FlakyReceiver) -> None:
    with pytest.raises(DeliveryError) as failed:
        sender(receiver.url.replace("http:", "https:"), limits=SHORT).post("/v1/traces", b"", {})
    assert failed.value.kind in {"tls", "timeout", "cut"}
