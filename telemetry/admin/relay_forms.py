"""The forms of collectors and streams: typed, headers as names of variables, faults explained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django import forms
from django.http import QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from agent_client.contract.redact import redact_text
from fleet.lib.clock import now
from fleet.models import InstallGroup
from telemetry.delivery.guard import EndpointRefused, check_endpoint
from telemetry.delivery.headers import HOOK_PREFIX, MAX_HEADERS, PREFIX, check_headers
from telemetry.models import RelayDestination, Stream
from telemetry.streams.open import check_stream

SPARE_ROWS: Final = 3
"""Empty header rows under those that are there: more come with the next edit."""
_INPUT: Final = {"class": "hf-input hf-wide-input"}
_SWITCH: Final = {"class": "hf-switch"}


@dataclass(frozen=True, slots=True)
class HeaderRow:
    """A header's name and the name of the variable that holds its value."""

    name: str = ""
    variable: str = ""


def header_rows(headers_env: Mapping[str, str]) -> list[HeaderRow]:
    """Rows for what is there, and spare ones."""
    rows = [HeaderRow(str(name), str(variable)) for name, variable in headers_env.items()]
    return [*rows, *[HeaderRow()] * max(0, min(SPARE_ROWS, MAX_HEADERS - len(rows)))]


def posted_headers(posted: QueryDict) -> list[tuple[str, str]]:
    """The pairs that were filled in; the first too many stays, so that it is refused."""
    names, variables = posted.getlist("header_name"), posted.getlist("header_env")
    pairs = [(name.strip(), text.strip()) for name, text in zip(names, variables, strict=False)]
    return [pair for pair in pairs if any(pair)][: MAX_HEADERS + 1]


class TargetForm(forms.Form):
    """What both have: a name, an address, headers, a reason."""

    name = forms.CharField(
        max_length=80, label=gettext_lazy("Name"), widget=forms.TextInput(attrs=_INPUT)
    )
    endpoint = forms.CharField(
        max_length=300,
        label=gettext_lazy("Address"),
        widget=forms.TextInput(attrs={**_INPUT, "autocomplete": "off", "spellcheck": "false"}),
    )
    reason = forms.CharField(
        max_length=300,
        label=gettext_lazy("Reason (kept in the audit log)"),
        widget=forms.TextInput(attrs=_INPUT),
    )
    prefix_shown: Final = PREFIX
    model: type[RelayDestination | Stream] = RelayDestination

    def __init__(self, posted: QueryDict | None, target: RelayDestination | Stream | None) -> None:
        super().__init__(posted, initial=self.initial_of(target) if target else None)
        self.target = target
        self.header_faults: list[str] = []
        held = dict(target.headers_env) if target else {}
        self.rows = header_rows(held)
        if posted is not None:
            self._take_headers(posted_headers(posted))

    def initial_of(self, target: RelayDestination | Stream) -> dict[str, object]:
        """What the fields show of one that is there."""
        return {name: getattr(target, name) for name in self.base_fields if hasattr(target, name)}

    def _take_headers(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Judge the rows. What is no variable's name may be a secret: it is not shown again."""
        self.headers_env = dict(pairs)
        self.header_faults = check_headers(self.headers_env)
        if len(self.headers_env) < len(pairs):
            self.header_faults.append(_("A header is there twice."))
        is_name = {pair: not check_headers({pair[0] or "X": pair[1]}) for pair in pairs}
        shown = {name: text if is_name[name, text] else "" for name, text in pairs}
        self.rows = header_rows(shown)

    def clean_name(self) -> str:
        """A name nobody else has."""
        name = str(self.cleaned_data["name"]).strip()
        others = self.model.objects.filter(name=name)
        if self.target is not None:
            others = others.exclude(pk=self.target.pk)
        if others.exists():
            raise forms.ValidationError(_("There is one of this name already."))
        return name

    def clean_endpoint(self) -> str:
        """An address without a secret in it; where it leads is judged by the whole form."""
        endpoint = str(self.cleaned_data["endpoint"]).strip()
        if redact_text(endpoint) != endpoint:
            self._forget("endpoint")
            raise forms.ValidationError(
                _("This address seems to hold a secret, and it would be stored. %(instead)s")
                % {"instead": self.instead_of_secret()}
            )
        return endpoint

    def _forget(self, name: str) -> None:
        """Not show again what was typed: it may be a secret."""
        if isinstance(self.data, QueryDict):
            data = self.data.copy()
            data[name] = ""
            self.data = data

    def instead_of_secret(self) -> str:
        """Where a secret belongs."""
        return _("Name a header's variable instead.")

    def values(self) -> dict[str, Any]:  # Any: each field's own
        """What is stored."""
        raise NotImplementedError

    def is_valid(self) -> bool:
        """Whether fields and headers are all in order."""
        return super().is_valid() and not self.header_faults


class CollectorForm(TargetForm):
    """A collector."""

    model = RelayDestination
    profile = forms.ChoiceField(
        choices=RelayDestination.Profile.choices,
        initial=RelayDestination.Profile.V141,
        label=gettext_lazy("GenAI conventions"),
        widget=forms.Select(attrs=_INPUT),
    )
    sends_traces = forms.BooleanField(
        required=False,
        initial=True,
        label=gettext_lazy("Traces"),
        widget=forms.CheckboxInput(attrs=_SWITCH),
    )
    sends_metrics = forms.BooleanField(
        required=False,
        initial=True,
        label=gettext_lazy("Metrics"),
        widget=forms.CheckboxInput(attrs=_SWITCH),
    )
    sends_logs = forms.BooleanField(
        required=False,
        initial=True,
        label=gettext_lazy("Logs"),
        widget=forms.CheckboxInput(attrs=_SWITCH),
    )
    errors_as_span_events = forms.BooleanField(
        required=False,
        label=gettext_lazy("Errors as span events too"),
        widget=forms.CheckboxInput(attrs=_SWITCH),
    )
    shows_hosts = forms.BooleanField(
        required=False,
        label=gettext_lazy("Host names"),
        widget=forms.CheckboxInput(attrs=_SWITCH),
    )
    groups = forms.ModelMultipleChoiceField(
        InstallGroup.objects.all(),
        required=False,
        label=gettext_lazy("Groups"),
        widget=forms.SelectMultiple(attrs={**_INPUT, "size": 4}),
    )
    max_age_h = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=87_600,
        initial=0,
        label=gettext_lazy("Oldest rows, hours"),
        widget=forms.NumberInput(attrs=_INPUT),
    )

    def initial_of(self, target: RelayDestination | Stream) -> dict[str, object]:
        """With the groups by their ids."""
        groups = target.group_ids if isinstance(target, RelayDestination) else []
        return {**super().initial_of(target), "groups": groups}

    def clean(self) -> dict[str, Any]:  # Any: Django's own shape
        """Whether the console may send there, and has anything to send."""
        data = super().clean() or self.cleaned_data
        if endpoint := data.get("endpoint"):
            try:
                check_endpoint(endpoint)
            except EndpointRefused as error:
                self.add_error("endpoint", str(error))
        if not any(data.get(name) for name in ("sends_traces", "sends_metrics", "sends_logs")):
            self.add_error("sends_traces", _("Choose at least one signal."))
        return data

    def values(self) -> dict[str, Any]:  # Any: each field's own
        """What is stored."""
        data = self.cleaned_data
        names = (
            *("name", "endpoint", "profile", "sends_traces", "sends_metrics", "sends_logs"),
            *("errors_as_span_events", "shows_hosts"),
        )
        return {
            **{name: data[name] for name in names},
            "max_age_h": data["max_age_h"] or 0,
            "group_ids": sorted(group.pk for group in data["groups"]),
            "headers_env": self.headers_env,
        }


class StreamForm(TargetForm):
    """A stream."""

    model = Stream
    kind = forms.ChoiceField(
        choices=Stream.Kind.choices,
        initial=Stream.Kind.WEBHOOK,
        label=gettext_lazy("Kind"),
        widget=forms.Select(attrs=_INPUT),
    )
    sends_audit = forms.BooleanField(
        required=False,
        initial=True,
        label=gettext_lazy("Audit log"),
        widget=forms.CheckboxInput(attrs=_SWITCH),
    )
    sends_alerts = forms.BooleanField(
        required=False,
        initial=True,
        label=gettext_lazy("Alerts"),
        widget=forms.CheckboxInput(attrs=_SWITCH),
    )
    secret_env = forms.CharField(
        required=False,
        max_length=80,
        label=gettext_lazy("Signed with"),
        widget=forms.TextInput(attrs={**_INPUT, "autocomplete": "off", "spellcheck": "false"}),
    )
    starts = forms.ChoiceField(
        required=False,
        choices=(
            ("now", gettext_lazy("From now on")),
            ("all", gettext_lazy("With the oldest entry there is")),
        ),
        label=gettext_lazy("Begin"),
        widget=forms.Select(attrs=_INPUT),
    )

    def instead_of_secret(self) -> str:
        """The place for a secret part of the path."""
        return _("Write ${%(prefix)sNAME} for its secret part.") % {"prefix": HOOK_PREFIX}

    def clean(self) -> dict[str, Any]:  # Any: Django's own shape
        """Whether the console may send there, in this way."""
        data = super().clean() or self.cleaned_data
        faults = check_stream(
            kind=data.get("kind", ""),
            endpoint=data.get("endpoint", ""),
            headers_env=getattr(self, "headers_env", {}),
            secret_env=data.get("secret_env", ""),
        )
        for name in ("endpoint", "secret_env"):
            if name in data:
                for text in faults.get(name, ()):
                    self.add_error(name, text)
        if "secret_env" in faults:
            self._forget("secret_env")
        if faults.get("headers_env") and not self.header_faults:
            self.header_faults = faults["headers_env"]
        if not (data.get("sends_audit") or data.get("sends_alerts")):
            self.add_error("sends_audit", _("Choose the audit log, alerts or both."))
        return data

    def values(self) -> dict[str, Any]:  # Any: each field's own
        """What is stored."""
        names = ("name", "kind", "endpoint", "sends_audit", "sends_alerts", "secret_env")
        return {name: self.cleaned_data[name] for name in names} | {"headers_env": self.headers_env}


def collector_of(form: TargetForm) -> RelayDestination:
    """A new collector, sending what comes in from now on."""
    return RelayDestination(**form.values(), since_at=now() - timedelta(seconds=1))
