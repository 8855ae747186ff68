"""gunicorn's settings for a deployment that wants to change some; the rest stays the project's.

The truth is fleet/web_conf.py: ``up`` and everything in this folder start gunicorn with it. Use
this file only to change a line: ``gunicorn --config /etc/hermes-fleet/gunicorn.conf.py``. With
another number of threads, FLEET_VALVE_STORES is one less than that.
"""

from fleet.web_conf import *  # noqa: F403  # its names are gunicorn's settings
