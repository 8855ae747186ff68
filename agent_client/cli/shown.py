"""Configuration values as they may be shown: whoever looks over the shoulder learns no secret."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from agent_client.config import as_uuid
from agent_client.contract.policy_keys import KEYS, PolicyKey, value_fault

NOT_USABLE: Final = "[not a usable value]"
"""A value that does not fit its key may be anything, a key pasted into the wrong line included."""


def shown_value(key: str, value: object) -> object:
    """The value of a dotted key with secrets removed, by the names in the key and by their shape.

    Read it without expansion (``config.load(…, expand=False)``): ``${VAR}`` then stays a name.
    """
    if key in KEYS:
        return _typed(KEYS[key], value)
    if value is None or isinstance(value, bool):
        return value
    from agent_client.contract.redact import redact_record

    parts = key.split(".")
    tree = value
    for part in reversed(parts):
        tree = {part: tree}
    assert isinstance(tree, dict)  # noqa: S101  # a dotted key has at least one part
    scrubbed: object = redact_record(tree)
    for _ in parts:
        scrubbed = next(iter(scrubbed.values())) if isinstance(scrubbed, dict) else scrubbed
    return _with_typed(key, value, scrubbed)


def shown_url(url: object) -> str:
    """An address without user name and query: some services take a key there."""
    text = str(url or "")
    try:
        parts = urlsplit(text)
        is_whole = parts.port is None or parts.port > 0  # no number: half of a password, say
    except ValueError:
        return "not an address"
    if not parts.scheme or not parts.netloc or not is_whole:
        return text and "not an address"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?…" if parts.query else "")


def _typed(entry: PolicyKey, value: object) -> object:
    """A value of ours: its type says what may be seen of it."""
    if value is None or value == entry.default:
        return value
    if entry.type == "url":
        return shown_url(value)
    if entry.type == "str":
        return as_uuid(value) or NOT_USABLE
    return NOT_USABLE if value_fault(entry.key, value) else value


def _with_typed(key: str, value: object, scrubbed: object) -> object:
    """The scrubbed map with our own keys in it as their types have them."""
    if key in KEYS:
        return _typed(KEYS[key], value)
    if not isinstance(value, dict) or not isinstance(scrubbed, dict):
        return scrubbed
    pairs = zip(value.items(), scrubbed.items(), strict=True)
    return {
        shown: _with_typed(f"{key}.{name}", inner, clean) for (name, inner), (shown, clean) in pairs
    }
