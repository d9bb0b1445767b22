"""What the fake market says about a minute, and what its alerts were decided from: shaped as the real ones are."""

from __future__ import annotations

from typing import Any

from tapewatch.errors import UnknownSymbol
from tapewatch.profiles.explain import read_minute
from tapewatch.serve.shapes import iso

MINUTE = 60_000
PASSPORT_MS = {"received_ns": 18, "logged_ns": 26, "decided_ns": 41}
STORED_MS, DELIVERED_MS = 47, 131

Row = dict[str, Any]


def evidence(row: Row, pane_ms: int, triggered_ms: int, decided_ms: int) -> Row:
    """As `engine.Engine` makes it and the computer completes it: one part for each state the alert has had."""
    price, line = row["price"], row["line"]
    is_volume = row["kind"] == "high_volume"
    trade = {"id": "t4711", "price": price, "size": 200.0, "time_ms": triggered_ms, "exchange": 11, "conditions": [14]}
    shared = {
        "window": {
            "from_ms": pane_ms - 4 * MINUTE,
            "to_ms": pane_ms + MINUTE,
            "trades": 412,
            "excluded": 37,
            "gap_ms": 0,
        }
    } | ({} if is_volume else {"band_bps": 5.0})
    first = {
        "price_before": None if is_volume else round(price * 0.9985, 4),
        "line_before": None if is_volume else line,
        "price": line * 1.02 if is_volume else price,
        "line": line,
        "trade": trade,
    }
    parts = {"provisional": shared | first | {"passport": passport(triggered_ms)}}
    if row["status"] != "provisional":
        end = price if row["status"] == "confirmed" else line
        last = {"price": line * 1.4 if is_volume else end, "line": line, "passport": passport(decided_ms)}
        parts[row["status"]] = shared | last
    return parts


def passport(event_ms: int) -> Row:
    return {"event_ms": event_ms} | {name: (event_ms + after) * 1_000_000 for name, after in PASSPORT_MS.items()}


def deliveries(row: Row, decided_ms: int) -> list[Row]:
    """One message, for a confirmed alert."""
    if row["status"] != "confirmed":
        return []
    sent = {"channel": "log", "event": "confirmed", "state": "delivered", "attempts": 1, "last_error": None}
    why = dict.fromkeys(("reason", "held_until", "told_by"))
    return [sent | {"delivered_at": iso(decided_ms + DELIVERED_MS)} | why]


async def explained(market: Any, symbol: str, text: str) -> Row:
    """`/api/v1/explain` of a `FakeMarket`. Raises as the real one does."""
    name = symbol.upper()
    start = read_minute(name, text)
    if name not in market.bars:
        raise UnknownSymbol(f"{name}: the log holds no trade of it (kept since 2026-11-20 03:30 ET)")
    bar = next((b for b in market.bars[name] if b["time"] == iso(start)), None)
    made = {a["kind"]: a for a in market.alert_rows.values() if a["symbol"] == name and a["pane_start"] == iso(start)}
    names = ("open", "high", "low", "close", "vwap", "volume", "trade_count", "ma_5min", "is_final")
    trades = bar["trade_count"] if bar else 0
    stock = name != "BTC"
    return {
        "symbol": name,
        "market": "stocks" if stock else "crypto",
        "minute": iso(start),
        "text": f"{iso(start)[:16].replace('T', ' ')} UTC",
        "session": "regular" if stock else "open",
        "state": "past" if start < market.now_ms - MINUTE else "running" if start <= market.now_ms else "future",
        "grade": "A" if trades else None,
        "bar": {n: bar[n] for n in names} if bar else None,
        "trades": trades,
        "counts": {"excluded": 2 if trades else 0, "late": 0, "future": 0, "stale": 0, "gap_ms": 0},
        "rules": [_rule(kind, made.get(kind), bar, start) for kind in ("golden_cross", "death_cross", "high_volume")],
        "computed_from": iso(start - 5 * 3_600_000),
        "agrees": True,
        "agreement": "The database has stored exactly this.",
    }


def _rule(kind: str, alert: Row | None, bar: Row | None, start: int) -> Row:
    if alert is not None:
        sentence = f"Fired at {alert['triggered_at'][11:19]} UTC: the price came from the other side of the average."
    elif bar is None:
        sentence = (
            "No trades: the feed was connected, and it did not trade in this minute. Only a trade decides a rule."
        )
    elif kind == "high_volume":
        sentence = f"The volume {bar['volume']:,.0f} did not come above {bar['volume'] * 2.4:,.0f}."
    else:
        sentence = "The price was on that side of the average already, since 14:31:07 UTC."
    return {
        "rule": kind,
        "kind": kind,
        "direction": {"golden_cross": 1, "death_cross": -1}.get(kind, 0),
        "outcome": "fired" if alert else "not fired",
        "alert_id": alert["alert_id"] if alert else None,
        "sentence": sentence,
        "facts": _volume_facts(bar, start) if kind == "high_volume" else _cross_facts(bar, start),
    }


def _cross_facts(bar: Row | None, start: int) -> Row:
    facts: Row = {
        "band_bps": 5.0,
        "cooldown_ms": 300_000,
        "side_before": 1,
        "side_since_ms": start - 11 * MINUTE + 7_000,
    }
    facts |= {"side_why": "decided", "side_after": 1, "prices": 0, "lowest": None, "highest": None, "nearest": None}
    facts["cooled_by"] = None
    if bar is None:
        return facts
    line = bar["ma_5min"] or bar["close"]
    low = {"time_ms": start + 21_400, "price": bar["low"], "line": line}
    high = {"time_ms": start + 44_000, "price": bar["high"], "line": line}
    window = [{"minute_ms": start - i * MINUTE, "close": bar["close"], "own": i != 2} for i in (4, 3, 2, 1, 0)]
    near = low | {"edge": line * 0.9995, "bps": 3.2}
    return facts | {"prices": 38, "lowest": low, "highest": high, "nearest": near, "window": window}


def _volume_facts(bar: Row | None, start: int) -> Row:
    volume = bar["volume"] if bar else 0.0
    before = [{"minute_ms": start - i * MINUTE, "volume": volume * (0.5 + i % 4 / 5)} for i in range(20, 0, -1)]
    mean = sum(b["volume"] for b in before) / 20
    rule = {"multiple": 3.0, "absolute": None, "panes_min": 5, "cooldown_ms": 0, "cooled_by": None}
    return {"volume": volume, "limit": 3 * mean if bar else None, "mean": mean, "before": before} | rule
