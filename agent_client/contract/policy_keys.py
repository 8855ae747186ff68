"""Every pinnable key of our own section: type, default, bounds and meaning.

The admin's typed editor, the client's checks and the documentation are built
from this registry. Keys outside ``telemetry.`` are the host's: free dotted
keys with a JSON value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

ValueType = Literal["bool", "int", "str", "url", "enum", "env_map", "prices"]

MAX_KEY_CHARS: Final = 200
MAX_VALUE_CHARS: Final = 16_384
"""A pin's canonical JSON; a bundle may be 256 KiB in all."""

_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_\-]*"
_DOTTED = re.compile(rf"{_SEGMENT}(\.{_SEGMENT})*", re.ASCII)
_ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]*", re.ASCII)
PRICED: Final = ("input", "output", "cache_read", "cache_write", "reasoning")
"""Kinds of tokens that may have a price; the first two must."""
MAX_PRICES: Final = 100
"""Models with a price of their own; a table of hundreds is a catalogue, not a contract."""
MAX_PRICE_USD: Final = 100_000
"""For a million tokens. The dearest models cost hundreds: more is a price for one token."""
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class PolicyKey:
    """One key: what an operator may pin it to and what it does.

    ``loosens``: the values that open a plane wider than the default, shown before saving.
    """

    key: str
    type: ValueType
    default: object
    help: str
    plane: str
    choices: tuple[str, ...] = ()
    minimum: int = 0
    maximum: int = 0
    loosens: tuple[object, ...] = ()


TELEMETRY_KEYS: Final[tuple[PolicyKey, ...]] = (
    PolicyKey(
        "telemetry.local",
        "bool",
        default=True,
        help="Record the local plane on the machine.",
        plane="local",
    ),
    PolicyKey(
        "telemetry.allow_aggregate",
        "bool",
        default=True,
        help="Hard gate of the aggregate plane; off wins over any consent.",
        plane="aggregate",
    ),
    PolicyKey(
        "telemetry.consent_state",
        "enum",
        default="unknown",
        help="The opt-in to the aggregate plane.",
        plane="aggregate",
        choices=("unknown", "local", "aggregate"),
        loosens=("aggregate",),
    ),
    PolicyKey(
        "telemetry.install_id",
        "str",
        default="",
        help="The install's id; clearing it makes a new one. Never pin it for several.",
        plane="local",
    ),
    PolicyKey(
        "telemetry.retention_days",
        "int",
        default=90,
        help="Log and rows older than this many days are removed from the machine.",
        plane="local",
        minimum=1,
        maximum=3650,
    ),
    PolicyKey(
        "telemetry.redact_secrets",
        "bool",
        default=True,
        help="Kept for compatibility; secrets are stripped on every way out whatever it says.",
        plane="local",
    ),
    PolicyKey(
        "telemetry.content_redaction",
        "enum",
        default="none",
        help="Scrub personal data from exported content.",
        plane="trajectories",
        choices=("none", "pii"),
    ),
    PolicyKey(
        "telemetry.trajectories.enabled",
        "bool",
        default=False,
        help="Unlock content export to the operator's own destinations.",
        plane="trajectories",
        loosens=(True,),
    ),
    PolicyKey(
        "telemetry.prices",
        "prices",
        default={},
        help="Negotiated prices: provider/model or model to US dollars for a million tokens.",
        plane="local",
    ),
    PolicyKey(
        "telemetry.export.otlp.enabled",
        "bool",
        default=False,
        help="Send the local plane to an OpenTelemetry collector.",
        plane="local",
        loosens=(True,),
    ),
    PolicyKey(
        "telemetry.export.otlp.endpoint",
        "url",
        default=None,
        help="The collector's OTLP/HTTP address.",
        plane="local",
    ),
    PolicyKey(
        "telemetry.export.otlp.headers_env",
        "env_map",
        default={},
        help="Header name to the NAME of an environment variable; never a value.",
        plane="local",
    ),
    PolicyKey(
        "telemetry.export.otlp.semconv_profile",
        "enum",
        default="1.41",
        help="The GenAI conventions a collector understands: 1.41, the renamed next, or both.",
        plane="local",
        choices=("1.41", "next", "both"),
    ),
    PolicyKey(
        "telemetry.export.otlp.logs",
        "bool",
        default=True,
        help="Send errors and happenings as log records; off for collectors that take only traces.",
        plane="local",
    ),
    PolicyKey(
        "telemetry.export.otlp.metrics",
        "bool",
        default=True,
        help="Send metrics; off for collectors that take only traces.",
        plane="local",
    ),
    PolicyKey(
        "telemetry.export.otlp.errors_as_span_events",
        "bool",
        default=False,
        help="Repeat a run's errors as events of its span, for collectors that take no logs.",
        plane="local",
    ),
    PolicyKey(
        "telemetry.export.console.enabled",
        "bool",
        default=False,
        help="Push the local plane to the operator's console.",
        plane="local",
        loosens=(True,),
    ),
    PolicyKey(
        "telemetry.export.console.content",
        "bool",
        default=False,
        help="Push the content of sessions, too; needs telemetry.trajectories.enabled as well. "
        "Its owner's to say: a machine whose allow file does not name it refuses a bundle with it.",
        plane="trajectories",
        loosens=(True,),
    ),
    PolicyKey(
        "telemetry.export.console.endpoint",
        "url",
        default=None,
        help="The console's address.",
        plane="local",
    ),
    PolicyKey(
        "telemetry.export.console.interval_s",
        "int",
        default=60,
        help="Seconds between pushes of a long-lived agent.",
        plane="local",
        minimum=5,
        maximum=86_400,
    ),
)
KEYS: Final[Mapping[str, PolicyKey]] = {entry.key: entry for entry in TELEMETRY_KEYS}


def key_fault(key: str) -> str:
    """Why a dotted key cannot be pinned, in one sentence; "" when it can.

    ``model`` alone is refused: the host replaces its whole model section by a bare value.
    """
    if len(key) > MAX_KEY_CHARS or _DOTTED.fullmatch(key) is None:
        return "Use letters, digits, _ and - in parts joined by dots, at most 200 characters."
    if key == "model":
        return "Pin model.default instead: a bare model replaces the host's whole model section."
    if key == "telemetry" or (key.startswith("telemetry.") and key not in KEYS):
        return "There is no such telemetry key."
    return ""


def value_fault(key: str, value: object) -> str:
    """Why a value cannot be pinned to a key, in one sentence; "" when it can."""
    text_fault = _text_fault(value)
    if text_fault:
        return text_fault
    entry = KEYS.get(key)
    if entry is None:
        if value is None or value == {}:
            return "An empty value pins nothing on the host; remove the pin instead."
        return ""
    return _typed_fault(entry, value)


def _text_fault(value: object) -> str:
    if isinstance(value, str):
        if "${" in value:
            return "${…} is expanded from each machine's environment and cannot be pinned."
        if len(value) > MAX_VALUE_CHARS:
            return "The value is longer than 16,384 characters."
        if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
            return "The value holds characters that have no place in a text file."
        return ""
    if isinstance(value, Mapping):
        parts = [*value.keys(), *value.values()]
        return next((fault for part in parts if (fault := _text_fault(part))), "")
    if isinstance(value, list | tuple):
        return next((fault for part in value if (fault := _text_fault(part))), "")
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN and infinity cannot be pinned."
    return ""


def _typed_fault(entry: PolicyKey, value: object) -> str:
    if entry.type == "bool":
        return "" if isinstance(value, bool) else "Use true or false."
    if entry.type == "int":
        if isinstance(value, bool) or not isinstance(value, int):
            return "Use a whole number."
        if entry.minimum <= value <= entry.maximum:
            return ""
        return f"Use a number from {entry.minimum} to {entry.maximum}."
    if entry.type == "env_map":
        return _env_map_fault(value)
    if entry.type == "prices":
        return _prices_fault(value)
    if not isinstance(value, str):
        return "Use a text."
    if entry.type == "enum":
        return "" if value in entry.choices else "Use one of: " + ", ".join(entry.choices) + "."
    if entry.type == "url" and not re.fullmatch(r"https?://[^\s@/]+(/\S*)?", value):
        return "Use an http:// or https:// address without a user name in it."
    return ""


def _env_map_fault(value: object) -> str:
    if not isinstance(value, Mapping):
        return "Use a map of header name to environment variable name."
    for header, name in value.items():
        if not isinstance(header, str) or _HEADER_NAME.fullmatch(header) is None:
            return "A header name holds characters that HTTP does not allow."
        if not isinstance(name, str) or _ENV_NAME.fullmatch(name) is None:
            return "Name an environment variable (A-Z, 0-9, _), never the header's value."
    return ""


def _prices_fault(value: object) -> str:
    if not isinstance(value, Mapping):
        return "Use a map of model, or provider/model, to its prices."
    if len(value) > MAX_PRICES:
        return f"At most {MAX_PRICES} models can have a price."
    for model, prices in value.items():
        if not isinstance(model, str) or not 0 < len(model) <= MAX_KEY_CHARS:
            return "Name a model, or provider/model, in at most 200 characters."
        if not isinstance(prices, Mapping) or not {"input", "output"} <= prices.keys():
            return "Give each model a price for input and for output."
        if not prices.keys() <= set(PRICED):
            return "Use only these prices: " + ", ".join(PRICED) + "."
        if not all(_is_price(price) for price in prices.values()):
            return f"A price is a number of dollars from 0 to {MAX_PRICE_USD:,} a million tokens."
    return ""


def _is_price(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= MAX_PRICE_USD  # type: ignore[operator]  # a number: looked at


def nest(pins: Mapping[str, object]) -> dict[str, object]:
    """Dotted pins as nested maps, the form of a bundle and of managed scope.

    Errors: ValueError when one pin lies inside another (``a`` and ``a.b``).
    """
    tree: dict[str, object] = {}
    for key in sorted(pins):
        *parents, leaf = key.split(".")
        if any(".".join(parents[:depth]) in pins for depth in range(1, len(parents) + 1)):
            # Looked up, not tripped over: a pin whose value is a map would take the other one in.
            raise ValueError(f"{key} lies inside another pin")
        node = tree
        for part in parents:
            child = node.setdefault(part, {})
            assert isinstance(child, dict)  # noqa: S101  # no pin stands here: looked up above
            node = child
        node[leaf] = pins[key]
    return tree
