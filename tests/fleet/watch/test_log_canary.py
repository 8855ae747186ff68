"""A canary in everything that a caller can send: no line of any process, and no file, holds it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from fleet.bringup import WORKER_OPTIONS
from tests.faults import raw, served
from tests.telemetry import builders as make

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    pytest.mark.timeout(served.PATIENCE_S),
]
CANARY = "canaryq7f3k9zx"


def hostile(url: str, token: str) -> list[int]:
    """Requests with the canary at every place of one; their statuses."""
    line = json.dumps({"table": CANARY, CANARY: CANARY}).encode()
    everywhere = {
        "User-Agent": CANARY,
        "Cookie": f"sessionid={CANARY}; {CANARY}=1",
        "X-Request-Id": CANARY,
        "X-Correlation-Id": CANARY,
        "Traceparent": f"00-{CANARY}-01",
        "Referer": f"http://{CANARY}/",
        "Origin": f"http://{CANARY}.example",
        "X-Forwarded-For": CANARY,
        "Accept-Language": CANARY,
        f"X-{CANARY}": CANARY,
    }
    whole = make.ndjson(make.tool_call(1)) + line + b"\n"
    answers = [
        raw.push(url, token, whole, uuid4(), **everywhere),
        raw.push(url, token, CANARY.encode(), uuid4(), **everywhere),
        raw.push(url, f"hfa_{CANARY}", whole, uuid4()),
        raw.push(url, token, whole, CANARY),
        raw.push(url, token, whole, uuid4(), Content_Type=CANARY),
        raw.push(url, token, whole, uuid4(), Telemetry_Plane=CANARY),
        raw.push(url, token, whole, uuid4(), Telemetry_Consent=CANARY),
        raw.request(url, line, {"Host": f"{CANARY}.example"}, path="/api/v1/enroll"),
        raw.request(url, line, everywhere, path=f"/api/v1/{CANARY}?token={CANARY}"),
        raw.request(url, line, everywhere, path="/login/"),
        raw.request(url, line, everywhere, method=CANARY.upper(), path="/livez"),
    ]
    paths = (
        f"/{CANARY}/?q={CANARY}",
        f"/static/{CANARY}",
        f"/?{CANARY}=%00",
        "/login/?next=" + CANARY,
    )
    answers += [raw.request(url, method="GET", headers=everywhere, path=path) for path in paths]
    statuses = [answer.status for answer in answers]
    broken = (
        f"{CANARY}\r\n\r\n",
        f"GET /{CANARY} HTTP/9.9\r\n\r\n",
        f"GET /livez HTTP/1.1\r\n{CANARY}\r\n\r\n",
        f"GET /livez HTTP/1.1\r\nContent-Length: {CANARY}\r\n\r\n",
        f"G@T /{CANARY} HTTP/1.1\r\n\r\n",
    )
    return statuses + [raw.status_of(raw.exchange(url, one.encode())) for one in broken]


def test_no_line_of_the_web_server_holds_what_a_caller_sent(tmp_path: Path) -> None:
    environ = {"FLEET_LOG_LEVEL": "DEBUG"}
    with served.serve(tmp_path, worker_count=1, environ=environ) as console:
        statuses = hostile(console.url, raw.credential_of())
    assert {200, 400, 401, 404} <= set(statuses)
    lines = console.log_text().splitlines()
    assert CANARY.lower() not in console.log_text().lower()
    assert len(lines) > 20
    assert [line for line in lines if not line.startswith("{")] == []
    refused = [json.loads(line) for line in lines if '"code": 404' in line]
    assert all(len(each["request_id"]) == 32 for each in refused)
    assert "POST (none)" in {each["request"] for each in refused}


FAILING = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "fleet.settings"
from fleet.celery import app
@app.task(name="tests.fail")
def fail(text):
    raise ValueError(text)
app.worker_main(["--quiet", "worker", *sys.argv[1:]])
"""


def test_no_line_of_a_worker_holds_what_a_task_was_given(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    environ = served.console_environment(
        FLEET_LOG_LEVEL="INFO", PYTHONWARNINGS="ignore", FLEET_HOME=str(tmp_path / "home")
    )
    log = tmp_path / "worker.log"
    with log.open("wb") as out:
        worker = subprocess.Popen(
            [sys.executable, "-c", FAILING, *WORKER_OPTIONS, "--pool=solo"],
            env=environ,
            cwd=served.ROOT,
            stdout=out,
            stderr=out,
        )
    try:
        send = (
            "from fleet.celery import app\n"
            "for name in ('tests.fail', 'tests.nobody'):\n"
            f"    app.send_task(name, args=['{CANARY}'])\n"
        )
        subprocess.run([sys.executable, "-c", send], env=environ, cwd=served.ROOT, check=True)
        served.wait_until(
            lambda: "raised unexpected" in log.read_text() and "unregistered" in log.read_text(),
            log.read_text,
        )
    finally:
        worker.terminate()
        worker.wait(30)
    assert CANARY not in log.read_text()
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    # Celery says this one past all logging, in the handler of the signal.
    events = [json.loads(line) for line in lines if "Warm shutdown" not in line]
    assert any("ValueError" in json.dumps(each.get("exception", {})) for each in events)
