"""No verb shows the value of a secret: canaries in every place a verb can reach."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import random
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_client import cli
from agent_client.cli.shown import shown_url, shown_value
from agent_client.contract.policy_keys import TELEMETRY_KEYS
from agent_client.contract.wire import PATH_ENROLL, PATH_POLICY_ROOT, PATH_TELEMETRY
from agent_client.credential import credential_path
from tests.agent_client.homes import configure, enrolled, record
from tests.agent_client.loopback_console import CREDENTIAL, ENROLL_TOKEN, Fault, LoopbackConsole
from tests.agent_client.terminals import Terminal

_letters = random.Random(7)


def canary() -> str:
    """A secret as services make them: known to no rule, but generated."""
    return "".join(_letters.choices(string.ascii_letters + string.digits, k=40))


IN_ENVIRONMENT, IN_PASSWORD, IN_TOKEN, IN_URL, IN_MANAGED, MISPLACED = (canary() for _ in range(6))
GITHUB = "ghp_" + canary()[:36]
CANARIES = (
    IN_ENVIRONMENT,
    IN_PASSWORD,
    IN_TOKEN,
    IN_URL,
    IN_MANAGED,
    MISPLACED,
    GITHUB,
    CREDENTIAL,
    ENROLL_TOKEN,
)
CONFIG = f"""
model:
  default: gpt-5
  api_key: ${{MY_SECRET}}
  endpoint: https://user:{IN_PASSWORD}@model.example/v1
  note: {GITHUB}
auth:
  password: "{IN_PASSWORD}"
  token: {IN_TOKEN}
neutral: ${{MY_SECRET}}
telemetry:
  consent_state: {MISPLACED}
  install_id: {MISPLACED}
  export:
    otlp:
      enabled: true
      endpoint: https://collector.example/v1?api_key={IN_URL}
      headers_env: {{authorization: MY_SECRET}}
"""
MANAGED = f"""
model: {{default: corp}}
secrets: {{api_token: {IN_MANAGED}}}
other: ${{MY_SECRET}}
"""
KEYS = (
    *(
        "model",
        "model.api_key",
        "model.endpoint",
        "model.note",
        "auth",
        "auth.password",
        "auth.token",
    ),
    *("neutral", "other", "secrets", "secrets.api_token", "telemetry", "no.such.key", GITHUB),
    *(entry.key for entry in TELEMETRY_KEYS),
)
VERBS = (
    ["status"],
    ["preview"],
    ["preview", "--lines"],
    ["insights"],
    ["export", "--out", "-"],
    ["export", "--otlp"],
    ["rebuild"],
    ["prune", "--dry-run"],
    ["push", "--dry-run"],
    ["push", "--dry-run", "--lines"],
    ["push"],
    ["policy", "show"],
    ["policy", "sync"],
    ["doctor"],
    ["doctor", "--offline"],
    ["completion", "bash"],
    *(["policy", "why", key] for key in KEYS),
    ["unenroll"],
)
# What a person who is in a hurry types.
MISTAKES = (
    [ENROLL_TOKEN],
    ["enroll", ENROLL_TOKEN],
    ["enroll", ENROLL_TOKEN, "https://console.example"],
    ["enroll", "https://console.example", "-", ENROLL_TOKEN],
    ["enroll", f"https://user:{IN_PASSWORD}@console.example", "-"],
    ["enroll", f"https://console.example?token={IN_URL}", "-"],
    ["enroll", "https://console.example", f"--token={ENROLL_TOKEN}"],
    ["enroll", "http://127.0.0.1:1", ENROLL_TOKEN],
    ["push", ENROLL_TOKEN],
    ["push", f"--{GITHUB}"],
    ["policy", GITHUB],
    ["export", "--out", "-", "--format", GITHUB],
    ["insights", "--days", GITHUB],
    ["completion", GITHUB],
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, variable in (("home", "HERMES_HOME"), ("managed", "HERMES_MANAGED_DIR")):
        (tmp_path / name).mkdir(mode=0o755)
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setenv("MY_SECRET", IN_ENVIRONMENT)
    (tmp_path / "home/config.yaml").write_text(CONFIG)
    (tmp_path / "managed/config.yaml").write_text(MANAGED)
    return tmp_path / "home"


@pytest.fixture
def console() -> Iterator[LoopbackConsole]:
    with LoopbackConsole() as running:
        yield running


def everything_said(capfd: pytest.CaptureFixture[str], argv: list[str]) -> str:
    with contextlib.suppress(SystemExit):  # wrong usage
        cli.main(argv)
    return "".join(capfd.readouterr())


def shown_in(text: str) -> list[str]:
    return [secret for secret in CANARIES if secret in text or secret[:20] in text]


def test_no_verb_shows_a_canary(
    home: Path, console: LoopbackConsole, capfd: pytest.CaptureFixture[str]
) -> None:
    record(home)
    enrolled(home, console)
    console.publish({"model.default": "corp"})
    assert credential_path(home).read_text().count(CREDENTIAL) == 1
    for argv in VERBS:
        assert shown_in(everything_said(capfd, argv)) == [], argv
        if "--lines" not in argv and argv[0] != "completion":
            assert shown_in(everything_said(capfd, [*argv, "--json"])) == [], argv


def test_no_mistyping_echoes_a_canary(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for argv in MISTAKES:
        said = everything_said(capfd, argv)
        assert said != ""
        assert shown_in(said) == [], argv


@pytest.mark.parametrize("path", [PATH_ENROLL, PATH_TELEMETRY, PATH_POLICY_ROOT])
@pytest.mark.parametrize("kind", ["reset", "status", "reply"])
def test_no_failing_request_shows_a_canary(
    home: Path,
    console: LoopbackConsole,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    kind: str,
) -> None:
    record(home)
    if path != PATH_ENROLL:
        enrolled(home, console)
    fault = {
        "reset": Fault(path, "reset"),
        "status": Fault(path, "status", 403, "scope", {"Retry-After": "600"}),
        "reply": Fault(path, "reply", reply={"credential": 3}),
    }[kind]
    verbs = (["enroll", console.url, "-"], ["push"], ["policy", "sync"], ["doctor"], ["status"])
    for argv in verbs:
        monkeypatch.setattr("sys.stdin", io.StringIO(console.enrollment + "\n"))
        console.faults.append(fault)
        assert shown_in(everything_said(capfd, argv)) == [], argv


def test_a_damaged_credential_is_not_shown(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    credential_path(home).parent.mkdir(mode=0o700)
    credential_path(home).write_text(f'{{"credential": "{IN_TOKEN}", "console_url": 3')
    for argv in (["status"], ["doctor", "--offline"], ["push"], ["policy", "sync"]):
        assert shown_in(everything_said(capfd, argv)) == [], argv


def test_the_token_comes_from_a_file_named_in_the_environment(
    home: Path,
    console: LoopbackConsole,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "token").write_text(console.enrollment + "\n")
    monkeypatch.setenv("HERMES_TELEMETRY_TOKEN_FILE", str(tmp_path / "token"))
    assert cli.main(["enroll", console.url]) == 0
    assert shown_in("".join(capfd.readouterr())) == []


def test_a_token_typed_at_a_terminal_is_not_echoed(
    home: Path,
    console: LoopbackConsole,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    asked: list[str] = []

    def getpass(prompt: str, stream: object) -> str:
        asked.append(prompt)
        return f" {console.enrollment}\n"

    monkeypatch.setattr("getpass.getpass", getpass)
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["enroll", console.url, "-"]) == 0
    assert len(asked) == 1
    assert shown_in("".join(capfd.readouterr())) == []


NAMES = st.sampled_from(["model", "api_key", "auth", "token", "password", "a", "secret", "x-y"])
TEXT = st.text(max_size=20)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.lists(NAMES, min_size=1, max_size=4),
    before=TEXT,
    after=TEXT,
    shape=st.sampled_from(["text", "list", "map"]),
    secret_name=st.sampled_from(["api_key", "password", "token", "client_secret"]),
)
def test_a_shown_value_never_holds_a_named_or_known_secret(
    path: list[str], before: str, after: str, shape: str, secret_name: str
) -> None:
    value: object = {
        "text": f"{before} {GITHUB} {after}",
        "list": [before, {secret_name: IN_TOKEN}, GITHUB],
        "map": {"x": {secret_name: IN_PASSWORD}, "y": [GITHUB]},
    }[shape]
    shown = json.dumps(shown_value(".".join(path), value))
    assert shown_in(shown) == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example:4318/v1", "https://a.example:4318/v1"),
        ("https://me:pw@a.example/x?key=1#f", "https://a.example/x?…"),
        ("", ""),
        (None, ""),
        ("nonsense", "not an address"),
        ("http://[::1", "not an address"),
        ("https://me:half/of-it@a.example", "not an address"),
    ],
)
def test_an_address_is_shown_without_what_may_be_a_key(url: object, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize("name", ["console", "otlp"])
def test_an_address_that_is_none_is_not_shown_by_its_password(
    home: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    address = f"https://me:{IN_URL}/more@a.example"
    configure(home, f"telemetry: {{export: {{{name}: {{enabled: true, endpoint: '{address}'}}}}}}")
    key = f"telemetry.export.{name}.endpoint"
    for argv in (["status"], ["status", "--json"], ["policy", "why", key], ["push"], ["doctor"]):
        cli.main(argv)
    shown = capfd.readouterr()
    assert IN_URL not in shown.out + shown.err


def test_every_verb_is_looked_at() -> None:
    asked = {" ".join(itertools.takewhile(lambda word: word[0] != "-", argv)) for argv in VERBS}
    assert {name for name in cli._HANDLERS if not any(a.startswith(name) for a in asked)} == {
        "enroll"  # among the mistakes and the failing requests
    }
