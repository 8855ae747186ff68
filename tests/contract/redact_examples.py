"""Turns the templates of the rule table into texts: `<w36>` is 36 generated characters.

The characters are fixed by the template, so that a failure repeats.
"""

from __future__ import annotations

import random
import re
import string

CLASSES = {
    "w": string.ascii_letters + string.digits,
    "a": string.ascii_lowercase + string.digits,
    "A": string.ascii_uppercase + string.digits,
    "h": "0123456789abcdef",
    "H": "0123456789ABCDEF",
    "d": string.digits,
    "l": string.ascii_lowercase,
    "b": string.ascii_letters + string.digits + "-_",
    "s": string.ascii_letters + string.digits + "+/",
}
FIELD = re.compile(r"<([waAhHdlbs])(\d+)>")


def expand(template: str) -> str:
    """The text of a template; a field of four and more holds a digit, whatever the dice say."""
    rng = random.Random(template)

    def fill(field: re.Match[str]) -> str:
        chars, count = CLASSES[field[1]], int(field[2])
        made = rng.choices([c for c in chars if c.isalnum()], k=1) + rng.choices(chars, k=count - 1)
        if count >= 4 and field[1] != "l":
            made[count // 2] = rng.choice("23456789")
            made[-1] = rng.choice("23456789")
        return "".join(made)

    return FIELD.sub(fill, template)
