"""The console's project and its fleet domain: installs, credentials, policy, audit.

Layers, top to bottom: settings, wsgi and urls · apps and celery · admin, api and
console · enroll, policy, health and tasks · models · checks and logs · lib and env.
"""
