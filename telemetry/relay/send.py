"""send_body(): one body to the collector, and what its answer means for the records in it.

OTLP/HTTP: only 429, 502, 503, 504 and lost connections are tried again; a 2xx may refuse single
records, which are counted and never sent again; any other refusal is for good, unless it is about
the way there (login, path, redirect): then the fault is ours to mend and no record is set aside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from django.utils.translation import gettext as _
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from fleet.lib.clock import now
from telemetry.delivery.breaker import retry_after_s
from telemetry.delivery.http import DeliveryError, Reply, Sender
from telemetry.models import Signal

RETRYABLE: Final = frozenset({429, 502, 503, 504})
"""The protocol's whole list: everything else, 500 too, must not be sent again."""
NOT_OFFERED: Final = frozenset({404, 405, 501})
"""How a receiver that takes only traces answers the other two signals."""
MEDIA_PROTOBUF: Final = "application/x-protobuf"
_PROTOBUF_ANSWERS: Final = frozenset({"", MEDIA_PROTOBUF, "application/octet-stream"})
_POST_HEADERS: Final = {
    "Content-Type": MEDIA_PROTOBUF,
    "Content-Encoding": "gzip",
    "Accept": f"{MEDIA_PROTOBUF}, application/json",
}
_SAID_CHARS: Final = 160

Kind = Literal["taken", "retry", "stop", "dead", "too_large", "not_offered"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a body.

    ``taken``: but for ``rejected_count`` records, ``text`` is the receiver's reason or its warning.
    ``retry``: later, by itself. ``stop``: later, and a person should look. ``dead``: never.
    """

    kind: Kind
    text: str = ""
    status: int | None = None
    rejected_count: int = 0
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class PartialSuccess:
    """What a 2xx says of the records it refused; a message without any is a warning."""

    rejected_count: int = 0
    message: str = ""


def send_body(
    sender: Sender, signal: str, data: bytes, *, record_count: int, headers_env: Mapping[str, str]
) -> Outcome:
    """Send a compressed body once. Never raises for what the other side does."""
    try:
        reply = sender.post(f"/v1/{signal}", data, _POST_HEADERS)
    except DeliveryError as error:
        return Outcome("stop" if error.kind in {"refused", "tls"} else "retry", str(error))
    return judge(sender, signal, reply, record_count=record_count, headers_env=headers_env)


def judge(
    sender: Sender, signal: str, reply: Reply, *, record_count: int, headers_env: Mapping[str, str]
) -> Outcome:
    """What an answer means."""
    status = reply.status
    if 200 <= status < 300:
        return _taken(sender, signal, reply, record_count)
    said = _said(sender, reply)
    if status in RETRYABLE:
        text = _("The collector answers %(status)d%(said)s.") % {"status": status, "said": said}
        asked_s = retry_after_s(reply.headers.get("retry-after", ""), now())
        return Outcome("retry", text, status, retry_after_s=asked_s)
    if status == 413:
        text = _("The collector takes no body of this size (413).")
        return Outcome("too_large", text, status)
    if status in {401, 403}:
        return Outcome("stop", _login_text(status, headers_env, said), status)
    if 300 <= status < 400:
        text = _("The collector redirects (%(status)d). Enter its final address.")
        return Outcome("stop", text % {"status": status}, status)
    if status in NOT_OFFERED and signal != Signal.TRACES:
        text = _("The collector takes no %(signal)s (%(status)d). Switch them off for it.")
        return Outcome("not_offered", text % {"signal": signal, "status": status}, status)
    if status in {404, 405}:
        text = _(
            "No OTLP receiver at this address: %(status)d to %(path)s/v1/%(signal)s. Check the "
            "address and its path."
        )
        where = {"path": sender.endpoint.path, "signal": signal, "status": status}
        return Outcome("stop", text % where, status)
    text = _("The collector refuses it for good: %(status)d%(said)s.")
    return Outcome("dead", text % {"status": status, "said": said}, status)


def _taken(sender: Sender, signal: str, reply: Reply, record_count: int) -> Outcome:
    try:
        found = partial_success(signal, reply)
    except ValueError:
        text = _("What answers %(status)d at %(where)s is no OTLP receiver. Check the address.")
        where = {"status": reply.status, "where": sender.endpoint.shown}
        return Outcome("stop", text % where, reply.status)
    rejected = max(0, min(found.rejected_count, record_count))
    said = sender.shown(found.message)[:_SAID_CHARS]
    text = said
    if rejected:
        text = _("The collector rejected %(count)d records: %(said)s") % {
            "count": rejected,
            "said": said or _("it does not say why"),
        }
    return Outcome("taken", text, reply.status, rejected_count=rejected)


def partial_success(signal: str, reply: Reply) -> PartialSuccess:
    """The partial success of a 2xx. Errors: ValueError: it is no OTLP answer, a portal's page."""
    if not reply.body:
        return PartialSuccess()
    if reply.media == "application/json":
        return _from_json(reply.body)
    if reply.media not in _PROTOBUF_ANSWERS:
        raise ValueError(reply.media)
    message_of, count_of = _ANSWERS[signal]
    try:
        found = message_of.FromString(reply.body).partial_success
    except DecodeError as error:
        raise ValueError("no protobuf") from error
    return PartialSuccess(int(getattr(found, count_of)), str(found.error_message))


def _from_json(body: bytes) -> PartialSuccess:
    try:
        answer = json.loads(body)
        partial = answer.get("partialSuccess") or {}
        # 64-bit integers are strings in OTLP/JSON.
        counts = [str(partial.get(name, 0)) for name in _JSON_COUNTS]
        message = partial.get("errorMessage", "")
    except (AttributeError, RecursionError) as error:
        raise ValueError("no OTLP response") from error
    rejected = max(int(text[:18]) if text.isascii() and text.isdigit() else 0 for text in counts)
    return PartialSuccess(rejected, str(message))


def _said(sender: Sender, reply: Reply) -> str:
    """The receiver's words in front of a full stop, "" without any."""
    text = ""
    if reply.media == "application/json":
        text = _json_message(reply.body)
    elif reply.media == "text/plain":
        text = reply.body.decode("utf-8", "replace")
    elif reply.media in _PROTOBUF_ANSWERS:
        text = _status_message(reply.body[:16_384])
    shown = sender.shown(text)[:_SAID_CHARS]
    return f" ({shown})" if shown else ""


def _json_message(body: bytes) -> str:
    try:
        answer = json.loads(body[:16_384])
    except (ValueError, RecursionError):
        return ""
    found = answer.get("message") if isinstance(answer, dict) else ""
    return found if isinstance(found, str) else ""


def _status_message(body: bytes) -> str:
    """``google.rpc.Status.message``: field 2, read by hand; "" for anything else."""
    at = 0
    while at < len(body) - 1:
        tag, size, at = body[at], body[at + 1], at + 2
        if tag == 0x08:  # the code, below 128
            continue
        if tag != 0x12:
            return ""
        if size & 0x80 and at < len(body):
            size, at = (size & 0x7F) | (body[at] << 7), at + 1
        return body[at : at + size].decode("utf-8", "replace")
    return ""


def _login_text(status: int, headers_env: Mapping[str, str], said: str) -> str:
    if not headers_env:
        return _("The collector answers %(status)d%(said)s and no header is configured.") % {
            "status": status,
            "said": said,
        }
    names = ", ".join(f"{name} from {variable}" for name, variable in headers_env.items())
    return _(
        "The collector answers %(status)d%(said)s: look at the headers (%(names)s), in the "
        "environment of web and worker."
    ) % {"status": status, "said": said, "names": names[:120]}


_ANSWERS: Final[Mapping[str, tuple[Any, str]]] = {  # Any: generated classes
    Signal.TRACES: (ExportTraceServiceResponse, "rejected_spans"),
    Signal.METRICS: (ExportMetricsServiceResponse, "rejected_data_points"),
    Signal.LOGS: (ExportLogsServiceResponse, "rejected_log_records"),
}
_JSON_COUNTS: Final = ("rejectedSpans", "rejectedLogRecords", "rejectedDataPoints")

type Send = Callable[[bytes, int], Outcome]
