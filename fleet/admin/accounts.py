"""Users and roles in the console's look; Django's own forms, themed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as BaseGroupAdmin
from django.contrib.auth.admin import UserAdmin as BaseUserAdmin
from django.contrib.auth.models import Group, User
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from fleet.admin.base import ConsoleAdmin

# Importing Django's own admin above has registered both with Django's look.
admin.site.unregister((User, Group))

if TYPE_CHECKING:
    _UserAdmin = BaseUserAdmin[User]
else:
    _UserAdmin = BaseUserAdmin


@admin.register(User)
class UserAdmin(_UserAdmin, ConsoleAdmin):
    """People who may sign in; without a role they see the overview's frame and nothing else."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "is_staff", "is_superuser", "is_active", "last_login")
    list_select_related = False
    search_fields = ("username", "email", "first_name", "last_name")
    readonly_fields = ("last_login", "date_joined")


@admin.register(Group)
class RoleAdmin(BaseGroupAdmin, ConsoleAdmin):
    """Roles: named sets of permissions."""

    list_display = ("name",)
    list_select_related = False
    search_fields = ("name",)
    readonly_fields = ()
