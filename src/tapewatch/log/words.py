"""Messages of the topic that are no trades, to records: ticks, gaps and changes of the rules. See messages.py.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from tapewatch.records import Gap, GapState, Kind, Market
from tapewatch.rules.change import RuleChange
from tapewatch.settings import SYMBOLS_MAX
from tapewatch.values import time_ms_of, whole_of

__all__ = ["MARKETS", "SYMBOL", "TIME_EXPECTED", "shown", "word_row"]

SYMBOL: Final = re.compile(r"[A-Z0-9][A-Za-z0-9._/:-]{0,31}")
TIME_EXPECTED: Final = "expected Unix milliseconds"
MARKETS: Final = {market.name.lower(): market for market in Market}
_CAUSE_LENGTH_MAX: Final = 200
_COUNT_MAX: Final = 2**53
_GAP_STATES: Final = {state.value: state for state in GapState}
_Row = tuple[Any, ...]


def word_row(kind: Any, fields: dict[str, Any], received_ns: int) -> _Row | str:
    """The record of a message of this ``kind``, as `Batch.of` takes it, or why it is none."""
    if kind == "rules":
        return _rules(fields, received_ns)
    if kind not in ("tick", "gap"):
        return f"kind={shown(kind)}: expected trade, tick, gap or rules"
    market = MARKETS.get(fields["market"]) if isinstance(fields.get("market"), str) else None
    if market is None:
        return f"market={shown(fields.get('market'))}: expected {' or '.join(MARKETS)}"
    return _tick(fields, market, received_ns) if kind == "tick" else _gap(fields, market, received_ns)


def _rules(fields: dict[str, Any], received_ns: int) -> _Row | str:
    time_ms = time_ms_of(fields.get("timestamp"))
    if time_ms is None:
        return f"timestamp={shown(fields.get('timestamp'))}: {TIME_EXPECTED}"
    try:
        said = msgspec.json.encode({"rules": fields.get("rules"), "who": fields.get("who")})
        return RuleChange.decode(said, time_ms).row(Kind.RULES, received_ns)
    except ValueError as error:
        return str(error)


def _tick(fields: dict[str, Any], market: Market, received_ns: int) -> _Row | str:
    time_ms = time_ms_of(fields.get("timestamp"))
    if time_ms is None:
        return f"timestamp={shown(fields.get('timestamp'))}: {TIME_EXPECTED}"
    return (Kind.TICK, market, -1, time_ms, received_ns, 0.0, 0, 0, 0, 0, "")


def _gap(fields: dict[str, Any], market: Market, received_ns: int) -> _Row | str:
    from_ms, to_ms = time_ms_of(fields.get("from")), time_ms_of(fields.get("to"))
    cause, symbols = fields.get("cause"), fields.get("symbols", [])
    if from_ms is None or to_ms is None or from_ms > to_ms:
        return f"from={shown(fields.get('from'))}, to={shown(fields.get('to'))}: expected Unix milliseconds, in order"
    if not isinstance(cause, str) or len(cause) > _CAUSE_LENGTH_MAX or not cause.isprintable():
        return f"cause={shown(cause)}: expected a text of at most {_CAUSE_LENGTH_MAX} characters"
    missing = fields.get("missing", [])
    for what, names in (("symbols", symbols), ("missing", missing)):
        if not isinstance(names, list) or len(names) > SYMBOLS_MAX:
            return f"{what}: expected at most {SYMBOLS_MAX} names"
        if bad := [name for name in names if not isinstance(name, str) or not SYMBOL.fullmatch(name)]:
            return f"{what}: {shown(bad[0])} is no name of a symbol"
    state, counts = fields.get("state", "open"), [whole_of(fields.get(name, 0)) for name in ("trades", "later")]
    if state not in _GAP_STATES or any(count is None or not 0 <= count <= _COUNT_MAX for count in counts):
        return f"state={shown(state)}: expected one of {', '.join(_GAP_STATES)}, with trades and later as whole numbers"
    gap = Gap(
        market=market, from_ms=from_ms, to_ms=to_ms, cause=cause, symbols=symbols, state=_GAP_STATES[state],
        trades=counts[0] or 0, later=counts[1] or 0, missing=missing,
    )  # fmt: skip
    return (Kind.GAP, market, -1, to_ms, received_ns, 0.0, 0, 0, 0, 0, gap.encode())


def shown(value: Any) -> str:
    """A value for a sentence: short, and printable."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
