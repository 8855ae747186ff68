"""gunicorn's own lines in the console's form: one JSON object each, nothing quoted of a request."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger

from fleet.logs import json_formatter


class JsonLogger(Logger):  # type: ignore[misc]  # gunicorn carries no types
    """The logger class that ``up`` gives to gunicorn; its access log is as ever."""

    def setup(self, cfg: Any) -> None:  # noqa: ANN401 -- gunicorn's own
        """As gunicorn does it, then with our formatter."""
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(json_formatter())
