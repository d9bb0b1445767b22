"""What a trade's condition codes allow it to do: set the price, set the high and low, count as volume.

The table is Massive's consolidated update rules for US stock trades as of `TABLE_DATE`. Rows that public sources
dispute: 17, 29, 33 and 41. Crypto has no such codes; the decoder drops them, so a crypto trade is always eligible.

    inside the regular session      bits 0..2    PRICE  HIGH_LOW  VOLUME
    outside of it                   bits 3..5    the same, shifted by OUTSIDE_SHIFT
    a code that is not in the table bit  6       UNKNOWN

Form T (12) is the one code that differs between the two: it may set prices outside the regular session only.

This table is frozen: it is what a log means, so that a replay of an old one never says anything new. What is known
today is another `ConditionTable` (a dated file, or what the exchange said by REST); the feed judges each trade by it,
and where that differs from here, the trade is logged with one more code of our own, which carries the verdict:

    the exchange says 72, unknown here, all allowed there      logged: 72, 32063      VERDICT + bits

So the verdict is in the log, and a newer table holds for newer trades only.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

TABLE_DATE: Final = "2026-11-22"
"""When the table was last compared with its sources."""

PRICE: Final = 1
"""May set open, close and last."""
HIGH_LOW: Final = 2
"""May set high and low."""
VOLUME: Final = 4
"""Its size counts."""
ALL: Final = PRICE | HIGH_LOW | VOLUME
OUTSIDE_SHIFT: Final = 3
"""The same three bits, shifted by this, hold outside the regular session."""
UNKNOWN: Final = 64
"""One of the codes is not in the table; the trade counts as volume only."""

PART_PRICE: Final = -1
PART_HIGH_LOW: Final = -2
PART_VOLUME: Final = -3
"""Codes of our own, for the parts that a bar from the exchange is taken apart into. Never on the wire."""

FORM_T: Final = 12
VERDICT: Final = 32_000
"""Codes of our own from here on carry a verdict: this number and its bits. Refused when the exchange sends one."""
_VERDICT_MASK: Final = 127
_CODES_MAX: Final = 16

CODES_MIN: Final = 30
"""A table of the exchange with fewer codes is not whole: asked without a limit, it answers with ten."""
_RULES: Final = {"updates_open_close": PRICE, "updates_high_low": HIGH_LOW, "updates_volume": VOLUME}

_EVERYTHING = (0, 1, 3, 4, 6, 8, 9, 11, 14, 18, 19, 23, 24, 25, 27, 28, 30, 31, 34, 35, 36, 41, 55)
_ONLY_VOLUME = (2, 7, 13, 20, 21, 29, 37, 52, 53)
_HIGH_LOW_AND_VOLUME = (5, 10, 17, 22, 32, 33)
_NOTHING = (15, 16)
_PRICE_AND_HIGH_LOW = (38,)
_NEUTRAL = (*range(57, 61), *range(62, 72))

INSIDE: Final[dict[int, int]] = {
    **dict.fromkeys(_EVERYTHING, ALL),
    **dict.fromkeys(_ONLY_VOLUME, VOLUME),
    **dict.fromkeys(_HIGH_LOW_AND_VOLUME, HIGH_LOW | VOLUME),
    **dict.fromkeys(_NOTHING, 0),
    **dict.fromkeys(_PRICE_AND_HIGH_LOW, PRICE | HIGH_LOW),
    **dict.fromkeys(_NEUTRAL, ALL),
    FORM_T: VOLUME,
    **(_PARTS := {PART_PRICE: PRICE, PART_HIGH_LOW: HIGH_LOW, PART_VOLUME: VOLUME}),
}
"""What each code alone allows inside the regular session."""
OUTSIDE: Final[dict[int, int]] = INSIDE | {FORM_T: ALL}
"""What each code alone allows outside the regular session."""


def eligibility(codes: tuple[int, ...]) -> int:
    """The bit set of a trade with these codes. Every code must allow a thing (AND); no code allows all.

    >>> eligibility(()) == ALL | ALL << OUTSIDE_SHIFT
    True
    >>> eligibility((FORM_T,)) == VOLUME | ALL << OUTSIDE_SHIFT
    True
    """
    if codes and codes[-1] >= VERDICT:
        return codes[-1] - VERDICT & _VERDICT_MASK
    return _judge(codes, INSIDE, OUTSIDE)


def wire_codes(codes: tuple[int, ...]) -> tuple[int, ...]:
    """The codes that the exchange sent, without our verdict."""
    return codes[:-1] if codes and codes[-1] >= VERDICT else codes


@dataclass(frozen=True, slots=True)
class ConditionTable:
    """What was known of the codes on ``date``; ``inside`` as `INSIDE`, ``names`` as the exchange calls them."""

    date: str
    source: str
    """``built in``, or the server that was asked."""
    inside: Mapping[int, int]
    names: Mapping[int, str]

    def eligibility(self, codes: tuple[int, ...]) -> int:
        """As the function of this name, by this table."""
        outside = {**self.inside, FORM_T: self.inside.get(FORM_T, VOLUME) | ALL}
        return _judge(codes, {**_PARTS, **self.inside}, {**_PARTS, **outside})

    def stamped(self, codes: tuple[int, ...]) -> tuple[int, ...]:
        """The codes as they are logged: with this table's verdict, where the frozen one has another."""
        verdict = self.eligibility(codes)
        return codes if verdict == eligibility(codes) else (*codes[: _CODES_MAX - 1], VERDICT + verdict)

    def unknown(self, codes: tuple[int, ...]) -> list[int]:
        """The codes that this table does not know."""
        return [code for code in wire_codes(codes) if code >= 0 and code not in self.inside]

    def differences(self, other: ConditionTable) -> dict[int, tuple[int | None, int | None]]:
        """The codes for which ``other`` says something else, with both verdicts (None: unknown)."""
        codes = sorted({*self.inside, *other.inside})
        both = {code: (self.inside.get(code), other.inside.get(code)) for code in codes}
        return {code: pair for code, pair in both.items() if pair[0] != pair[1]}


def _judge(codes: tuple[int, ...], inside_of: Mapping[int, int], outside_of: Mapping[int, int]) -> int:
    inside = outside = ALL
    unknown = 0
    for code in codes:
        if code not in inside_of:
            unknown = UNKNOWN
        inside &= inside_of.get(code, VOLUME)
        outside &= outside_of.get(code, VOLUME)
    return inside | outside << OUTSIDE_SHIFT | unknown


def table_of(rows: Iterable[Mapping[str, Any]], date: str, source: str) -> ConditionTable:
    """The table that `/v3/reference/conditions` (stocks, trades) describes, by its consolidated rules.

    Raises:
        ValueError: it is none, or so short that it can only be a part of one.
    """
    inside: dict[int, int] = {}
    names: dict[int, str] = {}
    for row in rows:
        code, kinds, rules = row.get("id"), row.get("data_types", ["trade"]), row.get("update_rules")
        if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code < VERDICT:
            raise ValueError(f"id={code!r}: expected a whole number from 0 to {VERDICT - 1}")
        if not isinstance(kinds, list) or "trade" not in kinds:
            continue
        inside[code] = ALL
        if isinstance(name := row.get("name"), str) and name:
            names[code] = name[:100]
        if isinstance(rules, dict):
            consolidated = rules.get("consolidated")
            if not isinstance(consolidated, dict) or not all(consolidated.get(key) in (True, False) for key in _RULES):
                raise ValueError(f"id={code}: its consolidated rules are not three times true or false")
            inside[code] = sum(bit for key, bit in _RULES.items() if consolidated[key])
    if len(inside) < CODES_MIN:
        raise ValueError(f"{len(inside)} codes: a whole table has {CODES_MIN} or more")
    return ConditionTable(date, source, inside, names)
