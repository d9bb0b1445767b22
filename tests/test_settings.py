"""Settings: defaults, where they come from, and one sentence for every wrong value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tapewatch.errors import SettingsError
from tapewatch.settings import Settings, duration_text, load_settings, parse_duration_ms

SECRET = "m4rker-of-a-secret"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's environment nor a `.env` of its owner has a say."""
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SYMBOLS", "AAPL,$$", "SYMBOLS='AAPL,$$': expected symbols separated by commas"),
        ("SYMBOLS", " , ", "SYMBOLS=' , ': expected symbols separated by commas"),
        ("SYMBOLS", "A" * 33, "cannot read " + "A" * 33),
        ("WINDOW_DURATION", "5 minutes", "WINDOW_DURATION='5 minutes': expected a duration such as 250ms, 10s"),
        ("WINDOW_DURATION", "-5m", "WINDOW_DURATION='-5m': expected a duration"),
        ("WINDOW_DURATION", "90s", "WINDOW_DURATION=90s must be a whole number (at most 240) of SLIDE_DURATION=1m"),
        ("WINDOW_DURATION", "5h", "WINDOW_DURATION=5h must be a whole number (at most 240) of SLIDE_DURATION=1m"),
        ("WATERMARK_DELAY", "31m", "WATERMARK_DELAY=31m may be at most 30 times SLIDE_DURATION=1m"),
        ("WATERMARK_DELAY", "2h", "WATERMARK_DELAY=2h: expected at most 1h"),
        ("LOG_COMMIT_INTERVAL", "0ms", "LOG_COMMIT_INTERVAL=0ms: expected at least 1ms"),
        ("FEED_DELAY", "soon", "FEED_DELAY='soon': expected a duration"),
        ("HTTP_PORT", "eighty", "HTTP_PORT='eighty': Input should be a valid integer"),
        ("HTTP_PORT", "65536", "HTTP_PORT='65536': expected at most 65535"),
        ("HTTP_HOST", "0.0.0.0", "HTTP_HOST=0.0.0.0 lets other machines in, so API_TOKEN is demanded"),
        ("HTTP_NAMES", "a b", "HTTP_NAMES='a b': expected host names separated by commas"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka", "KAFKA_BOOTSTRAP_SERVERS='kafka': expected host:port, several separated"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:1,,b:2", "KAFKA_BOOTSTRAP_SERVERS='a:1,,b:2': expected host:port"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:70000", "KAFKA_BOOTSTRAP_SERVERS='a:70000': expected host:port"),
        ("KAFKA_TOPIC_RAW_TRADES", "a b", "KAFKA_TOPIC_RAW_TRADES='a b': expected at most 200 letters, digits, dots"),
        ("KAFKA_PARTITIONS", "0", "KAFKA_PARTITIONS='0': expected at least 1"),
        ("KAFKA_DEADLINE", "1ms", "KAFKA_DEADLINE=1ms: expected at least 100ms"),
        ("DB_NAME", "stock-db", "DB_NAME='stock-db': expected at most 63 letters, digits and underscores"),
        ("DB_USER", "'; DROP", 'DB_USER="\'; DROP": expected at most 63 letters, digits and underscores'),
        (
            "MASSIVE_WS_URL",
            "https://x",
            "MASSIVE_WS_URL='https://x': expected an address starting with ws:// or wss://",
        ),
        ("MASSIVE_REST_URL", "x", "MASSIVE_REST_URL='x': expected an address starting with http:// or https://"),
        ("MASSIVE_REST_URL", "http://[::1", "MASSIVE_REST_URL='http://[::1': Invalid IPv6 URL"),
        ("NOTIFY", "always", "NOTIFY='always': Input should be 'confirmed' or 'provisional'"),
        ("NOTIFY_ATTEMPTS_MAX", "0", "NOTIFY_ATTEMPTS_MAX='0': expected at least 1"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL='loud': Input should be 'debug', 'info', 'warning' or 'error'"),
        ("SIMULATOR_RATE", "nan", "SIMULATOR_RATE='nan': expected at most 10000"),
        ("SIMULATOR_RATE", "0", "SIMULATOR_RATE='0': expected more than 0"),
        ("API_TOKEN", "short", "API_TOKEN is too short: 32 characters or more are demanded"),
        ("WEBHOOK_URL", "ftp://x", "WEBHOOK_URL=(not shown): expected an address starting with http:// or https://"),
    ],
)
def test_a_wrong_value_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PORT", "SLIDE_DURATION", "LOG_LEVEL"):
        monkeypatch.setenv(name, "wrong")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert sorted(line.partition("=")[0] for line in str(caught.value).splitlines()) == [
        "HTTP_PORT",
        "LOG_LEVEL",
        "SLIDE_DURATION",
    ]


def test_the_environment_wins_over_the_file_and_an_override_over_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("HTTP_PORT=1\nDB_PORT=2\nSYMBOLS=msft, aapl ,MSFT\nUNKNOWN=kept by others\n")
    monkeypatch.setenv("DB_PORT", "3")
    monkeypatch.setenv("HTTP_PORT", "")  # empty is not set
    found = load_settings()
    assert (found.http_port, found.db_port, found.symbols) == (1, 3, ("MSFT", "AAPL"))
    assert load_settings(db_port=4).db_port == 4


def test_they_are_read_once() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().http_port = 1  # type: ignore[misc]


def _secret_names() -> list[str]:
    defaults = {field.alias: field.annotation for field in Settings.model_fields.values()}
    return [str(name) for name, kind in defaults.items() if "SecretStr" in str(kind)]


def test_which_settings_are_secret() -> None:
    assert _secret_names() == ["MASSIVE_API_KEY", "DB_PASSWORD", "API_TOKEN", "WEBHOOK_URL", "WEBHOOK_SECRET"]


@pytest.mark.parametrize("name", _secret_names())
def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value = f"https://host/{SECRET}/{'x' * 32}"
    monkeypatch.setenv(name, value)
    found = load_settings()
    holder: Any = found.model_dump(by_alias=True)[name]
    assert isinstance(holder, SecretStr)
    assert holder.get_secret_value() == value
    for shown in (repr(found), str(found), found.model_dump_json(), repr(found.model_dump())):
        assert SECRET not in shown
    monkeypatch.setenv("HTTP_PORT", "wrong")  # and none of its neighbours' errors shows it
    monkeypatch.setenv("WINDOW_DURATION", "90s")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("wrong", [f"ftp://{SECRET}", f"//{SECRET}", f"http://[{SECRET}", SECRET, f"http:{SECRET}"])
def test_a_wrong_secret_address_is_not_shown_either(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    monkeypatch.setenv("WEBHOOK_URL", wrong)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith("WEBHOOK_URL=(not shown): ")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "ms"), [("250ms", 250), ("10s", 10_000), ("5m", 300_000), (" 1h ", 3_600_000), ("30d", 2_592_000_000)]
)
def test_durations(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms
    assert duration_text(ms) == text.strip()


@given(st.integers(0, 10**9 - 1))
def test_a_duration_written_is_read_back(ms: int) -> None:
    assert parse_duration_ms(duration_text(ms)) == ms


@pytest.mark.parametrize("text", ["", "5", "m", "1.5h", "5 M", "5min", "1h30m", "-1s", "9999999999s", True, None, 1.5])
def test_what_is_no_duration(text: Any) -> None:
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration_ms(text)
