"""JSON logs: one line a record, request id included, never a payload.

Messages pass the redactor; exceptions are written as their class and frames, because
their text often quotes the input that caused them.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Final

import structlog

from fleet.lib.traceid import TRACE_ID

MAX_TEXT_CHARS: Final = 2000
"""Longer values are cut: a log line is no place for a document."""
MAX_FRAMES: Final = 30

type _EventDict = MutableMapping[str, Any]  # structlog's own type for a record on its way
type _ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def _frames_only(_logger: object, _name: str, record: _EventDict) -> _EventDict:
    info = record.pop("exc_info", None)
    if info is True:
        import sys

        info = sys.exc_info()
    if isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if isinstance(info, tuple) and info[0] is not None:
        record["exception"] = describe_exception(info)
    return record


def describe_exception(info: _ExcInfo) -> dict[str, object]:
    """Class and frames of an exception, its message left out.

    Shape: ``{"class": dotted name, "frames": ["file:line function", …]}``, innermost last.
    """
    frames = traceback.extract_tb(info[2])[-MAX_FRAMES:]
    return {
        "class": f"{info[0].__module__}.{info[0].__qualname__}",
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


_QUOTING: Final = ("django.request", "django.security", "gunicorn.", "celery.app.trace")
"""Loggers that put what a caller sent, or what an exception quotes, behind a colon or a dash."""

_SENT: Final = ("user_agent", "correlation_id")
"""What django-structlog binds of a caller's own words."""


def _input_cut(_logger: object, _name: str, record: _EventDict) -> _EventDict:
    """Leave out of others' messages what somebody sent: addresses, hosts, exception texts.

    Celery's messages of several lines repeat a whole message body below the first.
    """
    for sent in _SENT:
        record.pop(sent, None)
    name, event = str(record.get("logger", "")), record.get("event")
    if not isinstance(event, str) or not name.startswith((*_QUOTING, "celery.")):
        return record
    text = event.split("\n", 1)[0]
    if name.startswith(_QUOTING):
        text = text.partition(": ")[0].partition(" - ")[0]
    if text.startswith("Error handling request"):  # gunicorn: method and address follow
        text = "Error handling request"
    record["event"] = text
    return record


_OURS: Final = frozenset({"timestamp", "level", "logger", "request_id", "trace_id"})
"""Made here, of characters that need no look."""


def _traced(_logger: object, _name: str, record: _EventDict) -> _EventDict:
    """The trace that the line belongs to; one that another process named is no id of ours."""
    record.pop("trace_id", None)
    if trace_id := TRACE_ID.get():
        record["trace_id"] = trace_id
    return record


def _redacted(_logger: object, _name: str, record: _EventDict) -> _EventDict:
    from agent_client.contract.redact import redact_text

    for name, value in record.items():
        if isinstance(value, str) and name not in _OURS:
            record[name] = redact_text(value[:MAX_TEXT_CHARS])
    return record


_SHARED: Final[tuple[structlog.typing.Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.PositionalArgumentsFormatter(),
    _traced,
    structlog.processors.UnicodeDecoder(),
)
_RENDERED: Final[tuple[structlog.typing.Processor, ...]] = (
    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
    _frames_only,
    _input_cut,
    _redacted,
    structlog.processors.JSONRenderer(sort_keys=True),
)


def json_formatter() -> logging.Formatter:
    """The formatter by itself, for a process that loads no settings: gunicorn's parent."""
    return structlog.stdlib.ProcessorFormatter(
        processors=list(_RENDERED), foreign_pre_chain=list(_SHARED)
    )


def logging_config(level: str) -> dict[str, object]:
    """Django's LOGGING for one JSON stream on stderr; configures structlog to feed it."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": structlog.stdlib.ProcessorFormatter,
                "processors": list(_RENDERED),
                "foreign_pre_chain": list(_SHARED),
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "django.server": {"handlers": [], "level": "WARNING", "propagate": True},
            # Axes keeps each attempt in its own table; four more lines a login help nobody.
            "axes": {"level": "WARNING"},
            # DEBUG here would print every SQL statement with its parameters.
            "django.db.backends": {"level": "INFO"},
        },
    }
