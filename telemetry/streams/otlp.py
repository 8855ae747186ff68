"""OTLP logs: audit rows and alerts as LogRecords with an event name, several a body."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from django.conf import settings
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service
from opentelemetry.proto.common.v1 import common_pb2 as common

from fleet.lib.clock import datetime_to_ns, now
from telemetry.delivery.breaker import retry_after_s
from telemetry.delivery.guard import Endpoint
from telemetry.delivery.http import DeliveryError, Reply, Sender
from telemetry.streams.channel import Answer, is_about_the_way, refused_text
from telemetry.streams.records import Record, attributes

PATH: Final = "/v1/logs"
MEDIA: Final = "application/x-protobuf"
SCOPE: Final = "hermes.fleet"
_SEVERITIES: Final = {"bad": (17, "ERROR"), "warn": (13, "WARN"), "notice": (10, "INFO2")}
_INFO: Final = (9, "INFO")
RETRIED: Final = frozenset({429, 502, 503, 504})
"""The statuses that OTLP/HTTP says may be tried again; any other is for good."""


class OtlpChannel:
    """Sends to one collector."""

    most_records = 200

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str]) -> None:
        self._sender = Sender(endpoint, headers)

    def pack(self, records: Sequence[Record]) -> bytes:
        """A gzip body; its bytes are the same each time."""
        request = service.ExportLogsServiceRequest()
        logs = request.resource_logs.add()
        _add(logs.resource.attributes, "service.name", "hermes-fleet")
        _add(logs.resource.attributes, "service.version", _own_version())
        _add(logs.resource.attributes, "hermes.console", settings.FLEET_PUBLIC_URL)
        scope = logs.scope_logs.add()
        scope.scope.name = SCOPE
        for record in records:
            entry = scope.log_records.add()
            entry.time_unix_nano = entry.observed_time_unix_nano = datetime_to_ns(record.at)
            number, name = _SEVERITIES.get(record.level, _INFO)
            entry.severity_number = number  # type: ignore[assignment]  # the enum's own values
            entry.severity_text = name
            entry.event_name = record.event
            entry.body.string_value = record.text
            _add(entry.attributes, "log.record.uid", record.uid)
            for key, value in attributes(record).items():
                _add(entry.attributes, f"hermes.{record.kind}.{key}", value)
        packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        return packer.compress(request.SerializeToString()) + packer.flush()

    def send(self, body: bytes) -> Answer:
        """POST it, and read how many records were taken."""
        moment = now()
        headers = {"Content-Type": MEDIA, "Content-Encoding": "gzip"}
        try:
            with self._sender as sender:
                return self._judge(sender.post(PATH, body, headers), moment)
        except DeliveryError as error:
            return Answer("later", str(error))

    def _judge(self, reply: Reply, moment: datetime) -> Answer:
        if 200 <= reply.status < 300:
            return self._taken(reply)
        said = self._sender.shown(reply.body.decode("utf-8", "replace"))[:200]
        error = refused_text(reply.status, said)
        if reply.status in RETRIED or is_about_the_way(reply.status):
            wait_s = retry_after_s(reply.headers.get("retry-after", ""), moment)
            return Answer("later", error, status=reply.status, retry_after_s=wait_s)
        return Answer("refused", error, status=reply.status)

    def _taken(self, reply: Reply) -> Answer:
        answer = service.ExportLogsServiceResponse()
        if reply.media == MEDIA:
            try:
                answer.ParseFromString(reply.body)
            except DecodeError:
                answer.Clear()  # it said 2xx; what it added cannot be read
        partly = answer.partial_success
        return Answer(
            "taken",
            self._sender.shown(partly.error_message) if partly.rejected_log_records else "",
            status=reply.status,
            rejected_count=max(0, partly.rejected_log_records),
        )


def _add(attributes: object, key: str, value: str | int) -> None:
    entry: common.KeyValue = attributes.add()  # type: ignore[attr-defined]  # a repeated field
    entry.key = key
    if isinstance(value, int):
        entry.value.int_value = value
    else:
        entry.value.string_value = value


def _own_version() -> str:
    try:
        return version("hermes-fleet")
    except PackageNotFoundError:
        return "source"
