"""Every setting and every limit, once.

A *setting* is what a person may choose: by environment variable, or by a line in `.env` (the environment wins).
A *limit* is a constant that keeps the program bounded; its unit is the end of its name.

Durations are written `250ms`, `10s`, `5m`, `1h`, `30d` and held as whole milliseconds. Secrets print as stars.
A wrong value stops the start with the setting's name, the value and what is allowed (`SettingsError`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tapewatch.errors import SettingsError

# --- limits ----------------------------------------------------------------------------------------------------
FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
"""A larger WebSocket frame closes the connection (1009) and is counted."""
QUEUE_BYTES_MAX: Final = 256 * 1024 * 1024
"""Frames waiting to be decoded; when full, reading stops and TCP slows the sender."""
DECODE_EVENTS_MAX: Final = 2_000
"""Waiting frames are decoded together up to about this many events: beyond it they fall out of the CPU's cache."""
BATCH_RECORDS_MAX: Final = 20_000
"""Records in one log block and in one engine step."""
CAPTURE_WAITING_BYTES_MAX: Final = 64 * 1024 * 1024
"""Frames that wait to be written to a raw capture; beside a pipeline what is more is left out of it, and counted."""
LOG_BLOCK_BYTES_MAX: Final = 256 * 1024 * 1024
"""A log block, uncompressed; a larger one is neither written nor read."""
MESSAGE_BYTES_MAX: Final = 256 * 1024
"""A larger message of the topic is rejected."""
KAFKA_QUEUE_MESSAGES_MAX: Final = 100_000
"""Messages that wait in the producer for the broker; when there are more, the recording waits."""
KAFKA_QUEUE_KBYTES_MAX: Final = 65_536
"""The same, in KiB."""
DEDUPE_KEYS_MAX: Final = 16_000_000
"""Trade identities remembered (twice this, in two generations of 8 bytes a key); the oldest are forgotten first."""
DISK_FREE_BYTES_MIN: Final = 1_000_000_000
"""With less room than this the disk counts as nearly full, and the status says so."""
SYMBOLS_MAX: Final = 20_000
"""Symbols that can be watched at once."""
CONDITION_LISTS_MAX: Final = 10_000
"""Different lists of trade conditions in one process; real ones are a few hundred. A trade with one more is refused."""
SUBSCRIBE_TOPICS_MAX: Final = 500
"""Topics in one subscribe message."""
SUBSCRIBE_BYTES_MAX: Final = 16 * 1024
"""Bytes of the topics in one subscribe message, their commas included."""
HISTORY_ROWS_MAX: Final = 20_000
"""Rows in one answer of the history; more are asked for in parts."""
ALERTS_ROWS_MAX: Final = 1_000
"""Rows in one answer of the alerts."""
REQUEST_BYTES_MAX: Final = 64 * 1024
"""A larger request is refused."""
STREAM_CLIENTS_MAX: Final = 2_500
"""Live streams open at once; one more is told to come back later."""
STREAM_FLUSH_MS: Final = 33
"""A client of the live stream is sent changes at most this often; the first after a pause goes at once."""
STREAM_STATUS_MS: Final = 1_000
"""The status event is also the stream's heartbeat: three missed ones and the page says the server is gone."""
STREAM_STALL_S: Final = 30.0
"""A client that has taken nothing for this long is disconnected."""
STREAM_BARS_MAX: Final = 20_000
"""Bars kept for slow clients."""
STREAM_ALERTS_MAX: Final = 1_000
"""Alerts kept for slow clients; one that is further behind is told to fetch them again."""
STREAM_SOCKET_BYTES: Final = 256 * 1024
"""What the kernel may hold for a client that does not read; beyond it only the newest values are kept."""
STORE_PATIENCE_S: Final = 0.45
"""A query that takes longer makes the server ask whether the database answers at all, for as long again."""
REQUEST_READ_S: Final = 10.0
"""A connection that has not sent a whole request in this time is closed."""
SESSION_S: Final = 7 * 86_400
"""How long a browser stays signed in."""
EXPLAIN_S_MAX: Final = 15.0
"""Explaining a minute that takes longer than this is given up."""
EXPLAIN_WAITING_MAX: Final = 8
"""Minutes asked about at once: they are explained one after the other, and one more is told to come back later."""
STATEMENT_TIMEOUT_MS: Final = 10_000
"""A reader's query that takes longer is ended by the database."""
FOLLOW_MS_MIN: Final = 50
"""A process that only shows looks into the database at most this often; what was committed meanwhile comes together."""
FOLLOW_MS_UNHEARD: Final = 250
"""The same while nobody listens, and how often it looks for a reader while nobody tells of commits."""
FOLLOW_MS_MAX: Final = 1_000
"""It looks at least this often, told or not."""
STORE_CONNECT_S: Final = 2
"""A database that does not take our connection in this time does not answer; libpq knows no shorter one."""
STORE_LOCK_MS: Final = 5_000
"""The writer waits this long for a lock; then the commit has failed and is tried again."""
STORE_STATEMENT_MS: Final = 60_000
"""The longest statement of the writer."""
STORE_READERS_MAX: Final = 4
"""Connections of the API to the database; a request beyond waits for one."""
NOTIFY_DEADLINE_S: Final = 10.0
"""A delivery that takes longer has failed, however slowly it drips."""
NOTIFY_BACKOFF_S_MAX: Final = 300.0
"""The longest wait between two attempts of one notification."""
NOTIFY_RETRY_AFTER_S_MAX: Final = 900.0
"""A receiver that asks for a longer pause (Retry-After) gets this one."""
NOTIFY_ANSWER_BYTES_MAX: Final = 64 * 1024
"""Of a receiver's answer, this much is read."""
NOTIFY_REASON_CHARACTERS_MAX: Final = 200
"""Of a reason why a delivery failed, this much is kept."""
NOTIFY_PAUSE_S_MAX: Final = 30.0
"""The longest pause of a channel whose receiver has failed several times in a row; then one message tries it again."""
NOTIFY_SILENCE_S: Final = 60.0
"""A sender's process that has said nothing for so long is killed, and started again."""
NOTIFY_STOP_S: Final = 3.0
"""When the sender is told to stop, a delivery that is under way has this long to end."""
NOTIFY_BATCH_MAX: Final = 100
"""Notifications of one channel taken from the outbox at a time."""
NOTIFY_POLL_S: Final = 1.0
"""How often the outbox is looked at when nobody says that there is something new."""
DELAYED_PLAN_MS: Final = 900_000
"""How late the data of a delayed plan is."""
TICK_HEARD_MS: Final = 10_000
"""A tick is written only if the exchange was heard within this time: of the time since then a tick knows nothing."""
GAP_MARGIN_MS: Final = 1_000
"""A gap starts this much before the last moment that is known, since trades may come a little out of order."""

COINBASE_SYMBOLS: Final = ("BTC", "ETH", "SOL")
"""What is watched with FEED=coinbase when SYMBOLS is not set."""

_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION_HELP: Final = "a duration such as 250ms, 10s, 5m, 1h or 30d"


def parse_duration_ms(value: Any) -> int:
    """``"5m"`` -> 300000. Raises ValueError with what is allowed."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"\s*(\d{1,9})\s*(ms|s|m|h|d)\s*", str(value))
    if match is None:
        raise ValueError(f"expected {DURATION_HELP}")
    return int(match[1]) * _UNITS_MS[match[2]]


def duration_text(ms: int) -> str:
    """``300000`` -> ``"5m"``: the shortest whole form."""
    for unit in ("d", "h", "m", "s"):
        if ms and ms % _UNITS_MS[unit] == 0:
            return f"{ms // _UNITS_MS[unit]}{unit}"
    return f"{ms}ms"


Duration = Annotated[int, BeforeValidator(parse_duration_ms)]
_SYMBOL: Final = re.compile(r"[A-Z0-9][A-Z0-9.:/_-]{0,31}")
_MEMORY: Final = r"^[1-9][0-9]{0,5}[mg]$"
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\]")


def read_symbols(value: Any) -> tuple[str, ...]:
    """``"aapl, BTC"`` -> ``("AAPL", "BTC")``. Raises ValueError with what is allowed."""
    parts = value.split(",") if isinstance(value, str) else list(value)
    symbols = tuple(dict.fromkeys(p.strip().upper() for p in parts if p.strip()))
    bad = [s for s in symbols if not _SYMBOL.fullmatch(s)]
    if bad or not symbols:
        some = ", ".join(s[:40] for s in bad[:5]) or "none"
        raise ValueError(f"expected symbols separated by commas, such as AAPL,BRK.B,BTC; cannot read {some}")
    if len(symbols) > SYMBOLS_MAX:
        raise ValueError(f"expected at most {SYMBOLS_MAX} symbols, got {len(symbols)}")
    return symbols


class Settings(BaseSettings):
    """All settings, read once at the start. The environment name of each is its alias."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        env_ignore_empty=True,
    )

    # feed
    feed: Literal["massive", "coinbase"] = Field("massive", alias="FEED")
    massive_api_key: SecretStr | None = Field(None, alias="MASSIVE_API_KEY")
    massive_ws_url: str = Field("wss://socket.massive.com", alias="MASSIVE_WS_URL")
    massive_rest_url: str = Field("https://api.massive.com", alias="MASSIVE_REST_URL")
    symbols: Annotated[tuple[str, ...], NoDecode] = Field(("AAPL", "TSLA", "GOOGL", "MSFT", "BTC"), alias="SYMBOLS")
    coinbase_ws_url: str = Field("wss://ws-feed.exchange.coinbase.com", alias="COINBASE_WS_URL")
    coinbase_rest_url: str = Field("https://api.exchange.coinbase.com", alias="COINBASE_REST_URL")
    feed_delay_ms: Duration = Field(0, alias="FEED_DELAY", ge=0, le=3_600_000)
    feed_channel: Literal["auto", "T", "A", "AM"] = Field("auto", alias="FEED_CHANNEL")
    massive_delayed_url: str | None = Field(None, alias="MASSIVE_DELAYED_URL")
    feed_wildcard_above: int = Field(1_000, alias="FEED_WILDCARD_ABOVE", ge=0, le=SYMBOLS_MAX)
    feed_lag_max_ms: Duration = Field(10_000, alias="FEED_LAG_MAX", ge=100)
    feed_silence_ms: Duration = Field(40_000, alias="FEED_SILENCE", ge=1_000)
    feed_stall_ms: Duration = Field(60_000, alias="FEED_STALL", ge=1_000)
    warmup_ms: Duration = Field(3_600_000, alias="WARMUP", ge=0, le=86_400_000)
    backfill_max_ms: Duration = Field(4 * 3_600_000, alias="BACKFILL_MAX", ge=0, le=86_400_000)
    backfill_deadline_ms: Duration = Field(30_000, alias="BACKFILL_DEADLINE", ge=1_000, le=600_000)
    backfill_repeat_ms: Duration = Field(90_000, alias="BACKFILL_REPEAT", ge=0, le=3_600_000)
    rest_calls_per_minute: int = Field(0, alias="REST_CALLS_PER_MINUTE", ge=0, le=100_000)
    compare_bars: Literal["auto", "on", "off"] = Field("auto", alias="COMPARE_BARS")
    simulator_seed: int = Field(1, alias="SIMULATOR_SEED", ge=0, le=2**31 - 1)
    simulator_rate: float = Field(4.0, alias="SIMULATOR_RATE", gt=0, le=10_000)
    capture_dir: Path | None = Field(None, alias="CAPTURE_DIR")
    capture_mb_max: int = Field(4_096, alias="CAPTURE_MB_MAX", ge=16, le=100_000_000)
    # log
    data_dir: Path = Field(Path("var"), alias="DATA_DIR")
    log_commit_ms: Duration = Field(33, alias="LOG_COMMIT_INTERVAL", ge=1, le=10_000)
    log_retention_ms: Duration = Field(30 * 86_400_000, alias="LOG_RETENTION", ge=86_400_000)
    kafka_servers: str | None = Field(None, alias="KAFKA_BOOTSTRAP_SERVERS")
    kafka_topic: str = Field("raw-trades", alias="KAFKA_TOPIC_RAW_TRADES", pattern=r"^[A-Za-z0-9._-]{1,200}$")
    kafka_partitions: int = Field(3, alias="KAFKA_PARTITIONS", ge=1, le=1_000)
    kafka_deadline_ms: Duration = Field(10_000, alias="KAFKA_DEADLINE", ge=100, le=3_600_000)
    # spark
    spark_master: str = Field("local[*]", alias="SPARK_MASTER", min_length=1)
    spark_driver_memory: str = Field("1g", alias="SPARK_DRIVER_MEMORY", pattern=_MEMORY)
    spark_executor_memory: str = Field("1g", alias="SPARK_EXECUTOR_MEMORY", pattern=_MEMORY)
    trigger_ms: Duration = Field(0, alias="TRIGGER_INTERVAL", ge=0, le=3_600_000)
    spark_batch_records_max: int = Field(300_000, alias="SPARK_BATCH_RECORDS_MAX", ge=1, le=100_000_000)
    checkpoint_dir: Path = Field(Path("var/checkpoint"), alias="CHECKPOINT_DIR")
    # engine
    window_ms: Duration = Field(300_000, alias="WINDOW_DURATION", ge=1_000, le=86_400_000)
    slide_ms: Duration = Field(60_000, alias="SLIDE_DURATION", ge=1_000, le=86_400_000)
    watermark_delay_ms: Duration = Field(60_000, alias="WATERMARK_DELAY", ge=0, le=3_600_000)
    confirm_delay_ms: Duration = Field(2_000, alias="CONFIRM_DELAY", ge=0, le=60_000)
    future_limit_ms: Duration = Field(60_000, alias="FUTURE_LIMIT", ge=1_000)
    alerts_file: Path = Field(Path("alerts.toml"), alias="ALERTS_FILE")
    # store
    commit_ms: Duration = Field(25, alias="COMMIT_INTERVAL", ge=1, le=60_000)
    snapshot_ms: Duration = Field(10_000, alias="SNAPSHOT_INTERVAL", ge=100)
    db_host: str | None = Field(None, alias="DB_HOST")
    db_port: int = Field(5432, alias="DB_PORT", ge=1, le=65_535)
    db_name: str = Field("stockdb", alias="DB_NAME", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    db_user: str = Field("tapewatch", alias="DB_USER", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    db_password: SecretStr | None = Field(None, alias="DB_PASSWORD")
    timescale_bin: Path | None = Field(None, alias="TIMESCALE_BIN")
    # serve
    http_host: str = Field("127.0.0.1", alias="HTTP_HOST")
    http_port: int = Field(8787, alias="HTTP_PORT", ge=0, le=65_535)
    metrics_port: int | None = Field(None, alias="METRICS_PORT", ge=1, le=65_535)
    http_names: Annotated[tuple[str, ...], NoDecode] = Field((), alias="HTTP_NAMES")
    api_token: SecretStr | None = Field(None, alias="API_TOKEN")
    # notify
    notify: Literal["confirmed", "provisional"] = Field("confirmed", alias="NOTIFY")
    webhook_url: SecretStr | None = Field(None, alias="WEBHOOK_URL")
    webhook_secret: SecretStr | None = Field(None, alias="WEBHOOK_SECRET")
    webhook_private: Literal["on", "off"] = Field("off", alias="WEBHOOK_PRIVATE")
    notify_attempts_max: int = Field(8, alias="NOTIFY_ATTEMPTS_MAX", ge=1, le=100)
    news_age_ms: Duration = Field(600_000, alias="NEWS_AGE_MAX", ge=1_000)
    # all
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", alias="LOG_LEVEL")

    @field_validator("symbols", mode="before")
    @classmethod
    def _split_symbols(cls, value: Any) -> Any:
        return read_symbols(value)

    @field_validator("http_names", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else list(value)
        names = tuple(p.strip().lower() for p in parts if p.strip())
        if bad := [n for n in names if not re.fullmatch(r"[a-z0-9.-]{1,253}", n)]:
            raise ValueError(f"expected host names separated by commas, such as tape.example.org; got {bad[0]}")
        return names

    @field_validator("kafka_servers")
    @classmethod
    def _check_servers(cls, value: str | None) -> str | None:
        servers = None if value is None else [part.strip() for part in value.split(",")]
        for server in servers or []:
            name, _, port = server.rpartition(":")
            if not _HOST.fullmatch(name) or not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65_535:
                raise ValueError("expected host:port, several separated by commas, such as kafka-1:9092,kafka-2:9092")
        return None if servers is None else ",".join(servers)

    @field_validator(
        "massive_ws_url",
        "massive_delayed_url",
        "massive_rest_url",
        "coinbase_ws_url",
        "coinbase_rest_url",
        "webhook_url",
        mode="before",
    )
    @classmethod
    def _check_url(cls, value: Any, info: Any) -> Any:
        if value is None:
            return value
        is_stream = info.field_name == "massive_delayed_url" or info.field_name.endswith("_ws_url")
        schemes = ("ws", "wss") if is_stream else ("http", "https")
        parts = urlsplit(str(value))
        if parts.scheme not in schemes or not parts.hostname:
            raise ValueError(f"expected an address starting with {' or '.join(s + '://' for s in schemes)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _default_symbols(cls, given: Any) -> Any:
        """Coinbase has no stocks: without SYMBOLS its own are watched."""
        if isinstance(given, dict) and "coinbase" in (given.get("FEED"), given.get("feed")):
            return {"SYMBOLS": COINBASE_SYMBOLS} | given if "symbols" not in given else given
        return given

    @property
    def is_simulated(self) -> bool:
        """A feed with these settings is the built-in simulator's."""
        return self.feed == "massive" and self.massive_api_key is None

    @property
    def delay_ms_max(self) -> int:
        """How late the data may be by the plan: as set, or that of a delayed plan where the plan is asked for it."""
        asks = self.feed == "massive" and self.massive_api_key is not None and self.feed_channel == "auto"
        return self.feed_delay_ms or (DELAYED_PLAN_MS if asks else 0)

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        if self.window_ms % self.slide_ms or self.window_ms // self.slide_ms > 240:
            raise ValueError(
                f"WINDOW_DURATION={duration_text(self.window_ms)} must be a whole number (at most 240) "
                f"of SLIDE_DURATION={duration_text(self.slide_ms)}"
            )
        if self.watermark_delay_ms > 30 * self.slide_ms:
            raise ValueError(
                f"WATERMARK_DELAY={duration_text(self.watermark_delay_ms)} may be at most 30 times "
                f"SLIDE_DURATION={duration_text(self.slide_ms)}"
            )
        if self.http_host not in ("127.0.0.1", "::1", "localhost") and self.api_token is None:
            raise ValueError(
                f"HTTP_HOST={self.http_host} lets other machines in, so API_TOKEN is demanded (32 characters or more); "
                "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        if self.api_token is not None and len(self.api_token.get_secret_value()) < 32:
            raise ValueError("API_TOKEN is too short: 32 characters or more are demanded")
        return self

    @property
    def compares_bars(self) -> bool:
        """Whether the exchange's minute bars are to be compared with our own: as set, or where there is a key.

        Only where ours are of a minute too, and are computed in the feed's process.
        """
        if self.slide_ms != _UNITS_MS["m"] or self.kafka_servers is not None:
            return False
        return self.compare_bars == "on" or (self.compare_bars == "auto" and self.massive_api_key is not None)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment and `.env`; ``overrides`` (by field name) win.

    Raises:
        SettingsError: a value is wrong; all wrong ones are named, each with what is allowed. Secrets are not shown.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(_sentence(e) for e in error.errors())) from None


_PATTERN_WORDS: Final = {
    "kafka_topic": "expected at most 200 letters, digits, dots, underscores and hyphens",
    "spark_driver_memory": "expected a size such as 512m or 2g",
    "spark_executor_memory": "expected a size such as 512m or 2g",
}
_BOUNDS: Final = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _sentence(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return message
    place = str(error["loc"][0])
    name, field = next((name, field) for name, field in Settings.model_fields.items() if place in (name, field.alias))
    show = duration_text if name.endswith("_ms") else repr
    for key, words in _BOUNDS.items():
        if key in error.get("ctx", {}):
            message = f"expected {words} {show(error['ctx'][key])}"
    if error["type"] == "string_pattern_mismatch":
        message = _PATTERN_WORDS.get(name, "expected at most 63 letters, digits and underscores, no digit first")
    value = error.get("input")
    secret = any(word in str(field.alias) for word in ("KEY", "PASSWORD", "TOKEN", "WEBHOOK_URL", "SECRET"))
    shown = "(not shown)" if secret else show(value) if isinstance(value, int) else repr(value)
    return f"{field.alias}={shown}: {message}"
