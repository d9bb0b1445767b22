"""What each answer looks like: the source of `/openapi.json`.

Answers are encoded straight from the rows, without a pass through these classes; tests hold both together.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from tapewatch.records import AlertStatus, Origin

__all__ = [
    "Alert",
    "Bar",
    "ErrorBody",
    "Gap",
    "Health",
    "Indicators",
    "Notification",
    "Overview",
    "Quality",
    "Readiness",
    "Status",
    "Stock",
    "TradingDay",
]

TIME_MS_MAX = 4_102_444_800_000
"""1 January 2100: later times are taken as this one, earlier than 1970 as 1970."""

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"}, examples=["2026-11-20T14:30:00.000Z"])]
Interval = Literal["1m", "5m", "1h", "1d"]
MarketName = Literal["stocks", "crypto", "options", "futures", "forex", "indices"]
Symbol = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:/_-]{0,31}$", examples=["AAPL"])]


def parse_time_ms(value: Any) -> int:
    """Unix milliseconds, or ISO 8601 (UTC where no offset is given), as Unix ms. Raises ValueError otherwise."""
    text = str(value).strip()
    if re.fullmatch(r"-?\d{1,16}", text):
        ms = int(text)
    else:
        try:
            # In a query string an unescaped + is a space.
            moment = datetime.fromisoformat(re.sub(r" (\d\d:\d\d)$", r"+\1", text.upper()))
            ms = int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)
        except (ValueError, OverflowError):
            raise ValueError("expected a time such as 2026-11-20T14:30:00Z, or Unix milliseconds") from None
    return min(max(ms, 0), TIME_MS_MAX)


TimeMs = Annotated[
    int,
    BeforeValidator(parse_time_ms),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": TIME_MS_MAX},
                {"type": "string", "format": "date-time"},
            ],
            "description": "ISO 8601, or Unix milliseconds",
        }
    ),
]


class Stock(BaseModel):
    """The newest of one symbol. Counters run over the whole log."""

    symbol: str
    market: MarketName
    price: float | None
    timestamp: Time | None = Field(description="event time of the trade that set the price")
    received_at: Time | None
    ma_5min: float | None = Field(description="the moving average, of the window in progress; null until warm")
    total_volume: float | None = Field(description="of the window in progress")
    trend: Literal["BULLISH", "BEARISH", "NEUTRAL"]
    side: int = Field(description="+1 above the average by the band, -1 below, 0 unknown")
    change: float | None
    change_percent: float | None
    change_from: Literal["previous_close", "day_open"] | None = Field(description="what the change is against")
    day_open: float | None
    day_high: float | None
    day_low: float | None
    day_volume: float | None
    previous_close: float | None
    watermark: Time | None
    trades: int
    late: int
    future: int
    ineligible: int
    unknown_conditions: int


class Bar(BaseModel):
    """One candle. ``ma_5min`` is the average of the window that ends with it."""

    symbol: str
    time: Time = Field(description="start of the bar")
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float | None
    vwap: float | None = None
    trade_count: int | None = None
    ma_5min: float | None = None
    is_final: bool
    partial: bool | None = Field(None, description="a gap that was not backfilled overlaps the bar")


class Indicators(BaseModel):
    """What technical analysis makes of the bars up to one; null until enough of them are known."""

    symbol: str
    time: Time = Field(description="start of the bar")
    close: float
    rsi_14: float | None = Field(description="0 to 100; null too where the price never moved")
    macd: float | None = Field(description="EMA(12) less EMA(26) of the closes")
    macd_signal: float | None = Field(description="EMA(9) of macd")
    macd_histogram: float | None = Field(description="macd less its signal")
    bollinger_middle: float | None = Field(description="mean of the last 20 closes")
    bollinger_upper: float | None = Field(description="two standard deviations above")
    bollinger_lower: float | None
    atr_14: float | None = Field(description="average true range, in the price's unit")
    relative_volume: float | None = Field(description="times the mean volume of the 20 bars before, 5 at least")
    is_final: bool


class Overview(BaseModel):
    """A symbol at a glance: its last hour, and how good the data of its window is."""

    symbol: str
    market: MarketName
    start: Time | None = Field(alias="from", description="start of the first pane; null without a bar")
    step_ms: int
    closes: list[float | None] = Field(description="of 60 panes, oldest first; null for a pane without one")
    grade: Literal["A", "B", "C", "D"] | None = Field(description="the worst of the window's minutes")
    trades: int | None
    excluded: int | None
    late: int | None
    future: int | None
    gap_ms: int | None


class TradingDay(BaseModel):
    """When a market was open, on one of its days."""

    day_open: Time
    regular_open: Time
    regular_close: Time
    day_close: Time


class Alert(BaseModel):
    """One alert in its newest state."""

    alert_id: str
    rule: str
    rule_version: str
    kind: str = Field(examples=["golden_cross", "death_cross", "high_volume"])
    symbol: str
    direction: int
    status: AlertStatus
    pane_start: Time
    triggered_at: Time
    decided_at: Time
    price: float | None
    line: float | None
    late: bool
    confirmed_at: Time | None = None
    retracted_at: Time | None = None
    stored_at: Time | None = Field(None, description="when its first state was stored; not in the stream")
    changed_at: Time | None = Field(None, description="when its present state was stored; not in the stream")
    acknowledged_at: Time | None = Field(None, description="when somebody said that it is seen; not in the stream")
    acknowledged_by: str | None = None
    note: str | None = None
    evidence: dict[str, Any] = Field({}, description="what it was decided from")
    deliveries: list[dict[str, Any]] = Field([], description="what became of its notifications; not in the stream")


class Gap(BaseModel):
    """A stretch in which trades may be missing."""

    market: MarketName
    gap_from: Time
    gap_to: Time
    cause: str
    symbols: list[str] = Field(description="those subscribed then; empty means every symbol of the market")
    state: Literal["open", "filled", "partial"] = Field(
        description="open: not fetched (yet); filled: all its trades were; partial: not those of the symbols in missing"
    )
    backfilled: bool = Field(description="state is filled")
    trades: int = Field(description="fetched at once: in bars and windows like any other")
    later: int = Field(description="fetched later: in the log, and late where their bar had ended")
    missing: list[str] = Field(description="symbols whose bars over it may lack trades")


class Quality(BaseModel):
    """What was received in one minute of one symbol."""

    symbol: str
    minute: Time
    trades: int
    excluded: int
    late: int
    future: int
    gap_ms: int
    grade: Literal["A", "B", "C", "D"]


DeliveryState = Literal["new", "held", "folded", "muted", "waiting", "delivered", "dead"]


class Notification(BaseModel):
    """One message about one state of one alert, to one channel."""

    id: str
    alert_id: str
    channel: str
    event: str
    state: DeliveryState = Field(description="folded: another message tells it too; dead: given up")
    attempts: int
    next_attempt_at: Time
    created_at: Time
    delivered_at: Time | None
    last_error: str | None
    reason: str | None = Field(None, description="why it is or was held, folded or muted")
    held_until: Time | None = None
    told_by: str | None = Field(None, description="id of the message that tells it too")
    passed_at: Time | None = Field(None, description="when it was let through to be sent")
    resent: int = Field(0, description="how often a person has sent it again")


class Room(BaseModel, extra="allow"):
    """One room's state: ``ok``, or another word with a sentence in ``detail``."""

    state: str
    detail: str | None = None


class Feed(Room):
    """One market's feed. Well are ``live`` and ``closed`` (the market is)."""

    market: MarketName
    state: Literal["connecting", "live", "lagging", "reconnecting", "stale", "closed", "stopped"]
    last_trade_at: Time | None = None
    age_s: float | None = Field(None, description="since the last trade was received")
    delay_ms: int | None = Field(None, description="how late the data is by the plan")
    lag_ms: int | None = Field(None, description="age of the freshest of the last trades at receipt, less delay_ms")
    notices: list[str] = Field([], description="what troubles the feed without ending it, a sentence each")
    warming: bool = Field(False, description="what was missed is being fetched: nothing newer is recorded meanwhile")


class WatchedMarket(BaseModel):
    """How one market is watched."""

    market: MarketName
    channel: Literal["T", "A", "AM"] = Field(description="prices are of trades, of second bars or of minute bars")
    whole_market: bool = Field(description="all of it is subscribed to, and only what is wanted is kept")
    delay_ms: int = Field(description="how late the data is by the plan")
    notices: list[str] = Field(description="what troubles the feed without ending it, a sentence each")


class Watchlist(BaseModel):
    """What is watched. Each wanted symbol is in one of effective, waiting, unconfirmed and refused."""

    wanted: list[str]
    added: list[str] = Field(description="wanted beyond SYMBOLS")
    removed: list[str] = Field(description="in SYMBOLS, and not wanted")
    effective: list[str] = Field(description="confirmed by the exchange on this connection")
    waiting: list[str] = Field(description="asked for, or to be asked for as soon as there is a connection")
    unconfirmed: list[str] = Field(description="without an answer in time; they may still bring trades")
    refused: list[str] = Field(description="not in the plan, as far as the exchange tells")
    warming: list[str] = Field(description="added lately: their history is being fetched")
    markets: list[WatchedMarket]


class WatchlistChange(BaseModel, extra="forbid"):
    """Symbols to watch too."""

    symbols: list[str] = Field(min_length=1, examples=[["NVDA", "ETH"]])


class Status(BaseModel, extra="allow"):
    """The state of every room; also the stream's `status` event, once a second."""

    origin: Origin
    source: str | None = Field(None, description="whose data it is, such as Coinbase; null where it is simulated")
    server_time: Time
    feeds: list[Feed]
    log: Room
    engine: Room | None = None
    store: Room
    trades_per_second: float | None = None
    lag_ms: float | None = Field(None, description="receipt of the newest committed trade to its commit")
    gaps: int | None = None


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether log, store and feed are well, and if not, why."""

    ready: bool
    reasons: list[str]


class ErrorBody(BaseModel):
    """Every error, whatever the route."""

    error: str = Field(examples=["not_found"])
    detail: str = Field(description="a sentence for people")
    request_id: str = Field(description="the same as in the header X-Request-Id and in the server's log")


Responses = dict[int | str, dict[str, Any]]


def refusals(texts: Mapping[int, str]) -> Responses:
    """What a route may answer instead, by status code, for the description of the API."""
    return {code: {"model": ErrorBody, "description": text} for code, text in texts.items()}


class Login(BaseModel, extra="forbid"):
    """Exchange the token for a session cookie."""

    token: str = Field(min_length=1, max_length=512)
