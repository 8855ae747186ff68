"""The WSGI callable for gunicorn."""

from __future__ import annotations

import gc
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fleet.settings")
application = get_wsgi_application()

# A batch of telemetry makes thousands of tuples, and none of them is part of a cycle. At Python's
# default (700 objects) the collector looked through them several times a batch, which was 3 % of
# what the batch costs. What was loaded stays for good and need not be looked through again.
gc.collect()
gc.freeze()
gc.set_threshold(25_000, 10, 10)
