"""The rule row of the secret scrubber, and what turns a vendor row into one.

A row is data: what a vendor documents about the look of its credential, with texts that must
match and texts that must not. Examples are templates, so that the source holds nothing another
scanner would stop: `<w36>` stands for 36 generated characters. Classes: w letters and digits,
a lower case and digits, A upper case and digits, h hex, H upper-case hex, d digits, l lower-case
letters, b base64url, s base64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Stamped on each batch. Raise it with every change to a rule, a key word or a judgement, so that
# the console can tell an agent that needs updating from one that leaks.
RULESET_VERSION = "2026.11.3"

# How a matched value is judged before it is replaced:
#   shape   distinctive by itself: only placeholders and low entropy are let through
#   exact   a documented length that no word has: only the vendor's own example is let through
#   any     the context already says it is a secret: only placeholders are let through
#   opaque  must look generated (letters with digits or symbols), not like a word
#   strong  opaque, 16 characters or more, and not a path, a version or a digest
#   password  opaque, with digits and with symbols or both cases, as words seldom are
#   basic   base64 of "user:password"
#   cookie  pairs of which one has the name of a secret or a value that looks generated
#   words   a run of words (seed phrases): at least eight different ones
#   key-block  more than the two marker lines of a key block
Judge = Literal[
    "shape", "exact", "any", "opaque", "strong", "password", "basic", "cookie", "words", "key-block"
]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. `pattern` is RE2 syntax over UTF-8 bytes; it must be linear even when it fails.

    `keywords` are RE2 fragments; the rule runs only where one of them occurs, so every text that
    the pattern can match must contain one. `group` is the part that is replaced. `entropy` is the
    floor in bits a character (Shannon) for the judge "shape". `placeholders` are extra lower-case
    fragments that mark a value as documentation. `spans_lines` is set when a match can cross a line
    end that is followed by a character other than a blank; long texts are cut at such line ends.
    """

    id: str
    pattern: str
    keywords: tuple[str, ...]
    judge: Judge = "shape"
    group: int = 0
    entropy: float = 2.7
    placeholders: tuple[str, ...] = ()
    matches: tuple[str, ...] = ()
    non_matches: tuple[str, ...] = ()
    spans_lines: bool = False


# A credential may start at a word boundary, after an escaped newline of a JSON string, or after a
# percent escape. The engine cuts these two or three bytes off again.
LEAD = r"(?:\b|\\[nrt]|%[0-9A-F][0-9A-F])"

VendorRow = tuple[str, str, str, str, str]


def vendor_rules(rows: tuple[VendorRow, ...]) -> tuple[Rule, ...]:
    """Rules from compact rows: id, body, keywords parted by blanks, match, non-match."""
    return tuple(
        Rule(
            id=rule_id,
            pattern=LEAD + "(?:" + body + ")",
            keywords=tuple(keywords.split()),
            matches=(match,),
            non_matches=(non_match,),
        )
        for rule_id, body, keywords, match, non_match in rows
    )
