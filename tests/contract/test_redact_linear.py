"""The cost grows with the length, not with its square, on texts made to provoke the opposite."""

from __future__ import annotations

import time

import pytest

from agent_client.contract.redact import redact_text

HOSTILE = {
    "dots before an assignment": "a.",
    "base64 without an end": "aB3/",
    "names in a row": "token=",
    "short assignments": "token=a ",
    "opened quotes": 'password="',
    "many secrets on one line": 'pwd="a1B2c3D4" ',
    "key blocks without an end": "-----BEGIN RSA PRIVATE KEY-----",
    "user-info without a host": "http://a:b",
    "at signs": "a@",
    "opened objects": '{"a":',
    "backslashes": "\\",
    "hex and colons": "a:",
    "digits in groups": "4111 ",
    "secrets in a line": "token=a1B2c3D4e5 ",
    "secrets in lines": "password=a1B2c3D4e5\n",
    "documents": "kind: Secret\ndata:\n a: b\n",
    "headers": "authorization: ",
    "commands": "curl -u ",
}


def seconds(text: str) -> float:
    redact_text(text[:100], strict=True, pii=True)
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        redact_text(text, strict=True, pii=True)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_four_times_the_text_costs_about_four_times(unit: str) -> None:
    small = (unit * (24_000 // len(unit))) + "=x"
    large = (unit * (96_000 // len(unit))) + "=x"
    # A quadratic engine would need sixteen times as long; the floor hides the clock's grain.
    assert seconds(large) < 10 * max(seconds(small), 0.004)
