"""nginx and Caddy as shipped: valid, and doing to a request what their comments say."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent_client.contract.wire import MAX_BODY_BYTES, PROBLEM_CODES, PROBLEM_TYPE_BASE
from fleet import web_conf
from tests.deploy import fronts
from tests.deploy.fronts import Front

pytestmark = pytest.mark.checker
LIES = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "gopher",
    "X-Forwarded-Host": "evil.example",
    "Forwarded": "for=203.0.113.9",
}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A short path: a Unix socket's name has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="front-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def shown(request: pytest.FixtureRequest, place: Path) -> Iterator[Front]:
    """A front before a mirror."""
    folder = place / request.param
    folder.mkdir()
    with (
        fronts.mirror(folder / "web.sock"),
        fronts.front(request.param, folder, folder / "web.sock") as made,
    ):
        yield made


@pytest.fixture(scope="module")
def nginx(place: Path) -> Iterator[Front]:
    folder = place / "limits"
    folder.mkdir()
    with (
        fronts.mirror(folder / "web.sock"),
        fronts.front("nginx", folder, folder / "web.sock") as made,
    ):
        yield made


def seen(body: bytes) -> dict[str, str]:
    """What the mirror was told, names in small letters."""
    found = re.findall(rb"^([\w-]+)(?:: |=)(.*)$", body, re.MULTILINE)
    return {name.decode().lower(): value.decode().strip() for name, value in found}


def test_nginx_finds_its_file_valid(tmp_path: Path) -> None:
    fronts.make_certificate(tmp_path)
    main = fronts.write_nginx(tmp_path, "unix:/run/x.sock", 8443, 8080, 9180)
    done = subprocess.run(
        [fronts.nginx(), "-t", "-p", tmp_path, "-c", main],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[warn]" not in done.stderr


def test_gixy_finds_nothing_dangerous() -> None:
    gixy = Path(sys.executable).with_name("gixy")
    done = subprocess.run(
        [gixy, "--format", "json", fronts.NGINX_SITE], capture_output=True, text=True, check=False
    )
    assert (json.loads(done.stdout), done.returncode) == ([], 0)


def test_caddy_finds_its_file_valid_and_well_formed(tmp_path: Path) -> None:
    shutil.copyfile(fronts.CADDYFILE, tmp_path / "Caddyfile")
    for words in (["validate"], ["fmt", "--diff"]):
        done = subprocess.run(
            [
                fronts.caddy(),
                *words,
                *(["--config"] if words == ["validate"] else []),
                tmp_path / "Caddyfile",
            ],
            capture_output=True,
            text=True,
            check=False,
            env={"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr + done.stdout


def test_what_a_caller_claims_about_itself_is_not_passed_on(shown: Front) -> None:
    told = seen(shown.ask("GET", "/", headers=LIES)[2])
    assert told["x-forwarded-for"] == "127.0.0.1"
    assert told["x-forwarded-proto"] == "https"
    assert told["host"].split(":")[0] == "localhost"
    assert not {"x-forwarded-host", "forwarded"} & {
        name for name, said in told.items() if said in LIES.values()
    }


def test_a_whole_batch_goes_through_and_a_flood_of_bytes_does_not(shown: Front) -> None:
    status, _headers, body = shown.ask("POST", "/api/v1/telemetry", b"x" * (MAX_BODY_BYTES + 1))
    assert (status, seen(body)["body"]) == (200, str(MAX_BODY_BYTES + 1))
    try:
        status = shown.ask("POST", "/api/v1/telemetry", b"x" * (10 * 1024 * 1024))[0]
    except (BrokenPipeError, ConnectionError, ssl.SSLError):
        status = 413  # refused by its length, and hung up on while it was still sending
    assert status == 413


@pytest.mark.parametrize("path", ["/metrics", "/readyz"])
def test_what_is_for_the_inside_is_not_shown_outside(shown: Front, path: str) -> None:
    assert shown.ask("GET", path)[0] == 404
    assert shown.ask("GET", f"/static/..{path}")[0] == 404
    status, body = shown.ask_inside(path)
    assert (status, seen(body)["x-forwarded-for"]) == (200, "127.0.0.1")


@pytest.mark.parametrize("path", ["/", "/login/", "/api/v1/telemetry", "/metrics/"])
def test_nothing_else_is_shown_inside(shown: Front, path: str) -> None:
    """There is no TLS and no limit on that port."""
    assert shown.ask_inside(path)[0] == 404


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
def test_a_console_that_is_away_is_said_in_words_an_agent_understands(
    kind: str, place: Path
) -> None:
    with fronts.front(kind, place / f"away-{kind}", place / "nobody.sock") as made:
        status, headers, body = made.ask("POST", "/api/v1/telemetry", b"x")
    said = json.loads(body)
    assert status == said["status"] == PROBLEM_CODES[said["code"]][0] == 503
    assert said["type"] == PROBLEM_TYPE_BASE + said["code"]
    assert headers["content-type"] == "application/problem+json"
    assert int(headers["retry-after"]) > 0


def flood(front: Front, source: str, count: int) -> bytes:
    """As many requests as go into one connection, without waiting for an answer; what came back."""
    context = ssl.create_default_context(cafile=str(front.certificate))
    head = f"GET / HTTP/1.1\r\nHost: {fronts.NAME}\r\n"
    last = f"{head}Connection: close\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", front.port), 60, (source, 0)) as plain,
        context.wrap_socket(plain, server_hostname=fronts.NAME) as secure,
    ):
        secure.sendall(f"{head}\r\n".encode() * (count - 1) + last.encode())
        pieces = []
        while piece := secure.recv(65_536):
            pieces.append(piece)
    return b"".join(pieces)


def test_one_flooder_is_stopped_and_nobody_else_notices(nginx: Front) -> None:
    """From two addresses of this machine; the flooder's refusals are what an agent understands."""
    with ThreadPoolExecutor(8) as pool:
        floods = [pool.submit(flood, nginx, "127.0.0.2", 400) for _index in range(8)]
        others = [nginx.ask("GET", "/", source="127.0.0.3")[0] for _index in range(20)]
        answers = b"".join(each.result() for each in floods)
    assert set(others) == {200}
    assert answers.count(b"HTTP/1.1 200 ") >= 200
    assert answers.count(b"HTTP/1.1 429 ") > 200
    assert answers.count(b"HTTP/1.1 ") == 8 * 400
    refused = answers[answers.index(b"HTTP/1.1 429 ") :]
    assert re.search(rb"Retry-After: [1-9]", refused.partition(b"HTTP/1.1 ")[2])
    assert b'"code":"rate_limited"' in refused


def test_plain_http_is_sent_to_tls(nginx: Front) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", nginx.plain_port, timeout=10)
    connection.request("GET", "/x?y=1", headers={"Host": fronts.NAME})
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Location")) == (301, f"https://{fronts.NAME}/x?y=1")
    connection.close()


def test_who_does_not_know_the_name_gets_no_certificate(nginx: Front) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", nginx.port), 10) as plain,
        pytest.raises(ssl.SSLError),
        context.wrap_socket(plain, server_hostname="other.example"),
    ):
        pass


@pytest.mark.parametrize("path", [fronts.NGINX_SITE, fronts.CADDYFILE], ids=lambda path: path.name)
def test_a_front_lets_go_of_a_connection_before_gunicorn_does(path: Path) -> None:
    """The other way round a request is now and then sent into a connection that is closing."""
    found = re.search(r"^\s+keepalive(?:_timeout)? (\d+)s;?$", path.read_text(), re.MULTILINE)
    assert found is not None
    assert int(found[1]) < web_conf.keepalive
