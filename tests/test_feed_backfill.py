"""What the stream did not show, from a real HTTP server that follows a script."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from rest_server import Answer, Server
from tapewatch.errors import FeedError, FeedRefused
from tapewatch.feed import rest
from tapewatch.feed.backfill import Fill, History, fill
from tapewatch.feed.decode import Decoder
from tapewatch.feed.rest import Pace, PlanLacks
from tapewatch.records import COLUMNS, Batch, Market, Refused, Tables

T_NS = 1_788_877_046_310_123_456
NOW_NS = 1_788_877_999_000_000_000
STOCK = {"id": "529", "price": 210.5, "size": 0, "decimal_size": "0.25", "exchange": 4, "trf_id": 202, "tape": 3}
STOCK |= {"sip_timestamp": T_NS, "participant_timestamp": T_NS - 9, "sequence_number": 1, "conditions": [14, 37]}
COIN = {"id": "988", "price": 65_000.25, "size": 0.5, "exchange": 1, "conditions": [2], "participant_timestamp": T_NS}


class Client:
    """A `History` of a server, with its tables, a clock that only waiting moves, and the waits it asked for."""

    def __init__(self, calls_per_minute: int = 0, **options: Any) -> None:
        self.tables = Tables()
        self.decoder = Decoder(self.tables)
        self.waits: list[float] = []
        self.now_s = 1_000.0
        self.refused: dict[Refused, int] = {}
        self.calls: Callable[[], int] = lambda: 0
        """Requests that the `History` has made so far."""
        self.options = {"pace": Pace(calls_per_minute, lambda: self.now_s), "sleep": self._sleep} | options

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds

    def run(self, server: Server, ask: Callable[[History], Any]) -> Any:
        async def main() -> Any:
            async with History(server.url, "secret", clock_ns=lambda: NOW_NS, **self.options) as history:
                self.calls = lambda: history.rest.calls
                try:
                    return await ask(history)
                finally:
                    self.refused = dict(history.refused)

        with server.running():
            return asyncio.run(main())

    def trades(self, server: Server, symbol: str = "AAPL") -> Batch:
        async def ask(history: History) -> Batch:
            batches: list[Batch] = []
            await history.trades(self.decoder, symbol, 1_000, 2_000, batches, float("inf"))
            return Batch.join([batch for batch in batches if len(batch)])

        batch = self.run(server, ask)
        assert isinstance(batch, Batch)
        return batch

    def fill(self, server: Server, symbols: list[str], from_ms: int = 0, to_ms: int = 1, **options: Any) -> Fill:
        got = self.run(server, lambda history: fill(history, self.decoder, symbols, from_ms, to_ms, **options))
        assert isinstance(got, Fill)
        return got


def one_page(*rows: dict[str, Any]) -> Server:
    return Server(lambda *_: (200, {}, {"status": "OK", "results": list(rows)}))


def test_the_request_and_the_records() -> None:
    server, client = one_page(STOCK), Client()
    batch = client.trades(server)
    query = {"timestamp.gte": "1000000000", "timestamp.lt": "2000000000", "order": "asc", "sort": "timestamp"}
    assert server.asked == [("/v3/trades/AAPL", query | {"limit": "50000"}, "Bearer secret")]
    assert batch.received_ns.tolist() == [NOW_NS]
    streamed = {"ev": "T", "sym": "AAPL", "x": 4, "i": "529", "p": 210.5, "s": 0, "ds": "0.25", "c": [14, 37]}
    streamed |= {"t": T_NS // 1_000_000, "trfi": 202}
    same = client.decoder.decode([(Market.STOCKS, json.dumps([streamed]).encode(), NOW_NS)]).batch
    assert [getattr(batch, name).tolist() for name in COLUMNS] == [getattr(same, name).tolist() for name in COLUMNS]
    assert batch.ids == same.ids


def test_a_crypto_pair() -> None:
    server, client = one_page(COIN), Client()
    batch = client.trades(server, "BTC")
    assert server.asked[0][0] == "/v3/trades/X:BTC-USD"
    assert client.tables.symbols.values == ["BTC"]
    assert (batch.market.tolist(), batch.size_e8.tolist(), batch.conditions.tolist()) == ([1], [50_000_000], [0])
    assert batch.time_ms.tolist() == [T_NS // 1_000_000]


def test_pages_are_followed_on_the_same_server_whatever_host_they_name() -> None:
    def reply(path: str, query: dict[str, str], number: int) -> Answer:
        row = STOCK | {"id": str(number), "sip_timestamp": T_NS + number * 1_000_000}
        next_url = f"https://elsewhere.example/v3/trades/AAPL?cursor={number}" if number < 3 else None
        return 200, {}, {"results": [row], "next_url": next_url}

    server, client = Server(reply), Client()
    batch = client.trades(server)
    assert batch.ids == ["1", "2", "3"]
    assert [query.get("cursor") for _, query, _ in server.asked] == [None, "1", "2"]


def test_cancelled_trades_are_left_out_and_bad_rows_counted() -> None:
    rows = [STOCK | {"id": str(code), "correction": code} for code in (0, 1, 7, 8, 10, 11, 12)]
    client = Client()
    batch = client.trades(one_page(*rows, STOCK | {"price": -1}, STOCK))
    assert batch.ids == ["0", "12", "529"]
    assert client.refused == {Refused.BAD_VALUE: 1}


def test_no_trades() -> None:
    assert len(Client().trades(one_page())) == 0
    assert len(Client().trades(Server(lambda *_: (200, {}, {"status": "OK"})))) == 0


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    def reply(path: str, query: dict[str, str], number: int) -> Answer:
        busy = {1: (429, {"Retry-After": "7"}), 2: (429, {"Retry-After": "soon"}), 3: (503, {"Retry-After": "9999"})}
        status, headers = busy.get(number, (200, {}))
        return status, headers, {"results": [STOCK]}

    client = Client()
    assert client.trades(Server(reply)).ids == ["529"]
    assert client.waits == [7.0, 1.0, 60.0]


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (401, {"error": "Unknown API Key"}, FeedRefused, "Unknown API Key.*check MASSIVE_API_KEY"),
        (403, {"message": "You are not entitled"}, PlanLacks, r"not entitled.*plan lacks trades \(REST\)"),
        (400, {"error": "bad timestamp"}, FeedError, "HTTP 400, bad timestamp"),
        (302, b"", FeedError, "HTTP 302"),
        (500, b"oops", FeedError, "after 5 attempts: HTTP 500"),
        (429, {"error": 5}, FeedError, "after 5 attempts: HTTP 429"),
        (200, b"<html>", FeedError, "cannot be read"),
        (200, b"[" * 100_000, FeedError, "cannot be read"),
        (200, {"results": 5}, FeedError, "cannot be read"),
        (200, {"next_url": "http://[::1"}, FeedError, "at an address that is none"),
    ],
)
def test_answers_that_cannot_be_used(status: int, body: Any, error: type[Exception], words: str) -> None:
    server = Server(lambda *_: (status, {"Location": "/elsewhere"} if status == 302 else {}, body))
    with pytest.raises(error, match=words) as raised:
        Client().trades(server)
    assert type(raised.value) is error
    assert "AAPL" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert {path for path, _, _ in server.asked} == {"/v3/trades/AAPL"}, "no redirect is followed"


def test_a_server_that_is_not_there() -> None:
    client = Client()

    async def main(url: str) -> None:
        async with History(url, "k", **client.options) as history:
            await history.trades(client.decoder, "AAPL", 0, 1, [], float("inf"))

    with socket.socket() as deaf:  # which keeps the port, and does not listen
        deaf.bind(("127.0.0.1", 0))
        with pytest.raises(FeedError, match=r"cannot be had from 127\.0\.0\.1 after 5 attempts"):
            asyncio.run(main(f"http://127.0.0.1:{deaf.getsockname()[1]}"))
    assert client.waits == [0.5, 1.0, 2.0, 4.0]


def test_pages_and_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = Server(lambda *_: (200, {}, {"results": [], "next_url": "/v3/trades/AAPL?cursor=1"}))
    with pytest.raises(FeedError, match="more than 3 pages"):
        Client(pages_max=3).trades(endless)
    assert len(endless.asked) == 3
    monkeypatch.setattr(rest, "PAGE_BYTES_MAX", 1_000)
    with pytest.raises(FeedError, match="larger than 1000 bytes"):
        Client().trades(Server(lambda *_: (200, {}, b"x" * 1_001)))


def test_all_symbols_merge_by_time_and_then_as_they_are_given() -> None:
    def reply(path: str, query: dict[str, str], number: int) -> Answer:
        name = path.rpartition("/")[2]
        base, field = (COIN, "participant_timestamp") if name.startswith("X:") else (STOCK, "sip_timestamp")
        rows = [base | {"id": f"{name}{n}", field: T_NS + n * 5_000_000} for n in range(3)]
        return 200, {}, {"results": rows[: 2 if name == "TSLA" else 3]}

    got = Client().fill(Server(reply), ["TSLA", "BTC", "AAPL"])
    assert got.batch.ids == ["TSLA0", "X:BTC-USD0", "AAPL0", "TSLA1", "X:BTC-USD1", "AAPL1", "X:BTC-USD2", "AAPL2"]
    assert got.batch.time_ms.tolist() == sorted(got.batch.time_ms.tolist())
    assert (got.missing, got.why) == ([], "")


def test_a_stretch_is_asked_for_with_some_overlap() -> None:
    server = one_page()
    Client().fill(server, ["AAPL"], 60_000, 90_000)
    assert {k: v for k, v in server.asked[0][1].items() if k.startswith("timestamp")} == {
        "timestamp.gte": "50000000000",
        "timestamp.lt": "91000000000",
    }


def test_one_symbol_s_error_costs_the_others_nothing_and_keeps_the_pages_that_came() -> None:
    def reply(path: str, query: dict[str, str], number: int) -> Answer:
        if "MSFT" in path:
            return 400, {}, {"error": "no such ticker"}
        if "TSLA" in path and "cursor" in query:
            return 404, {}, {"error": "lost the thread"}
        next_url = f"{path}?cursor=2" if "TSLA" in path else None
        return 200, {}, {"results": [STOCK | {"id": path[-4:]}], "next_url": next_url}

    got = Client().fill(Server(reply), ["MSFT", "TSLA", "AAPL"])
    assert (sorted(got.batch.ids), got.missing, got.vain) == (["AAPL", "TSLA"], ["MSFT", "TSLA"], False)
    assert "the trades of MSFT: HTTP 400, no such ticker" in got.why
    empty = Client().fill(one_page(), [])
    assert (len(empty.batch), empty.missing) == (0, [])


def test_a_wrong_key_fills_nothing_and_is_said() -> None:
    got = Client().fill(Server(lambda *_: (401, {}, {"error": "Unknown API Key"})), ["AAPL", "TSLA"])
    assert (len(got.batch), got.missing, got.vain) == (0, ["AAPL", "TSLA"], True)
    assert "check MASSIVE_API_KEY" in got.why


def test_five_calls_a_minute_are_never_exceeded_and_a_deadline_ends_the_waiting() -> None:
    times: list[float] = []

    async def sleep(seconds: float) -> None:
        """The clock goes on when all that was sent before is noted, and is moved by the longest of all who wait."""
        due_s = client.now_s + seconds
        while len(times) < client.calls():
            await asyncio.sleep(0.001)
        client.now_s = max(client.now_s, due_s)

    client = Client(calls_per_minute=5, sleep=sleep)

    def reply(path: str, query: dict[str, str], number: int) -> Answer:
        times.append(client.now_s)
        return 200, {}, {"results": [STOCK | {"id": path[-2:]}]}

    server = Server(reply)
    symbols = [f"A{letter}" for letter in "ABCDEFGHIJKL"]
    assert client.fill(server, symbols).missing == []
    assert len(times) == 12
    assert all(later - earlier >= 60 for earlier, later in zip(times, times[5:], strict=False))
    assert times[-1] - times[0] == 120, "and no longer than needed"
    server.asked.clear()
    in_time = Client(calls_per_minute=5)
    got = in_time.fill(server, symbols, within_s=30)
    assert (got.batch.ids, got.missing) == (["AA", "AB", "AC", "AD", "AE"], symbols[5:])
    assert (len(server.asked), in_time.waits) == (5, [])
    assert "REST_CALLS_PER_MINUTE" in got.why


def test_a_pause_that_one_is_told_holds_for_all() -> None:
    busy = {1: (429, {"Retry-After": "9"})}
    server = Server(lambda path, query, n: (*busy.get(n, (200, {})), {"results": [STOCK | {"id": path[-4:]}]}))
    client = Client()
    pace = client.options["pace"]
    assert client.fill(server, ["AAPL"]).batch.ids == ["AAPL"]
    assert client.waits == [9.0]
    pace.pause(20)
    assert (pace.take(client.now_s + 19), pace.take(client.now_s + 21)) == (None, 20.0)
    # what is asked for in the time left is not asked for at all when the pause is longer
    busy[3] = (429, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"})
    client.now_s += 20
    assert client.fill(server, ["TSLA"], within_s=0.2).missing == ["TSLA"]


BAR = {"o": 10.0, "h": 12.0, "l": 9.0, "c": 11.0, "v": 5, "vw": 10.5, "n": 3}
MINUTE = 60_000
START = 1_788_877_020_000


def bars_only(*starts: int) -> Server:
    def reply(path: str, query: dict[str, str], number: int) -> Answer:
        if path.startswith("/v3/trades"):
            return 403, {}, {"message": "You are not entitled"}
        return 200, {}, {"results": [BAR | {"t": start} for start in starts]}

    return Server(reply)


def test_where_the_plan_has_no_trades_bars_fill_whole_minutes_and_no_other() -> None:
    # the gap begins in a minute of which trades are known, and ends in one that goes on
    server = bars_only(START, START + MINUTE, START + 2 * MINUTE, START + 3 * MINUTE)
    client = Client()
    got = client.fill(server, ["AAPL", "TSLA"], START + 5_000, START + 3 * MINUTE + 7_000)
    paths = [path for path, _, _ in server.asked]
    assert paths.count("/v3/trades/AAPL") == 1
    # known to have none after the first refusal; those asked for at the same time are told so too
    assert paths.count("/v3/trades/TSLA") <= 1
    asked = [(path, query["adjusted"]) for path, query, _ in server.asked if "aggs" in path]
    where = f"range/1/minute/{START + MINUTE}/{START + 2 * MINUTE}"
    assert sorted(asked) == [(f"/v2/aggs/ticker/{name}/{where}", "false") for name in ("AAPL", "TSLA")]
    assert {one.split(":")[1] for one in got.batch.ids} == {str(START + MINUTE), str(START + 2 * MINUTE)}
    assert len(got.batch) == 2 * 2 * 5
    assert (got.missing, got.vain) == (["AAPL", "TSLA"], True)
    assert "part of a minute" in got.why
    # the same on a plan whose stream is bars: then nothing of theirs is counted twice, and all of it is there
    server.asked.clear()
    got = Client().fill(server, ["AAPL"], START + 5_000, START + 90_000, beside_trades=False)
    assert (got.missing, len(server.asked)) == ([], 1), "its trades are not even asked for: they would count twice"
    assert server.asked[-1][0] == f"/v2/aggs/ticker/AAPL/range/1/minute/{START}/{START}"


def test_bars_by_rest_are_the_records_of_the_stream_s_bars() -> None:
    client = Client(barred={Market.STOCKS, Market.CRYPTO})
    got = client.fill(bars_only(START), ["AAPL"], START - 1_000, START + MINUTE)
    streamed = {"ev": "AM", "sym": "AAPL", "s": START, "e": START + MINUTE} | {k: BAR[k] for k in ("o", "h", "l", "c")}
    streamed |= {"v": 5, "vw": 10.5}
    same = client.decoder.decode([(Market.STOCKS, json.dumps([streamed]).encode(), NOW_NS)]).batch
    same = same.take(same.time_ms.argsort(kind="stable"))
    assert got.batch.ids == same.ids
    assert [getattr(got.batch, name).tolist() for name in COLUMNS] == [getattr(same, name).tolist() for name in COLUMNS]
    assert got.missing == []
    pair = bars_only(START)
    assert len(client.fill(pair, ["BTC"], START - 1_000, START + MINUTE).batch) == 5
    assert pair.asked[-1][0].startswith("/v2/aggs/ticker/X:BTCUSD/range/1/minute/")
