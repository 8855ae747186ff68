"""A stream's channel: its address checked, its headers and its secret read from the environment."""

from __future__ import annotations

import re
from typing import Final

from django.utils.translation import gettext as _

from telemetry.delivery.guard import HTTP, EndpointRefused, check_endpoint
from telemetry.delivery.headers import (
    HOOK_PREFIX,
    check_headers,
    header_values,
    secret_value,
)
from telemetry.models import Stream
from telemetry.streams.channel import Channel, NotSet
from telemetry.streams.otlp import OtlpChannel
from telemetry.streams.syslog import SCHEMES, SyslogChannel
from telemetry.streams.webhook import WebhookChannel, secret_bytes

PLACE: Final = re.compile(r"\$\{([^{}]*)\}")
"""The secret part of an address: ``https://hooks.slack.com/services/${FLEET_HOOK_SLACK}``."""
_VARIABLE: Final = re.compile(HOOK_PREFIX + r"[A-Z0-9_]{1,60}")
_PART: Final = re.compile(r"[A-Za-z0-9._~/=-]{1,300}")


def open_channel(stream: Stream) -> Channel:
    """What sends for a stream. Errors: EndpointRefused, NotSet; both say what to do."""
    if stream.kind == Stream.Kind.SYSLOG:
        return SyslogChannel(check_endpoint(_pathless(stream.endpoint), schemes=SCHEMES))
    values, faults = header_values(stream.headers_env)
    if faults:
        raise NotSet(" ".join(faults))
    if stream.kind == Stream.Kind.OTLP:
        return OtlpChannel(check_endpoint(stream.endpoint, schemes=HTTP), values)
    url, hidden = filled_address(stream.endpoint)
    key = None
    if stream.secret_env:
        fault = check_secret_name(stream.secret_env)
        value, fault = ("", fault) if fault else secret_value(stream.secret_env)
        if fault:
            raise NotSet(fault)
        key = secret_bytes(value)
    return WebhookChannel(check_endpoint(url, schemes=HTTP), values, key, hidden=hidden)


def filled_address(endpoint: str) -> tuple[str, str]:
    """An address with its secret part in its place, and that part. Errors: NotSet."""
    found = PLACE.search(endpoint)
    if found is None:
        return endpoint, ""
    value, fault = secret_value(found[1])
    fault = check_place(endpoint) or fault
    if not fault and not _PART.fullmatch(value):
        fault = _("%(name)s holds what cannot stand in a path.") % {"name": found[1]}
    if fault:
        raise NotSet(fault)
    return endpoint.replace(found[0], value), value


def check_place(endpoint: str) -> str:
    """What is wrong with the secret part of an address; it may only stand in the path."""
    found = PLACE.findall(endpoint)
    if not found:
        return _("Write ${NAME} for the secret part.") if "${" in endpoint else ""
    head, _mark, _rest = endpoint.partition("${")
    if len(found) > 1 or head.count("/") < 3:
        return _("One ${NAME} may stand in the path of the address, nowhere else.")
    return check_secret_name(found[0])


def check_secret_name(name: str) -> str:
    """What is wrong with the name of a secret's variable."""
    if _VARIABLE.fullmatch(name):
        return ""
    return _("Write the NAME of a variable that begins with %(prefix)s, not its value.") % {
        "prefix": HOOK_PREFIX
    }


def check_stream(
    *, kind: str, endpoint: str, headers_env: object, secret_env: str
) -> dict[str, list[str]]:
    """What is wrong with what a person entered, by field; nothing of the environment is read."""
    faults: dict[str, list[str]] = {}
    schemes = SCHEMES if kind == Stream.Kind.SYSLOG else HTTP
    place = check_place(endpoint)
    if place and kind == Stream.Kind.WEBHOOK:
        faults["endpoint"] = [place]
    else:
        plain = PLACE.sub("secret", endpoint) if kind == Stream.Kind.WEBHOOK else endpoint
        try:
            check_endpoint(
                _pathless(plain) if kind == Stream.Kind.SYSLOG else plain, schemes=schemes
            )
        except EndpointRefused as error:
            faults["endpoint"] = [str(error)]
    if kind == Stream.Kind.SYSLOG and headers_env:
        faults["headers_env"] = [_("Syslog has no headers.")]
    elif wrong := check_headers(headers_env):
        faults["headers_env"] = wrong
    if secret_env:
        wrong_name = check_secret_name(secret_env)
        if kind != Stream.Kind.WEBHOOK:
            wrong_name = _("Only webhooks are signed.")
        if wrong_name:
            faults["secret_env"] = [wrong_name]
    return faults


def _pathless(endpoint: str) -> str:
    _scheme, _mark, rest = endpoint.partition("://")
    if "/" in rest.rstrip("/"):
        raise EndpointRefused(_("A syslog server is a host and a port: tls://host:6514"))
    return endpoint
