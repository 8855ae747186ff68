"""The console's web worker with less patience: for tests that wait for its end."""

from __future__ import annotations

from fleet.web_worker import PatientWorker


class HastyWorker(PatientWorker):
    """A head in a tenth of a second, nothing for a second, a body in two."""

    head_s = 0.1
    idle_s = 1
    body_s = 2.0
