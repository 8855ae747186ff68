"""The typed pin editor: one input for each key of the registry, JSON for the host's own keys.

All inputs are rendered by the server; a small script shows the one that belongs to
the key that was typed. Without the script the form works too: only the input of
the key is read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from agent_client.contract.policy_keys import KEYS, PolicyKey, key_fault, value_fault
from fleet.models import Pin, PinScope

JSON_FIELD: Final = "value_json"
_MAPS: Final = ("env_map", "prices")
_INPUT: Final = {"class": "hf-input hf-wide-input"}


if TYPE_CHECKING:
    _PinModelForm = forms.ModelForm[Pin]
else:
    _PinModelForm = forms.ModelForm


def field_name(key: str) -> str:
    """The form field of a registry key; JSON_FIELD for any other key."""
    return f"value_{key.replace('.', '__')}" if key in KEYS else JSON_FIELD


class PinForm(_PinModelForm):
    """A pin with its typed value; faults are the contract's own sentences, shown at the input."""

    class Meta:
        model = Pin
        fields = (
            "scope",
            "group",
            "key",
            "level",
            "is_locked",
            "reason",
            "ticket",
            "contact",
            "expires_at",
            "on_expiry",
        )
        field_classes = {"expires_at": forms.DateTimeField}
        widgets = {
            "scope": forms.Select(attrs=_INPUT),
            "group": forms.Select(attrs=_INPUT),
            "key": forms.TextInput(
                attrs={
                    **_INPUT,
                    "list": "hf-keys",
                    "autocomplete": "off",
                    "spellcheck": "false",
                    "placeholder": "telemetry.retention_days, model.default, …",
                }
            ),
            "level": forms.Select(attrs=_INPUT),
            "is_locked": forms.CheckboxInput(attrs={"class": "hf-switch"}),
            "reason": forms.TextInput(attrs=_INPUT),
            "ticket": forms.TextInput(attrs=_INPUT),
            "contact": forms.TextInput(attrs=_INPUT),
            "expires_at": forms.DateTimeInput(
                attrs={**_INPUT, "type": "datetime-local"}, format="%Y-%m-%dT%H:%M"
            ),
            "on_expiry": forms.Select(attrs=_INPUT),
        }

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came
        is_saved = not self.instance._state.adding  # noqa: SLF001  # Django's own word for unsaved
        held = self.instance.value if is_saved else None
        for entry in KEYS.values():
            is_own = is_saved and self.instance.key == entry.key
            self.fields[field_name(entry.key)] = _field_of(entry, held if is_own else entry.default)
        is_free = is_saved and self.instance.key not in KEYS
        self.fields[JSON_FIELD] = forms.CharField(
            required=False,
            label=gettext_lazy("Value as JSON"),
            widget=forms.Textarea(attrs={**_INPUT, "rows": 4, "spellcheck": "false"}),
            initial=json.dumps(held, ensure_ascii=False, indent=2) if is_free else "",
            help_text=gettext_lazy(
                'A text needs quotation marks: "gpt-6". Also 42, true, ["a", "b"] or {"a": 1}.'
            ),
        )
        self.fields["group"].required = False

    def clean_key(self) -> str:
        """The key as it is pinned, or the contract's reason why it cannot be."""
        key = str(self.cleaned_data["key"]).strip()
        if fault := key_fault(key):
            raise ValidationError(fault)
        return key

    def clean(self) -> dict[str, object]:
        """Read the one input that belongs to the key, and put the value on the pin."""
        data = super().clean() or self.cleaned_data
        if data.get("scope") == PinScope.FLEET:
            data["group"] = None
        elif not data.get("group"):
            self.add_error("group", _("Name the group."))
        key = data.get("key")
        if isinstance(key, str) and key:
            self._take_value(key)
        return data

    def _update_errors(self, errors: ValidationError) -> None:
        """Put the model's faults at the inputs a person sees; this form has no field ``value``."""
        faults: dict[str, list[ValidationError]] = getattr(errors, "error_dict", {})
        value_faults = faults.pop("value", [])
        name = field_name(str(self.cleaned_data.get("key", "")))
        if value_faults and not self.errors:
            self.add_error(name, ValidationError(value_faults))
        if self.has_error("key"):
            faults.pop("key", None)
        if faults or not value_faults:
            super()._update_errors(errors)  # type: ignore[misc]  # Django's hook, not in its stubs

    def _take_value(self, key: str) -> None:
        name = field_name(key)
        try:
            value = self._value_of(key, name)
        except ValueError:
            self.add_error(name, _("This is not JSON. A text needs quotation marks."))
            return
        if fault := value_fault(key, value):
            self.add_error(name, fault)
            return
        self.instance.value = value

    def _value_of(self, key: str, name: str) -> object:
        raw = self.cleaned_data.get(name)
        entry = KEYS.get(key)
        if entry is None or entry.type in _MAPS:
            return json.loads(str(raw or ""), parse_constant=_refuse_constant)
        if entry.type == "bool":
            return raw == "true"
        return raw if raw is not None else ""

    def typed_fields(self) -> list[dict[str, object]]:
        """Each registry key with its bound field, for the template."""
        return [{"entry": entry, "field": self[field_name(entry.key)]} for entry in KEYS.values()]

    @property
    def json_field(self) -> forms.BoundField:
        """The bound JSON input."""
        return self[JSON_FIELD]


def _refuse_constant(name: str) -> object:
    raise ValueError(name)


def _field_of(entry: PolicyKey, initial: object) -> forms.Field:
    if entry.type == "bool":
        return forms.ChoiceField(
            required=False,
            label=gettext_lazy("Value"),
            choices=[("true", gettext_lazy("On (true)")), ("false", gettext_lazy("Off (false)"))],
            widget=forms.RadioSelect(attrs={"class": "hf-radio"}),
            initial="true" if initial else "false",
        )
    if entry.type == "int":
        return forms.IntegerField(
            required=False,
            label=gettext_lazy("Value"),
            initial=initial,
            widget=forms.NumberInput(
                attrs={**_INPUT, "min": entry.minimum, "max": entry.maximum, "step": 1}
            ),
        )
    if entry.type == "enum":
        return forms.ChoiceField(
            required=False,
            label=gettext_lazy("Value"),
            choices=[(choice, choice) for choice in entry.choices],
            widget=forms.Select(attrs=_INPUT),
            initial=initial,
        )
    if entry.type in _MAPS:
        return forms.CharField(
            required=False,
            label=gettext_lazy("Value as JSON"),
            widget=forms.Textarea(attrs={**_INPUT, "rows": 3, "spellcheck": "false"}),
            initial=json.dumps(initial or {}, ensure_ascii=False),
        )
    return forms.CharField(
        required=False,
        label=gettext_lazy("Value"),
        strip=True,
        initial=initial or "",
        widget=forms.TextInput(
            attrs={**_INPUT, "inputmode": "url" if entry.type == "url" else "text"}
        ),
    )
