"""Scopes: what a credential may be used for."""

from __future__ import annotations

from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from fleet.api.errors import ApiProblem
from fleet.models import InstallCredential


class HasScope(BasePermission):
    """The credential has the view's ``required_scope``.

    Errors: ApiProblem scope.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Whether the scope is there; a view that names none is closed."""
        needed = getattr(view, "required_scope", None)
        credential = request.auth
        if not isinstance(credential, InstallCredential) or needed is None:
            return False
        if needed not in credential.scopes:
            raise ApiProblem("scope", f"It needs the scope {needed}.")
        return True
