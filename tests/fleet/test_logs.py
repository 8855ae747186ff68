"""Logs: one JSON line, no payload, no secret."""

from __future__ import annotations

import json
import logging
import logging.config
from typing import Any

import pytest

from fleet.logs import MAX_TEXT_CHARS, describe_exception, logging_config


def formatted(*args: Any, exc_info: Any = None) -> dict[str, Any]:  # noqa: ANN401  # Any: logging's own types
    config: Any = logging_config("INFO")
    made = logging.config.DictConfigurator(config)
    formatter = made.configure_formatter(config["formatters"]["json"])
    record = logging.LogRecord("app", logging.INFO, "f.py", 1, args[0], args[1:], exc_info)
    return dict(json.loads(formatter.format(record)))


def test_a_record_is_one_json_object() -> None:
    line = formatted("took %d ms", 5)
    assert (line["event"], line["level"], line["logger"]) == ("took 5 ms", "info", "app")
    assert line["timestamp"].endswith("Z")


def test_a_secret_in_a_message_is_scrubbed() -> None:
    line = formatted("header Authorization: Bearer sk-proj-" + "a1B2c3D4" * 6)
    assert "a1B2c3D4a1B2" not in json.dumps(line)


def _fail() -> None:
    raise ValueError("the payload says hunter2")


def test_an_exception_leaves_its_text_out() -> None:
    with pytest.raises(ValueError, match="payload") as caught:
        _fail()
    info = (caught.type, caught.value, caught.tb)
    line, described = formatted("failed", exc_info=info), describe_exception(info)
    assert "hunter2" not in json.dumps(line)
    assert line["exception"]["class"] == "builtins.ValueError"
    assert described == line["exception"]
    assert "test_logs.py" in line["exception"]["frames"][-1]


def test_a_long_text_is_cut() -> None:
    assert len(formatted("x " * 10_000)["event"]) <= MAX_TEXT_CHARS


@pytest.mark.parametrize("level", ["DEBUG", "ERROR"])
def test_the_level_is_the_roots(level: str) -> None:
    config: Any = logging_config(level)
    assert config["root"]["level"] == level
    assert config["loggers"]["django.db.backends"]["level"] == "INFO"


@pytest.mark.parametrize(
    ("logger", "text"),
    [
        ("django.request", "Not Found: /hunter2"),
        ("django.security.csrf", "Forbidden (Origin checking failed - http://hunter2 is not): /x"),
        ("django.security.DisallowedHost", "Invalid HTTP_HOST header: 'hunter2'."),
        ("gunicorn.error", "Invalid request from ip=1.2.3.4: Invalid Method 'hunter2'"),
        ("gunicorn.error", "Error handling request /x?hunter2"),
        ("celery.app.trace", "Task a.b[1] raised unexpected: ValueError('hunter2')"),
        ("celery.worker.consumer", "Received unregistered task.\nThe body was: hunter2"),
    ],
)
def test_what_others_quote_of_a_caller_is_cut(logger: str, text: str) -> None:
    config: Any = logging_config("INFO")
    formatter = logging.config.DictConfigurator(config).configure_formatter(
        config["formatters"]["json"]
    )
    line = formatter.format(logging.LogRecord(logger, logging.WARNING, "f.py", 1, text, (), None))
    assert "hunter2" not in line
    assert len(json.loads(line)["event"]) > 5
