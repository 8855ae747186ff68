"""Syslog: strictly as RFC 5424 says, whatever the names; taken only when it was read to its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from django.test import override_settings

from telemetry.models import Stream
from telemetry.streams import send
from telemetry.streams.send import send_stream
from tests.telemetry import receivers
from tests.telemetry.stream_rows import again, alert, change, stream_to

pytestmark = [pytest.mark.django_db, pytest.mark.both_engines]


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    with override_settings(FLEET_OTLP_HOSTS=["127.0.0.0/8"], FLEET_OTLP_PLAIN_HTTP=True):
        yield


def test_syslog_is_strictly_rfc_5424_with_hostile_names() -> None:
    hostile = 'a"b\\c]d\r\n<0>1 forged \x1b[31m\u202e é'
    row = change(actor=hostile, reason=hostile)
    alert(text="The disk is full")
    with receivers.syslog() as server:
        assert send_stream(stream_to(f"tcp://127.0.0.1:{server.port}", "syslog").pk).sent == 2
    first, second = server.messages
    assert (first.facility, first.severity, first.msgid) == (14, 3, "alerts")
    assert (second.facility, second.severity, second.app) == (13, 5, "hermes-fleet")
    assert second.params["actor"] == 'a"b\\c]d  <0>1 forged  [31m  é'
    assert second.params["number"] == str(row.pk)
    assert second.params["after"] == '{"n":1}'
    assert second.text.startswith('a"b')


def test_a_syslog_server_that_dies_gets_all_again_under_the_same_ids() -> None:
    for number in range(5):
        change(number)
    with receivers.syslog() as server:
        server.dies_after = 3
        stream = stream_to(f"tcp://127.0.0.1:{server.port}", "syslog")
        assert "cut" in send_stream(stream.pk).error
        while Stream.objects.filter(audit_position=0).exists():
            send_stream(again(stream).pk)
        send_stream(again(stream).pk)
    numbers = [int(each.params["n"]) if "n" in each.params else 0 for each in server.messages]
    uids = [each.params["id"] for each in server.messages]
    assert len(numbers) == 8
    assert len(set(uids)) == 5
    assert list(dict.fromkeys(uids)) == sorted(set(uids), key=lambda uid: int(uid.split("-")[1]))


@pytest.mark.parametrize("way", ["stays_open", "talks_on"])
def test_a_server_that_never_closes_did_not_take_the_records(way: str) -> None:
    from telemetry.delivery.http import Limits
    from telemetry.streams.open import open_channel
    from telemetry.streams.syslog import SyslogChannel

    change()
    with receivers.syslog() as server:
        setattr(server, way, True)
        stream = stream_to(f"tcp://127.0.0.1:{server.port}", "syslog")
        channel = open_channel(stream)
        assert isinstance(channel, SyslogChannel)
        channel._limits = Limits(step_s=0.2, total_s=1.0)
        with mock.patch.object(send, "open_channel", return_value=channel):
            assert "did not close" in send_stream(stream.pk).error
    stream.refresh_from_db()
    assert stream.audit_position == 0


def test_syslog_over_tls_checks_the_certificate(tmp_path: Path) -> None:
    change()
    authority, context = receivers.certificate(tmp_path)
    with receivers.syslog(context) as server:
        stream = stream_to(f"tls://127.0.0.1:{server.port}", "syslog")
        assert "certificate" in send_stream(stream.pk).error
        assert server.messages == []
        with override_settings(FLEET_OTLP_CA_FILE=str(authority), FLEET_OTLP_PLAIN_HTTP=False):
            assert send_stream(again(stream).pk).sent == 1
    assert len(server.messages) == 1


def test_a_datagram_is_cut_to_its_size_and_stays_whole() -> None:
    change(post={"long": "é" * 4000}, reason="é" * 300)
    with receivers.syslog_udp() as server:
        assert send_stream(stream_to(f"udp://127.0.0.1:{server.port}", "syslog").pk).sent == 1
    (message,), (size,) = server.messages, server.sizes
    assert size <= 1180
    assert "after" not in message.params
    assert message.params["actor"] == "ann"


def test_a_datagram_to_nobody_is_an_error() -> None:
    change()
    with receivers.syslog_udp() as server:
        port = server.port
    stream = stream_to(f"udp://127.0.0.1:{port}", "syslog")
    assert "Nothing listens" in send_stream(stream.pk).error
