"""inert(): a text that a spreadsheet shows and never computes. For every CSV that leaves here."""

from __future__ import annotations

import re
from typing import Final

FORMULA_STARTS: Final = (*"=+-@\t\r\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What makes a spreadsheet compute a cell, the full-width forms included (OWASP, CSV injection)."""
BLANKS: Final = " \u00a0\ufeff\x00"
"""What a spreadsheet leaves out before it looks at a cell."""
SUSPECT: Final = frozenset({*FORMULA_STARTS, *BLANKS})
PARTERS: Final = ";\t\r\n"
"""What parts cells and rows for a spreadsheet that takes no comma, as in half of Europe: what
stands behind one begins a cell there, whatever the quotes say."""
_STARTS_INSIDE: Final = re.compile(rf"([{PARTERS}][{BLANKS}]*)(?=[-=+@\uff1d\uff0b\uff0d\uff20])")


def inert(text: str) -> str:
    """A text that no spreadsheet computes and no reader stumbles over: a quote in front, no NUL."""
    if text.lstrip(BLANKS).startswith(FORMULA_STARTS):
        text = f"'{text}"
    text = _STARTS_INSIDE.sub(r"\1'", text)
    return text.replace("\x00", "\\x00")
