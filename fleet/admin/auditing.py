"""Model admins whose saves and deletes write audit rows in the same transaction."""

from __future__ import annotations

from typing import ClassVar

from django.db import models, transaction
from django.forms import ModelForm
from django.http import HttpRequest

from fleet.admin.base import ConsoleAdmin
from fleet.audit import record_change, snapshot
from fleet.console.people import person_of


class AuditedAdmin(ConsoleAdmin):
    """``audit_fields`` are the values an audit row keeps; a save that changes none writes none."""

    audit_fields: ClassVar[tuple[str, ...]] = ()
    # No bulk delete: it would go past the audit rows.
    actions = None

    def audit_reason(self, request: HttpRequest, obj: models.Model) -> str:
        """Why, in the words of the person."""
        return ""

    def save_model(
        self,
        request: HttpRequest,
        obj: models.Model,
        form: ModelForm[models.Model],
        change: bool,  # noqa: FBT001  # the admin's signature
    ) -> None:
        """Write the row and its audit row together."""
        with transaction.atomic():
            old = type(obj)._default_manager.filter(pk=obj.pk).first() if change else None  # noqa: SLF001  # Django's public API
            pre = snapshot(old, self.audit_fields) if old is not None else None
            super().save_model(request, obj, form, change)
            post = snapshot(obj, self.audit_fields)
            if pre != post:
                record_change(
                    actor=person_of(request),
                    action="change" if change else "create",
                    target=obj,
                    pre=pre,
                    post=post,
                    reason=self.audit_reason(request, obj),
                )

    def delete_model(self, request: HttpRequest, obj: models.Model) -> None:
        """Delete the row; its audit row keeps what it was."""
        with transaction.atomic():
            record_change(
                actor=person_of(request),
                action="delete",
                target=obj,
                pre=snapshot(obj, self.audit_fields),
                post=None,
            )
            super().delete_model(request, obj)
