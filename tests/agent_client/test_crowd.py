"""The crowd: the same by its seed, believable, and exact in its own books."""

from __future__ import annotations

import gzip
import json
import uuid
from collections import Counter
from itertools import pairwise

import pytest

from agent_client.contract.tables import BY_NAME, RUNS
from agent_client.simulation.crowd import __main__ as program
from agent_client.simulation.crowd.batches import CrowdBatch, Packer, derived_batch_id
from agent_client.simulation.crowd.making import Made, Maker, Story, tempo_of
from agent_client.simulation.crowd.members import Member, member_of
from agent_client.simulation.crowd.meter import Latencies, Ledger, Meter
from agent_client.simulation.script import S

BASE_NS = 1_764_327_600 * S  # 2025-11-28 11:00, a Friday
STORY = Story(7, BASE_NS, tempo_of(30, is_always_on=True))
MINUTE_NS = 60 * S
GOOD, LATE, SKEWED, RESENDING, WRONG = (member_of(7, number) for number in (1, 3, 5, 2, 21))


def rows_of(member: Member, minutes: int = 10, *, story: Story = STORY) -> list[Made]:
    return Maker(story, member).life(BASE_NS - member.habits.late_s * S + minutes * MINUTE_NS)


def packed(member: Member, rows: list[Made]) -> CrowdBatch:
    return Packer(STORY.mark, is_zstd_there=False).pack(member, rows)


def lines_of(batch: CrowdBatch) -> list[dict[str, object]]:
    return [json.loads(line) for line in gzip.decompress(batch.body).splitlines()]


# -------------------------------------------------------------------------------------- who is who


def test_a_member_is_the_same_in_every_crowd_of_its_seed() -> None:
    assert member_of(7, 4711) == member_of(7, 4711)
    assert member_of(7, 4711) != member_of(8, 4711)
    assert member_of(7, 4711).install_id != member_of(7, 4712).install_id


def test_phases_spread_a_crowd_over_the_whole_interval() -> None:
    tenths = Counter(member_of(7, n).phase_ns(60 * S) * 10 // (60 * S) for n in range(1, 2001))
    assert set(tenths) == set(range(10))
    assert max(tenths.values()) < 1.25 * 200


def test_a_crowd_of_a_hundred_has_every_nuisance() -> None:
    habits = [member_of(7, number).habits for number in range(1, 101)]
    assert 0 < sum(each.is_silent for each in habits) < 10
    assert 0 < sum(each.late_s > 0 for each in habits) < 10
    assert 0 < sum(each.skew_ms != 0 for each in habits) < 10
    assert 0 < sum(each.resend_every > 0 for each in habits) <= 10
    assert sum(each.has_drift for each in habits) == 1


def test_versions_and_groups_are_mixed() -> None:
    personas = [member_of(7, number).persona for number in range(1, 501)]
    assert len({persona.version for persona in personas}) == 4
    assert len({persona.group for persona in personas}) == 3
    assert len({persona.name for persona in personas}) == 500


# ------------------------------------------------------------------------------- what they record


def test_the_same_seed_and_base_give_the_same_rows() -> None:
    assert rows_of(GOOD) == rows_of(GOOD)
    assert rows_of(GOOD, story=Story(8, BASE_NS, STORY.tempo)) != rows_of(GOOD)


def test_rows_asked_for_in_pieces_are_the_same() -> None:
    maker = Maker(STORY, GOOD)
    pieces = [maker.life(BASE_NS + each * MINUTE_NS // 7) for each in range(71)]
    assert [row for piece in pieces for row in piece] == rows_of(GOOD)


def test_rows_come_in_order_and_are_numbered_without_a_gap() -> None:
    rows = rows_of(GOOD)
    assert [row.values[0] for row in rows] == list(range(1, len(rows) + 1))
    assert all(first.at_ns <= second.at_ns for first, second in pairwise(rows))


def test_an_id_is_new_once_and_a_later_copy_of_a_run_is_not() -> None:
    new: Counter[tuple[str, object]] = Counter()
    for row in rows_of(GOOD, 60):
        place = row.table.column_names().index(row.table.key) + 1
        new[row.table.name, row.values[place]] += row.is_new
    assert set(new.values()) == {1}


def test_all_ids_bear_the_storys_mark() -> None:
    for row in rows_of(GOOD):
        place = row.table.column_names().index(row.table.key) + 1
        assert str(row.values[place]).startswith(STORY.mark)
    assert Story(7, BASE_NS + S, STORY.tempo).mark != STORY.mark


def test_every_row_keeps_to_the_contract() -> None:
    from agent_client.contract.events import EVENT_TYPES

    for row in rows_of(GOOD, 30):
        values = dict(zip(row.table.column_names(), row.values[1:], strict=True))
        assert EVENT_TYPES[row.table.event].from_dict(values).TABLE is row.table


def test_a_wrong_clock_moves_every_time_of_a_row() -> None:
    row = next(row for row in rows_of(WRONG) if row.table.name == "tel_model_calls")
    end_ns = row.values[row.table.column_names().index("end_ns") + 1]
    assert end_ns == row.at_ns + 26 * 3600 * S


def test_a_late_install_hands_in_what_happened_hours_ago() -> None:
    rows = rows_of(LATE)
    assert rows
    assert max(row.at_ns for row in rows) <= BASE_NS - LATE.habits.late_s * S + 10 * MINUTE_NS


def test_the_rate_is_kept_over_a_day() -> None:
    story = Story(7, BASE_NS, tempo_of(5, is_always_on=True))
    made = [Maker(story, member_of(7, n)).life(BASE_NS + 600 * MINUTE_NS) for n in range(100, 160)]
    assert sum(map(len, made)) / 60 / 600 == pytest.approx(5, rel=0.25)


def test_history_lies_before_the_begin_and_life_is_numbered_on() -> None:
    maker = Maker(STORY, GOOD)
    history = list(maker.history(3))
    life = maker.life(BASE_NS + 10 * MINUTE_NS)
    assert all(BASE_NS - 4 * 86_400 * S < row.at_ns <= BASE_NS for row in history)
    assert life[0].values[0] == len(history) + 1


# -------------------------------------------------------------------------------- what they send


def test_a_batch_is_the_same_bytes_under_the_same_id() -> None:
    first, again = (packed(GOOD, rows_of(GOOD)) for _index in range(2))
    assert (first.batch_id, first.body) == (again.batch_id, again.body)
    assert packed(GOOD, rows_of(GOOD)[:-1]).batch_id != first.batch_id


def test_a_batch_holds_each_run_once_and_counts_its_lines() -> None:
    batch = packed(GOOD, rows_of(GOOD, 60))
    lines = lines_of(batch)
    runs = [line["run_id"] for line in lines if line["_kind"] == RUNS.name]
    assert len(runs) == len(set(runs)) == batch.counts[RUNS.name] == batch.new_counts[RUNS.name]
    assert len(lines) == batch.row_count == sum(batch.counts.values())
    assert {str(line["_kind"]) for line in lines} <= set(BY_NAME)


def test_batch_ids_are_uuids_of_version_7_at_the_installs_own_time() -> None:
    batch_id = uuid.UUID(derived_batch_id("a name", 1_764_327_600_123))
    assert (batch_id.version, batch_id.variant) == (7, uuid.RFC_4122)
    assert batch_id.int >> 80 == 1_764_327_600_123
    batch = packed(SKEWED, rows := rows_of(SKEWED))
    assert uuid.UUID(batch.batch_id).int >> 80 == rows[-1].at_ns // 10**6 + SKEWED.habits.skew_ms


# ---------------------------------------------------------------------------------- what is counted


def test_percentiles_are_within_a_bucket() -> None:
    latencies = Latencies()
    for number in range(1, 1001):
        latencies.add(number / 1000)
    assert latencies.quantile_ms(0.5) == pytest.approx(500, rel=0.05)
    assert latencies.quantile_ms(0.99) == pytest.approx(990, rel=0.05)
    assert Latencies().quantile_ms(0.99) == 0


def test_a_ledger_names_what_no_receipt_accounts_for() -> None:
    ledger = Ledger(made=10, accepted=6, duplicates=1)
    ledger.rejected["time_in_future"] = 2
    assert (ledger.unexplained, ledger.is_exact) == (1, False)
    ledger.refused["plane_closed"] = 1
    assert (ledger.unexplained, ledger.is_exact) == (0, True)
    ledger.receipts_changed = 1
    assert not ledger.is_exact


def test_the_line_tells_rates_lags_and_errors() -> None:
    meter = Meter()
    meter.line()
    meter.answered("push", took_s=0.02, lag_s=0.5)
    meter.failed("push", "rate_limited")
    meter.took_rows(40)
    assert "push" in meter.line()
    assert "40 in all" in meter.line()
    assert "push rate_limited=1" in meter.line()


# ------------------------------------------------------------------------------- how it is called


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--installs=0", "--installs must be above zero"),
        ("--history=-1", "--history must not be below zero"),
        ("--outage=soon", "AFTER:SECONDS"),
        ("--tokens=nowhere.json", "nowhere.json"),
    ],
)
def test_a_wrong_option_is_named(
    option: str,
    said: str,
    tmp_path_factory: pytest.TempPathFactory,
    capfd: pytest.CaptureFixture[str],
) -> None:
    tokens = tmp_path_factory.mktemp("crowd") / "tokens.json"
    tokens.write_text("{}")
    arguments = ["http://127.0.0.1:9", f"--tokens={tokens}", option]
    assert program.main(arguments) == program.EXIT_USAGE
    assert said in capfd.readouterr().err
