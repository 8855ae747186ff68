"""What can go wrong with an export, in words that say what to do and hold no value."""

from __future__ import annotations

import errno
from typing import Final

from django.utils.translation import gettext as _


class ExportRefused(ValueError):
    """An order that is not taken; its text is for the person who gave it."""


class ExportFault(RuntimeError):
    """An export that could not go on; its text is for a person.

    ``is_final``: to try again changes nothing.
    """

    def __init__(self, words: str, *, is_final: bool = False) -> None:
        super().__init__(words)
        self.words = words[:300]
        self.is_final = is_final


_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_AWAY: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EIO, errno.ENODEV})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def of_disk(error: OSError, where: str) -> ExportFault:
    """A fault of a disk: full, away, read-only; ``where`` is what a person calls the place."""
    if error.errno in _FULL:
        return ExportFault(
            _("%s is full. The export goes on by itself when there is room again.") % where
        )
    if error.errno in _AWAY:
        return ExportFault(
            _("%s is not there. Is it mounted? The export goes on by itself when it is.") % where
        )
    if error.errno in _DENIED:
        return ExportFault(_("%s may not be written by the worker: check owner and mode.") % where)
    if error.errno == errno.ELOOP:
        return ExportFault(
            _("%s is a symbolic link where a folder or file must be.") % where, is_final=True
        )
    name = errno.errorcode.get(error.errno or 0, "?")
    return ExportFault(
        _("%(where)s cannot be written (%(code)s).") % {"where": where, "code": name}
    )
