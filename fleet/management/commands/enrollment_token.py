"""Mint an enrollment token; stdout is exactly the string that an agent enrolls with."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from fleet.enroll import mint_token
from fleet.lib.clock import now
from fleet.models import Approval, InstallGroup


class Command(BaseCommand):
    help = "Print one enrollment string on stdout, and how to use it on stderr."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--group", default="", help="group of the installs; made when new")
        parser.add_argument("--max-uses", type=int, default=None, help="default: no limit")
        parser.add_argument("--expires-days", type=int, default=7, help="default 7; 0: never")
        parser.add_argument("--cidr", default="", help="only from this network, as 10.0.0.0/8")
        parser.add_argument("--manual", action="store_true", help="a person approves each install")
        parser.add_argument("--reason", default="", help="kept in the audit trail")

    def handle(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  # Any: Django's signature
        days, uses, cidr = options["expires_days"], options["max_uses"], options["cidr"]
        if days < 0 or (uses is not None and uses < 1):
            raise CommandError("--expires-days must be 0 or more, --max-uses 1 or more")
        if cidr:
            try:
                cidr = str(ipaddress.ip_network(cidr, strict=False))
            except ValueError as error:
                raise CommandError(f"--cidr: {error}") from error
        group: InstallGroup | None = None
        if options["group"]:
            group, _created = InstallGroup.objects.get_or_create(name=options["group"])
        _token, text = mint_token(
            actor="manage.py",
            group=group,
            max_uses=uses,
            expires_at=now() + timedelta(days=days) if days else None,
            cidr=cidr,
            approval=Approval.MANUAL if options["manual"] else Approval.AUTO,
            reason=options["reason"],
        )
        self.stderr.write(
            "Shown once. On the agent's machine run:\n"
            f"  hermes-telemetry enroll {settings.FLEET_PUBLIC_URL} {text}"
        )
        self.stdout.write(text)
