"""The cost grows with the length, not with its square, on texts made to provoke the opposite."""

from __future__ import annotations

import random
import string
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_client.contract.redact import redact_text
from agent_client.contract.redact_engine import _RUN
from agent_client.contract.redact_finders import BASE64_KEYWORDS
from agent_client.contract.redact_table import ALL_RULES
from tests.contract.redact_examples import expand

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
    "prose": "Passwort: vergessen? ",
    "telephones": "+14155552671 ",
}
UNITS = st.lists(
    st.one_of(
        st.sampled_from(list(HOSTILE.values())),
        st.sampled_from(ALL_RULES).map(lambda rule: expand(rule.matches[0])[:40]),
        st.text(alphabet=string.printable, min_size=1, max_size=12),
    ),
    min_size=1,
    max_size=4,
).map("".join)


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


def steps(text: str) -> int:
    """Calls that scrubbing makes, of Python and of C: counted, whatever else the machine does."""
    made = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        redact_text(text, strict=True, pii=True)
    finally:
        sys.setprofile(None)
    return made


@settings(max_examples=25)
@given(unit=UNITS)
def test_twice_the_text_takes_about_twice_the_steps(unit: str) -> None:
    text = unit * (5_000 // len(unit) + 1)
    steps(text)  # whatever is compiled or remembered for it
    assert steps(text * 2) < 2.3 * steps(text) + 4_000


def test_no_keyword_holds_a_loop() -> None:
    keywords = {keyword for rule in ALL_RULES for keyword in rule.keywords}
    assert not [keyword for keyword in keywords if _RUN.search(keyword)]
    assert all(_RUN.search(keyword) for keyword in BASE64_KEYWORDS)


def test_random_texts_do_not_grow_the_automata() -> None:
    """In one set with loops, the same texts took 270 MiB."""
    rng = random.Random(7)
    text = "".join(rng.choices(string.ascii_letters + string.digits + " -_./+=:", k=200_000))
    program = (
        "import resource, sys\n"
        "from agent_client.contract.redact import redact_text\n"
        "redact_text('token=a1b2c3d4e5f6')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "redact_text(sys.stdin.read())\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        input=text,
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert int(done.stdout) < 40 * 1024
