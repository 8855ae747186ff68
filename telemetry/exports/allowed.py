"""Who may export what: the permissions that a set of datasets asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser, Permission, PermissionsMixin

from telemetry.exports.datasets import DATASETS, Dataset

ADD: Final = "telemetry.add_exportjob"
DOWNLOAD: Final = "telemetry.download_exportjob"
type Person = AbstractBaseUser | AnonymousUser


def lacking(user: Person, datasets: Iterable[Dataset]) -> list[str]:
    """The permissions that somebody has not and would need for these datasets."""
    needed = dict.fromkeys(dataset.permission for dataset in datasets)
    if not isinstance(user, PermissionsMixin):
        return list(needed)
    return [permission for permission in needed if not user.has_perm(permission)]


def lacking_for(user: Person, names: Sequence[str], *, also: str = "") -> list[str]:
    """Like ``lacking`` by name, and one permission beside; an unknown dataset asks for nothing."""
    missing = lacking(user, [DATASETS[name] for name in names if name in DATASETS])
    has_also = isinstance(user, PermissionsMixin) and user.has_perm(also)
    return [also, *missing] if also and not has_also else missing


def permission_names(missing: Sequence[str]) -> list[str]:
    """Permissions as the page of users and roles calls them."""
    if not missing:
        return []
    codes = {permission.partition(".")[2] for permission in missing}
    known = {
        f"{one.content_type.app_label}.{one.codename}": one.name
        for one in Permission.objects.filter(codename__in=codes).select_related("content_type")
    }
    return [known.get(permission, permission) for permission in missing]


def has_content(names: Iterable[str]) -> bool:
    """Whether any of them holds what people and agents said."""
    return any(name in DATASETS and DATASETS[name].is_content for name in names)
