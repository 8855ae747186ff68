"""Whether digits after a plus are a telephone number somewhere, by the tables of phonenumbers.

Only its tables are used: parsing and classifying a number with the library costs thirty times as
much, which a text of nothing but numbers would multiply past every bound.
"""

from __future__ import annotations

import re
from typing import Any

MIN_NAMED_DIGITS = 7


class PhoneNumbers:
    """The check itself; builds the pattern of a calling code when the code first turns up.

    Threads may share one: a race builds a pattern twice. Creating one imports phonenumbers (some
    100 ms), so that is left until a candidate turns up.
    """

    def __init__(self) -> None:
        self._regions_of: dict[int, tuple[str, ...]] | None = None
        self._patterns: dict[int, tuple[re.Pattern[str], int, int]] = {}

    def check(self, found: str, *, is_named: bool) -> bool:
        """Whether it is a telephone number; near a telephone word the right length is enough."""
        digits = "".join(filter(str.isdigit, found.replace("(0)", "")))
        if found[0] != "+":
            return len(digits) >= MIN_NAMED_DIGITS
        for length in (1, 2, 3):
            known = self._pattern(int(digits[:length]))
            if known is not None:
                pattern, shortest, longest = known
                national = digits[length:]
                if is_named:
                    return shortest <= len(national) <= longest
                trunkless = national.removeprefix("0")
                return bool(pattern.fullmatch(national) or pattern.fullmatch(trunkless))
        return False

    def _pattern(self, code: int) -> tuple[re.Pattern[str], int, int] | None:
        known = self._patterns.get(code)
        if known is None:
            if self._regions_of is None:
                from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

                self._regions_of = dict(COUNTRY_CODE_TO_REGION_CODE)
            if code not in self._regions_of:
                return None
            known = self._patterns[code] = self._build(code, self._regions_of[code])
        return known

    def _build(self, code: int, regions: tuple[str, ...]) -> tuple[re.Pattern[str], int, int]:
        from phonenumbers import PhoneMetadata

        patterns: list[str] = []
        lengths: list[int] = []
        for region in regions:
            data: Any = (  # the library types each part as optional; all of these are there
                PhoneMetadata.metadata_for_nongeo_region(code)
                if region == "001"
                else PhoneMetadata.metadata_for_region(region)
            )
            kinds = (
                data.fixed_line, data.mobile, data.toll_free, data.premium_rate, data.shared_cost,
                data.personal_number, data.voip, data.pager, data.uan, data.voicemail,
            )  # fmt: skip
            patterns += [
                k.national_number_pattern for k in kinds if k and k.national_number_pattern
            ]
            lengths += data.general_desc.possible_length
        return re.compile("|".join(dict.fromkeys(patterns))), min(lengths), max(lengths)
