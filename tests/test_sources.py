"""Which source the feeds read, and that the data of two are never mixed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from tapewatch.capturefile import CaptureWriter, FeedHead, Head
from tapewatch.errors import InputError, SettingsError
from tapewatch.feed.capture import Capture, CapturingSink, OneFile
from tapewatch.feed.coinbase import CoinbaseSession
from tapewatch.feed.coinbase_trades import CoinbaseSink
from tapewatch.feed.queue import FrameQueue
from tapewatch.feed.recorded import RecordedSink
from tapewatch.profiles.front import Replay, origin_of
from tapewatch.profiles.market import KEY
from tapewatch.profiles.sources import (
    address_of,
    check_symbols,
    claim,
    head_of,
    plumbing,
    recorded_topics,
    shown_source,
)
from tapewatch.records import Market, Origin
from tapewatch.settings import Settings, load_settings

MASSIVE_HEAD = Head(
    source="massive", origin=Origin.LIVE, started_ns=1, feeds={"stocks": FeedHead(topics=["T.A"], delay_ms=9)}
)
COINBASE_HEAD = Head(
    source="coinbase", origin=Origin.LIVE, started_ns=1, feeds={"crypto": FeedHead(topics=["matches.BTC-USD"])}
)


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("FEED", "SYMBOLS", "MASSIVE_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def settings(**given: object) -> Settings:
    return load_settings(**given)


def test_one_setting_gives_real_coins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED", "coinbase")
    s = settings()
    assert s.symbols == ("BTC", "ETH", "SOL")
    assert not s.is_simulated
    assert origin_of(s, None) is Origin.LIVE
    assert address_of(s, None) == ("wss://ws-feed.exchange.coinbase.com", "")
    assert shown_source(s, None, Origin.LIVE) == "Coinbase"
    check_symbols(s, s.symbols)


def test_symbols_that_are_named_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED", "coinbase")
    assert settings(symbols=("BTC-EUR",)).symbols == ("BTC-EUR",)
    monkeypatch.setenv("SYMBOLS", "ETH")
    assert settings().symbols == ("ETH",)
    assert settings(feed="massive").symbols == ("ETH",)
    monkeypatch.delenv("SYMBOLS")
    assert "AAPL" in settings(feed="massive").symbols


def test_another_feed_is_refused_with_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEED", "kraken")
    with pytest.raises(SettingsError, match=r"FEED='kraken'.*'massive' or 'coinbase'"):
        settings()


def test_stocks_with_coinbase_are_told_in_a_sentence() -> None:
    s = settings(feed="coinbase", symbols=("AAPL", "BTC", "TSLA"))
    with pytest.raises(SettingsError, match=r"FEED=coinbase has coins only, and SYMBOLS names AAPL, TSLA: name coins"):
        check_symbols(s, s.symbols)
    many = tuple(f"A{n}" for n in range(8))
    with pytest.raises(SettingsError, match="A3, A4 and 3 more: name coins"):
        check_symbols(settings(feed="coinbase", symbols=many), many)
    check_symbols(settings(), ("AAPL",))


def test_address_and_key_of_massive() -> None:
    assert address_of(settings(), None) == ("wss://socket.massive.com", KEY)
    s = settings(massive_api_key=SecretStr("k"))
    assert address_of(s, None) == ("wss://socket.massive.com", "k")
    assert (origin_of(s, None), shown_source(s, None, Origin.LIVE)) == (Origin.LIVE, "Massive")
    assert (origin_of(settings(), None), shown_source(settings(), None, Origin.SIMULATED)) == (Origin.SIMULATED, None)


def test_a_folder_belongs_to_one_source(tmp_path: Path) -> None:
    claim(tmp_path, settings(feed="coinbase"))
    claim(tmp_path, settings(feed="coinbase"))
    with pytest.raises(SettingsError, match=r"holds live data of Coinbase, and FEED=massive would be mixed into it"):
        claim(tmp_path, settings())


def test_a_log_from_before_is_massives(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(SettingsError, match=r"live data of Massive.*DATA_DIR=var-coinbase"):
        claim(tmp_path, settings(feed="coinbase"))
    claim(tmp_path, settings())


def test_what_stands_between_a_client_and_the_queue(tmp_path: Path) -> None:
    queue = FrameQueue()
    capture = Capture(MASSIVE_HEAD, OneFile(tmp_path / "a.gz"))

    plain = plumbing(Market.STOCKS, queue, "massive")
    assert (plain.sink, plain.session, plain.on_status, plain.on_state) == (queue, None, None, None)

    coins = plumbing(Market.CRYPTO, queue, "coinbase")
    assert isinstance(coins.sink, CoinbaseSink)
    assert coins.session is not None
    assert isinstance(coins.session(["matches.BTC-USD"], 0), CoinbaseSession)

    beside = plumbing(Market.CRYPTO, queue, "coinbase", capture=capture)
    assert isinstance(beside.sink, CapturingSink)
    assert isinstance(beside.sink._then, CoinbaseSink), "what is captured is what came"
    assert beside.on_status == capture.told

    alone = plumbing(Market.CRYPTO, None, "coinbase", capture=capture)
    assert isinstance(alone.sink, CapturingSink)
    assert alone.sink._then is None

    played = plumbing(Market.CRYPTO, queue, "coinbase", recorded=COINBASE_HEAD)
    assert isinstance(played.sink, RecordedSink)
    assert isinstance(played.sink._then, CoinbaseSink)
    assert played.session is not None
    assert '"recorded"' in played.session(["matches.BTC-USD"], 0).opened(0)[0]


def written(path: Path, head: Head) -> Path:
    CaptureWriter(path, head).close()
    return path


def test_captures_that_are_played(tmp_path: Path) -> None:
    one = written(tmp_path / "a.gz", MASSIVE_HEAD)
    two = written(
        tmp_path / "b.gz",
        Head(source="massive", origin=Origin.LIVE, started_ns=0, feeds={"crypto": FeedHead(topics=[])}),
    )
    head = head_of([one, two])
    assert head is not None
    assert sorted(head.feeds) == ["crypto", "stocks"]
    assert recorded_topics(head) == {Market.STOCKS: ["recorded.*"], Market.CRYPTO: ["recorded.*"]}
    replay = Replay([one], "max")
    assert replay.topics() == {Market.STOCKS: ["recorded.*"]}
    assert origin_of(settings(), replay) is Origin.REPLAYED
    coins = written(tmp_path / "c.gz", COINBASE_HEAD)
    assert Replay([coins], "max").topics() == {Market.CRYPTO: ["matches.BTC-USD"]}
    assert shown_source(settings(), Replay([coins], "max").head(), Origin.REPLAYED) == "Coinbase"
    with pytest.raises(InputError, match="cannot be played together"):
        head_of([one, coins])


def test_other_files_are_no_captures(tmp_path: Path) -> None:
    (tmp_path / "day.csv").write_text("ticker\n")
    assert head_of([tmp_path / "day.csv"]) is None
    assert head_of([]) is None
