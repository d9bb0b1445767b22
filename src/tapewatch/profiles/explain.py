"""Why an alert fired, and for any symbol and minute why nothing did: computed anew from the log.

One symbol's trades, and the ticks and gaps of its market, go through an oracle that notes what it decides
(`explain_log.py`). What comes out is told in sentences (`explanation.py`), and compared with what the database has.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from math import isclose
from pathlib import Path
from typing import Any, Final

from tapewatch.errors import InputError, LogError, StoreError
from tapewatch.explanation import explain_rules
from tapewatch.feed.symbols import market_of
from tapewatch.log.kafka import KafkaPlace
from tapewatch.oracle_alerts import AlertKey, AlertState
from tapewatch.oracle_trace import TraceOracle
from tapewatch.profiles.explain_log import MINUTE_MS, ZONES, Traced, trace_minute
from tapewatch.profiles.explain_source import OpenSources, kafka_source, local_source
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.rooms import open_rooms
from tapewatch.rules.model import alert_key
from tapewatch.serve.shapes import iso
from tapewatch.settings import EXPLAIN_WAITING_MAX
from tapewatch.settings import Settings as Options
from tapewatch.store.connect import conninfo
from tapewatch.store.queries import Queries

__all__ = ["Explainer", "explain_here", "explain_lines", "read_minute", "source_of"]

_SYMBOL: Final = re.compile(r"[A-Z0-9][A-Z0-9.:/_-]{0,31}")
TRIES: Final = 3
TRY_AGAIN_S: Final = 0.5

Found = dict[str, Any]
Stored = Callable[[str, int, int], Awaitable[list[Found]]]
"""The alerts of a symbol whose trade was in [from, to) (Unix ms), as the API shows them. May raise StoreError."""


def read_minute(symbol: str, text: str) -> int:
    """The minute's start in Unix ms; without an offset it is in the exchange's zone.

    Raises:
        InputError: it is no time, or not between the years 1970 and 2100.
    """
    zone = ZONES[market_of(symbol)]
    try:
        moment = datetime.fromisoformat(re.sub(r" (\d\d:\d\d)$", r"+\1", text.strip().upper()))
    except ValueError:
        raise InputError(
            f"{text[:40]}: expected a minute such as 2026-11-20T15:42, in the exchange's own time ({zone.key}), or "
            "with an offset: 2026-11-20T20:42Z"
        ) from None
    if not 1970 < moment.year < 2100:
        raise InputError(f"{text[:40]}: expected a minute between the years 1971 and 2099")
    found = (moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)).astimezone(UTC)
    ms = int(found.timestamp()) * 1_000
    return ms - ms % MINUTE_MS


class Explainer:
    """Explains minutes of one log, one at a time. For one event loop; the log is read in a thread."""

    def __init__(self, open_sources: OpenSources, parts: Parts, stored: Stored) -> None:
        self._open_sources = open_sources
        self._parts = parts
        self._stored = stored
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def explain(self, symbol: str, minute: str) -> Found:
        """See docs/explain.md; ``minute`` as a person writes it.

        Raises:
            InputError: no symbol, no minute, or (UnknownSymbol) the log has no trade of the symbol.
            LogError: the log cannot be read, it took too long, or too many wait.
        """
        name = symbol.upper()
        if not _SYMBOL.fullmatch(name):
            raise InputError(f"{symbol[:40]}: expected a symbol such as AAPL, BRK.B or BTC")
        start = read_minute(name, minute)
        if self._waiting >= EXPLAIN_WAITING_MAX:
            raise LogError("Other minutes are being explained; try again in a few seconds")
        self._waiting += 1
        try:
            async with self._turn:
                for tries_left in reversed(range(TRIES)):
                    found = await asyncio.to_thread(trace_minute, self._open_sources, self._parts, name, start)
                    answer = await self._compared(found)
                    if answer["agrees"] is not False or found.is_settled or not tries_left:
                        break
                    await asyncio.sleep(TRY_AGAIN_S)  # the log is ahead of the database by a commit
                return answer
        finally:
            self._waiting -= 1

    async def _compared(self, found: Traced) -> Found:
        """The answer, held against what is stored."""
        answer, span = _answer(found), found.minute.trace.span
        try:
            stored = await self._stored(found.minute.trace.symbol, span.start, span.stop)
        except StoreError as error:
            return answer | {"agrees": None, "agreement": f"Not compared with the database: {error}"}
        wrong = _differences(found, stored)
        if not wrong:
            return answer | {"agrees": True, "agreement": "The database has stored exactly this."}
        return answer | {"agrees": False, "agreement": f"The database has stored something else: {'; '.join(wrong)}."}


def stored_by(queries: Queries) -> Stored:
    """The alerts that ``queries`` finds."""

    async def stored(symbol: str, from_ms: int, to_ms: int) -> list[Found]:
        return await queries.alerts(symbol=symbol, from_ms=from_ms, before_ms=to_ms)

    return stored


def source_of(settings: Options, log_path: Path) -> OpenSources:
    """The log that the settings mean: Kafka's topic, or the embedded one at ``log_path``."""
    if settings.kafka_servers is None:
        return local_source(log_path)
    return kafka_source(KafkaPlace.of(settings), market_of, settings.future_limit_ms)


async def explain_here(settings: Options, origin: str, symbol: str, minute: str) -> Found:
    """Explain from the log that the settings mean, whether a pipeline runs on it or not.

    Raises: as `Explainer.explain`, `open_rooms` and `ensure_topic`.
    """
    with ExitStack() as undo:
        if settings.kafka_servers is not None:
            info, source = conninfo(settings), source_of(settings, Path())
        else:
            rooms = undo.enter_context(open_rooms(settings, origin))
            info, source = rooms.conninfo, source_of(settings, rooms.log_path)
        queries = Queries(info)
        try:
            return await Explainer(source, Parts.load(settings), stored_by(queries)).explain(symbol, minute)
        finally:
            await queries.close()


def explain_lines(found: Found) -> Iterator[str]:
    """The answer as the command prints it."""
    grade = found["grade"] or "-"
    yield f"{found['symbol']}, {found['text']}: {found['session']}, {found['trades']} trades, grade {grade}"
    if (bar := found["bar"]) is not None:
        names = ("open", "high", "low", "close", "ma_5min", "volume")
        yield "  " + "  ".join(f"{name} {'-' if bar[name] is None else format(bar[name], ',.10g')}" for name in names)
    for rule in found["rules"]:
        yield f"{rule['rule']}: {rule['outcome']}" + (f"  (alert {rule['alert_id']})" if rule["alert_id"] else "")
        yield f"  {rule['sentence']}"
    yield f"Computed from the log since {found['computed_from']}. {found['agreement']}"


# --- the answer ----------------------------------------------------------------------------------------------------


def _answer(found: Traced) -> Found:
    trace, minute = found.minute.trace, found.minute
    span, counts = trace.span, trace.counts()
    gap_ms = sum(max(0, min(g[1], span.stop) - max(g[0], span.start)) for g in trace.gaps)
    rules = explain_rules(minute)
    for rule in rules:
        ids = [_alert_id(trace, key) for key in rule.pop("alerts")]
        rule["alert_id"] = ids[0] if ids else None
        if key := trace.cooling.get((rule["rule"], rule["direction"])):
            rule["facts"]["cooled_by"]["alert_id"] = _alert_id(trace, key)
    total, date = len(trace.trades), datetime.fromtimestamp(span.start / 1e3, minute.zone).date()
    return {
        "symbol": trace.symbol,
        "market": found.market.name.lower(),
        "minute": iso(span.start),
        "text": f"{date} {minute.clock(span.start)} {minute.mark}",
        "session": found.session,
        "state": minute.state,
        "grade": _grade(total, counts["late"], gap_ms),
        "bar": _bar(trace),
        "trades": total,
        "counts": {
            "excluded": counts["unpriced"],
            "late": counts["late"],
            "future": counts["future"],
            "stale": trace.stale,
            "gap_ms": gap_ms,
        },
        "rules": rules,
        "computed_from": iso(found.begins or 0),
    }


def _grade(total: int, late: int, gap_ms: int) -> str | None:
    """As the view `quality_grades`; None where nothing came and nothing was missed."""
    if not total and not gap_ms:
        return None
    return "D" if gap_ms >= 10_000 else "C" if gap_ms else "B" if late * 100 > total else "A"


def _bar(trace: TraceOracle) -> Found | None:
    """The minute's candle; None without a price."""
    panes = [p for p in sorted(trace.panes[trace.symbol]) if trace.span.start <= p < trace.span.stop]
    if not panes or not trace.prices:
        return None
    row = trace.row(trace.symbol, [trace.panes[trace.symbol][p] for p in panes], panes[-1])
    names = {"open": "open_price", "high": "max_price", "low": "min_price", "close": "close_price", "vwap": "vwap"}
    bar: Found = {name: row[column] for name, column in names.items()}
    line = row["ma_5min"]
    volume = {"volume": row["total_volume"], "trade_count": row["trade_count"], "is_final": row["is_final"]}
    return bar | volume | {"ma_5min": line if line == line else None}


def _alert_id(trace: TraceOracle, key: AlertKey) -> str:
    return alert_key(key.rule, trace.versions[key], key.symbol, key.pane, key.direction)


def _differences(found: Traced, stored: list[Found]) -> list[str]:
    """What the database says otherwise, in words; empty if nothing."""
    trace = found.minute.trace
    expected: dict[str, tuple[AlertKey, AlertState]] = {
        _alert_id(trace, key): (key, state)
        for key, state in trace.alerts.items()
        if trace.span.start <= key.pane < trace.span.stop
    }
    wrong = []
    for row in stored:
        if row["alert_id"] not in expected:
            rules = trace.span_rules
            old = row["rule"] not in rules or row["rule_version"] != rules.version(row["rule"])
            why = "made by the rule as it was set then" if old else "which the log does not give"
            wrong.append(f"it has a {row['rule']} alert of {row['triggered_at']} ({row['status']}), {why}")
            continue
        key, state = expected.pop(row["alert_id"])
        told = (row["triggered_at"], row["status"], row["price"], row["line"])
        computed = (iso(state.triggered), state.status, state.price, state.line)
        # An average without end, read from a later beginning, may differ in its last digits.
        if told[:3] != computed[:3] or not isclose(told[3], computed[3], rel_tol=1e-9):
            wrong.append(f"its {key.rule} alert is {told}, and should be {computed}")
    wrong += [f"the {key.rule} alert of {iso(state.triggered)} is missing" for key, state in expected.values()]
    return wrong
