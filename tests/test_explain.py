"""`tapewatch explain`: for every symbol, minute and rule what the engine did, and one true reason where nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from chaos_log import chaos
from serve_fake import FakeMarket
from tapewatch.cli import execute
from tapewatch.errors import InputError, LogError, StoreUnavailable, UnknownSymbol
from tapewatch.log.local import LogWriter
from tapewatch.profiles import explain, explain_log
from tapewatch.profiles.explain import Explainer, explain_lines, read_minute
from tapewatch.profiles.explain_source import local_source
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.verify import Expected
from tapewatch.records import Alert, Batch, Gap, Kind, Market, Origin, Tables
from tapewatch.rules.change import RuleChange
from tapewatch.rules.model import CrossRule, ExtremeRule, LevelRule, MoveRule, Rules, ThresholdRule, VolumeRule
from tapewatch.serve.app import create_app
from tapewatch.serve.explain import Explanation
from tapewatch.serve.shapes import iso
from tapewatch.serve.stream import StreamHub
from tapewatch.sessions import Sessions
from tapewatch.settings import Settings

MINUTE = 60_000
HOUR = 60 * MINUTE
BELL = 1_769_092_200_000
"""2026-01-22 09:30 in New York, a Thursday: 14:30 UTC."""
DAY = 24 * HOUR


def sessions() -> Sessions:
    """Ten trading days, the sixth of which is the bell's."""
    regular = BELL + DAY * np.arange(-5, 5, dtype=np.int64)
    return Sessions(
        regular - 5 * HOUR - 30 * MINUTE, regular, regular + 6 * HOUR + 30 * MINUTE, regular + 10 * HOUR + 30 * MINUTE
    )


def parts_of(tmp_path: Path, rules: Rules | None = None) -> Parts:
    return Parts(Settings(_env_file=None, data_dir=tmp_path), rules or Rules(), {Market.STOCKS: sessions()})


def write(path: Path, batch: Batch, tables: Tables) -> Path:
    with LogWriter.open(path, tables, origin=Origin.REPLAYED) as writer:
        for start in range(0, len(batch), 500):
            writer.append(batch.slice(start, min(start + 500, len(batch))))
    return path


def engine_alerts(batch: Batch, tables: Tables, parts: Parts) -> list[Alert]:
    """The newest state of every alert that the engine makes of the log."""
    engine = parts.engine(tables)
    engine.step(batch)
    return list({alert.alert_id: alert for alert in engine.drain().alerts}.values())


def stored(alerts: Iterable[Alert]) -> Any:
    async def rows(symbol: str, from_ms: int, to_ms: int) -> list[dict[str, Any]]:
        return [
            {
                "alert_id": a.alert_id, "rule": a.rule, "kind": a.kind, "rule_version": a.rule_version,
                "status": str(a.status), "triggered_at": iso(a.triggered_ms), "price": a.price, "line": a.line,
            }
            for a in alerts
            if a.symbol == symbol and from_ms <= a.triggered_ms < to_ms
        ]  # fmt: skip

    return rows


# --- the same as the engine, everywhere --------------------------------------------------------------------------

EAGER = Rules(
    golden_cross=CrossRule(band_bps=1.0, cooldown_ms=120_000),
    death_cross=CrossRule(direction="below", band_bps=3.0, cooldown_ms=0),
    high_volume=VolumeRule(multiple=1.5, panes=5, panes_min=2, cooldown_ms=180_000),
)


MANY = Rules(
    golden_cross=CrossRule(enabled=False),
    fast=CrossRule(left="ema(2)", right="sma(3)", direction="either", band_bps=0.0, cooldown_ms=60_000),
    fair=CrossRule(right="vwap", direction="either", band_bps=1.0, confirm_bars=2, cooldown_ms=0),
    jump=MoveRule(percent=0.02, within_ms=2 * MINUTE, cooldown_ms=0, rearm_bps=1.0),
    high=ExtremeRule(of="2", cooldown_ms=0, rearm_bps=5.0),
    day=ExtremeRule(cooldown_ms=120_000, volume_multiple=1.1),
    strong=ThresholdRule(indicator="rsi(2)", value=60.0, direction="either", cooldown_ms=0),
    apple=LevelRule(level=230.0, symbols=("AAPL",), direction="either", rearm_bps=0.0, cooldown_ms=0),
    usual=VolumeRule(days=2, days_min=1, absolute=3_000.0, symbols=("AAPL", "TSLA")),
)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "rules"), [(1, EAGER), (1, MANY), (2, EAGER)], ids=["1", "many", "2"])
def test_it_says_fired_exactly_where_the_engine_made_an_alert(
    tmp_path: Path, seed: int, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every minute of every symbol; also read from as late as it dares, so that the bounded reading is held to it."""
    monkeypatch.setattr(explain_log, "HOURS_BEFORE", (0.1, 0.2))
    tables, parts = Tables(), parts_of(tmp_path, rules)
    batch = chaos(seed, tables, seconds=600)
    path = write(tmp_path / "log.db", batch, tables)
    alerts = engine_alerts(batch, tables, parts)
    explainer = Explainer(local_source(path), parts, stored(alerts))
    made = {(a.symbol, a.pane_start_ms, a.rule, a.direction): a.alert_id for a in alerts}
    assert len(made) > 20, "too few alerts prove nothing"
    first, late = int(batch.time_ms.min()), 0

    async def everything() -> dict[tuple[str, int, str, int], str]:
        nonlocal late
        found = {}
        for symbol in ("AAPL", "TSLA", "BTC", "ETH"):
            for minute in range(first - first % MINUTE, int(batch.time_ms.max()) + MINUTE, MINUTE):
                answer = await explainer.explain(symbol, iso(minute))
                assert answer["agrees"] is True, answer
                late += answer["computed_from"] > iso(first)
                for rule in answer["rules"]:
                    assert (rule["alert_id"] is not None) == (rule["outcome"] == "fired")
                    assert rule["sentence"].endswith(".")
                    if rule["outcome"] == "fired":
                        found[symbol, minute, rule["rule"], rule["direction"]] = rule["alert_id"]
        return found

    found = asyncio.run(everything())
    assert found == {key: alert_id for key, alert_id in made.items() if key[0] in ("AAPL", "TSLA", "BTC", "ETH")}
    if rules is EAGER:
        assert late > 5, "no minute was explained from a later beginning"


# --- one true reason ---------------------------------------------------------------------------------------------


class Tape:
    """A log made by hand. Minutes are counted from the bell; both markets have a tick each ten seconds."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.rows: list[tuple[Any, ...]] = []

    def trade(self, at_ms: int, price: float, size: float = 100, symbol: str = "AAPL", **other: Any) -> Tape:
        codes = self.tables.conditions.index(other.get("codes", ()))
        received_ns = (BELL + other.get("received_ms", at_ms + 20)) * 1_000_000
        number, market = self.tables.symbols.index(symbol), Market.CRYPTO if symbol == "BTC" else Market.STOCKS
        row = (
            Kind.TRADE,
            market,
            number,
            BELL + at_ms,
            received_ns,
            price,
            round(size * 1e8),
            11,
            0,
            codes,
            f"t{len(self.rows)}",
        )
        self.rows.append(row)
        return self

    def minutes(self, first: int, *prices: float, size: float = 100, symbol: str = "AAPL") -> Tape:
        """One trade at the 30th second of each minute, from ``first`` on, and the ticks of the time."""
        for i, price in enumerate(prices):
            at = (first + i) * MINUTE
            self.ticks(at, at + 30_000).trade(at + 30_000, price, size, symbol).ticks(at + 30_000, at + MINUTE)
        return self

    def ticks(self, from_ms: int, to_ms: int) -> Tape:
        for at in range(from_ms, to_ms, 10_000):
            for market in Market:
                self.rows.append((Kind.TICK, market, -1, BELL + at, (BELL + at) * 1_000_000, 0.0, 0, 0, 0, 0, ""))
        return self

    def gap(self, from_ms: int, to_ms: int) -> Tape:
        gap = Gap(market=Market.STOCKS, from_ms=BELL + from_ms, to_ms=BELL + to_ms, cause="cut", symbols=[])
        end = BELL + to_ms
        self.rows.append((Kind.GAP, Market.STOCKS, -1, end, end * 1_000_000, 0.0, 0, 0, 0, 0, gap.encode()))
        return self

    def batch(self) -> Batch:
        batch = Batch.of(self.rows)
        batch.offset = 0
        return batch

    def explain(self, folder: Path, minute: int, symbol: str = "AAPL", rules: Rules | None = None) -> dict[str, Any]:
        """What is said of that minute; the stored alerts are the engine's, and it must agree with them."""
        parts = parts_of(folder, rules)
        path = write(folder / "log.db", self.batch(), self.tables)
        explainer = Explainer(local_source(path), parts, stored(engine_alerts(self.batch(), self.tables, parts)))
        answer = asyncio.run(explainer.explain(symbol, iso(BELL + minute * MINUTE)))
        assert answer["agrees"] is True, answer["agreement"]
        return answer | {rule["kind"]: rule for rule in answer["rules"]}


LONG = 20 * MINUTE
GOLDEN_OFF = Rules(golden_cross=CrossRule(enabled=False))


def steady(*prices: float, end: int = 12) -> Tape:
    """Five minutes at 10, then the prices, then silence with ticks until minute ``end``."""
    tape = Tape().minutes(0, 10, 10, 10, 10, 10, *prices)
    return tape.ticks((5 + len(prices)) * MINUTE, end * MINUTE)


REASONS: dict[str, tuple[Tape, int, str, str]] = {
    "confirmed": (
        steady(9, 12), 6, "golden_cross",
        "Fired at 09:36:30 ET: the price 12.00 came from below the average 10.20 to above it by 1764.7 bps (the band "
        "is 5 bps). Confirmed at 09:37:10: the minute closed at 12.00, still above its average.",
    ),
    "retracted": (
        steady(9, 12).trade(6 * MINUTE + 59_000, 9), 6, "death_cross",
        "Fired at 09:36:59 ET: the price 9.00 came from above the average",
    ),
    "the side was there already": (
        steady(11, 11.5), 6, "golden_cross",
        "The price was above the average already, since 09:35:30 ET: a golden cross needs a price that comes from",
    ),
    "left the side": (
        steady(11, 8), 6, "golden_cross",
        "The price was above the average already, since 09:35:30 ET; it went below it at 09:36:30, and did not come ba",
    ),
    "came near": (
        steady(9, 9.7), 6, "golden_cross",
        "The price stayed below the average, or within its band: it came no nearer than 46.3 bps to the band's upper "
        "edge (9.70 at 09:36:30 against 9.7449, which is the average 9.74 plus 5 bps).",
    ),
    "not warm": (
        Tape().minutes(0, 10, 12).ticks(2 * MINUTE, LONG), 1, "golden_cross",
        "The average was not warm: it needs a close for each of its 5 minutes, and before AAPL's first price there is "
        "none (lacking: 09:27 to 09:29).",
    ),
    "first side": (
        Tape().minutes(0, 10, 10, 10, 10, 12).ticks(5 * MINUTE, LONG), 4, "golden_cross",
        "The price went above the average at 09:34:30 (12.00 against 10.40), but on which side it had been was not "
        "known: the average was not warm before (the last time at 09:33:30). The first side that is decided is no",
    ),
    "unknown, and undecided": (
        Tape().minutes(0, 10, 10, 10, 10, 10).ticks(5 * MINUTE, LONG), 4, "death_cross",
        "The side was not known (the average was not warm before (the last time at 09:33:30)), and no price left",
    ),
    "after a gap": (
        steady(9, end=6).gap(6 * MINUTE, 13 * MINUTE).minutes(13, 12).ticks(14 * MINUTE, 2 * LONG), 13, "golden_cross",
        "on which side it had been was not known: a gap in the data, longer than the window, ended at 09:43:00.",
    ),
    "no data: a gap": (
        steady(9, end=6).gap(6 * MINUTE, 13 * MINUTE).minutes(13, 12).ticks(14 * MINUTE, 2 * LONG), 8, "golden_cross",
        "No data: the feed was cut from 09:36:00 to 09:43:00 ET, and no trade of AAPL in this minute was received",
    ),
    "no data: no ticks": (
        steady(9, end=6).minutes(13, 12).ticks(14 * MINUTE, 2 * LONG), 8, "high_volume",
        "No data: the log holds neither trades nor ticks of 09:38 ET: no feed was connected then, or Tapewatch did not",
    ),
    "no trades": (
        steady(9, end=20), 8, "golden_cross",
        "No trades: the feed was connected, and AAPL did not trade in this minute. Only a trade decides a rule.",
    ),
    "cooldown": (
        steady(9, 12, 8, 13), 8, "golden_cross",
        "The price crossed to above at 09:38:30, but within the cooldown of 5 min after the alert of 09:36:30 ET, in "
        "which no second one is made.",
    ),
    "overnight": (
        steady(9).minutes(24 * 60, 12).ticks(DAY + MINUTE, DAY + LONG), 24 * 60, "golden_cross",
        "but on which side it had been was not known: the market had been closed before. The first side that is",
    ),
    "market closed": (
        steady(9).ticks(12 * MINUTE, 12 * HOUR), 11 * 60, "golden_cross",
        "The market was closed at 20:30 ET, and AAPL did not trade.",
    ),
    "excluded": (
        steady(9, end=7).trade(6 * MINUTE + 10_000, 12, codes=(37,)).ticks(7 * MINUTE, LONG), 6, "golden_cross",
        "The one trade of this minute did not decide a price: 1 was excluded by its conditions.",
    ),
    "late": (
        steady(9, end=9).minutes(9, 9).trade(6 * MINUTE, 12, received_ms=10 * MINUTE).ticks(10 * MINUTE, LONG),
        6, "golden_cross",
        "The one trade of this minute did not decide a price: 1 was late: the minute was over by the symbol's",
    ),
    "future": (
        steady(9).trade(6 * MINUTE, 12, received_ms=4 * MINUTE), 6, "golden_cross",
        "The one trade of this minute did not decide a price: 1 was stamped too far in the future.",
    ),
    "older than the newest": (
        steady(9).minutes(7, 9).trade(6 * MINUTE + 50_000, 12).ticks(8 * MINUTE, LONG), 6, "golden_cross",
        "The one trade of this minute did not decide a price: 1 was older than the newest price when it came.",
    ),
    "not yet": (
        steady(9, end=7), 30, "death_cross",
        "This minute has not come yet: the log has come to 09:36:50 ET.",
    ),
    "still running": (
        steady(9, 9.5, end=7), 6, "golden_cross",
        "Not yet: this minute is still running. The price stayed below the average",
    ),
    "before its first trade": (
        Tape().ticks(0, 3 * MINUTE).minutes(3, 10).ticks(4 * MINUTE, LONG), 1, "golden_cross",
        "AAPL did not trade: its first trade in the log is of 09:33:30 ET.",
    ),
    "before the log": (
        steady(9), -3, "golden_cross",
        "Nothing is known of 09:27 ET: the log keeps records since 09:30:00 ET.",
    ),
    "a surge": (
        steady().minutes(5, 10, size=1_000).ticks(6 * MINUTE, LONG), 5, "high_volume",
        "Fired at 09:35:30 ET: the minute's volume reached 1,000, above the limit of 300. Confirmed at 09:36:10: the "
        "minute was above the limit at the end.",
    ),
    "no surge": (
        steady(10), 5, "high_volume",
        "The volume 100 did not come above 300, which is 3 times the mean 100 of the 5 minutes with trades before.",
    ),
    "too little for a surge": (
        steady(), 3, "high_volume",
        "Too little to compare with: 3 minutes with trades before this one, and the rule needs 5. The volume was 100.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REASONS)
def test_each_reason_is_told_with_its_numbers(tmp_path: Path, name: str) -> None:
    tape, minute, rule, said = REASONS[name]
    found = tape.explain(tmp_path, minute)
    assert said in found[rule]["sentence"]


def test_a_rule_that_is_off_says_so(tmp_path: Path) -> None:
    found = steady(9, 12).explain(tmp_path, 6, rules=GOLDEN_OFF)["golden_cross"]
    assert (found["outcome"], found["alert_id"]) == ("off", None)
    assert found["sentence"] == "The rule golden_cross is off: enabled = false in alerts.toml."


def level(**given: Any) -> Rules:
    return Rules(high=LevelRule(level=10.5, symbols=("AAPL",), **given))


OTHERS: dict[str, tuple[Rules, Tape, int, str]] = {
    "a level": (
        level(), steady(10, 11), 6,
        "Fired at 09:36:30 ET: the price 11.00 came from below the level 10.50 to above it by 476.2 bps (the band is 0 "
        "bps). Confirmed at 09:37:10: the minute closed at 11.00, still above the level.",
    ),
    "spent": (
        level(cooldown_ms=0, rearm_bps=500.0), steady(10, 11, 10.4, 11), 8,
        "The price crossed to above at 09:38:30, but since the alert before, the price had not come 500 bps back to "
        "the other side of the level: until then no second one is made.",
    ),
    "another session": (
        level(session="extended"), steady(10, 11), 6,
        "The price crossed to above at 09:36:30, but the rule is for another session (extended).",
    ),
    "over": (
        level(expires_ms=BELL + MINUTE), steady(10, 11), 6,
        "The price crossed to above at 09:36:30, but the rule was over by then (expires).",
    ),
    "came near": (
        level(), steady(10, 10.4), 6,
        "The price stayed below the level, or within its band: it came no nearer than 96.2 bps to the band's upper",
    ),
    "no volume": (
        level(volume_multiple=2.0), steady(10, 11), 6,
        "no longer above the level, or had less than 2 times the mean volume of the 20 before.",
    ),
    "a surge in the cooldown": (
        Rules(high=VolumeRule(multiple=3.0, cooldown_ms=300_000)),
        steady().minutes(5, 10, size=1_000).minutes(6, 10, size=5_000).ticks(7 * MINUTE, LONG), 6,
        "The volume was above its limit at 09:36:30, but within the cooldown of 5 min after the alert of 09:35:30 ET, "
        "in which no second one is made.",
    ),
    "two lines": (
        Rules(high=CrossRule(left="ema(2)", right="sma(4)")), steady(9, 12), 6,
        "ET: the EMA 2 11.1111 came from below the SMA 4 10.25 to above it by",
    ),
    "an indicator": (
        Rules(high=ThresholdRule(indicator="rsi(3)", value=60.0)), steady(9, 12), 6,
        "ET: the RSI 3 81.8182 came from below the threshold 60 to above it by 3636.4 bps",
    ),
    "too few bars": (
        Rules(high=CrossRule(right="sma(50)")), steady(9, 12), 6,
        "The SMA 50 had no value yet: AAPL has not traded for long enough since the log, the rule or the day began.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_every_kind_of_rule_is_told_in_its_own_words(tmp_path: Path, name: str) -> None:
    rules, tape, minute, said = OTHERS[name]
    found = next(r for r in tape.explain(tmp_path, minute, rules=rules)["rules"] if r["rule"] == "high")
    assert said in found["sentence"]


def test_a_rule_that_was_changed_is_told_as_it_was_then(tmp_path: Path) -> None:
    tape = steady(10, end=6)
    tape.rows.append(RuleChange(level(), "api", BELL + 5 * MINUTE + 59_000).row(Kind.RULES, 0))
    tape.trade(6 * MINUTE + 1_000, 10).trade(6 * MINUTE + 30_000, 11)
    later = Rules(high=LevelRule(level=99.0, symbols=("AAPL",)))
    tape.rows.append(RuleChange(later, "api", BELL + 6 * MINUTE + 40_000).row(Kind.RULES, 0))
    tape.ticks(6 * MINUTE + 40_000, 12 * MINUTE)
    high = next(r for r in tape.explain(tmp_path, 6)["rules"] if r["rule"] == "high")
    assert high["sentence"].endswith("Retracted at 09:36:40: the rule was changed before the minute was decided.")


def test_the_numbers_of_the_minute_are_told_too(tmp_path: Path) -> None:
    found = steady(9, 12).trade(6 * MINUTE + 45_000, 11, codes=(37,)).explain(tmp_path, 6)
    assert (found["session"], found["state"], found["grade"], found["trades"]) == ("regular", "past", "A", 2)
    assert found["counts"] == {"excluded": 1, "late": 0, "future": 0, "stale": 0, "gap_ms": 0}
    assert {n: found["bar"][n] for n in ("open", "high", "low", "close")} == dict.fromkeys(
        ("open", "high", "low", "close"), 12
    )
    facts = found["golden_cross"]["facts"]
    assert (facts["side_before"], facts["side_after"]) == (-1, 1)
    assert [round(w["close"], 2) for w in facts["window"]] == [10, 10, 10, 9, 12]
    assert found["high_volume"]["facts"]["before"][-1] == {"minute_ms": BELL + 5 * MINUTE, "volume": 100.0}


def test_crypto_is_told_in_utc_and_crosses_at_midnight(tmp_path: Path) -> None:
    midnight = 570  # 14:30 UTC and nine and a half hours
    tape = (
        Tape()
        .minutes(midnight - 6, 10, 10, 10, 10, 10, 9, 12, symbol="BTC")
        .ticks((midnight + 1) * MINUTE, (midnight + 9) * MINUTE)
    )
    found = tape.explain(tmp_path, midnight, "BTC")
    assert found["text"] == "2026-01-23 00:00 UTC"
    assert found["golden_cross"]["sentence"].startswith("Fired at 00:00:30 UTC")
    verified = Expected(parts_of(tmp_path))  # `tapewatch verify` must know it too
    verified.add(tape.batch(), tape.tables)
    assert [(key.rule, key.pane) for key in verified.oracle.alerts] == [("golden_cross", BELL + midnight * MINUTE)]


# --- what is asked wrongly, and what is not there -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("symbol", "text", "expected"),
    [
        ("AAPL", "2026-01-22T09:30", BELL),
        ("AAPL", "2026-01-22 09:30:59.5", BELL),
        ("AAPL", "2026-01-22T14:30Z", BELL),
        ("AAPL", "2026-01-22T15:30+01:00", BELL),
        ("AAPL", "2026-01-22T15:30 01:00", BELL),  # a plus of a query string that was not escaped
        ("BTC", "2026-01-22T14:30", BELL),
        ("AAPL", "2026-07-22T09:30", 1_784_727_000_000),  # summer time
    ],
)
def test_a_minute_without_an_offset_is_in_the_exchanges_zone(symbol: str, text: str, expected: int) -> None:
    assert read_minute(symbol, text) == expected


@pytest.mark.parametrize(
    "text", ["", "soon", "2026-13-01T00:00", "1969-01-01T00:00", "9999-12-31T23:59", "0001-01-01T00:00"]
)
def test_what_is_no_minute_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected a minute"):
        read_minute("AAPL", text)


def ask(path: Path, folder: Path, symbol: str, minute: str, rows: Any = None) -> dict[str, Any]:
    return asyncio.run(Explainer(local_source(path), parts_of(folder), rows or stored([])).explain(symbol, minute))


def test_an_unknown_symbol_is_named_with_how_far_back_the_log_goes(tmp_path: Path) -> None:
    tape = steady(9)
    path = write(tmp_path / "log.db", tape.batch(), tape.tables)
    with pytest.raises(UnknownSymbol, match=r"ZZZ: the log holds no trade of it \(kept since 2026-01-22 09:30 ET\)"):
        ask(path, tmp_path, "zzz", iso(BELL))
    with pytest.raises(InputError, match="expected a symbol"):
        ask(path, tmp_path, "A B", iso(BELL))


def test_without_a_log_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="there is no log here yet"):
        ask(tmp_path / "log.db", tmp_path, "AAPL", iso(BELL))


def test_too_much_log_is_given_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tape = steady(9)
    path = write(tmp_path / "log.db", tape.batch(), tape.tables)
    monkeypatch.setattr(explain_log, "EXPLAIN_S_MAX", -1.0)
    with pytest.raises(LogError, match="took longer than"):
        ask(path, tmp_path, "AAPL", iso(BELL))


def test_what_the_database_has_otherwise_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "TRY_AGAIN_S", 0.0)
    tape, parts = steady(9, 12), parts_of(tmp_path)
    path = write(tmp_path / "log.db", tape.batch(), tape.tables)
    [alert] = [a for a in engine_alerts(tape.batch(), tape.tables, parts) if a.kind == "golden_cross"]
    minute = iso(BELL + 6 * MINUTE)
    lost = ask(path, tmp_path, "AAPL", minute)
    assert lost["agrees"] is False
    assert "the golden_cross alert of 2026-01-22T14:36:30.000Z is missing" in lost["agreement"]
    alert.price += 1
    wrong = ask(path, tmp_path, "AAPL", minute, stored([alert]))
    assert wrong["agrees"] is False
    assert "13.0" in wrong["agreement"]
    alert.alert_id, alert.rule_version = "x", "older"
    assert "made by the rule as it was set then" in ask(path, tmp_path, "AAPL", minute, stored([alert]))["agreement"]


def test_with_the_database_away_it_is_told_from_the_log_alone(tmp_path: Path) -> None:
    tape = steady(9, 12)
    path = write(tmp_path / "log.db", tape.batch(), tape.tables)

    async def away(*_: object) -> list[dict[str, Any]]:
        raise StoreUnavailable("The database does not answer.")

    found = ask(path, tmp_path, "AAPL", iso(BELL + 6 * MINUTE), away)
    assert found["agrees"] is None
    assert found["agreement"] == "Not compared with the database: The database does not answer."
    assert found["rules"][0]["outcome"] == "fired"


def test_the_command_prints_what_the_page_shows(tmp_path: Path) -> None:
    found = steady(9, 12).explain(tmp_path, 6)
    lines = list(explain_lines(found))
    assert lines[0] == "AAPL, 2026-01-22 09:36 ET: regular, 1 trades, grade A"
    for rule in found["rules"]:
        assert f"  {rule['sentence']}" in lines
    assert lines[-1].endswith("The database has stored exactly this.")


# --- the route and the command -------------------------------------------------------------------------------------


@cache
def application(is_explained: bool) -> tuple[dict[str, Any], Any]:
    """An application, and where it looks for who explains: it takes longer to make one than to ask it."""
    market, given = FakeMarket(["AAPL"], minutes=1), dict[str, Any]()

    async def explain(symbol: str, minute: str) -> Any:
        return await given["explain"](symbol, minute)

    shown = explain if is_explained else None
    return given, create_app(market, StreamHub(), market.status, origin=Origin.REPLAYED, explain=shown)


def served(explain: Any, query: str) -> httpx.Response:
    """The answer to one GET of `/api/v1/explain`."""
    given, app = application(explain is not None)
    given["explain"] = explain

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(f"/api/v1/explain?{query}")

    return asyncio.run(get())


def test_the_route_answers_as_openapi_says_or_with_a_sentence(tmp_path: Path) -> None:
    tape = steady(9, 12)
    path = write(tmp_path / "log.db", tape.batch(), tape.tables)
    explainer = Explainer(
        local_source(path), parts_of(tmp_path), stored(engine_alerts(tape.batch(), tape.tables, parts_of(tmp_path)))
    )
    good = served(explainer.explain, "symbol=aapl&minute=2026-01-22T09:36")
    assert good.status_code == 200
    answer = Explanation.model_validate(good.json(), extra="forbid")
    assert (answer.symbol, answer.minute, answer.agrees) == ("AAPL", iso(BELL + 6 * MINUTE), True)
    assert [rule.outcome for rule in answer.rules] == ["fired", "not fired", "not fired"]
    broken = Explainer(local_source(tmp_path / "none.db"), parts_of(tmp_path), stored([]))
    for asked, query, status, said in (
        (explainer.explain, "symbol=ZZZ&minute=2026-01-22T09:36", 404, "ZZZ: the log holds no trade of it"),
        (explainer.explain, "symbol=AAPL&minute=soon", 422, "soon: expected a minute such as"),
        (explainer.explain, "symbol=AAPL", 422, "minute"),
        (explainer.explain, "symbol=!&minute=2026-01-22T09:36", 422, "symbol"),
        (broken.explain, "symbol=AAPL&minute=2026-01-22T09:36", 503, "there is no log here yet"),
        (None, "symbol=AAPL&minute=2026-01-22T09:36", 503, "set KAFKA_BOOTSTRAP_SERVERS for it too"),
    ):
        refused = served(asked, query)
        assert (refused.status_code, said in refused.json()["detail"]) == (status, True), refused.text


def test_more_than_a_few_at_once_are_told_to_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tape = steady(9)
    path = write(tmp_path / "log.db", tape.batch(), tape.tables)
    explainer = Explainer(local_source(path), parts_of(tmp_path), stored([]))

    async def many() -> list[Any]:
        asked = [explainer.explain("AAPL", iso(BELL)) for _ in range(12)]
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(many())
    assert sum(isinstance(one, dict) for one in found) == 8
    assert {str(one) for one in found if isinstance(one, LogError)} == {
        "Other minutes are being explained; try again in a few seconds"
    }


@pytest.mark.parametrize(
    ("arguments", "kafka", "code", "said"),
    [
        (["AAPL", "2026-01-22T09:36"], "", 2, "var: nothing was recorded here yet; start with ./start_pipeline.sh"),
        (["AAPL", "soon"], "", 2, "soon: expected a minute such as 2026-11-20T15:42"),
        (["AAPL"], "", 2, "Missing argument 'MINUTE'"),
        (["AAPL", "2026-01-22T09:36"], "localhost:9092", 2, "DB_HOST not set: the log is in Kafka"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    arguments: list[str], kafka: str, code: int, said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)
    if kafka:
        monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka)
    assert execute(["explain", *arguments]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"tapewatch: {said}")
    assert err.count("\n") == 1
