"""Coinbase's trades of the past, from a local server that pages as the exchange does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rest_server import Answer, Server
from tapewatch.feed.backfill import Fill
from tapewatch.feed.coinbase_history import coinbase_fill
from tapewatch.feed.decode import Decoder
from tapewatch.feed.rest import Pace, Rest
from tapewatch.records import Market, Tables

T0_MS = 1_795_701_840_000  # 14:04:00
NOW_NS = 1_795_701_999_000_000_000
SECONDS = 120


def row(number: int) -> dict[str, Any]:
    """Trade ``number`` happened that many seconds after 14:04."""
    minute, second = divmod(number, 60)
    return {
        "trade_id": 1_000 + number,
        "side": "buy",
        "size": "0.01000000",
        "price": f"{60_000 + number}.50000000",
        "time": f"2026-11-26T14:{4 + minute:02d}:{second:02d}.000000Z",
    }


Answered = Callable[[int], Answer | None]


class Exchange(Server):
    """Pages of ``page_rows`` rows whatever limit is asked for; ``answer`` may say something else to some request."""

    def __init__(self, page_rows: int = 50, answer: Answered | None = None) -> None:
        super().__init__(self._reply)
        self._page_rows = page_rows
        self._answer = answer or (lambda number: None)

    def _reply(self, path: str, query: dict[str, str], number: int) -> Answer:
        return self._answer(number) or self._page(path, query)

    def _page(self, path: str, query: dict[str, str]) -> Answer:
        if path != "/products/BTC-USD/trades":
            return 404, {}, {"message": "NotFound"}
        assert query["limit"] == "1000"
        before = int(query.get("after", 1_000 + SECONDS))
        ids = range(before - 1, max(999, before - 1 - self._page_rows), -1)
        headers = {"CB-AFTER": str(ids[-1]), "CB-BEFORE": str(ids[0])} if ids else {}
        return 200, headers, [row(i - 1_000) for i in ids]


def fetched(
    exchange: Exchange, from_s: int, to_s: int, symbols: tuple[str, ...] = ("BTC",), **options: Any
) -> tuple[Fill, list[float]]:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def main() -> Fill:
        async with Rest(exchange.url, "", pace=Pace(), sleep=sleep) as rest:
            return await coinbase_fill(
                rest, Decoder(Tables()), symbols, T0_MS + from_s * 1_000, T0_MS + to_s * 1_000,
                clock_ns=lambda: NOW_NS, **options,
            )  # fmt: skip

    with exchange.running():
        return asyncio.run(main()), waits


def test_a_stretch_with_some_overlap_oldest_first() -> None:
    exchange = Exchange()
    fill, waits = fetched(exchange, 30, 60)
    assert [int(i) - 1_000 for i in fill.batch.ids] == list(range(20, 61)), "10 s before it and up to 1 s after it"
    assert fill.batch.time_ms.tolist() == [T0_MS + 1_000 * n for n in range(20, 61)]
    assert fill.batch.price.tolist() == [60_000.5 + n for n in range(20, 61)]
    assert set(fill.batch.size_e8.tolist()) == {1_000_000}
    assert set(fill.batch.exchange.tolist()) == {1}
    assert set(fill.batch.market.tolist()) == {Market.CRYPTO}
    assert set(fill.batch.received_ns.tolist()) == {NOW_NS}
    assert (fill.missing, fill.why, waits) == ([], "", [])


def test_pages_are_asked_for_back_to_the_beginning_and_no_further() -> None:
    exchange = Exchange(page_rows=25)
    fill, _ = fetched(exchange, 70, 100)
    assert [query.get("after") for _, query, _ in exchange.asked] == [None, "1095", "1070"]
    assert [int(i) - 1_000 for i in fill.batch.ids] == list(range(60, 101))


def test_no_key_is_sent() -> None:
    exchange = Exchange()
    fetched(exchange, 100, 110)
    assert {key for _, _, key in exchange.asked} == {None}


def test_a_history_that_begins_later_is_no_error() -> None:
    fill, _ = fetched(Exchange(), -500, 5)
    assert [int(i) - 1_000 for i in fill.batch.ids] == list(range(6))
    assert fill.missing == []


def test_a_product_that_is_not_traded_is_missing_and_the_others_are_there() -> None:
    fill, _ = fetched(Exchange(), 30, 40, ("BTC", "FOO-USD"))
    assert len(fill.batch) == 21
    assert fill.missing == ["FOO-USD"]
    assert fill.why == "The exchange did not understand the request for the trades of FOO-USD: HTTP 404, NotFound."


def test_a_busy_exchange_is_asked_again_after_its_pause() -> None:
    exchange = Exchange(
        answer=lambda number: (429, {"Retry-After": "7"}, {"message": "slow down"}) if number == 1 else None
    )
    fill, waits = fetched(exchange, 100, 110)
    assert len(fill.batch) == 21
    assert fill.missing == []
    assert 7.0 in waits


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"[" * 100_000])
def test_an_answer_that_cannot_be_read_is_said(body: bytes) -> None:
    fill, _ = fetched(Exchange(answer=lambda number: (200, {}, body)), 30, 40)
    assert fill.missing == ["BTC"]
    assert "for the trades of BTC-USD cannot be read" in fill.why


def test_rows_that_are_no_trades_are_left_out_and_end_no_paging() -> None:
    rows = [row(9), {"trade_id": 1}, row(8) | {"price": "x"}, row(7)]
    fill, _ = fetched(Exchange(answer=lambda number: (200, {}, rows)), 0, 20)
    assert [int(i) - 1_000 for i in fill.batch.ids] == [7, 9]
    assert fill.missing == []


def test_too_many_pages_are_said_and_what_came_is_kept() -> None:
    exchange = Exchange(page_rows=10)
    fill, _ = fetched(exchange, 0, 200, pages_max=3)
    assert len(exchange.asked) == 3
    assert len(fill.batch) == 30
    assert fill.missing == ["BTC"]
    assert "fill more than 3 pages" in fill.why
    assert "WARMUP" in fill.why


def test_a_page_that_does_not_move_on_is_no_endless_loop() -> None:
    exchange = Exchange(answer=lambda number: (200, {"CB-AFTER": "1050"}, [row(50)]))
    fill, _ = fetched(exchange, 0, 60, pages_max=5)
    assert len(exchange.asked) == 5
    assert fill.missing == ["BTC"]
