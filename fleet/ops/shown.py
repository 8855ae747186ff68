"""What operations adds to the operations page: the last backup, and what became of it."""

from __future__ import annotations

import json

from django.utils.translation import gettext as _

from fleet.lib.clock import now
from fleet.ops.backup import last_backup
from fleet.ops.doctor import BACKUP_WARN
from fleet.templatetags.fleet_format import byte_size, exact, relative, utc
from fleet.watch.facts import Fact, Section, Tone, register_section


def register_facts() -> None:
    """Register the section; called once by the app."""
    register_section("backup", backup_section)


def backup_section() -> Section:
    """The newest backup that was proved, from the audit trail."""
    title, last = _("Last backup"), last_backup()
    if last is None:
        mend = _("Run: manage.py backup FOLDER, then set up its timer")
        return Section(title, "", (Fact(_("Made"), _("Never"), "warn", mend),), "backup")
    post: dict[str, object] = json.loads(last.post_json)
    is_old = now() - last.at > BACKUP_WARN
    tone: Tone = "warn" if is_old else "good"
    mend = _("See why its timer does not run") if is_old else ""
    sealed = _("sealed by a passphrase") if post.get("is_sealed") else _("not sealed")
    without = _("without secrets; keep them elsewhere")
    return Section(
        title,
        _("from the audit trail"),
        (
            Fact(_("Made"), relative(last.at, at=now()), tone, mend or utc(last.at)),
            Fact(_("Size"), byte_size(_number(post.get("size_bytes")))),
            Fact(_("Rows"), exact(_number(post.get("row_count")))),
            Fact(_("Secrets"), sealed if post.get("has_secrets") else without),
        ),
        "backup",
    )


def _number(value: object) -> float | None:
    return value if isinstance(value, int) else None
