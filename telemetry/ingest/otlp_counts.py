"""How many log records or data points a request holds: signals that are answered, not stored."""

from __future__ import annotations

from typing import Final

from telemetry.ingest.otlp_walk import JsonWalk, ProtobufWalk

_LOGS: Final = ("resourceLogs", "scopeLogs", "logRecords")
_METRICS: Final = ("resourceMetrics", "scopeMetrics", "metrics")
_KINDS: Final = {
    "gauge": 5,
    "sum": 7,
    "histogram": 9,
    "exponentialHistogram": 10,
    "summary": 11,
}
"""The kinds of a metric: each keeps its points in ``dataPoints``, field 1."""
_POINTS: Final = 1


def count_logs(data: bytes, *, is_json: bool) -> int:
    """The log records of an ExportLogsServiceRequest. Errors: IngestError malformed_body."""
    if is_json:
        return _count_json(data, _LOGS)
    return sum(1 for _ in ProtobufWalk(data).nested(1, 2, 2))


def count_points(data: bytes, *, is_json: bool) -> int:
    """The data points of an ExportMetricsServiceRequest. Errors: IngestError malformed_body."""
    if is_json:
        return _count_json(data, _METRICS)
    walk = ProtobufWalk(data)
    return sum(
        1
        for metric in walk.nested(1, 2, 2)
        for kind in _KINDS.values()
        for points in walk.elements(*metric, kind)
        for _ in walk.elements(*points, _POINTS)
    )


def _count_json(data: bytes, path: tuple[str, ...]) -> int:
    walk = JsonWalk(data)
    count = _below(walk, path)
    walk.end()
    return count


def _below(walk: JsonWalk, path: tuple[str, ...]) -> int:
    """Elements at the end of a path of arrays; a metric counts as its points."""
    count = 0
    for name in walk.members():
        if name == path[0]:
            for _ in walk.items():
                if len(path) > 1:
                    count += _below(walk, path[1:])
                elif name == "metrics":
                    count += _points(walk)
                else:
                    count += 1
    return count


def _points(walk: JsonWalk) -> int:
    count = 0
    for kind in walk.members():
        if kind in _KINDS:
            for name in walk.members():
                if name == "dataPoints":
                    count += sum(1 for _ in walk.items())
    return count
