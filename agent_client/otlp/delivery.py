"""One signal to the collector: sent until it is taken, or until there is a reason to stop.

Only 429, 502, 503, 504 and lost connections are tried again, with full jitter and Retry-After; a
2xx may refuse single records, which are counted and never sent again.
"""

from __future__ import annotations

import json
from typing import Final

from agent_client.contract.redact import UNAVAILABLE, redact_text
from agent_client.export import REDACTOR_MISSING, is_redactor_missing
from agent_client.http import NetworkError, printable, retry_after_s
from agent_client.otlp.encode import (
    LOGS,
    METRICS,
    TRACES,
    PartialSuccess,
    compressed,
    read_partial_success,
)
from agent_client.otlp.target import Target
from agent_client.otlp.transport import Collector, Reply
from agent_client.push_send import (
    BACKOFF_BASE_S,
    BACKOFF_CAP_S,
    EXIT_CREDENTIAL,
    EXIT_FAILED,
    EXIT_LATER,
    MAX_WAIT_S,
    Timing,
)

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""Before compression; many receivers refuse more, whatever they document."""
RETRYABLE: Final = frozenset({429, 502, 503, 504})
"""The protocol's whole list: everything else, 500 too, must not be sent again at once."""
NOT_OFFERED: Final = frozenset({404, 405, 501})
"""How a receiver that takes only traces answers the other two signals."""
MAX_SAID_CHARS: Final = 2_000
MAX_SAID: Final = 3
MIN_ECHO_CHARS: Final = 6
"""Shorter parts of a header's value are words; cutting them out would mangle every message."""
MEDIA_PROTOBUF: Final = "application/x-protobuf"
_POST_HEADERS: Final = {"Content-Type": MEDIA_PROTOBUF, "Content-Encoding": "gzip"}
_PROTOBUF_ANSWERS: Final = frozenset({"", MEDIA_PROTOBUF, "application/octet-stream"})
_SETTING: Final = {LOGS: "telemetry.export.otlp.logs", METRICS: "telemetry.export.otlp.metrics"}
_NAMES: Final = {TRACES: "spans", LOGS: "logs", METRICS: "metrics"}
_JSON_COUNTS: Final = ("rejectedSpans", "rejectedLogRecords", "rejectedDataPoints")


class EndedError(Exception):
    """Something ends the drain; what was accepted before is kept."""

    def __init__(
        self, status: str, exit_code: int, reason: str, detail: str = "", retry_after_s: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.status, self.exit_code = status, exit_code
        self.reason, self.detail, self.retry_after_s = reason, detail, retry_after_s


class TooLargeError(Exception):
    """The batch has to be cut in halves."""


class Delivery:
    """Sends to one target and counts: ``sent`` and ``rejected`` by spans, logs, metrics (points).

    ``said`` is what the collector says of what it refused, made safe to show.
    """

    def __init__(self, target: Target, timing: Timing) -> None:
        self.target = target
        self.timing = timing
        self.sent: dict[str, int] = {}
        self.rejected: dict[str, int] = {}
        self._said: list[str] = []
        self._collector = Collector(target.base, target.values)
        self._not_offered: set[str] = set()

    @property
    def said(self) -> str:
        """The collector's words, the first few that differ."""
        return "; ".join(self._said)

    def close(self) -> None:
        """Let go of the connection."""
        self._collector.close()

    def send(self, signal: str, body: bytes, count: int) -> None:
        """Send until it is taken. Errors: TooLargeError, EndedError."""
        if signal in self._not_offered:
            self.reject(signal, count)
            return
        if UNAVAILABLE.encode() in body and is_redactor_missing():
            raise EndedError("failed", EXIT_FAILED, "redactor", REDACTOR_MISSING)
        if len(body) > MAX_BODY_BYTES and count > 1 and signal != METRICS:
            raise TooLargeError
        reply = self._insist(signal, compressed(body))
        if 200 <= reply.status < 300:
            found = self._partial_success(signal, reply)
            refused = max(0, min(found.rejected, count))
            self.reject(signal, refused, self._scrubbed(found.message))
            name = _NAMES[signal]
            self.sent[name] = self.sent.get(name, 0) + count - refused
        elif reply.status in NOT_OFFERED and signal != TRACES:
            self._not_offered.add(signal)
            said = f"the collector takes no {_NAMES[signal]} ({reply.status})"
            self.reject(signal, count, f"{said}; set {_SETTING[signal]}: false")
        else:
            raise _refusal(signal, reply.status)

    def reject(self, signal: str, count: int, said: str = "") -> None:
        """Count records that the collector will not have."""
        if count:
            name = _NAMES[signal]
            self.rejected[name] = self.rejected.get(name, 0) + count
        if said and said not in self._said and len(self._said) < MAX_SAID:
            self._said.append(said)

    def _insist(self, signal: str, data: bytes) -> Reply:
        """The first answer that is not to be tried again. Errors: EndedError."""
        last, delay_s = "not sent", 0.0
        for attempt in range(self.timing.max_attempts):
            if attempt:
                self.timing.sleep(delay_s)
            # Full jitter: a fleet that lost its collector must not come back at once.
            delay_s = self.timing.chance() * min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0**attempt)
            try:
                reply = self._collector.post(f"/v1/{signal}", data, _POST_HEADERS)
            except NetworkError as error:
                last = str(error)
                continue
            if reply.status not in RETRYABLE:
                return reply
            last = f"the collector answers {reply.status}"
            asked_s = retry_after_s(reply.headers.get("retry-after", ""))
            if asked_s is not None and asked_s > MAX_WAIT_S:
                raise EndedError("later", EXIT_LATER, f"http_{reply.status}", last, asked_s)
            delay_s = delay_s if asked_s is None else asked_s
        raise EndedError("later", EXIT_LATER, "network", last)

    def _partial_success(self, signal: str, reply: Reply) -> PartialSuccess:
        """What a 2xx answer says; a page of a portal on the way is not the collector's answer."""
        if not reply.body:
            return PartialSuccess()
        media = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            if media == "application/json":
                return json_partial_success(reply.body)
            if media in _PROTOBUF_ANSWERS:
                return read_partial_success(signal, reply.body)
        except ValueError:
            pass  # said below, as for any other page
        detail = f"what answers at {self.target.endpoint} is no OTLP receiver"
        raise EndedError("failed", EXIT_FAILED, "bad_answer", detail)

    def _scrubbed(self, message: str) -> str:
        """A collector's words made safe to show: should it echo a header, its value is cut out."""
        if not message:
            return ""
        text = message
        for value in self.target.values.values():
            for part in (value, *value.split()):
                if len(part) >= MIN_ECHO_CHARS:
                    text = text.replace(part, "[header]")  # before the cut, which could halve one
        return printable(redact_text(text[:MAX_SAID_CHARS]))


def json_partial_success(body: bytes) -> PartialSuccess:
    """The partial success of a JSON answer, which some give to protobuf. Errors: ValueError."""
    try:
        answer = json.loads(body)
        partial = answer.get("partialSuccess") or {}
        # 64-bit integers are strings in OTLP/JSON.
        counts = [str(partial.get(name, 0)) for name in _JSON_COUNTS]
        message = str(partial.get("errorMessage", ""))
    except (AttributeError, RecursionError) as error:
        raise ValueError("the answer is no OTLP response") from error
    rejected = max(int(text) if text.isascii() and text.isdigit() else 0 for text in counts)
    return PartialSuccess(rejected, message)


def _refusal(signal: str, status: int) -> Exception:
    """What an answer that no waiting mends leads to."""
    if status == 413:
        return TooLargeError()
    if status in {401, 403}:
        detail = f"the collector answers {status}: look at the headers"
        return EndedError("rejected", EXIT_CREDENTIAL, f"http_{status}", detail)
    if 300 <= status < 400:
        detail = "the collector redirects; configure its final address"
        return EndedError("failed", EXIT_FAILED, "redirect", detail)
    detail = f"the collector answers {status} to /v1/{signal}"
    return EndedError("failed", EXIT_FAILED, f"http_{status}", detail)
