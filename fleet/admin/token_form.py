"""What a person decides about a new enrollment token."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from typing import Final

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from fleet.models import Approval, InstallGroup

LIFETIMES: Final = (
    ("1", gettext_lazy("1 hour")),
    ("24", gettext_lazy("1 day")),
    ("168", gettext_lazy("7 days")),
    ("720", gettext_lazy("30 days")),
    ("", gettext_lazy("No end")),
)
"""Hours; a short default, because a token in a wiki page admits strangers."""
_INPUT: Final = {"class": "hf-input hf-wide-input"}


class TokenForm(forms.Form):
    """Group, life, uses, network, approval and reason."""

    group = forms.ModelChoiceField(
        InstallGroup.objects.all(),
        required=False,
        label=gettext_lazy("Group"),
        empty_label=gettext_lazy("No group"),
        widget=forms.Select(attrs=_INPUT),
    )
    lifetime_hours = forms.ChoiceField(
        choices=LIFETIMES,
        required=False,
        initial="24",
        label=gettext_lazy("Valid for"),
        widget=forms.Select(attrs=_INPUT),
    )
    max_uses = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=1_000_000,
        initial=1,
        label=gettext_lazy("Most uses"),
        help_text=gettext_lazy("Empty: as often as it is asked for."),
        widget=forms.NumberInput(attrs=_INPUT),
    )
    approval = forms.ChoiceField(
        choices=Approval.choices,
        initial=Approval.AUTO,
        label=gettext_lazy("Approval"),
        help_text=gettext_lazy("By a person: each install waits until its code is approved here."),
        widget=forms.Select(attrs=_INPUT),
    )
    cidr = forms.CharField(
        required=False,
        max_length=64,
        label=gettext_lazy("Allowed network"),
        help_text=gettext_lazy("Like 10.0.0.0/8; empty: from anywhere."),
        widget=forms.TextInput(attrs=_INPUT),
    )
    reason = forms.CharField(
        max_length=300, label=gettext_lazy("Reason"), widget=forms.TextInput(attrs=_INPUT)
    )

    def clean_cidr(self) -> str:
        """A network in canonical form."""
        text = str(self.cleaned_data["cidr"]).strip()
        if not text:
            return ""
        try:
            return str(ipaddress.ip_network(text, strict=False))
        except ValueError as error:
            raise ValidationError(_("Use a network like 10.0.0.0/8.")) from error

    @property
    def lifetime(self) -> timedelta | None:
        """How long it is good; None: for ever."""
        hours = str(self.cleaned_data["lifetime_hours"])
        return timedelta(hours=int(hours)) if hours else None
