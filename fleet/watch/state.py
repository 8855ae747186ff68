"""The gauges as prometheus_client takes them: kept for 15 seconds, and never waited for long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fleet.watch.gauges import (
    AGE,
    BUILD,
    OWN_FAMILIES,
    SOURCE_UP,
    Family,
    Reading,
    Sample,
    build,
    read_all,
    sources,
)
from fleet.watch.kept import Kept

KEEP_S: Final = 15.0
"""As often as Prometheus usually comes: two that scrape cost the database no more than one."""
WAIT_S: Final = 3.0
"""A scrape has ten seconds by default; after this it gets what was last known."""


class StateCollector(Collector):
    """The gauges as prometheus_client takes them. Never raises and never waits for long."""

    def __init__(self) -> None:
        self._kept: Final = Kept(read_all, keep_s=KEEP_S, wait_s=WAIT_S)

    def collect(self) -> Iterator[Metric]:
        """Build, sources, and what they said last."""
        seen = self._kept()
        reading = seen.value or Reading((), tuple((each.name, False) for each in sources()))
        samples = [Sample(BUILD.name, 1, build())]
        samples += [
            Sample(SOURCE_UP.name, float(worked and not seen.is_late), (name,))
            for name, worked in reading.has_worked
        ]
        if seen.value is not None:
            samples.append(Sample(AGE.name, round(seen.age_s, 3)))
        families = [*OWN_FAMILIES, *(family for each in sources() for family in each.families)]
        yield from grouped(families, (*samples, *reading.samples))


def grouped(families: Iterable[Family], samples: Iterable[Sample]) -> Iterator[Metric]:
    """The samples under their families; a family without any is left out. Pure."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    for family in families:
        found = by_name.get(family.name)
        if not found:
            continue
        made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        metric = made(family.name, family.text, labels=family.labels)
        for sample in found:
            metric.add_metric(sample.labels, sample.value)
        yield metric
