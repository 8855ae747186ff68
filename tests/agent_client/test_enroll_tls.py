"""TLS as it is: an unknown certificate is refused, a known one is not, a proxy only tunnels."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent_client import http
from agent_client.contract.wire import PATH_DISCOVERY
from agent_client.http import NetworkError
from tests.agent_client.loopback_console import LoopbackConsole


def certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(addresses, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "cert.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An https console's address and its certificate."""
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    console = LoopbackConsole()
    console._server.handle_error = lambda *_args: None  # type: ignore[method-assign]  # refused handshakes are expected
    console._server.socket = context.wrap_socket(console._server.socket, server_side=True)
    with console:
        yield console.url.replace("http://", "https://"), path


def test_an_unknown_certificate_is_refused(secure: tuple[str, Path]) -> None:
    with pytest.raises(NetworkError):
        http.connect_to(secure[0]).request("GET", PATH_DISCOVERY)


def test_a_certificate_named_by_the_environment_is_accepted(
    secure: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(secure[1]))
    answer = http.connect_to(secure[0]).request("GET", PATH_DISCOVERY)
    assert answer.json()["fleet_id"]


def test_a_certificate_for_another_name_is_refused(
    secure: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(secure[1]))
    with pytest.raises(NetworkError):
        http.connect_to(secure[0].replace("127.0.0.1", "localhost")).request("GET", "/")


def test_through_a_proxy_https_is_tunnelled_and_the_token_stays_inside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        with pytest.raises(NetworkError):
            http.connect_to("https://console.example").request("GET", "/", token="hfa_secret")
        thread.join(5)
    assert seen[0].startswith(b"CONNECT console.example:443 ")
    assert b"hfa_secret" not in seen[0]
