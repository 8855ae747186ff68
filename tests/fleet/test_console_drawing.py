"""Numbers and charts as people read them, and the copies of the theme's templates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import pytest

from fleet.console import charts, svg
from fleet.console.diff import changed_leaves
from fleet.console.heat import heat_map
from fleet.console.registry import window_of
from fleet.templatetags import fleet_format as show

AT = datetime(2026, 11, 22, 9, 31, tzinfo=UTC)
HOURS = tuple(AT.replace(hour=0, minute=0) + timedelta(hours=n) for n in range(24))
TEMPLATES = Path(__file__).parents[2] / "fleet" / "templates" / "unfold"


@pytest.mark.parametrize(
    ("value", "text"),
    [(850, "850 ms"), (2400, "2.4 s"), (90_000, "1.5 min"), (None, "–"), (0, "0 ms")],
)
def test_durations_carry_their_unit(value: float | None, text: str) -> None:
    assert show.duration_ms(value).replace("\u202f", " ") == text


@pytest.mark.parametrize(
    ("value", "text"), [(1234, "1,234"), (1_200_000, "1.2 M"), (471_000, "471 k"), (None, "–")]
)
def test_counts_stay_short(value: float | None, text: str) -> None:
    assert show.count(value).replace("\u202f", " ") == text


def test_unknown_cost_is_a_word_and_never_zero() -> None:
    assert show.money(None) == "unknown"
    assert show.money(0.0) == "$0.00"
    assert show.money(0.0042) == "$0.0042"


@pytest.mark.parametrize(
    ("value", "text"), [(0.974, "97.4 %"), (0.0004, "< 0.1 %"), (1.0, "100 %"), (None, "–")]
)
def test_shares_are_percentages(value: float | None, text: str) -> None:
    assert show.percent(value).replace("\u202f", " ") == text


def test_relative_time_has_the_exact_moment_as_title() -> None:
    assert "ago" in show.relative(AT - timedelta(seconds=40), at=AT)
    assert 'title="2026-11-22 09:31:00 UTC"' in show.ago(AT)


def test_window_rolls_to_the_end_of_the_running_hour() -> None:
    window = window_of("7d", at=AT)
    assert window.end == datetime(2026, 11, 22, 10, tzinfo=UTC)
    assert window.end - window.start == timedelta(days=7)
    assert window_of("99y", at=AT).name == "24h"


def time_chart(name: str = "Runs") -> charts.TimeChart:
    values = tuple(float(n) for n in range(24))
    return charts.TimeChart("c", "Title", HOURS, (charts.Series(name, values),))


def test_chart_has_text_alternatives_two_widths_and_a_table() -> None:
    drawn = charts.line_chart(time_chart())
    assert drawn.count('role="img"') == 2
    assert drawn.count("<title id=") == 2
    assert "hf-narrow" in drawn
    assert drawn.count("<tr>") == 25


def test_chart_escapes_names() -> None:
    chart = time_chart("<script>alert(1)</script>")
    assert "<script" not in charts.line_chart(chart) + charts.stacked_bars(chart)


def test_unknown_bucket_breaks_the_line() -> None:
    series = charts.Series("Runs", (1.0, 2.0, None, 3.0, 4.0))
    chart = charts.TimeChart("c", "Title", HOURS[:5], (series,))
    assert charts.line_chart(chart).count("<polyline") == 4


@pytest.mark.parametrize("highest", [0, 1, 3, 97, 1e9, 0.004])
def test_scale_covers_its_values_with_few_ticks(highest: float) -> None:
    scale = svg.scale_of([highest])
    assert scale.top >= highest
    assert 2 <= len(scale.ticks) <= 6


def test_heat_map_marks_the_busiest_hour() -> None:
    cells = [[0] * 24 for _day in range(7)]
    cells[2][14] = 9
    drawn = heat_map("h", "Title", cells, "runs")
    assert "Most on Wed at 14:00 UTC: 9 runs." in drawn
    assert drawn.count("hf-h6") == 2


def test_difference_names_leaves_removals_first() -> None:
    leaves = changed_leaves({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    assert [(leaf.path, leaf.before, leaf.after) for leaf in leaves] == [
        ("a.c", "2", ""),
        ("a.b", "1", "3"),
    ]


SKELETON = (
    (
        (
            '        <link href="{% static "unfold/fonts/inter/styles.css" %}" rel="stylesheet">\n'
            '        <link href="{% static "unfold/fonts/material-symbols/styles.css" %}"'
            ' rel="stylesheet">\n'
        ),
        (
            '        <meta name="htmx-config"'
            ' content=\'{"includeIndicatorStyles": false, "allowEval": false}\'>\n'
            '        <link href="{% static "fleet/fonts.css" %}" rel="stylesheet">\n'
        ),
    ),
    (
        "        <script src=\"{% static 'unfold/js/alpine/alpine.sort.js' %}\" defer></script>\n",
        "",
    ),
    ("        <script src=\"{% static 'unfold/js/chart/chart.js' %}\"></script>\n", ""),
    (
        '<style id="unfold-theme-colors">',
        '<style id="unfold-theme-colors" {% csp_nonce_attr %}>',
    ),
    (
        (
            "        {% for style in styles %}\n"
            '            <link href="{{ style }}" rel="stylesheet">\n'
            "        {% endfor %}\n\n"
        ),
        "",
    ),
    (
        '        <link href="{% static \'unfold/css/styles.css\' %}" rel="stylesheet">\n',
        (
            '        <link href="{% static \'unfold/css/styles.css\' %}" rel="stylesheet">\n\n'
            "        {% for style in styles %}\n"
            '            <link href="{{ style }}" rel="stylesheet">\n'
            "        {% endfor %}\n"
        ),
    ),
)
HEADER = (
    (
        "        {{ part.title|capfirst }}\n",
        (
            "        {% if forloop.counter < 3 %}{{ part.title|capfirst }}"
            "{% else %}<bdi>{{ part.title }}</bdi>{% endif %}\n"
        ),
    ),
)


@pytest.mark.parametrize(
    ("name", "edits"),
    [("layouts/skeleton.html", SKELETON), ("helpers/header_title.html", HEADER)],
)
def test_template_copy_is_upstream_with_our_edits(
    name: str, edits: tuple[tuple[str, str], ...]
) -> None:
    text = (files("unfold") / "templates" / "unfold" / name).read_text(encoding="utf-8")
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    assert (TEMPLATES / name).read_text(encoding="utf-8") == text
