"""The WSGI callable for gunicorn."""

from __future__ import annotations

import gc
import os
import sys

from django.conf import settings
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")
if "prometheus_client" not in sys.modules:  # on import it decides where it counts
    from fleet.watch.shared import share

    share(settings.FLEET_HOME)
_django = get_wsgi_application()

from fleet.api.polled import PollsFirst  # noqa: E402 -- it needs the settings to be set up
from fleet.half_restored import refuse_start  # noqa: E402 -- as above

refuse_start()

application = PollsFirst(_django)  # type: ignore[arg-type]  # the stubs name their own protocol

# A batch of telemetry makes thousands of tuples, and none of them is part of a cycle. At Python's
# default (700 objects) the collector looked through them several times a batch, which was 3 % of
# what the batch costs. What was loaded stays for good and need not be looked through again.
gc.collect()
gc.freeze()
gc.set_threshold(25_000, 10, 10)
