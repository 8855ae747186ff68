"""The form of a destination: typed by kind; of keys it takes names of variables, never values."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from telemetry.exports.s3 import BUCKET, ENV_PREFIX, REGION, endpoint_fault, is_key_name
from telemetry.models.exports import ExportDestination
from telemetry.pages.exports_form import INPUT

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

Kind: Final = ExportDestination.Kind
FIELDS: Final = (
    *("name", "kind", "folder", "bucket", "prefix", "endpoint", "region", "key_id_env"),
    *("secret_env", "is_enabled"),
)
"""What a person decides, and what an audit row holds."""
_OF_KIND: Final = {
    Kind.FOLDER: ("folder",),
    Kind.S3: ("bucket", "prefix", "endpoint", "region", "key_id_env", "secret_env"),
}
_PREFIX: Final = re.compile(r"[A-Za-z0-9._/-]*", re.ASCII)


def _text(
    title: StrOrPromise, *, help_text: StrOrPromise = "", max_length: int = 300
) -> forms.CharField:
    return forms.CharField(
        required=False,
        max_length=max_length,
        label=title,
        help_text=help_text,
        widget=forms.TextInput(attrs={**INPUT, "autocomplete": "off", "spellcheck": "false"}),
    )


class DestinationForm(forms.Form):
    """A place for results; ``pk`` in the initial values is the one that is changed."""

    name = forms.CharField(
        max_length=80, label=gettext_lazy("Name"), widget=forms.TextInput(attrs=INPUT)
    )
    kind = forms.ChoiceField(
        label=gettext_lazy("Kind"), choices=Kind.choices, widget=forms.Select(attrs=INPUT)
    )
    folder = _text(gettext_lazy("Folder"), max_length=500)
    bucket = _text(gettext_lazy("Bucket"), max_length=63)
    prefix = _text(  # type: ignore[assignment]  # a form's own prefix is another thing
        gettext_lazy("Prefix"), help_text=gettext_lazy("A path in the bucket; empty: its top.")
    )
    endpoint = _text(
        gettext_lazy("Endpoint"),
        help_text=gettext_lazy("Like https://minio.example.com; empty: AWS."),
    )
    region = _text(
        gettext_lazy("Region"), help_text=gettext_lazy("Empty: us-east-1."), max_length=40
    )
    key_id_env = _text(gettext_lazy("Key id from the variable"), max_length=80)
    secret_env = _text(gettext_lazy("Secret from the variable"), max_length=80)
    is_enabled = forms.BooleanField(
        required=False,
        initial=True,
        label=gettext_lazy("Switched on"),
        widget=forms.CheckboxInput(attrs={"class": "hf-switch"}),
    )

    def clean_name(self) -> str:
        """Of no other destination."""
        name = str(self.cleaned_data["name"])
        others = ExportDestination.objects.filter(name=name).exclude(pk=self.initial.get("pk") or 0)
        if others.exists():
            raise ValidationError(_("Another destination has this name."))
        return name

    def clean(self) -> dict[str, Any]:  # Any: Django's own
        """The kind's own inputs, judged; the other kind's emptied."""
        data = super().clean() or {}
        kind = data.get("kind")
        for other, names in _OF_KIND.items():
            if other != kind:
                for name in names:
                    data[name] = ""
                    self.errors.pop(name, None)
        faults = _folder_faults(data) if kind == Kind.FOLDER else _s3_faults(data) if kind else {}
        for name, fault in faults.items():
            if name not in self.errors:
                self.add_error(name, fault)
        return data

    def fill(self, destination: ExportDestination) -> None:
        """Write what was decided into a row that is not saved here. Of a valid form."""
        for name in FIELDS:
            setattr(destination, name, self.cleaned_data[name])


def _folder_faults(data: dict[str, Any]) -> dict[str, str]:  # Any: cleaned values
    folder = PurePosixPath(data.get("folder") or "")
    roots = [PurePosixPath(root) for root in settings.FLEET_EXPORT_FOLDERS]
    if not roots:
        return {"folder": _("No folder is allowed yet: set FLEET_EXPORT_FOLDERS and restart.")}
    if not folder.is_absolute() or ".." in folder.parts:
        return {"folder": _("Give an absolute path without “..”.")}
    if not any(folder.is_relative_to(root) for root in roots):
        return {
            "folder": _("It must lie below one of FLEET_EXPORT_FOLDERS: %s.")
            % ", ".join(map(str, roots))
        }
    return {}


def _s3_faults(data: dict[str, Any]) -> dict[str, str]:  # Any: cleaned values
    faults = {}
    if not BUCKET.fullmatch(data.get("bucket") or ""):
        faults["bucket"] = _("3 to 63 small letters, digits, dots and hyphens.")
    if not _PREFIX.fullmatch(data.get("prefix") or "") or ".." in (data.get("prefix") or ""):
        faults["prefix"] = _("Letters, digits, dots, hyphens and slashes.")
    if not REGION.fullmatch(data.get("region") or ""):
        faults["region"] = _("Small letters, digits and hyphens.")
    if fault := endpoint_fault(data.get("endpoint") or ""):
        faults["endpoint"] = fault
    for name in ("key_id_env", "secret_env"):
        if fault := env_fault(data.get(name) or ""):
            faults[name] = fault
    return faults


def env_fault(name: str) -> str:
    """What is wrong with the name of a variable; the name may be a key by mistake: not echoed."""
    if not is_key_name(name):
        return _(
            "The name of an environment variable that begins with %s and is set for web and "
            "worker; never the key itself."
        ) % (ENV_PREFIX)
    return ""


def initial_place(destination: ExportDestination) -> dict[str, object]:
    """What the form of a destination begins with."""
    return {"pk": destination.pk, **{name: getattr(destination, name) for name in FIELDS}}


def place_words(destination: ExportDestination) -> str:
    """Where it is, in one line."""
    if destination.kind == Kind.FOLDER:
        return destination.folder
    prefix = destination.prefix.strip("/")
    place = f"s3://{destination.bucket}/{prefix}"
    return f"{place} ({destination.endpoint})" if destination.endpoint else place
