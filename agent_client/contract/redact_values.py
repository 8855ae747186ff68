"""Judgements on a value that stands where a secret may stand: placeholder, word, or generated.

Pure functions over short strings; each looks at no more than `WINDOW_CHARS` characters, which
bounds the cost of a judgement whatever the input.
"""

# ruff: noqa: E501 - lists of words are reviewed as words, not as columns
from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter

from agent_client.contract.redact_names import name_class

# A longer value is judged by its head: entropy and placeholder words show well before.
WINDOW_CHARS = 128

# Fragments that documentation puts where a secret goes. Lower case; four letters at least, because
# three-letter ones turn up by chance in generated base64.
PLACEHOLDER_WORDS = (
    "example", "placeholder", "changeme", "change_me", "change-me", "changeit", "redacted",
    "your_", "your-", "yourapi", "yourtoken", "yoursecret", "yourpass", "insert_", "insert-", "dummy",
    "fake", "todo", "fixme", "replace", "my_secret", "my-secret", "mysecret", "sample", "foobar",
    "getenv", "process.env", "os.environ", "secrets.", "vault:", "notareal", "not-a-real", "****",
    "xxxx", "...", "…", "[redacted", "-here", "_here",
)  # fmt: skip
# The few that count against a value with a vendor's own look: such a value is rarely prose.
SHAPE_PLACEHOLDERS = ("xxxxxx", "****", "...", "placeholder", "redacted", "your_", "your-")
# Whole values that are types, states or the name of the field itself.
PLACEHOLDER_VALUES = frozenset(
    "none null nil true false undefined string str text password passwd secret token key value"
    " required optional object integer boolean bool int number bytes any auto default disabled"
    " enabled on off yes no test unknown empty missing present set unset hidden masked basic bearer"
    " digest oauth oauth2 oidc saml ldap jwt env apikey api_key public private".split()
)
VARIABLE_STARTS = ("${", "{{", "$(", "%(", "$env:", "<%", "#{")
FILE_ENDS = (
    ".py", ".js", ".ts", ".json", ".yaml", ".yml", ".toml", ".txt", ".md", ".pem", ".key", ".crt",
    ".cfg", ".ini", ".sh", ".go", ".rs", ".java", ".html", ".css", ".log", ".jsonl", ".db",
)  # fmt: skip
# The marker lines of a key block come to about 70 characters; any key adds as much again.
KEY_BLOCK_CHARS = 90
_DIGIT = re.compile(r"\d")
_LETTER = re.compile(r"[^\W\d_]")
_LETTERS = re.compile(r"[^\W\d_]+")
_SYMBOL = re.compile(r"[!@#$%^&*?~]")
_NUMBER = re.compile(r"[\d.,:+\-TZ_%]*")
_HEX = re.compile(r"[0-9A-Fa-f]*")
_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
# Unambiguous, hence without backtracking: words, each closed by separators but for the last.
# A call or an item that was cut at its quote or bracket.
_CODE = re.compile(r"[A-Za-z_][\w.]*[(\[][\w.:-]*")
_BASE64 = re.compile(r"[0-9A-Za-z+/]{20,}={1,2}")
# An item or a member of a variable, as PHP and Perl write it.
_ITEM = re.compile(r"\$[a-z_]\w*(?:\[|->|::)")
_INNER_DIGIT = re.compile(r"[A-Za-z]\d+[A-Za-z]")
_BRACKETS = re.compile(r"[(){}\[\]]")
_CLOSES = {")": "(", "]": "[", "}": "{"}
_HUMP = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_WORDS = re.compile(r"(?:[^\W\d_]{1,16}[._\-/ :]+)*(?:[^\W\d_]{1,16})?")
_ANGLES = "^<|<[^<>]+>"
_PLACEHOLDER = re.compile("|".join([*map(re.escape, PLACEHOLDER_WORDS), _ANGLES]))
_SHAPE_PLACEHOLDER = re.compile("|".join([*map(re.escape, SHAPE_PLACEHOLDERS), _ANGLES]))
_N_LOG2_N = [0.0] + [n * math.log2(n) for n in range(1, WINDOW_CHARS + 1)]
QUOTES = "\"'`"


def has_crossed_brackets(value: str) -> bool:
    """Whether a bracket closes another kind than was opened last, which no code does."""
    opened: list[str] = []
    for bracket in _BRACKETS.findall(value):
        if bracket in _CLOSES:
            if opened and opened.pop() != _CLOSES[bracket]:
                return True
        else:
            opened.append(bracket)
    return False


def is_marker(value: str) -> bool:
    """Whether the value is nothing but marks this engine has put there."""
    return value.startswith("[REDACTED:") and value.endswith("]") and value.count("[") == 1


def is_placeholder(value: str) -> bool:
    """Whether the value is documentation, a variable or a mask rather than a credential."""
    if value[:1] == "[" and (value.startswith("[redaction-unavailable]") or is_marker(value)):
        return True
    head = value[:WINDOW_CHARS]
    lower = head.lower().strip(QUOTES)
    if not lower or lower in PLACEHOLDER_VALUES:
        return True
    if not lower[0].isalnum() and _is_variable(lower, head):
        return True
    return _PLACEHOLDER.search(lower) is not None or is_monotone(lower)


def _is_variable(lower: str, head: str) -> bool:
    """Whether a value that begins with a mark stands for another: `${X}`, `%X%`, `$X`, `[x]`."""
    first, last = lower[0], lower[-1]
    if lower.startswith(VARIABLE_STARTS) or first + last in ("{}", "[]"):
        return True
    if first == "$":
        if _ITEM.match(lower):
            return True
        return lower[1:].replace("_", "").isalnum() and head[1:].upper() == head[1:]
    return first == last == "%" and len(lower) > 2


def is_monotone(value: str) -> bool:
    """Whether one character makes up seven tenths of all but the first third: a mask."""
    tail = value[len(value) // 3 :][:WINDOW_CHARS]
    chars = set(tail)
    if len(chars) == 1 and len(value) >= 3:
        return True
    if len(tail) < 3 or (len(chars) - 1) * 10 > len(tail) * 3:
        return False
    return max(map(tail.count, chars)) * 10 >= len(tail) * 7


def is_camel_case(value: str) -> bool:
    """Whether it reads as the name of a class: words of four letters and more, with their vowels."""
    head = value[:WINDOW_CHARS]
    letters = sum(map(str.isalpha, head))
    vowels = sum(map(head.count, "aeiouAEIOU"))
    return len(_HUMP.findall(head)) * 4 <= letters and vowels * 25 >= letters * 7


def entropy_bits(value: str) -> float:
    """Shannon entropy in bits a character of the head of the value."""
    head = value[:WINDOW_CHARS]
    total = len(head)
    if not total:
        return 0.0
    weighted = sum(map(_N_LOG2_N.__getitem__, Counter(head).values()))
    return math.log2(total) - weighted / total


def is_wordlike(value: str) -> bool:
    """Letters only, in words of at most 16, joined by blanks, dots, hyphens or underscores."""
    if _WORDS.fullmatch(value) is None:
        return False
    return not any(map(is_scrambled, _LETTERS.findall(value)))


def is_scrambled(value: str) -> bool:
    """Whether letters change case more often than in camel case and hold too few vowels for words."""
    if len(value) < 8 or value.islower() or value.isupper() or not value.isalpha():
        return False
    humps = len(_HUMP.findall(value))
    vowels = sum(map(value.count, "aeiouAEIOU"))
    return humps >= 3 and humps * 16 >= len(value) * 5 and vowels * 25 <= len(value) * 7


def is_hex_digest(value: str) -> bool:
    """Whether it has the look of an MD5, SHA-1, SHA-256 or SHA-512, or of an id of 16 hex digits."""
    if value[:6].lower().startswith(("sha256", "sha512", "sha384", "sha1", "md5")):
        return True
    return len(value) in (16, 32, 40, 64, 128) and _HEX.fullmatch(value) is not None


def is_uuid(value: str) -> bool:
    """Whether it is the canonical text form of a UUID."""
    return _UUID.fullmatch(value) is not None


def is_reference(value: str) -> bool:
    """Whether it points at something (a path, an address, a version, a date, a number)."""
    if value.startswith(("/", "./", "../", "~/")) and value.count("/") >= 2:
        return not _is_padded(value)
    if "://" in value[:20] or ("." in value and value.lower().endswith(FILE_ENDS)):
        return True
    if value[:1].isalpha() and value[:1] not in "TZ":
        return False
    if len(value) >= 15 and value.isdigit():
        return False
    return _NUMBER.fullmatch(value[:WINDOW_CHARS]) is not None


def _is_padded(value: str) -> bool:
    """Whether it is base64 closed by its padding, in which slashes make no path."""
    return value.endswith("=") and len(value) % 4 == 0 and _BASE64.fullmatch(value) is not None


def is_opaque(value: str) -> bool:
    """Whether it was made to be hard to guess: letters with digits or symbols, not words."""
    return not is_placeholder(value) and looks_opaque(value)


def looks_opaque(value: str) -> bool:
    """`is_opaque` for a value that is known to be no placeholder."""
    head = value[:WINDOW_CHARS].removesuffix("?")  # "Password: forgotten?"
    if len(head) < 6 or is_reference(head) or _CODE.fullmatch(head):
        return False
    has_digit = _DIGIT.search(head) is not None
    if _LETTER.search(head) is None:
        return has_digit and (_SYMBOL.search(head) is not None or len(head) >= 15)
    if has_digit or _SYMBOL.search(head) is not None:
        return True
    return not is_wordlike(head) and entropy_bits(head) >= 3.2


def is_strong(value: str) -> bool:
    """Opaque, and long and mixed enough to be no id, digest, path or identifier of code."""
    head = value[:WINDOW_CHARS]
    if len(head) < 16 or len(_DIGIT.findall(head)) < 2:
        return False
    if head.count("/") >= 3 and not _is_padded(value):
        return False
    if is_uuid(head) or is_hex_digest(head) or entropy_bits(head) < 3.3:
        return False
    return is_opaque(value)


def is_password(value: str) -> bool:
    """Whether a value in prose has the look of a password: digits, with symbols or both cases."""
    head = value[:WINDOW_CHARS]
    if not is_opaque(value) or _LETTER.search(head) is None or _DIGIT.search(head) is None:
        return False
    if _SYMBOL.search(head):
        return True
    is_mixed = head.lower() != head and head.upper() != head
    is_whole = head.isalnum() or _INNER_DIGIT.search(head) is not None
    return is_mixed and len(_DIGIT.findall(head)) >= 2 and is_whole


def is_generated(value: str, floor_bits: float) -> bool:
    """Whether the tail of a vendor-shaped value is random and not an identifier of code."""
    lower = value[:WINDOW_CHARS].lower()
    if _SHAPE_PLACEHOLDER.search(lower) or is_monotone(lower):
        return False
    if "example" in lower and len(value) < 24:
        return False
    tail = value[len(value) // 4 :][:WINDOW_CHARS]
    if entropy_bits(value) < floor_bits:
        return False
    if _DIGIT.search(tail):
        return True
    if any(map(is_scrambled, _LETTERS.findall(tail))):
        return True
    return tail.lower() != tail and tail.upper() != tail and entropy_bits(tail) >= 4.0


def is_basic_pair(value: str) -> bool:
    """Whether it is base64 of `user:password` (RFC 7617)."""
    try:
        pair = base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return b":" in pair and pair.isascii()


def has_secret_cookie(value: str) -> bool:
    """Whether a pair of a cookie has the name of a secret, or a value that looks generated."""
    for pair in value.split(";"):
        name, _, text = pair.strip().partition("=")
        if name_class(name) and not is_placeholder(text):
            return True
        if len(text) >= 8 and is_opaque(text):
            return True
    return False


def is_word_list(value: str) -> bool:
    """Whether it is a run of at least twelve words, most of them different (a seed phrase)."""
    words = value.replace(",", " ").split()
    return len(words) >= 12 and len(set(words)) >= 8


def is_secret(value: str, judge: str, floor_bits: float) -> bool:
    """The judgement a rule names in its `judge` column."""
    if judge == "shape":
        return is_generated(value, floor_bits)
    if judge == "exact":
        return "example" not in value.lower()
    if judge == "opaque":
        return is_opaque(value)
    if judge == "strong":
        return is_strong(value)
    if judge == "password":
        return is_password(value)
    if judge == "basic":
        return is_basic_pair(value)
    if judge == "cookie":
        return has_secret_cookie(value)
    if judge == "key-block":
        return len(value) >= KEY_BLOCK_CHARS
    if judge == "words":
        return is_word_list(value)
    return not is_placeholder(value)
