"""Where the console may send to: the addresses that must not be reached, and the ways to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from fleet import env
from telemetry.delivery.addresses import METADATA, PUBLIC, kind_of
from telemetry.delivery.guard import (
    Endpoint,
    EndpointRefused,
    EndpointUnknown,
    Resolve,
    addresses_of,
    check_endpoint,
)

PUBLIC_V4 = "93.184.215.14"
INSIDE = (
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.1.1",
    "169.254.169.254",
    "169.254.170.2",
    "168.63.129.16",
    "100.64.0.1",
    "100.100.100.200",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
)
OUTSIDE = (PUBLIC_V4, "2606:2800:21f:cb07::1", f"::ffff:{PUBLIC_V4}", "64:ff9b::5db8:d70e")


def answering(*addresses: str) -> Resolve:
    def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


def name(host: str = "collector.example.com") -> Endpoint:
    return check_endpoint(f"https://{host}")


@pytest.mark.parametrize("address", INSIDE)
def test_no_address_inside_is_public_however_it_is_wrapped(address: str) -> None:
    assert kind_of(ipaddress.ip_address(address)) != PUBLIC


@pytest.mark.parametrize("address", OUTSIDE)
def test_a_public_address_is_public_in_each_of_its_forms(address: str) -> None:
    assert kind_of(ipaddress.ip_address(address)) == PUBLIC


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_refused_as_a_literal_and_behind_a_name(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(EndpointRefused, match="FLEET_OTLP_HOSTS"):
        check_endpoint(f"https://{host}:4318")
    with pytest.raises(EndpointRefused, match="FLEET_OTLP_HOSTS"):
        addresses_of(name(), resolve=answering(address))


def test_one_bad_address_among_good_ones_refuses_the_name() -> None:
    with pytest.raises(EndpointRefused, match="this machine itself"):
        addresses_of(name(), resolve=answering(PUBLIC_V4, "127.0.0.1"))


@pytest.mark.parametrize(
    "url",
    [
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://127.1/",
        "https://127.0.0.01/",
        "https://１２７.０.０.１/",  # noqa: RUF001 -- full width is the point
        "https://127。0。0。1/",
        "https://127.0.0.1./",
        "https://[::ffff:7f00:1]/",
        "https://[fe80::1%25eth0]/",
        "https://[::1",
        "https://user:secret@93.184.215.14/",
        "https://93.184.215.14@127.0.0.1/",
        "https://93.184.215.14\\@127.0.0.1/",
        "https://example.com%2f@127.0.0.1/",
        "https://exa mple.com/",
        "https://example.com\r\nX: y/",
        "https://example.com/?next=http://127.0.0.1",
        "https://example.com/#x",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com:abc/",
        "https://",
        "https:///v1",
        "//example.com",
        "example.com:4318",
        "ftp://example.com",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_x",
        "https://-./",
        "https://" + "a" * 300,
        "",
    ],
)
def test_an_odd_spelling_is_refused(url: str) -> None:
    with pytest.raises(EndpointRefused):
        check_endpoint(url)


def test_a_login_in_the_address_is_refused_without_showing_it() -> None:
    with pytest.raises(EndpointRefused) as refused:
        check_endpoint("https://user:hunter2@example.com")
    assert "hunter2" not in str(refused.value)


def test_an_ordinary_address_is_taken_apart() -> None:
    assert check_endpoint(" https://Collector.Example.COM./otlp/ ") == Endpoint(
        "https", "collector.example.com", 443, "/otlp"
    )
    assert check_endpoint("https://c.example.com:4318/v1/traces").path == ""
    assert check_endpoint("https://bücher.example/").host == "xn--bcher-kva.example"
    assert check_endpoint(f"https://{PUBLIC_V4}").address == ipaddress.ip_address(PUBLIC_V4)


def test_plain_http_needs_its_setting(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    with pytest.raises(EndpointRefused, match="FLEET_OTLP_PLAIN_HTTP"):
        check_endpoint("http://collector.example.com")
    settings.FLEET_OTLP_PLAIN_HTTP = True
    assert check_endpoint("http://collector.example.com").port == 80


def test_a_list_of_names_lets_only_these_pass(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    settings.FLEET_OTLP_HOSTS = ["otel.example.com", "*.trusted.example"]
    assert check_endpoint("https://OTEL.example.com.").host == "otel.example.com"
    assert check_endpoint("https://a.b.trusted.example").port == 443
    for host in ("example.com", "xotel.example.com", "trusted.example", "xtrusted.example"):
        with pytest.raises(EndpointRefused, match="not on the list"):
            check_endpoint(f"https://{host}")
    with pytest.raises(EndpointRefused, match="not on the list"):
        check_endpoint(f"https://{PUBLIC_V4}")


def test_a_listed_name_may_be_private_but_never_this_machine(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    settings.FLEET_OTLP_HOSTS = ["otel-collector", "*.internal.example"]
    inside = name("otel-collector")
    assert addresses_of(inside, resolve=answering("10.1.2.3"))
    for address in ("127.0.0.1", "169.254.169.254", "fe80::1", "100.64.0.1"):
        with pytest.raises(EndpointRefused):
            addresses_of(inside, resolve=answering(address))
    with pytest.raises(EndpointRefused, match="a private address"):
        addresses_of(name("x.internal.example"), resolve=answering("10.1.2.3"))


def test_a_listed_network_lets_its_addresses_pass(settings: Any) -> None:  # noqa: ANN401 -- pytest-django's
    settings.FLEET_OTLP_HOSTS = ["127.0.0.0/8", "fd00::/8", "169.254.0.0/16"]
    assert addresses_of(name("anything.example"), resolve=answering("127.0.0.1"))
    assert check_endpoint("https://127.0.0.1:4318").port == 4318
    assert check_endpoint("https://[::ffff:127.0.0.1]:4318").port == 4318
    with pytest.raises(EndpointRefused, match="not on the list"):
        addresses_of(name("anything.example"), resolve=answering(PUBLIC_V4))
    for metadata in ("169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]"):
        with pytest.raises(EndpointRefused):
            check_endpoint(f"https://{metadata}")


def test_metadata_is_reached_only_when_its_very_address_is_listed(
    settings: Any,  # noqa: ANN401 -- pytest-django's
) -> None:
    assert kind_of(ipaddress.ip_address("169.254.169.254")) == METADATA
    settings.FLEET_OTLP_HOSTS = ["169.254.169.254"]
    assert check_endpoint("https://169.254.169.254").address


def test_a_name_without_an_address_says_so() -> None:
    with pytest.raises(EndpointUnknown, match="has no address"):
        addresses_of(name(), resolve=answering())
    with pytest.raises(EndpointUnknown, match="not known"):
        addresses_of(name("nowhere.invalid"))


@pytest.mark.parametrize("entry", ["https://x", "x:4318", "10.0.0.0/99", "*", "a b", "*.", "/"])
def test_a_list_that_can_never_match_stops_the_start(
    entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEET_OTLP_HOSTS", entry)
    with pytest.raises(ImproperlyConfigured, match="FLEET_OTLP_HOSTS"):
        env.envhosts("FLEET_OTLP_HOSTS")
