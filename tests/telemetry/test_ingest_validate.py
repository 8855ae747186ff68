"""Lines: a verdict with a code each; the fast and the careful way agree."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_client.contract.tables import EVENT_TABLES, TIME_MAX_NS
from agent_client.contract.wire import LINE_CODES, MAX_LINES
from telemetry.ingest import validate
from telemetry.ingest.decode import IngestError, split_lines
from telemetry.ingest.validate import TimeBounds, Verdicts, validate_body, validate_lines
from tests.telemetry import builders as make

NOW_NS = make.recent_ns()
DAY_NS = 86_400 * make.S
BOUNDS = TimeBounds(NOW_NS - 90 * DAY_NS, NOW_NS + DAY_NS)


def judge(*lines: bytes | Mapping[str, object], plane: str = "local") -> Verdicts:
    raw = [item if isinstance(item, bytes) else make.line(item) for item in lines]
    return validate_lines(list(enumerate(raw, start=1)), BOUNDS, plane=plane)


def refusal(line: bytes | Mapping[str, object]) -> tuple[str, str]:
    good = make.tool_call(1)
    verdicts = judge(good, line, good | {"span_id": "other"})
    (refused,) = verdicts.refused
    assert (verdicts.received, refused.line) == (3, 2)
    assert len(verdicts.rows["tel_tool_calls"]) == 2
    return refused.code, refused.detail


def test_one_record_of_each_kind_is_taken() -> None:
    records = make.one_of_each(NOW_NS)
    verdicts = judge(*records)
    assert verdicts.refused == []
    assert [verdicts.rows[table.name] for table in EVENT_TABLES] == [
        [make.row(item)] for item in records
    ]


CALL = make.tool_call(1, start_ns=NOW_NS)
TEXT = make.line(CALL)
BAD: list[tuple[str, bytes | dict[str, object], str, str]] = [
    ("not_json", b"{", "malformed_line", ""),
    ("no_object", b"[1]", "malformed_line", "not an object"),
    ("nan", TEXT.replace(b"20.0", b"NaN"), "malformed_line", "NaN is not JSON"),
    ("infinity", TEXT.replace(b"20.0", b"-Infinity"), "malformed_line", "-Infinity is not JSON"),
    ("overflow", TEXT.replace(b"20.0", b"1e999"), "out_of_range", "duration_ms"),
    ("repeat", TEXT[:-1] + b',"seq":2}', "malformed_line", "a key stands twice"),
    ("utf8", TEXT.replace(b"terminal", b"\xff\xfe"), "invalid_text", "not UTF-8"),
    ("nul", CALL | {"tool_name": "a\0b"}, "invalid_text", "tool_name"),
    ("surrogate", TEXT.replace(b"terminal", b"\\ud800"), "invalid_text", "tool_name"),
    ("raw_surrogate", TEXT.replace(b"terminal", b"\xed\xa0\x80"), "invalid_text", "not UTF-8"),
    ("huge", TEXT.replace(b'"retry_count":0', b'"retry_count":' + b"9" * 5000), "out_of_range", ""),
    ("past_64_bits", CALL | {"retry_count": 2**64}, "out_of_range", "retry_count"),
    ("negative", CALL | {"duration_ms": -1}, "out_of_range", "duration_ms"),
    ("boolean", CALL | {"retry_count": True}, "wrong_type", "retry_count"),
    ("whole_float", CALL | {"retry_count": 1.0}, "wrong_type", "retry_count"),
    ("object", CALL | {"tool_name": {}}, "wrong_type", "tool_name"),
    ("long", CALL | {"tool_name": "x" * 201}, "too_long", "tool_name"),
    ("no_key", CALL | {"span_id": None}, "missing_field", "span_id"),
    ("empty_key", CALL | {"span_id": ""}, "missing_field", "span_id"),
    ("no_seq", {k: v for k, v in CALL.items() if k != "seq"}, "missing_field", "seq"),
    ("seq", CALL | {"seq": TIME_MAX_NS + 1}, "out_of_range", "seq"),
    ("kind", CALL | {"_kind": "tel_secrets"}, "unknown_kind", ""),
    ("no_kind", b"{}", "unknown_kind", ""),
    ("odd_kind", CALL | {"_kind": []}, "unknown_kind", ""),
    ("future", CALL | {"start_ns": BOUNDS.newest_ns + 1}, "time_in_future", "start_ns"),
    ("late_end", CALL | {"end_ns": BOUNDS.newest_ns + 1}, "time_in_future", "end_ns"),
    ("old", CALL | {"start_ns": BOUNDS.oldest_ns - 1}, "time_too_old", "start_ns"),
    ("deep", b'{"a":' + b"[" * 65 + b"]" * 65 + b"}", "too_deep", ""),
    ("very_deep", b"[" * 100_000, "too_deep", ""),
    ("broad", TEXT[:-1] + b',"x":"' + b"y" * 1_048_576 + b'"}', "line_too_long", ""),
]


@pytest.mark.parametrize(("line", "code", "detail"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_bad_line_is_refused_with_its_code_and_the_others_stay(
    line: bytes | dict[str, object], code: str, detail: str
) -> None:
    found = refusal(line)
    assert found[0] == code
    assert not detail or found[1] == detail


def test_every_code_of_a_line_has_a_case() -> None:
    closed_types_only = {"invalid_value", "unknown_field"}
    assert {case[2] for case in BAD} == set(LINE_CODES) - closed_types_only


def test_what_is_left_out_gets_the_contracts_default() -> None:
    verdicts = judge(make.line({"_kind": "tel_runs", "seq": 1, "run_id": "r", "start_ns": NOW_NS}))
    (row,) = verdicts.rows["tel_runs"]
    names = EVENT_TABLES[0].column_names()
    assert row[names.index("schema_v")] == 1
    assert row[names.index("end_ns")] is None


def test_unknown_fields_and_brackets_in_texts_are_no_fault() -> None:
    odd = CALL | {"from_the_future": [[1]], "tool_name": "a[" * 70}
    assert judge(odd).refused == []


def test_a_flag_may_be_written_as_a_number() -> None:
    (row,) = judge(make.error(retryable=1)).rows["tel_error_events"]
    at = EVENT_TABLES[3].column_names().index("retryable")
    assert row[at] is True


def test_rows_of_the_local_plane_are_refused_under_another_plane() -> None:
    (refused,) = judge(CALL, plane="trajectories").refused
    assert refused.code == "unknown_kind"


def test_an_object_across_two_lines_is_two_bad_lines() -> None:
    first, second = TEXT.split(b",", 1)
    assert len(judge(first + b",", second, TEXT + TEXT).refused) == 3


@given(
    st.lists(
        st.sampled_from(
            [
                *(TEXT, TEXT, TEXT, TEXT + TEXT, b" " + TEXT, TEXT + b"\r", b"", b" ", b"{", b"{}"),
                *(TEXT.replace(b",", b",\n", 1), TEXT.replace(b'"seq"', b'"se\nq"')),
            ]
        ),
        max_size=6,
    ),
    st.sampled_from([b"", b"\n", b"\n\n"]),
)
def test_a_body_gets_the_verdicts_of_its_lines(parts: list[bytes], end: bytes) -> None:
    data = b"\n".join(parts) + end
    assert validate_body(data, BOUNDS) == validate_lines(split_lines(data), BOUNDS)


def test_a_body_of_too_many_lines_is_refused_however_good_they_are() -> None:
    with pytest.raises(IngestError):
        validate_body((TEXT + b"\n") * (MAX_LINES + 1), BOUNDS)


def careful_only(*lines: bytes) -> Verdicts:
    """The verdicts of the careful way alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validate, "_is_plain", lambda *_: False)
        return judge(*lines)


JUNK = st.sampled_from(
    [None, True, 0, 1, -1, 2**53, 2**53 + 1, 2**63, 1.0, 0.5, "", "x", "é\n", "x" * 201, ":", " a"]
)


@given(
    table=st.sampled_from(EVENT_TABLES),
    changes=st.lists(st.tuples(st.integers(0, 30), JUNK), max_size=3),
    is_spaced=st.booleans(),
    repeat=st.sampled_from([b"", b"", b',"run_id":"again"', b',"run_id" :"again"']),
)
def test_the_fast_way_agrees_with_the_careful_one(
    table: object, changes: list[tuple[int, object]], is_spaced: bool, repeat: bytes
) -> None:
    data = make.record(table.name, 3, start_ns=NOW_NS, ts_ns=NOW_NS)  # type: ignore[attr-defined]
    names = list(data)
    for at, value in changes:
        data[names[at % len(names)]] = value
    separators = (", ", ": ") if is_spaced else (",", ":")
    text = json.dumps(data, separators=separators, ensure_ascii=False).encode()
    line = text[:-1] + repeat + b"}"
    assert judge(line, line) == careful_only(line, line)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_no_bytes_whatever_raise(lines: list[bytes]) -> None:
    assert judge(*lines).received == len(lines)


@given(st.integers(0, len(TEXT) - 1), st.binary(max_size=3))
def test_no_change_of_a_good_line_raises_or_is_lost(at: int, noise: bytes) -> None:
    line = TEXT[:at] + noise + TEXT[at + len(noise) :]
    verdicts = judge(line)
    assert len(verdicts.refused) + sum(map(len, verdicts.rows.values())) == 1
