"""Personal data in text: e-mail addresses, telephone numbers, and numbers that identify a person.

Names of people are out of scope but where a text introduces or signs with them
(`redact_national`): finding the others needs a language model. Cards are checked by Luhn,
IBANs by mod 97 (ISO 13616), addresses by `ipaddress`, telephone numbers by phonenumbers. A UUID is
personal only under the name of a user id; ids of ours stay.
"""

# ruff: noqa: E501 - patterns and lists of words stay whole
from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


# phonenumbers, handed in by `redact` (which alone imports it): whether this text, which begins
class PhoneCheck(Protocol):
    """`redact` makes it from phonenumbers, which it alone imports."""

    def __call__(self, found: str, *, is_named: bool) -> bool:
        """Whether it is a telephone number; `is_named` when it stands near a telephone word."""


_NOT_TOP_LEVEL = frozenset(
    "png jpg jpeg gif svg webp py js ts css html json md txt service socket timer target mount local"
    " localdomain internal example0".split()
)
# Accounts of machines and images, not of people.
_SERVICE_USERS = frozenset(
    "root ubuntu debian runner user users app node vscode circleci travis jenkins docker ec2-user"
    " admin public shared default www-data u me you username name linuxbrew git hermes agent"
    " .ssh all".split()
)
_PHONE_WORDS = re.compile(
    r"(?i)(?:tel|tél|phone|mobile?\b|móvil|whatsapp|fax|sms|cell|celular|(?:call|text) (?:me|us|him|her)"
    r"|contact|dial|handy|\bmob\b|\bmóv\b|\btlf|\bgsm|puhelin|телефон|тел\.|電話|电话|手机|手機|携帯|전화)"
    r"\W{0,3}(?:\w{0,12}\W{1,3})?$"
)
_TIME_WORDS = re.compile(
    r"(?i)(?:_ns|_us|_ms|_s|_id|time|stamp|ts|epoch|seq|id|offset|bytes|hash)\W{0,3}$"
)
_CARD_WORDS = re.compile(
    r"(?i)(?:card|visa|mastercard|amex|credit|debit|pan|cc)\W{0,3}(?:\w{0,8}\W{1,3})?$"
)
_VERSION_WORDS = re.compile(r"(?i)(?:version|build|release|ver|rev|v|==|>=|~=|@|oid)\W{0,2}$")
_NOT_PERSONAL = frozenset({"255.255.255.255"})


@dataclass(frozen=True, slots=True)
class PiiRule:
    """One row: `check(before, found)` sees up to 32 characters before the match, and the match."""

    id: str
    replacement: str
    pattern: str
    keywords: tuple[str, ...]
    check: Callable[[str, str], bool]
    group: int = 0


def _is_email(_before: str, found: str) -> bool:
    domain = found.rpartition("@")[2]
    labels = domain.rstrip(".").split(".")
    top = labels[-1].lower()
    return len(top) >= 2 and not any(c.isdigit() for c in top) and top not in _NOT_TOP_LEVEL


def luhn_ok(digits: str) -> bool:
    """Whether the check digit holds (ISO/IEC 7812-1). Digits only."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def _is_card(before: str, found: str) -> bool:
    digits = "".join(c for c in found if c.isdigit())
    if not 13 <= len(digits) <= 19 or digits[0] not in "23456" or not luhn_ok(digits):
        return False
    is_named = _CARD_WORDS.search(before) is not None
    is_grouped = len(digits) != len(found)
    if _TIME_WORDS.search(before) and not is_named:
        return False
    return is_named or is_grouped or len(digits) in (15, 16)


def _is_iban(_before: str, found: str) -> bool:
    text = found.replace(" ", "")
    if not 15 <= len(text) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1


def _is_ssn(_before: str, found: str) -> bool:
    area, group, serial = found.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _is_address(before: str, found: str) -> bool:
    if found.count(".") == 3 and ":" not in found:
        if _VERSION_WORDS.search(before) or found in _NOT_PERSONAL:
            return False
    elif found.count(":") < 3 or not any(c.isdigit() for c in found):
        return False
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_link_local)


def _is_person(_before: str, found: str) -> bool:
    return found.lower() not in _SERVICE_USERS and not found.isdigit()


def _always(_before: str, _found: str) -> bool:
    return True


PII_RULES: tuple[PiiRule, ...] = (
    PiiRule(
        "email",
        "[email]",
        r"[\w\x80-\xff](?:[\w.%+'\x80-\xff-]*[\w\x80-\xff+])?@(?:[\w\x80-\xff-]+\.)+[A-Za-z\x80-\xff][\w\x80-\xff-]+",
        ("@",),
        _is_email,
    ),
    PiiRule("card", "[id]", r"\b\d(?:[ -]?\d){12,18}\b", (r"\d{4}[ -]?\d{4}[ -]?\d",), _is_card),
    PiiRule(
        "iban",
        "[id]",
        r"\b[A-Z]{2}\d{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?\b",
        (r"[A-Z]{2}\d{2} ?[0-9A-Z]{4}",),
        _is_iban,
    ),
    PiiRule("ssn", "[id]", r"\b\d{3}-\d{2}-\d{4}\b", (r"\d-\d{2}-\d",), _is_ssn),
    PiiRule(
        "mac",
        "[id]",
        r"\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b",
        (r"(?:[0-9A-Fa-f]{2}[:-]){5}",),
        _always,
    ),
    PiiRule(
        "ipv4", "[id]", r"\b\d{1,3}(?:\.\d{1,3}){3}\b", (r"\d\.\d{1,3}\.\d{1,3}\.\d",), _is_address
    ),
    PiiRule(
        "ipv6",
        "[id]",
        r"[0-9A-Fa-f:]*:[0-9A-Fa-f:]*:[0-9A-Fa-f.]*",
        (":[0-9A-Fa-f]{0,4}:",),
        _is_address,
    ),
    PiiRule(
        "user-path",
        "[id]",
        r"(?:/home/|/Users/|[A-Za-z]:\\{1,4}Users\\{1,4})([^/\\\s\"'<>|:*?${}]{1,64})",
        ("/home/", "/Users/", r"\\Users\\"),
        _is_person,
        group=1,
    ),
    PiiRule(
        "user-id",
        "[id]",
        r"(?i)\b(?:user|customer|account|member|patient|employee|chat|author|owner|person|subscriber|client|sender"
        r"|recipient)[_-]?u?u?id\\*[\"']?\s*[=:]\s*\\*[\"']?([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}|-?\d{5,})\b",
        (r"(?i)[a-z][_-]?u?u?id\\*[\"']?\s*[=:]",),
        _always,
        group=1,
    ),
)
PHONE_PATTERN = r"\+?\(?\d[\d\s().\x2f-]{4,22}\d"
PHONE_KEYWORDS = (
    r"\+\(?\d",
    r"(?i)(?:tel|phone|mob|whatsapp|fax|sms|cel|call|text me|contact|dial|handy|tlf|gsm|puhelin)",
    "(?:t|T)él|m(?:ó|Ó)vil|елефон|ел\\.|電話|电话|手机|手機|携帯|전화",
)
PHONE_NAMES = frozenset("phone mobile tel telephone fax cell whatsapp msisdn phonenumber".split())
USER_NAMES = frozenset(
    "user customer account member patient employee chat author owner person".split()
)


def find_phone(before: str, found: str, check: PhoneCheck) -> bool:
    """Whether a run of digits is a telephone number: only with a plus, or after a telephone word."""
    digits = sum(c.isdigit() for c in found)
    if not 6 <= digits <= 15 or (before[-1:].isalnum() or before[-1:] in ("_", ".", "/")):
        return False
    is_named = _PHONE_WORDS.search(before) is not None
    if found[0] != "+" and not is_named:
        return False
    return check(found, is_named=is_named)
