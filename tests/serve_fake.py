"""A stand-in for the store and the engine behind `serve`: a seeded market in memory that moves when told to.

Run it to look at the page without the rest:  python tests/serve_fake.py --port 8790 [--symbols 500] [--scene empty]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

import explain_fake
from life_fake import FakeLife
from tapewatch.errors import StoreUnavailable
from tapewatch.records import Market, Origin
from tapewatch.serve.app import create_app
from tapewatch.serve.life import Life
from tapewatch.serve.models import parse_time_ms
from tapewatch.serve.server import HttpServer
from tapewatch.serve.shapes import iso, trend
from tapewatch.serve.stream import StreamHub
from tapewatch.sessions import Calendar, Sessions

MINUTE = 60_000
INTERVALS = {"1m": MINUTE, "5m": 5 * MINUTE, "1h": 60 * MINUTE, "1d": 1440 * MINUTE}
KNOWN = {"AAPL": 232.4, "TSLA": 391.2, "GOOGL": 289.5, "MSFT": 487.1, "BTC": 91_480.0}
START_MS = 1_795_186_800_000  # Friday 20 November 2026, 15:00 UTC: the stock market is open

Row = dict[str, Any]


PARTIAL = {"state": "partial", "backfilled": False, "trades": 31, "later": 2, "missing": ["AAPL"]}


class FakeMarket:
    """Symbols with minute bars, prices and alerts. Implements `serve.Queries`; `step` moves it and tells the hub."""

    def __init__(self, symbols: list[str], minutes: int = 390, now_ms: int = START_MS, seed: int = 7) -> None:
        self.random = np.random.default_rng(seed)
        self.now_ms = now_ms
        self.down = False
        self.hangs = False
        self.bars: dict[str, list[Row]] = {}
        self.rows: dict[str, Row] = {}
        self.alert_rows: dict[str, Row] = {}
        self.trouble: dict[str, Row] = {}
        """What `overview` says of a symbol's data in the place of the usual."""
        self.trades = 0
        self.life = FakeLife(self.alert_rows, now_ms)
        for symbol in symbols if minutes else []:
            self._grow(symbol, minutes)

    @property
    def symbols(self) -> list[str]:
        return sorted(self.rows)

    # --- moving -----------------------------------------------------------------------------------------------
    def step(self, hub: StreamHub, milliseconds: int = 100, share: float = 1.0) -> None:
        """Let time pass; a ``share`` of the symbols trades. Safe to call from another thread than the server's."""
        self.now_ms += milliseconds
        chosen = [s for s in self.symbols if self.random.random() < share]
        for symbol in chosen:
            bar = self._trade(symbol)
            hub.publish("bar", f"{symbol} {bar['time']}", bar, symbol)
        hub.publish_many("price", [(s, s, self._stock(s)) for s in chosen])

    def alert_now(self, hub: StreamHub, symbol: str, kind: str = "golden_cross", status: str = "provisional") -> Row:
        """A new alert on the symbol's present price, or the next state of the one there is in this minute."""
        pane_ms = self.now_ms - self.now_ms % MINUTE
        row = self._alert(symbol, kind, status, pane_ms, self.now_ms, self.rows[symbol]["price"])
        hub.publish("alert", f"{row['alert_id']} {status}", row, symbol)
        return row

    def _grow(self, symbol: str, minutes: int) -> None:
        level = KNOWN.get(symbol, float(20 + 380 * self.random.random()))
        start = self.now_ms - self.now_ms % MINUTE - (minutes - 1) * MINUTE
        moves = self.random.normal(0, 0.0006, minutes) + 0.0003 * np.sin(np.arange(minutes) / 17 + len(symbol) * level)
        closes = level * np.exp(np.cumsum(moves) - np.sum(moves))
        spread = np.abs(self.random.normal(0, 0.0005, (2, minutes)))
        scale = 0.4 if symbol == "BTC" else 9_000.0
        shape = 1 + 1.6 * np.cos(np.linspace(0, 2 * np.pi, minutes)) ** 2
        volumes = np.round(scale * shape * self.random.lognormal(0, 0.5, minutes), 4 if symbol == "BTC" else 0)
        opens = np.r_[closes[0], closes[:-1]]
        highs, lows = np.maximum(opens, closes) * (1 + spread[0]), np.minimum(opens, closes) * (1 - spread[1])
        bars = self.bars[symbol] = []
        for i in range(minutes):
            bars.append(
                _bar(symbol, start + i * MINUTE, opens[i], highs[i], lows[i], closes[i], volumes[i], i < minutes - 1)
            )
            self._average(bars)
        base = float(closes[-1]) * (1 + self.random.normal(0, 0.012))
        self.rows[symbol] = {"day_open": bars[0]["open"], "previous_close": round(base, 2), "trades": minutes * 40}
        self._history_alerts(symbol)
        self._trade(symbol)

    def _trade(self, symbol: str) -> Row:
        bars = self.bars[symbol]
        pane_ms = self.now_ms - self.now_ms % MINUTE
        last = bars[-1]
        price = round(last["close"] * float(np.exp(self.random.normal(0, 0.00005))), 2)
        if last["time"] != iso(pane_ms):
            bars[-1] = last = {**last, "is_final": True}
            bars.append(_bar(symbol, pane_ms, price, price, price, price, 0.0, False))
            last = bars[-1]
        size = float(np.round(self.random.lognormal(-6, 1), 5) if symbol == "BTC" else self.random.integers(1, 300))
        bars[-1] = {
            **last,
            "high": max(last["high"], price),
            "low": min(last["low"], price),
            "close": price,
            "volume": round(last["volume"] + size, 5),
            "trade_count": last["trade_count"] + 1,
        }
        self._average(bars)
        self.trades += 1
        self.rows[symbol] |= {"price": price, "timestamp": iso(self.now_ms), "trades": self.rows[symbol]["trades"] + 1}
        return bars[-1]

    @staticmethod
    def _average(bars: list[Row]) -> None:
        closes = [b["close"] for b in bars[-5:]]
        bars[-1]["ma_5min"] = sum(closes) / 5 if len(closes) == 5 else None

    def _history_alerts(self, symbol: str) -> None:
        side, last_ms = 0, 0
        for i, bar in enumerate(self.bars[symbol][:-1]):
            average, close = bar["ma_5min"], bar["close"]
            if average is None or abs(close / average - 1) < 0.0012:
                continue
            now_side = 1 if close > average else -1
            ms = int(np.datetime64(bar["time"][:-1], "ms").astype(int))
            if side and now_side != side and ms - last_ms > 20 * MINUTE:
                kind = "golden_cross" if now_side > 0 else "death_cross"
                self._alert(symbol, kind, ("confirmed", "confirmed", "retracted")[i % 3], ms, ms + 31_000, close)
                last_ms = ms
            side = now_side

    def _alert(self, symbol: str, kind: str, status: str, pane_ms: int, at_ms: int, price: float) -> Row:
        alert_id = f"{symbol}-{kind}-{pane_ms}".replace(".", "-")
        before = self.alert_rows.get(alert_id, {})
        line = price * (1.0008 if kind == "death_cross" else 0.9992)
        if kind == "high_volume":
            line = self.bars[symbol][-1]["volume"] * 3
        row = {
            "alert_id": alert_id,
            "rule": kind.replace("_", "-"),
            "rule_version": "5f2a",
            "kind": kind,
            "symbol": symbol,
            "direction": {"golden_cross": 1, "death_cross": -1}.get(kind, 0),
            "status": status,
            "pane_start": iso(pane_ms),
            "triggered_at": before.get("triggered_at", iso(at_ms)),
            "decided_at": iso(at_ms),
            "confirmed_at": iso(at_ms) if status == "confirmed" else None,
            "retracted_at": iso(at_ms) if status == "retracted" else None,
            "price": before.get("price", price),
            "line": before.get("line", line),
            "late": False,
            "log_offset": self.trades,
            "stored_at": iso(at_ms + explain_fake.STORED_MS),
        }
        row["stored_at"], row["changed_at"] = before.get("stored_at", row["stored_at"]), row["stored_at"]
        row["evidence"] = explain_fake.evidence(row, pane_ms, parse_time_ms(row["triggered_at"]), at_ms)
        row["deliveries"] = explain_fake.deliveries(row, at_ms)
        seen = {name: before.get(name) for name in ("acknowledged_at", "acknowledged_by", "note")}  # not in the stream
        self.alert_rows[alert_id] = row | seen
        return row

    def _stock(self, symbol: str) -> Row:
        kept, bars = self.rows[symbol], self.bars[symbol]
        last = bars[-1]
        price = kept["price"]
        return {
            "symbol": symbol,
            "market": "crypto" if symbol == "BTC" else "stocks",
            "timestamp": kept["timestamp"],
            "received_at": kept["timestamp"],
            "price": price,
            "ma_5min": last["ma_5min"],
            "total_volume": sum(b["volume"] for b in bars[-5:]),
            "side": 0 if last["ma_5min"] is None else (1 if price > last["ma_5min"] else -1),
            "day_open": kept["day_open"],
            "day_high": max(b["high"] for b in bars),
            "day_low": min(b["low"] for b in bars),
            "day_volume": kept.setdefault("volume", sum(b["volume"] for b in bars)) + last["volume"],
            "previous_close": kept["previous_close"],
            "watermark": iso(self.now_ms - MINUTE),
            "trades": kept["trades"],
            "ineligible": 3,
            "late": 1,
            "future": 0,
            "unknown_conditions": 0,
            "trend": trend(price, last["ma_5min"]),
        } | self._change(price, kept["previous_close"])

    @staticmethod
    def _change(price: float, base: float) -> Row:
        return {"change": price - base, "change_percent": 100 * (price - base) / base, "change_from": "previous_close"}

    # --- Queries ----------------------------------------------------------------------------------------------
    async def ping(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.down:
            raise StoreUnavailable("The database at 127.0.0.1:5432 does not answer; trying again.")

    async def stocks(self) -> list[Row]:
        await self.ping()
        own = ("change", "change_percent", "change_from")
        return [{k: v for k, v in self._stock(s).items() if k not in own} for s in self.symbols]

    async def latest(self, symbol: str) -> Row | None:
        return next((row for row in await self.stocks() if row["symbol"] == symbol), None)

    async def history(
        self, symbol: str, from_ms: int, to_ms: int, interval: str, limit: int, window_ms: int, slide_ms: int
    ) -> list[Row]:
        await self.ping()
        grouped: dict[int, Row] = {}
        for bar in self.bars.get(symbol, []):
            ms = int(np.datetime64(bar["time"][:-1], "ms").astype(int))
            start = ms - ms % INTERVALS[interval]
            if not from_ms <= start < to_ms:
                continue
            empty = {"time": iso(start), "volume": 0.0, "trade_count": 0, "partial": False}
            have = grouped.get(start, bar | empty)
            grouped[start] = have | {
                "high": max(have["high"], bar["high"]),
                "low": min(have["low"], bar["low"]),
                "close": bar["close"],
                "ma_5min": bar["ma_5min"],
                "volume": have["volume"] + bar["volume"],
                "trade_count": have["trade_count"] + bar["trade_count"],
                "is_final": bar["is_final"],
            }
        return list(grouped.values())[-limit:]

    async def indicators(self, symbol: str, from_ms: int, to_ms: int, limit: int) -> list[Row]:
        import talib  # brings pandas, and a second of every start

        bars = await self.history(symbol, 0, to_ms, "1m", 10**6, 0, 0)
        high, low, close, volume = (np.array([b[name] for b in bars]) for name in ("high", "low", "close", "volume"))
        macd, signal, histogram = talib.MACD(close)
        upper, middle, lower = talib.BBANDS(close, 20)
        before = np.array([volume[max(0, i - 20) : i].mean() if i >= 5 else np.nan for i in range(len(bars))])
        columns = {
            "rsi_14": talib.RSI(close), "macd": macd, "macd_signal": signal, "macd_histogram": histogram,
            "bollinger_middle": middle, "bollinger_upper": upper, "bollinger_lower": lower,
            "atr_14": talib.ATR(high, low, close), "relative_volume": volume / before,
        }  # fmt: skip
        rows = [
            {name: bar[name] for name in ("symbol", "time", "close", "is_final")}
            | {name: None if np.isnan(column[i]) else float(column[i]) for name, column in columns.items()}
            for i, bar in enumerate(bars)
            if bar["time"] >= iso(from_ms)
        ]
        return rows[-limit:]

    async def overview(self, window_ms: int, slide_ms: int) -> list[Row]:
        await self.ping()
        counts = {"grade": "A", "trades": 200, "excluded": 10, "late": 0, "future": 0, "gap_ms": 0}
        rows = []
        for symbol in self.symbols:
            bars = self.bars[symbol][-60:]
            closes = [None] * (60 - len(bars)) + [bar["close"] for bar in bars]
            start_ms = self.now_ms - self.now_ms % MINUTE - 59 * MINUTE
            market = "crypto" if symbol == "BTC" else "stocks"
            row = {"symbol": symbol, "market": market, "from": iso(start_ms), "step_ms": MINUTE, "closes": closes}
            rows.append(row | counts | self.trouble.get(symbol, {}))
        return rows

    async def alerts(
        self,
        symbol: str | None,
        kind: str | None,
        status: str | None,
        limit: int,
        before_ms: int | None,
        rule: str | None,
        from_ms: int | None,
    ) -> list[Row]:
        await self.ping()
        rows = [
            a
            for a in self.alert_rows.values()
            if symbol in (None, a["symbol"]) and kind in (None, a["kind"]) and status in (None, a["status"])
            if rule in (None, a["rule"]) and iso(from_ms or 0) <= a["triggered_at"]
            if before_ms is None or a["triggered_at"] < iso(before_ms)
        ]
        return sorted(rows, key=lambda a: a["triggered_at"], reverse=True)[:limit]

    async def alert(self, alert_id: str) -> Row | None:
        await self.ping()
        return self.alert_rows.get(alert_id)

    async def explain(self, symbol: str, minute: str) -> Row:
        """Of the log, so also while the database is away."""
        return await explain_fake.explained(self, symbol, minute)

    async def gaps(self, limit: int) -> list[Row]:
        await self.ping()
        gap = {"market": "stocks", "gap_from": iso(START_MS), "gap_to": iso(START_MS + 4_000), "cause": "disconnected"}
        return [gap | {"symbols": ["AAPL"], **PARTIAL, "log_position": 12}][:limit]

    async def quality(self, symbol: str, from_ms: int, to_ms: int) -> list[Row]:
        await self.ping()
        counts = {"trades": 40, "excluded": 2, "late": 0, "future": 0, "gap_ms": 0, "grade": "A"}
        return [{"symbol": symbol, "minute": b["time"], **counts} for b in self.bars[symbol][-60:]]

    async def notifications(self, state: str | None, limit: int) -> list[Row]:
        await self.ping()
        sent = {"event": "confirmed", "channel": "log", "state": "delivered", "attempts": 1, "last_error": None}
        times = {"next_attempt_at": iso(START_MS), "created_at": iso(START_MS), "delivered_at": iso(START_MS)}
        rows = [{"id": f"{a}:log", "alert_id": a, **sent, **times} for a in self.alert_rows]
        return [r for r in rows if state in (None, r["state"])][:limit]

    async def mutes(self, limit: int) -> list[Row]:
        await self.ping()
        return self.life.muted[:limit]

    async def channels(self) -> list[Row]:
        await self.ping()
        return self.life.channels

    async def system_alerts(self, limit: int) -> list[Row]:
        await self.ping()
        return self.life.downs[:limit]

    async def counts(self) -> Row:
        await self.ping()
        return {"price_bars": sum(len(b) for b in self.bars.values())}

    async def lanes(self) -> list[Row]:
        await self.ping()
        return [{"lane": "embedded", "position": 120_000, "updated_at": iso(time.time_ns() // 1_000_000)}]

    async def vitals(self) -> Row:
        await self.ping()
        waits_since = iso(time.time_ns() // 1_000_000 - 3_000)
        outbox = {"waiting": 2, "dead": 0, "delivered_24h": 14, "oldest_waiting_at": waits_since}
        versions = {"postgres": "18.6", "timescaledb": None}
        return {"bytes": 48_300_000, **versions, **outbox, "rows": await self.counts()}

    def status(self) -> Row:
        """As the pipeline would report itself."""
        feed = {
            "detail": None,
            "last_trade_at": iso(self.now_ms) if self.rows else None,
            "age_s": 0.3 if self.rows else None,
        }
        return {
            "origin": "SIMULATED",
            "server_time": iso(time.time_ns() // 1_000_000),
            "feeds": [{"market": m, "state": "live", **feed} for m in ("stocks", "crypto")],
            "log": {
                "state": "ok",
                "detail": None,
                "bytes": 18_400_000,
                "first": 0,
                "end": 120_000,
                "disk_free_bytes": 88e9,
            },
            "engine": {"state": "ok", "position": 120_000, "behind": 0},
            "store": {"state": "ok", "detail": None},
            "trades_per_second": 21.4 if self.rows else 0.0,
            "lag_ms": 11.0,
            "gaps": 1,
            "queue_bytes": 1_200,
        }


def _bar(symbol: str, ms: int, open_: float, high: float, low: float, close: float, volume: float, final: bool) -> Row:
    prices = {"open": open_, "high": high, "low": low, "close": close}
    rest = {"volume": float(volume), "vwap": float(close), "trade_count": 40, "ma_5min": None, "is_final": final}
    return {"symbol": symbol, "time": iso(ms), **{k: round(float(v), 2) for k, v in prices.items()}, **rest}


def many_symbols(count: int) -> list[str]:
    """The known ones first, then made-up tickers."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    made = (f"{letters[i // 26 % 26]}{letters[i % 26]}{letters[i // 676 % 26]}X" for i in range(count))
    return [*KNOWN, *made][:count]


def calendar() -> Calendar:
    """Of stocks, the 45 days up to the fake's, each a trading day of New York in winter; nothing else closes."""
    hours = (-6, -0.5, 6, 10)  # from 15:00 UTC: 04:00, 09:30, 16:00 and 20:00
    days = START_MS + 86_400_000 * np.arange(-44, 1)
    return {Market.STOCKS: Sessions(*(days + int(hour * 60) * MINUTE for hour in hours))}


@contextlib.asynccontextmanager
async def running(market: FakeMarket, port: int = 0, **options: Any) -> AsyncIterator[tuple[HttpServer, StreamHub]]:
    """A real server on a free port over the fake market."""
    hub = StreamHub(**({"clients_max": options.pop("clients_max")} if "clients_max" in options else {}))
    status = options.pop("status", market.status)
    life = Life(market.life, market.life.test)
    shown: dict[str, Any] = {"origin": Origin.SIMULATED, "calendar": calendar(), "explain": market.explain}
    shown |= {"life": life} | options
    app = create_app(market, hub, status, **shown)
    server = HttpServer(app, "127.0.0.1", port)
    await server.start()
    try:
        yield server, hub
    finally:
        await server.stop()


class Moving:
    """Steps the market from a thread of its own, as the engine does, until it is stopped."""

    def __init__(self, market: FakeMarket, hub: StreamHub, share: float = 0.6, every_s: float = 0.1) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(market, hub, share, every_s), daemon=True)

    def __enter__(self) -> Moving:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self, market: FakeMarket, hub: StreamHub, share: float, every_s: float) -> None:
        while not self._stop.wait(every_s):
            market.step(hub, int(every_s * 1000), share)


def broken(market: FakeMarket) -> Row:
    """The status of a pipeline whose feed and database are in trouble."""
    status = market.status()
    stocks = {
        "market": "stocks",
        "state": "reconnecting",
        "detail": "connection refused; next try in 4 s",
        "age_s": 23.0,
    }
    status["feeds"] = [stocks, {**status["feeds"][1], "state": "stale", "age_s": 71.0}]
    status["store"] = {"state": "down", "detail": "The database does not answer; 2,310 trades wait in the log."}
    return status


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8790)
    parser.add_argument("--symbols", type=int, default=5)
    parser.add_argument("--scene", choices=["normal", "empty", "broken"], default="normal")
    parser.add_argument("--token")
    options = parser.parse_args()
    market = FakeMarket(many_symbols(options.symbols), minutes=0 if options.scene == "empty" else 390)
    status = (lambda: broken(market)) if options.scene == "broken" else market.status
    async with running(market, options.port, status=status, api_token=options.token) as (server, hub):
        print(server.url, flush=True)
        share = 0.0 if options.scene != "normal" else min(0.6, 60 / options.symbols)
        with Moving(market, hub, share):
            for i in range(10**6):
                await asyncio.sleep(7)
                if options.scene == "normal":
                    kind = ("golden_cross", "death_cross", "high_volume")[i // 2 % 3]
                    state = ("provisional", ("confirmed", "retracted")[i // 2 % 2])[i % 2]
                    market.alert_now(hub, market.symbols[i // 2 % len(market.symbols)], kind, state)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main())
