"""A test process with a browser in it, and the processes that other tests fork from it."""

from __future__ import annotations

import os

import pytest
from django.db import connection, connections
from playwright.sync_api import Page

from fleet.models import ChangeRecord

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_a_forked_process_has_no_connection_of_ours(page: Page) -> None:
    """Else two processes speak over one socket, and a transaction of the one outlives its death."""
    assert page.url == "about:blank"
    assert ChangeRecord.objects.count() == 0
    connections.close_all()
    child = os.fork()
    if child == 0:  # pragma: no cover -- not measured there
        os._exit(connection.connection is not None)
    _pid, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
