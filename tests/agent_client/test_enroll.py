from __future__ import annotations

import contextlib
import io
import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent_client import config, enroll, http
from agent_client.contract.dsse import seal
from agent_client.contract.policy_doc import TYPE_ROOT
from agent_client.contract.wire import PATH_DISCOVERY, PATH_ENROLL, PATH_POLICY_ROOT
from agent_client.credential import credential_path, load_credential
from agent_client.enroll import EnrollError, EnrollOptions
from agent_client.http import AddressError, NetworkError
from tests.agent_client.loopback_console import (
    CREDENTIAL,
    ENROLL_TOKEN,
    FLEET_ID,
    POLICY_KEY,
    Fault,
    Json,
    LoopbackConsole,
    root_document,
    sealed_root,
)


@pytest.fixture
def console() -> Iterator[LoopbackConsole]:
    with LoopbackConsole() as running:
        yield running


def refusal(
    home: Path, console: LoopbackConsole, token: str = "", options: EnrollOptions | None = None
) -> str:
    with pytest.raises(EnrollError) as caught:
        enroll.enroll(home, console.url, token or console.enrollment, options=options)
    return caught.value.code


def test_enrolling_keeps_a_private_credential_and_opens_the_push(
    tmp_path: Path, console: LoopbackConsole
) -> None:
    done = enroll.enroll(tmp_path, console.url, console.enrollment)
    kept = load_credential(tmp_path)
    assert kept is not None
    assert (kept.credential, kept.fleet_id, done.group) == (CREDENTIAL, FLEET_ID, "lab")
    assert credential_path(tmp_path).stat().st_mode & 0o777 == 0o600
    settings = config.load(tmp_path)
    assert settings.get("telemetry.export.console.enabled") is True
    assert settings.source("telemetry.export.console.endpoint") == "enroll"


def test_the_request_names_the_install_and_nothing_personal(
    tmp_path: Path, console: LoopbackConsole
) -> None:
    done = enroll.enroll(tmp_path, console.url, console.enrollment)
    body = console.sent(PATH_ENROLL)[0].json()
    assert body["install_id"] == done.install_id
    assert len(str(body["machine_id"])) == 64
    assert set(body) == {
        "install_id",
        "machine_id",
        "agent",
        "host",
        "capabilities",
        "consent_state",
    }


def test_the_users_configuration_is_not_rewritten(tmp_path: Path, console: LoopbackConsole) -> None:
    (tmp_path / "config.yaml").write_text("# mine\nmodel: {default: x}\n")
    enroll.enroll(tmp_path, console.url, console.enrollment)
    assert (tmp_path / "config.yaml").read_text() == "# mine\nmodel: {default: x}\n"


def test_a_users_own_refusal_to_push_survives_enrollment(
    tmp_path: Path, console: LoopbackConsole
) -> None:
    (tmp_path / "config.yaml").write_text("telemetry: {export: {console: {enabled: false}}}\n")
    enroll.enroll(tmp_path, console.url, console.enrollment)
    assert config.load(tmp_path).get("telemetry.export.console.enabled") is False


def test_a_console_with_another_root_never_sees_the_token(
    tmp_path: Path, console: LoopbackConsole
) -> None:
    assert refusal(tmp_path, console, f"{ENROLL_TOKEN}.{'0' * 64}") == "root_mismatch"
    assert console.sent(PATH_ENROLL) == []
    assert not any("authorization" in request.headers for request in console.requests)


def test_a_root_signed_by_another_key_is_refused(tmp_path: Path, console: LoopbackConsole) -> None:
    console.root = seal(TYPE_ROOT, root_document(), [POLICY_KEY])
    assert refusal(tmp_path, console) == "root_mismatch"
    assert console.sent(PATH_ENROLL) == []


def test_a_root_of_another_fleet_than_announced_is_refused(
    tmp_path: Path, console: LoopbackConsole
) -> None:
    console.root = sealed_root(fleet_id="another")
    assert refusal(tmp_path, console) == "fleet_mismatch"


@pytest.mark.parametrize("text", ["", "hfe_x", ENROLL_TOKEN, f"{ENROLL_TOKEN[:-1]}0.{'a' * 64}"])
def test_a_broken_string_is_refused_before_any_request(
    tmp_path: Path, console: LoopbackConsole, text: str
) -> None:
    assert refusal(tmp_path, console, text or "x") == "malformed_token"
    assert console.requests == []


def test_an_approval_is_waited_for_and_its_code_shown(
    tmp_path: Path, console: LoopbackConsole
) -> None:
    console.pending_polls = 2
    seen: list[str] = []
    options = EnrollOptions(on_wait=lambda waiting: seen.append(waiting.user_code))
    enroll.enroll(tmp_path, console.url, console.enrollment, options=options)
    assert seen == ["ABCD-EFGH", "ABCD-EFGH"]


def test_without_waiting_a_pending_approval_ends_the_attempt(
    tmp_path: Path, console: LoopbackConsole
) -> None:
    console.pending_polls = 1
    ticks = iter(range(100))
    options = EnrollOptions(wait_s=0.0, clock_s=lambda: float(next(ticks)))
    assert refusal(tmp_path, console, options=options) == "pending"
    assert not credential_path(tmp_path).exists()


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "token_expired"),
        (403, "token_exhausted"),
        (403, "cidr_denied"),
        (409, "install_exists"),
        (429, "rate_limited"),
    ],
)
def test_a_refusal_carries_its_code_and_a_hint(
    tmp_path: Path, console: LoopbackConsole, status: int, code: str
) -> None:
    console.faults.append(Fault(PATH_ENROLL, "status", status, code))
    with pytest.raises(EnrollError) as caught:
        enroll.enroll(tmp_path, console.url, console.enrollment)
    assert caught.value.code == code
    assert caught.value.hint
    assert not credential_path(tmp_path).exists()


def test_a_new_id_is_minted_on_request(tmp_path: Path, console: LoopbackConsole) -> None:
    before = config.keep_install_id(tmp_path)
    done = enroll.enroll(
        tmp_path, console.url, console.enrollment, options=EnrollOptions(new_id=True)
    )
    assert done.install_id != before


def test_an_enrollment_is_replaced_only_by_force(tmp_path: Path, console: LoopbackConsole) -> None:
    enroll.enroll(tmp_path, console.url, console.enrollment)
    assert refusal(tmp_path, console) == "already_enrolled"
    options = EnrollOptions(force=True)
    enroll.enroll(tmp_path, console.url, console.enrollment, options=options)


def test_an_answer_for_another_install_is_refused(tmp_path: Path, console: LoopbackConsole) -> None:
    reply: Json = {"install_id": "x", "credential": CREDENTIAL, "fleet_id": FLEET_ID}
    console.faults.append(Fault(PATH_ENROLL, "reply", reply=reply))
    assert refusal(tmp_path, console) == "bad_answer"


def test_unenrolling_forgets_the_credential_only(tmp_path: Path, console: LoopbackConsole) -> None:
    install_id = enroll.enroll(tmp_path, console.url, console.enrollment).install_id
    assert enroll.unenroll(tmp_path)
    assert not enroll.unenroll(tmp_path)
    assert config.read_install_id(tmp_path) == install_id
    assert config.load(tmp_path).get("telemetry.export.console.enabled") is False


def test_the_string_comes_from_stdin_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text("from-file\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("from-stdin\n"))
    assert enroll.read_token("-", None, {}) == "from-stdin"
    assert enroll.read_token(None, str(path), {}) == "from-file"
    assert enroll.read_token(None, None, {"HERMES_TELEMETRY_TOKEN_FILE": str(path)}) == "from-file"
    with pytest.raises(EnrollError):
        enroll.read_token(None, None, {})


def test_machine_ids_differ_by_install() -> None:
    assert enroll.machine_id("a") == enroll.machine_id("a")
    assert enroll.machine_id("a") != enroll.machine_id("b")


def test_tokens_reach_neither_log_nor_exception(
    tmp_path: Path, console: LoopbackConsole, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    console.faults.append(Fault(PATH_ENROLL, "drop"))
    with pytest.raises(NetworkError) as caught:
        enroll.enroll(tmp_path, console.url, console.enrollment)
    assert ENROLL_TOKEN not in repr(caught.value) + caplog.text
    assert CREDENTIAL not in repr(load_credential(tmp_path))


# ------------------------------------------------------------------------------------- http


@pytest.mark.parametrize(
    "url",
    [
        "console.example",
        "ftp://console.example",
        "https://",
        "https://user@console.example",
        "https://console.example/?x=1",
        "http://console.example",
        "https://console.example:99999",
        "https://console.example/a b",
    ],
)
def test_an_unsafe_or_broken_address_is_refused(url: str) -> None:
    with pytest.raises(AddressError):
        http.parse_console_url(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://localhost", "https://c.example/f"]
)
def test_loopback_may_be_plain_and_others_are_https(url: str) -> None:
    assert http.parse_console_url(url).hostname


def test_plain_http_elsewhere_needs_the_flag() -> None:
    assert http.parse_console_url("http://console.example", allow_plain_http=True)


def test_a_redirect_is_not_followed(console: LoopbackConsole) -> None:
    headers = {"Location": "https://elsewhere.example/"}
    console.faults.append(Fault(PATH_DISCOVERY, "status", 302, "x", headers))
    with pytest.raises(http.ApiError) as caught:
        http.connect_to(console.url).request("GET", PATH_DISCOVERY, token="secret")
    assert caught.value.code == "redirect"
    assert len(console.requests) == 1


def test_an_answer_that_is_too_large_is_cut(console: LoopbackConsole) -> None:
    with pytest.raises(NetworkError, match="larger"):
        http.connect_to(console.url).request("GET", PATH_POLICY_ROOT, max_bytes=10)


def test_an_answer_that_drips_is_given_up(console: LoopbackConsole) -> None:
    console.faults.append(Fault(PATH_DISCOVERY, "slow"))
    client = replace(http.connect_to(console.url), deadline_s=0.03)
    with pytest.raises(NetworkError, match="in time"):
        client.request("GET", PATH_DISCOVERY)


def test_an_answer_that_drips_its_headers_is_given_up_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            peer, _ = server.accept()
            with peer, contextlib.suppress(OSError):
                for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Slow: 1\r\n" * 200:
                    peer.sendall(bytes([byte]))
                    time.sleep(0.005)

        thread = threading.Thread(target=drip)
        thread.start()
        client = replace(
            http.connect_to(f"http://127.0.0.1:{server.getsockname()[1]}"), deadline_s=0.05
        )
        with pytest.raises(NetworkError, match="in time"):
            client.request("GET", PATH_DISCOVERY)
        thread.join()


def test_a_silent_peer_times_out(console: LoopbackConsole) -> None:
    console.faults.append(Fault(PATH_DISCOVERY, "drop"))
    with pytest.raises(NetworkError):
        http.connect_to(console.url).request("GET", PATH_DISCOVERY)
    console.faults.append(Fault(PATH_DISCOVERY, "slow"))
    with pytest.raises(NetworkError, match="in time"):
        replace(http.connect_to(console.url), timeout_s=0.001).request("GET", PATH_DISCOVERY)


def test_nothing_listening_is_said_plainly() -> None:
    with pytest.raises(NetworkError, match="nothing listens"):
        http.connect_to("http://127.0.0.1:1").request("GET", "/")


def test_a_peers_text_is_made_safe_for_a_terminal() -> None:
    assert http.printable("a\x1b[31mb\nc") == "a [31mb c"
    assert http.printable(7) == ""
    assert len(http.printable("x" * 1000)) == http.MAX_DETAIL_CHARS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5.0), ("", None), ("soon", None), ("-3", None), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
)
def test_retry_after_is_read_in_both_forms(text: str, seconds: float | None) -> None:
    assert http.retry_after_s(text) == seconds


def test_the_environments_proxy_is_used_but_never_for_loopback(
    console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", console.url)
    monkeypatch.delenv("no_proxy", raising=False)
    far = http.parse_console_url("http://console.example", allow_plain_http=True)
    proxy = http.proxy_for(far)
    assert proxy is not None
    assert proxy.hostname == "127.0.0.1"
    assert http.proxy_for(http.parse_console_url("http://127.0.0.1:9")) is None
    monkeypatch.setenv("no_proxy", "console.example")
    assert http.proxy_for(far) is None


def test_a_request_through_a_proxy_names_the_whole_address(
    console: LoopbackConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", console.url.replace("http://", "http://me:pw@"))
    client = http.connect_to("http://console.example", allow_plain_http=True)
    with pytest.raises(http.ApiError):
        client.request("GET", "/x")
    request = console.requests[0]
    assert request.path == "http://console.example/x"
    assert request.headers["host"] == "console.example"
    assert request.headers["proxy-authorization"].startswith("Basic ")
