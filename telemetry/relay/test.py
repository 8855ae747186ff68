"""test_destination(): what the test button does: the whole way to a collector, step by step.

The address, the headers, the name, the connection and the answer are each told in words. What goes
out is one span that says what it is; for a collector without traces an empty request.
"""

from __future__ import annotations

import gzip
import secrets
from dataclasses import dataclass
from typing import Final, Literal

from django.db import transaction
from django.utils.translation import gettext as _
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fleet.audit import Actor, record_change
from fleet.lib.clock import now, now_ns
from telemetry.delivery.guard import EndpointRefused, check_endpoint
from telemetry.delivery.headers import header_values
from telemetry.delivery.http import DeliveryError, Limits, Sender
from telemetry.models import RelayDestination, Signal
from telemetry.relay.cursor import SIGNALS
from telemetry.relay.send import MEDIA_PROTOBUF, Outcome, judge

LIMITS: Final = Limits(connect_s=5.0, step_s=5.0, total_s=10.0)
"""A person waits."""
SPAN_NAME: Final = "hermes.relay.test"

Mark = Literal["ok", "warn", "bad", "skipped"]


@dataclass(frozen=True, slots=True)
class Step:
    """One part of the way: ``name`` is for programs, ``title`` and ``text`` for a person."""

    name: Literal["address", "headers", "connection", "answer"]
    title: str
    mark: Mark
    text: str


@dataclass(frozen=True, slots=True)
class TestReport:
    """All steps; those behind the first that failed are skipped."""

    __test__ = False  # no test case, whatever it is called

    steps: tuple[Step, ...]

    @property
    def is_ok(self) -> bool:
        """Whether the collector took it."""
        return all(step.mark in {"ok", "warn"} for step in self.steps)

    @property
    def error(self) -> str:
        """What is wrong; "" when nothing is."""
        return next((step.text for step in self.steps if step.mark == "bad"), "")


def test_destination(
    destination: RelayDestination,
    *,
    actor: Actor = "system",  # noqa: PT028 -- no test case, whatever it is called
) -> TestReport:
    """Try a collector, saved or not; what is saved remembers the outcome, with an audit row."""
    report = TestReport(tuple(_steps(destination)))
    if destination.pk is not None:
        with transaction.atomic():
            destination.tested_at, destination.test_error = now(), report.error[:300]
            destination.save(update_fields=["tested_at", "test_error"])
            record_change(
                actor=actor,
                action="relay.test",
                target=destination,
                pre={},
                post={"ok": report.is_ok, "error": destination.test_error},
            )
    return report


def _steps(destination: RelayDestination) -> list[Step]:
    steps: list[Step] = []
    try:
        endpoint = check_endpoint(destination.endpoint)
    except EndpointRefused as error:
        return _bad(steps, "address", str(error))
    steps.append(_ok("address", endpoint.shown))
    values, faults = header_values(destination.headers_env)
    if faults:
        return _bad(steps, "headers", " ".join(faults))
    names = ", ".join(values) or _("none configured")
    steps.append(_ok("headers", names))
    signal, body, count = _message(destination)
    with Sender(endpoint, values, limits=LIMITS) as sender:
        headers = {"Content-Type": MEDIA_PROTOBUF, "Content-Encoding": "gzip"}
        try:
            reply = sender.post(f"/v1/{signal}", gzip.compress(body, 1, mtime=0), headers)
        except DeliveryError as error:
            return _bad(steps, "connection", str(error))
        outcome = judge(
            sender,
            signal,
            reply,
            record_count=count,
            headers_env=destination.headers_env,
        )
    steps.append(_ok("connection", _("TLS") if endpoint.is_tls else _("without TLS")))
    steps.append(_answer(outcome, signal))
    return steps


def _message(destination: RelayDestination) -> tuple[str, bytes, int]:
    """The signal to try, its body and how many records it holds."""
    if destination.sends_traces:
        return Signal.TRACES, test_span(), 1
    wanted = [signal for signal, switch in SIGNALS.items() if getattr(destination, switch)]
    return (wanted or [Signal.LOGS])[0], b"", 0


def test_span() -> bytes:
    """A request with one span of a millisecond, marked as what it is."""
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    _put(resource_spans.resource.attributes.add(), "service.name", "hermes-fleet")
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = SPAN_NAME
    span = scope_spans.spans.add()
    span.trace_id, span.span_id = secrets.token_bytes(16), secrets.token_bytes(8)
    span.name = SPAN_NAME
    span.kind = span.SPAN_KIND_INTERNAL
    span.end_time_unix_nano = now_ns()
    span.start_time_unix_nano = span.end_time_unix_nano - 1_000_000
    _put(span.attributes.add(), SPAN_NAME, "true")
    return request.SerializeToString()


def _put(pair, key: str, value: str) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 -- a generated class
    pair.key, pair.value.string_value = key, value


def _answer(outcome: Outcome, signal: str) -> Step:
    if outcome.kind == "taken" and not outcome.rejected_count:
        text = _("Taken: %(status)d to /v1/%(signal)s.") % {
            "status": outcome.status,
            "signal": signal,
        }
        mark: Mark = "warn" if outcome.text else "ok"
        return Step("answer", _TITLES["answer"](), mark, f"{text} {outcome.text}".strip())
    return Step("answer", _TITLES["answer"](), "bad", outcome.text)


def _ok(name: Literal["address", "headers", "connection"], text: str) -> Step:
    return Step(name, _TITLES[name](), "ok", text)


def _bad(
    steps: list[Step], name: Literal["address", "headers", "connection"], text: str
) -> list[Step]:
    """The steps up to the one that failed, and those that could not be tried."""
    steps.append(Step(name, _TITLES[name](), "bad", text))
    later = list(_TITLES)[list(_TITLES).index(name) + 1 :]
    steps += [Step(left, _TITLES[left](), "skipped", _("Not tried.")) for left in later]  # type: ignore[arg-type]  # keys of the titles
    return steps


_TITLES: Final = {
    "address": lambda: _("Address"),
    "headers": lambda: _("Headers"),
    "connection": lambda: _("Connection"),
    "answer": lambda: _("Answer"),
}
