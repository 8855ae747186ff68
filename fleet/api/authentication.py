"""Who calls: an install by its credential; sets ``request.install``."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db.models import Q
from django.http import HttpRequest
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from agent_client.contract.tokens import PREFIX_INSTALL, Token, parse_token
from fleet.api.errors import ApiProblem
from fleet.api.throttling import check_address, check_install
from fleet.enroll import accept_candidate
from fleet.enroll.erasure import ERASED_DETAIL
from fleet.lib.addresses import UNKNOWN, client_address
from fleet.lib.clock import now
from fleet.lib.prepared import PreparedFirst
from fleet.lib.tokens import matches
from fleet.models import ErasedCredential, Install, InstallCredential, InstallStatus, SyncState
from fleet.policy.ack import refresh_sync

_CLIENT: Final = re.compile(r"hermes-fleet-agent/(\d{1,6})\.(\d{1,6})\.(\d{1,6})", re.ASCII)
_credential_by_key: Final = PreparedFirst(
    lambda key_id: InstallCredential.objects.select_related("install").filter(key_id=key_id), "key"
)
SEEN_EVERY: Final = timedelta(minutes=1)
"""last_seen_at is written at most once in this time: a poll must not cost a write."""


class InstallTokenAuthentication(BaseAuthentication):
    """``Authorization: Bearer hfa_…``; request.user is the Install, request.auth its credential.

    A wrong form or checksum is refused before any query. A refusal changes nothing: the
    agent holds the policy it has.
    Errors: ApiProblem credential_missing, credential_unknown, credential_expired,
    credential_revoked, forbidden (quarantined), client_too_old, rate_limited.
    """

    def authenticate(self, request: Request) -> tuple[Install, InstallCredential]:
        """The install and its credential."""
        plain: HttpRequest = request._request  # noqa: SLF001  # DRF offers no other way
        check_address(plain)
        check_client(plain)
        token = bearer_token(plain, PREFIX_INSTALL, unknown="credential_unknown")
        moment = now()
        credential = _credential_of(token, moment)
        install = credential.install
        check_install(str(install.pk))
        if credential.is_candidate:
            accept_candidate(credential)
        touch(install, credential, address=client_address(plain), moment=moment)
        plain.install = install  # type: ignore[attr-defined]  # read through install_of()
        return install, credential

    def authenticate_header(self, request: Request) -> str:
        """The scheme, so that DRF answers 401."""
        return 'Bearer realm="hermes-fleet"'


def bearer_token(request: HttpRequest, prefix: str, *, unknown: str) -> Token:
    """The token of the Authorization header.

    Errors: ApiProblem credential_missing without one, ``unknown`` when its form is wrong.
    """
    scheme, _space, text = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        raise ApiProblem("credential_missing")
    token = parse_token(text.strip())
    if token is None or token.prefix != prefix:
        raise ApiProblem(unknown)
    return token


def check_client(request: HttpRequest) -> None:
    """Refuse our own client when it is older than FLEET_MIN_CLIENT; others are not judged.

    Errors: ApiProblem client_too_old.
    """
    if not is_welcome(request.headers.get("User-Agent", "")):
        raise ApiProblem("client_too_old", f"Upgrade it to {settings.FLEET_MIN_CLIENT} or newer.")


def is_welcome(user_agent: str) -> bool:
    """Whether a client is not known to be too old."""
    match = _CLIENT.match(user_agent)
    if match is None:
        return True
    oldest = tuple(int(part) for part in settings.FLEET_MIN_CLIENT.split("."))
    return tuple(int(part) for part in match.groups()) >= oldest


def _credential_of(token: Token, moment: datetime) -> InstallCredential:
    credential = _credential_by_key(token.key_id)
    if credential is None:
        _refuse_erased(token)
    if credential is None or not matches(token, credential.stored):
        raise ApiProblem("credential_unknown")
    status = credential.install.status
    if credential.revoked_at is not None or status == InstallStatus.REVOKED:
        raise ApiProblem("credential_revoked")
    if credential.expires_at is not None and credential.expires_at <= moment:
        raise ApiProblem("credential_expired")
    if status == InstallStatus.QUARANTINED:
        raise ApiProblem("forbidden", "This install is quarantined; ask the operator.")
    return credential


def _refuse_erased(token: Token) -> None:
    """Tell an erased install why it is refused; it keeps what it has. Errors: install_erased."""
    erased = ErasedCredential.objects.filter(key_id=token.key_id).first()
    if erased is not None and matches(token, erased.stored):
        raise ApiProblem("install_erased", ERASED_DETAIL)


def touch(
    install: Install, credential: InstallCredential, *, address: str, moment: datetime
) -> None:
    """Note that an install spoke, at most once a minute; the condition makes it safe to race."""
    seen, stale = install.last_seen_at, moment - SEEN_EVERY
    if seen is not None and seen > stale:
        return
    Install.objects.filter(Q(last_seen_at=None) | Q(last_seen_at__lte=stale), pk=install.pk).update(
        last_seen_at=moment, last_seen_address=None if address == UNKNOWN else address
    )
    InstallCredential.objects.filter(pk=credential.pk).update(last_used_at=moment)
    install.last_seen_at = moment
    if install.sync_state in {SyncState.NEVER_SEEN, SyncState.OFFLINE}:
        refresh_sync(install, moment=moment)


def install_of(request: Request) -> Install:
    """The install an authenticated request comes from."""
    install: object = request.user
    if not isinstance(install, Install):
        raise ApiProblem("credential_missing")
    return install


class _InstallScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # untyped base hook
    """How OpenAPI names this authentication."""

    target_class = InstallTokenAuthentication
    name = "installCredential"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        """A bearer scheme."""
        return {"type": "http", "scheme": "bearer", "bearerFormat": "hfa_…"}
