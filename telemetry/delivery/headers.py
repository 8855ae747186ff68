"""Header values from the environment, by the names that a person entered; read when they are sent.

Only names under one prefix: with any name at all, whoever edits a collector could have the
console's own keys sent to an address of his choice. Values are kept nowhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from django.utils.translation import gettext as _

from agent_client.contract.redact import redact_text

PREFIX: Final = "FLEET_OTLP_HDR_"
HOOK_PREFIX: Final = "FLEET_HOOK_"
"""Secrets that sign a webhook's body."""
MAX_HEADERS: Final = 20
MAX_VALUE_CHARS: Final = 8_192
OUR_HEADERS: Final = frozenset(
    "accept-encoding connection content-encoding content-length content-type expect host "
    "proxy-authorization te trailer transfer-encoding upgrade".split()
)
MIN_ECHO_CHARS: Final = 6
"""Shorter parts of a header's value are words; cutting them out would mangle every message."""
MAX_SHOWN_CHARS: Final = 300
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,80}")
_VARIABLE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,79}")
_VALUE: Final = re.compile(r"[\x20-\x7e\xa0-\xff]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")


def check_headers(headers_env: object, *, prefix: str = PREFIX) -> list[str]:
    """What is wrong with the names that a person entered; nothing is read from the environment."""
    if not isinstance(headers_env, Mapping):
        return [_("Headers are pairs of a header's name and a variable's name.")]
    if len(headers_env) > MAX_HEADERS:
        return [_("At most %(count)d headers.") % {"count": MAX_HEADERS}]
    faults = []
    seen: set[str] = set()
    for name, variable in headers_env.items():
        fault = _name_fault(str(name), str(variable), prefix)
        if str(name).lower() in seen:
            fault = _("%(header)s is there twice.") % {"header": name}
        seen.add(str(name).lower())
        if fault:
            faults.append(fault)
    return faults


def header_values(headers_env: object) -> tuple[dict[str, str], list[str]]:
    """The values as they stand in the environment now, and what is wrong with those left out.

    A fault names the variable and never its value; with any fault nothing should be sent.
    """
    faults = check_headers(headers_env)
    values: dict[str, str] = {}
    if faults or not isinstance(headers_env, Mapping):
        return values, faults
    for name, variable in headers_env.items():
        value, fault = secret_value(str(variable))
        if fault:
            faults.append(fault)
        else:
            values[str(name)] = value
    return values, faults


def secret_value(variable: str) -> tuple[str, str]:
    """The value of a variable or of the file that NAME_FILE names, and why there is none."""
    value, path = os.environ.get(variable, "").strip(), os.environ.get(f"{variable}_FILE", "")
    if not value and path.strip():
        try:
            value = Path(path.strip()).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError, ValueError):
            return "", _("The file that %(name)s_FILE names cannot be read.") % {"name": variable}
    if not value:
        return "", _(
            "%(name)s is not set in the environment of this process (web and worker need it)."
        ) % {"name": variable}
    if len(value) > MAX_VALUE_CHARS or not _VALUE.fullmatch(value):
        return "", _("%(name)s holds characters that no header may have.") % {"name": variable}
    return value, ""


def scrubbed(text: str, values: Mapping[str, str], *, max_chars: int = MAX_SHOWN_CHARS) -> str:
    """A stranger's words made safe to store and show: one line, redacted, no header's value."""
    if not text:  # most answers say nothing, and the first look at one loads every rule
        return ""
    for value in values.values():
        for part in sorted({value, *value.split()}, key=len, reverse=True):
            if len(part) >= MIN_ECHO_CHARS:
                text = text.replace(part, "[header]")  # before the cut, which could halve one
    line = _CONTROL.sub(" ", redact_text(text[:2_000]))
    return line.strip()[:max_chars]


def _name_fault(name: str, variable: str, prefix: str) -> str:
    if not _HEADER.fullmatch(name):
        return _("%(header)s is no name of a header.") % {"header": repr(name[:80])}
    if name.lower() in OUR_HEADERS:
        return _("%(header)s is set by the console itself.") % {"header": name}
    if not _VARIABLE.fullmatch(variable) or not variable.startswith(prefix):
        return _(
            "%(header)s: write the NAME of a variable that begins with %(prefix)s, not its value."
        ) % {"header": name, "prefix": prefix}
    return ""
