"""The console for gunicorn, with points to die at in its answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fleet.wsgi import application as console
from tests.faults.sabotage import reach


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:  # noqa: ANN401 -- WSGI's own
    """One request, the answer to a POST marked."""
    answer = console(environ, start_response)
    if environ["REQUEST_METHOD"] != "POST":
        return answer
    reach("answering")
    return _halved(answer)


def _halved(answer: Iterable[bytes]) -> Iterator[bytes]:
    whole = b"".join(answer)
    if hasattr(answer, "close"):
        answer.close()
    yield whole[: len(whole) // 2]
    reach("half")
    yield whole[len(whole) // 2 :]
