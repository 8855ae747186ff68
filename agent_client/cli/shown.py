"""Configuration values as they may be shown: whoever looks over the shoulder learns no secret."""

from __future__ import annotations

from urllib.parse import urlsplit

from agent_client.contract.policy_keys import KEYS, value_fault

_HARMLESS = frozenset({"bool", "int", "enum", "env_map"})
"""Types whose good values cannot hold a secret; the others go through the redactor."""


def shown_value(key: str, value: object) -> object:
    """The value of a dotted key with secrets removed, by the names in the key and by their shape.

    Read it without expansion (``config.load(…, expand=False)``): ``${VAR}`` then stays a name.
    """
    if value is None or isinstance(value, bool):
        return value
    entry = KEYS.get(key)
    if entry is not None and entry.type == "url":
        return shown_url(value)
    if entry is not None and entry.type in _HARMLESS and not value_fault(key, value):
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
    return scrubbed


def shown_url(url: object) -> str:
    """An address without user name and query: some services take a key there."""
    text = str(url or "")
    try:
        parts = urlsplit(text)
    except ValueError:
        return "not an address"
    if not parts.scheme or not parts.netloc:
        return text and "not an address"
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?…" if parts.query else "")
