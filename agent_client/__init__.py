"""Hermes Fleet's agent client: records the local plane and speaks to the operator's console.

Importing this package reads no file, no environment and starts no thread; the
names below load their module on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent_client.emitter import emit, flush, status

__version__ = "0.1.0"
__all__ = ["__version__", "emit", "flush", "status"]


def __getattr__(name: str) -> object:
    if name in {"emit", "flush", "status"}:
        from agent_client import emitter

        value: object = getattr(emitter, name)
        return value
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
