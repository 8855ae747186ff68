"""Lines and streams made to hurt: each is judged, in bounded time, the same by both ways."""

from __future__ import annotations

import gzip
import io
import json
import random
import time
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract import wire
from agent_client.contract.tables import EVENT_TABLES
from telemetry.ingest.decode import Body, IngestError, Limits, read_body, split_lines
from telemetry.ingest.scrub import scrub_raw
from tests.telemetry import builders as make
from tests.telemetry.test_ingest_validate import careful_only, judge

SEED = 20_261_128
"""The corpora below are the same in every run; a fault found once stays found."""
MEBIBYTE = 2**20
NOW_NS = make.recent_ns()

HURTFUL: dict[str, Callable[[int], bytes]] = {
    "escaped quotes in a string that never ends": lambda n: b"[" * 65 + b'"' + b'\\"' * (n // 2),
    "strings that never end": lambda n: b"{" * 65 + b'"\\' * (n // 2),
    "quotes": lambda n: b'{"' * 65 + b'"' * n,
    "backslashes": lambda n: b"[" * 65 + b'"' + b"\\" * n,
    "open brackets": lambda n: b"[" * n,
    "brackets that open and close": lambda n: b"[]" * (n // 2),
    "nested objects": lambda n: b'{"a":' * (n // 5),
    "one key many times": lambda n: b"{" + b'"a":1,' * (n // 6) + b'"a":1}',
    "many keys": lambda n: b"{" + b",".join(b'"%x":1' % k for k in range(n // 10)) + b"}",
    "digits": lambda n: b'{"seq":' + b"9" * n + b"}",
    "digits of a fraction": lambda n: b'{"seq":0.' + b"3" * n + b"}",
    "a minus and digits": lambda n: b'{"seq":-' + b"1" * n + b"}",
    "an exponent": lambda n: b'{"seq":1e' + b"9" * n + b"}",
    "escapes of surrogates": lambda n: b'{"run_id":"' + b"\\ud800" * (n // 6) + b'"}',
    "bytes that are no text": lambda n: b'{"run_id":"' + b"\xff" * n + b'"}',
    "NUL": lambda n: b"\0" * n,
    "blanks": lambda n: b"{" + b" " * n + b"}",
    "commas": lambda n: b"[" + b"," * n + b"]",
}


@pytest.mark.parametrize("what", HURTFUL)
def test_a_hurtful_line_is_refused_in_linear_time(what: str) -> None:
    def cost_s(size: int) -> float:
        line = HURTFUL[what](size)
        began_s = time.process_time()
        (refused,) = judge(line).refused
        scrub_raw(line)
        assert refused.code in wire.LINE_CODES
        return time.process_time() - began_s

    small_s = min(cost_s(MEBIBYTE // 16) for _ in range(2))
    # Sixteen times the size may cost sixteen times the time, and some; quadratic would be 256.
    assert cost_s(MEBIBYTE - 200) < 64 * small_s + 0.2


def noisy(line: bytes, chance: random.Random) -> bytes:
    """A line with one to three bytes or pieces changed, taken out, doubled or put in."""
    pieces = [b'"', b"\\", b":", b",", b"{", b"}", b"[", b"]", b"null", b"1e5", b"-", b"\\u0000"]
    pieces += [b"\xff", b" ", b"\t", b"\0", b'"seq":1,', b"true", b"NaN", b"\xc3\xa9", b"1.0"]
    data = bytearray(line)
    for _ in range(chance.randint(1, 3)):
        at, more = chance.randrange(len(data)), chance.randrange(8)
        match chance.randrange(4):
            case 0:
                data[at : at + more] = chance.choice(pieces)
            case 1:
                del data[at : at + more]
            case 2:
                data[at:at] = data[at : at + more]
            case _:
                data[at] = chance.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("table", EVENT_TABLES, ids=lambda table: table.name)
def test_both_ways_judge_a_damaged_line_alike(table: object) -> None:
    chance = random.Random(f"{SEED} {table.name}")  # type: ignore[attr-defined]  # a Table
    good = make.line(make.record(table.name, 3, start_ns=NOW_NS, ts_ns=NOW_NS))  # type: ignore[attr-defined]  # as above
    for _ in range(400):
        line = noisy(good, chance).replace(b"\n", b" ")
        assert judge(line) == careful_only(line), line
        assert judge(good, line, good) == careful_only(good, line, good), line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@given(
    kind=st.sampled_from([table.name for table in EVENT_TABLES]),
    values=st.dictionaries(
        st.sampled_from([column.name for table in EVENT_TABLES for column in table.columns]),
        JSON,
        max_size=4,
    ),
)
def test_both_ways_judge_any_value_of_any_column_alike(
    kind: str, values: dict[str, object]
) -> None:
    record = make.record(kind, 3, start_ns=NOW_NS, ts_ns=NOW_NS) | values
    line = json.dumps(record, separators=(",", ":")).encode()
    assert judge(line) == careful_only(line)


# ------------------------------------------------------------------------------------- streams


def read(data: bytes, encoding: str, limits: Limits = Limits()) -> Body | str:  # noqa: B008 -- frozen
    """The body, or the code it is refused with."""
    try:
        body = read_body(io.BytesIO(data), encoding, expected_bytes=len(data), limits=limits)
        split_lines(body.data, limits)
    except IngestError as error:
        return error.code
    return body


def compress(data: bytes, encoding: str) -> bytes:
    return gzip.compress(data) if encoding == "gzip" else zstandard.compress(data)


def real_body() -> bytes:
    """A hundred KiB of rows that do not compress to nothing."""
    chance = random.Random(SEED)
    return make.ndjson(
        *(make.tool_call(seq, span_id=f"{chance.getrandbits(128):032x}") for seq in range(300))
    )


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("member_count", [1, 3])
def test_a_big_stream_cut_at_any_step_is_malformed(encoding: str, member_count: int) -> None:
    data = real_body()
    step = len(data) // member_count + 1
    members = [compress(data[at : at + step], encoding) for at in range(0, len(data), step)]
    whole, ends = b"".join(members), {0}
    for member in members:
        ends.add(max(ends) + len(member))
    assert isinstance(read(whole, encoding), Body)
    for length in {*range(0, len(whole), 211), *range(20), len(whole) - 1}:
        if length not in ends:
            assert read(whole[:length], encoding) == "malformed_body", length


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_damaged_stream_is_read_or_refused_and_never_fails(encoding: str) -> None:
    chance, whole = random.Random(SEED), compress(real_body()[:20_000], encoding)
    codes = set()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        found = read(bytes(data), encoding)
        codes.add(found if isinstance(found, str) else "read")
    assert "malformed_body" in codes
    assert codes <= {"malformed_body", "decoded_too_large", "too_many_lines", "read"}


TINY: dict[str, bytes] = {
    "gzip, empty": gzip.compress(b"", mtime=0),
    "gzip, one line end": gzip.compress(b"\n", mtime=0),
    "zstd, empty": zstandard.compress(b""),
    "zstd, skipped": b"\x50\x2a\x4d\x18" + bytes(4),
}


@pytest.mark.parametrize("what", TINY)
def test_a_mebibyte_of_tiny_members_costs_little(what: str) -> None:
    unit, encoding = TINY[what], what.partition(",")[0]
    data = unit * (MEBIBYTE // len(unit))
    began_s = time.process_time()
    read(data, encoding)
    assert time.process_time() - began_s < 2.0


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_only_one_layer_is_taken_off(encoding: str) -> None:
    inner = compress(make.ndjson(make.run()), encoding)
    body = read(compress(inner, encoding), encoding)
    assert isinstance(body, Body)
    assert body.data == inner
    bomb = compress(b"\0" * 50_000_000, encoding)
    assert isinstance(read(compress(bomb, encoding), encoding), Body)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_behind_a_good_member_is_refused(encoding: str) -> None:
    bomb = compress(real_body(), encoding) + compress(b"\0" * 100_000_000, encoding)
    assert read(bomb, encoding) == "decoded_too_large"


@given(st.binary(max_size=400), st.sampled_from(["gzip", "zstd", "identity"]))
def test_no_bytes_whatever_make_a_reader_fail(data: bytes, encoding: str) -> None:
    found = read(data, encoding)
    assert isinstance(found, Body) or found in wire.PROBLEM_CODES
