"""Webhooks: one JSON body a record, signed as Standard Webhooks says, readable by Slack.

Shape of the body: ``type``, ``timestamp`` and ``data`` as that specification has them, ``id`` (the
same as in the header ``webhook-id``) and ``text``, a sentence in Slack's form. The signature is
HMAC-SHA256 over ``id.timestamp.body``; a receiver that knows the id has had the record.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from django.utils.translation import gettext as _

from fleet.lib.clock import now
from telemetry.delivery.breaker import retry_after_s
from telemetry.delivery.guard import Endpoint
from telemetry.delivery.headers import MIN_ECHO_CHARS
from telemetry.delivery.http import DeliveryError, Reply, Sender
from telemetry.streams.channel import Answer, NotSet, is_about_the_way, refused_text
from telemetry.streams.records import Record

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 -- the form's own prefix
MIN_SECRET_BYTES: Final = 24
"""What the specification asks for; a shorter one can be guessed from a body and its signature."""
RETRIED: Final = frozenset({408, 425, 429})
"""Besides 5xx: statuses that say "not now"; any other 4xx says "not this"."""
MAX_SAID_CHARS: Final = 200


def secret_bytes(value: str) -> bytes:
    """The key that a secret stands for. Errors: NotSet when it is none or too short."""
    if not value.startswith(SECRET_PREFIX):
        key = value.encode()
    else:
        try:
            key = base64.b64decode(value.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error as error:
            raise NotSet(_("What follows whsec_ in the signing secret is no base64.")) from error
    if len(key) < MIN_SECRET_BYTES:
        raise NotSet(
            _("The signing secret is shorter than %(count)d bytes.") % {"count": MIN_SECRET_BYTES}
        )
    return key


def signature(key: bytes, uid: str, timestamp_s: int, body: bytes) -> str:
    """The value of ``webhook-signature``. Pure."""
    signed = b".".join([uid.encode(), str(timestamp_s).encode(), body])
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


class WebhookChannel:
    """Sends to one address; without a secret, unsigned.

    ``hidden``: the secret part of the address (Slack's), which no message may repeat.
    """

    most_records = 1

    def __init__(
        self, endpoint: Endpoint, headers: Mapping[str, str], key: bytes | None, *, hidden: str = ""
    ) -> None:
        self._sender = Sender(endpoint, headers)
        self._key = key
        self._hidden = hidden

    def pack(self, records: Sequence[Record]) -> bytes:
        """One record's JSON."""
        (record,) = records
        return json.dumps(
            {
                "type": record.event,
                "id": record.uid,
                "timestamp": record.at.isoformat(),
                "text": slack_text(record),
                "data": record.fields,
            },
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode()

    def send(self, body: bytes) -> Answer:
        """POST it; what the receiver says decides."""
        uid = str(json.loads(body)["id"])
        moment = now()
        timestamp_s = int(moment.timestamp())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": uid,
            "webhook-timestamp": str(timestamp_s),
        }
        if self._key is not None:
            headers["webhook-signature"] = signature(self._key, uid, timestamp_s, body)
        try:
            with self._sender as sender:
                return self._judge(sender.post("", body, headers), moment)
        except DeliveryError as error:
            return Answer("later", str(error))

    def _judge(self, reply: Reply, moment: datetime) -> Answer:
        if 200 <= reply.status < 300:
            return Answer("taken", status=reply.status)
        said = reply.body.decode("utf-8", "replace")
        for part in (self._hidden, *self._hidden.split("/")):
            if len(part) >= MIN_ECHO_CHARS:
                said = said.replace(part, "…")  # before any cut, which could halve it
        said = self._sender.shown(said)[:MAX_SAID_CHARS]
        error = refused_text(reply.status, said)
        if reply.status >= 500 or reply.status in RETRIED or is_about_the_way(reply.status):
            wait_s = retry_after_s(reply.headers.get("retry-after", ""), moment)
            return Answer("later", error, status=reply.status, retry_after_s=wait_s)
        return Answer("refused", error, status=reply.status)


def slack_text(record: Record) -> str:
    """The sentence with what Slack gives a meaning escaped: a name must not call a channel."""
    mark = {"bad": "🔴 ", "warn": "🟠 "}.get(record.level, "")
    text = record.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return mark + " ".join(text.split())
