"""Numbers that states give to persons, by their check digits or next to their names; introduced names.

Sources: the published forms of the US SSN's kin: UK National Insurance number, Spanish DNI and NIE,
Italian codice fiscale, French NIR, Brazilian CPF and CNPJ, Indian Aadhaar and PAN, Canadian SIN,
German Steuer-ID, and passports. A number whose check digit is one in ten goes only when grouped as
its state groups it, or next to its name.
"""

# ruff: noqa: E501 - patterns stay whole
from __future__ import annotations

import re
from collections.abc import Callable

from agent_client.contract.redact_pii import PiiRule, luhn_ok

_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_CF_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)  # fmt: skip
_VERHOEFF_D = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_VERHOEFF_P = (
    "0123456789", "1576283094", "5803796142", "8916043527",
    "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip


def _digits(text: str) -> list[int]:
    return [int(char) for char in text if char.isdigit()]


def is_dni(_before: str, found: str) -> bool:
    """Whether the letter of a Spanish DNI or NIE is the number modulo 23."""
    text = found.replace("-", "").upper()
    number = text[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return number.isdigit() and _DNI_LETTERS[int(number) % 23] == text[-1]


def is_codice_fiscale(_before: str, found: str) -> bool:
    """Whether the last letter of an Italian tax code checks the fifteen before."""
    text = found.upper()
    odd = sum(_CF_ODD[char] for char in text[0:15:2])
    even = sum(int(c) if c.isdigit() else ord(c) - 65 for c in text[1:15:2])
    return chr((odd + even) % 26 + 65) == text[15]


def is_nir(_before: str, found: str) -> bool:
    """Whether the key of a French social security number is 97 minus the rest."""
    text = found.replace(" ", "").upper().replace("2A", "19").replace("2B", "18")
    return text.isdigit() and 97 - int(text[:13]) % 97 == int(text[13:])


def _mod_11(digits: list[int], weights: range) -> int:
    rest = sum(a * b for a, b in zip(digits, weights, strict=False)) % 11
    return 0 if rest < 2 else 11 - rest


def is_cpf(_before: str, found: str) -> bool:
    """Whether both check digits of a Brazilian CPF hold."""
    digits = _digits(found)
    if len(set(digits)) == 1:
        return False
    first = _mod_11(digits[:9], range(10, 1, -1))
    return digits[9] == first and digits[10] == _mod_11(digits[:10], range(11, 1, -1))


def is_aadhaar(_before: str, found: str) -> bool:
    """Whether the Verhoeff check digit of an Indian Aadhaar number holds."""
    check = 0
    for place, digit in enumerate(reversed(_digits(found))):
        check = int(_VERHOEFF_D[check][int(_VERHOEFF_P[place % 8][digit])])
    return check == 0


def is_steuer_id(before: str, found: str) -> bool:
    """Whether it is a German tax id: next to its name, check digit by ISO 7064 mod 11, 10."""
    digits = _digits(found)
    product = 10
    for digit in digits[:10]:
        product = ((digit + product) % 10 or 10) * 2 % 11
    return _near(before, _STEUER) and (11 - product) % 10 == digits[10]


def is_sin(before: str, found: str) -> bool:
    """Whether it is a Canadian social insurance number: next to its name, checked by Luhn."""
    return _near(before, _SIN) and luhn_ok("".join(map(str, _digits(found))))


def _near(before: str, words: re.Pattern[str]) -> bool:
    return words.search(before) is not None


def _named(words: re.Pattern[str]) -> Callable[[str, str], bool]:
    return lambda before, found: _near(before, words) and any(map(str.isdigit, found))


_STEUER = re.compile(r"(?i)(?:steuer|tax|idnr|tin)[\w -]{0,20}\W{0,4}$")
_SIN = re.compile(r"(?i)(?:\bsin|social insurance)[\w -]{0,16}\W{0,4}$")
_PASSPORT = re.compile(
    r"(?i)(?:passport|reisepass|passeport|pasaporte|passaporto)[\w .-]{0,16}\W{0,4}$"
)
_BIRTH = re.compile(
    r"(?i)(?:birth\w{0,4}|\bdob|geboren|geburtsdatum|naissance|nacimiento)[\w -]{0,12}\W{0,4}$"
)
_PAN = re.compile(r"(?i)\bpan\b[\w -]{0,12}\W{0,4}$")


def _is_name(_before: str, found: str) -> bool:
    return not any(word in _NO_NAMES for word in found.split())


_NO_NAMES = frozenset(
    "The This That Not Sorry Happy Sure Going Unable Here Using Running Team Support Claude Code Visual"
    " Studio Google Microsoft Assistant Agent Bot".split()
)
_NAME = r"[A-Z\xc3-\xc5][\w\x80-\xff'-]+(?: [A-Z]\.)?(?: (?:van |von |de |da |del |bin |al-)?[A-Z\xc3-\xc5][\w\x80-\xff'-]+){1,2}"

NATIONAL_RULES: tuple[PiiRule, ...] = (
    PiiRule("nino", "[id]", r"\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]\b", (r"[A-Z][A-Z] ?\d\d ?\d\d",), lambda _before, _found: True),
    PiiRule("dni", "[id]", r"\b(?:\d{8}|[XYZ]\d{7})-?[A-HJ-NP-TV-Z]\b", (r"\d\d\d\d\d\d\d-?[A-Z]",), is_dni),
    PiiRule("codice-fiscale", "[id]", r"\b[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]\b", (r"[A-Z][A-Z]\d\d[A-Z]\d\d[A-Z]\d",), is_codice_fiscale),
    PiiRule("nir", "[id]", r"\b[12] ?\d{2} ?(?:0[1-9]|1[0-2]) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}\b", (r"[12] ?\d\d ?[01]\d ?\d",), lambda before, found: is_nir(before, found) and (" " in found or _near(before, re.compile(r"(?i)(?:nir|s[ée]cu\w*|insee)\W{0,4}$")))),
    PiiRule("cpf", "[id]", r"\b\d{3}\.\d{3}\.\d{3}-\d{2}\b", (r"\d\.\d\d\d\.\d\d\d-\d",), is_cpf),
    PiiRule("cnpj", "[id]", r"\b\d{2}\.\d{3}\.\d{3}/\d{4}-\d{2}\b", (r"\d\.\d\d\d\.\d\d\d/\d",), lambda _before, _found: True),
    PiiRule("aadhaar", "[id]", r"\b[2-9]\d{3}[ -]\d{4}[ -]\d{4}\b", (r"\d\d\d\d[ -]\d\d\d\d[ -]\d\d\d\d",), is_aadhaar),
    PiiRule("pan", "[id]", r"\b[A-Z]{3}[ABCFGHLJPT][A-Z]\d{4}[A-Z]\b", (r"[A-Z][A-Z]\d\d\d\d[A-Z]",), _named(_PAN)),
    PiiRule("sin", "[id]", r"\b\d{3}[ -]\d{3}[ -]\d{3}\b", (r"\d[ -]\d\d\d[ -]\d\d\d",), is_sin),
    PiiRule("steuer-id", "[id]", r"\b[1-9]\d(?: ?\d{3}){3}\b", (r"(?i)(?:steuer|tax|idnr|tin)",), is_steuer_id),
    PiiRule("passport", "[id]", r"\b[A-Z0-9]{6,9}\b", (r"(?i)(?:passport|reisepass|passeport|pasaporte|passaporto)",), _named(_PASSPORT)),
    PiiRule("birth-date", "[id]", r"\b(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})\b", (r"(?i)(?:birth|\bdob|geboren|geburtsdatum|naissance|nacimiento)",), _named(_BIRTH)),
    PiiRule("introduced-name", "[name]", r"\b(?:I am|I'm|I’m|[Mm]y name is|[Mm]ein Name ist|[Ii]ch heiße|[Jj]e m'appelle|[Mm]e llamo) (" + _NAME + ")", ("I am ", "I'm ", "I’m ", "y name is ", "ein Name ist ", "ch heiße ", "e m'appelle ", "e llamo "), _is_name, group=1),
    PiiRule("signed-name", "[name]", r"(?i:regards|sincerely|cheers|best wishes|yours truly|many thanks|gr(?:ü|ue)(?:ß|ss)e?n?|cordialement|saludos),?\s*\n\s*(" + _NAME + ")", ("(?i)regards", "(?i)sincerely", "(?i)cheers", "(?i)wishes", "(?i)yours truly", "(?i)thanks", "(?i)gr(?:ü|ue)(?:ß|ss)", "(?i)cordialement", "(?i)saludos"), _is_name, group=1),
)  # fmt: skip
