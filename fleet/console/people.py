"""Who is acting: the signed-in person of a request."""

from __future__ import annotations

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest


def person_of(request: HttpRequest) -> AbstractBaseUser:
    """The person behind a request, for audit rows.

    Errors: PermissionDenied when nobody is signed in.
    """
    if isinstance(request.user, AbstractBaseUser):
        return request.user
    raise PermissionDenied
