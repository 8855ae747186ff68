"""The admin of the fleet domain; importing it registers every model admin."""

from __future__ import annotations

from fleet.admin import accounts, changes, erasures, groups, installs, policy, tokens

__all__ = ["accounts", "changes", "erasures", "groups", "installs", "policy", "tokens"]
