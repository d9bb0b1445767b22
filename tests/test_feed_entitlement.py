"""What a plan allows: the choice, and asking a real WebSocket server that plays each plan."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.server import ServerConnection, serve

from tapewatch.feed.endings import Cause, Ending, ending
from tapewatch.feed.entitlement import Answer, Entitlement, Host, ask, choose, find
from tapewatch.records import Market
from tapewatch.settings import DELAYED_PLAN_MS
from virtual_time import run_virtual

REAL_TIME, DELAYED = Host("real"), Host("delayed", DELAYED_PLAN_MS)
REFUSED = ending(Cause.AUTH_FAILED, "Your plan doesn't include websocket access.")
AWAY = ending(Cause.UNREACHABLE, "no route")


@pytest.mark.parametrize(
    ("real_time", "delayed", "host", "channel", "words"),
    [
        (("T", "A", "AM"), None, REAL_TIME, "T", []),
        ((), ("T", "A", "AM"), DELAYED, "T", ["15 minutes late"]),
        (("A", "AM"), ("T", "A", "AM"), DELAYED, "T", ["15 minutes late"]),
        ((), ("A", "AM"), DELAYED, "A", ["no trades of stocks; second bars (A)", "15 minutes late"]),
        (("AM",), ("A", "AM"), DELAYED, "A", ["second bars (A)", "15 minutes late"]),
        (("AM",), ("AM",), REAL_TIME, "AM", ["no trades of stocks; minute bars (AM)"]),
    ],
)
def test_trades_before_bars_and_real_time_before_delayed(
    real_time: tuple[str, ...], delayed: tuple[str, ...] | None, host: Host, channel: str, words: Sequence[str]
) -> None:
    answers = [Answer(REAL_TIME, real_time)]
    if delayed is not None:
        answers.append(Answer(DELAYED, delayed))
    found = choose(Market.STOCKS, answers)
    assert isinstance(found, Entitlement)
    assert (found.host, found.channel) == (host, channel)
    assert len(found.notices) == len(words)
    assert all(word in said for word, said in zip(words, found.notices, strict=True))


def test_nothing_allowed_is_refused_with_the_exchanges_words() -> None:
    found = choose(Market.STOCKS, [Answer(REAL_TIME, (), REFUSED), Answer(DELAYED, (), REFUSED)])
    assert found is REFUSED
    found = choose(Market.CRYPTO, [Answer(REAL_TIME), Answer(DELAYED)])
    assert isinstance(found, Ending)
    assert (found.cause, found.fatal) == (Cause.NOT_AUTHORIZED, True)
    assert "XT.*, XAS.*, XA.*" in found.sentence


def test_a_host_that_is_away_may_allow_more_so_bars_are_not_settled_for() -> None:
    assert choose(Market.STOCKS, [Answer(REAL_TIME, ("AM",)), Answer(DELAYED, (), AWAY)]) is AWAY
    found = choose(Market.STOCKS, [Answer(REAL_TIME, (), AWAY), Answer(DELAYED, ("T",))])
    assert isinstance(found, Entitlement)
    assert choose(Market.STOCKS, [Answer(REAL_TIME, (), REFUSED), Answer(DELAYED, (), AWAY)]) is AWAY


# --- asking --------------------------------------------------------------------------------------------------------


class Plan:
    """A server that allows some channels, and says so in one of the ways that were seen."""

    def __init__(self, *allowed: str, refusal: str = "", one_by_one: bool = False, mute: bool = False) -> None:
        self.allowed = allowed
        self.refusal = refusal
        self.one_by_one = one_by_one
        self.mute = mute
        self.asked: list[str] = []
        self.closed: list[int | None] = []

    async def __call__(self, connection: ServerConnection) -> None:
        await connection.send(_status("connected"))
        await connection.recv()
        if self.refusal:
            await connection.send(_status("auth_failed", self.refusal))
            connection.transport.abort()
            return
        await connection.send(_status("auth_success"))
        self.asked = json.loads(await connection.recv())["params"].split(",")
        answers = [] if self.mute else self._answers()
        frames = [[answer] for answer in answers] if self.one_by_one or not answers else [answers]
        for frame in frames:
            await connection.send(json.dumps(frame))
        await connection.wait_closed()
        self.closed.append(connection.close_code)

    def _answers(self) -> list[dict[str, str]]:
        held = [topic for topic in self.asked if topic.partition(".")[0] in self.allowed]
        refusals = [_event("error", "not authorized")] * (len(held) < len(self.asked))
        return [*refusals, *(_event("success", f"subscribed to: {topic}") for topic in held)]


def _event(name: str, message: str = "") -> dict[str, str]:
    return {"ev": "status", "status": name, "message": message}


def _status(name: str, message: str = "") -> str:
    return json.dumps([_event(name, message)])


def with_hosts(*plans: Plan, market: Market = Market.STOCKS, symbol: str = "AAPL") -> Entitlement | Ending:
    async def main() -> Entitlement | Ending:
        async with AsyncExitStack() as stack:
            hosts = []
            for number, plan in enumerate(plans):
                server = await stack.enter_async_context(serve(plan, "127.0.0.1", 0))
                url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
                hosts.append(Host(url, number * DELAYED_PLAN_MS))
            return await find(market, hosts, "secret", symbol)

    return run_virtual(main())


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_real_time_plan_needs_one_host(one_by_one: bool) -> None:
    first, second = Plan("T", "A", "AM", one_by_one=one_by_one), Plan("T")
    found = with_hosts(first, second)
    assert isinstance(found, Entitlement)
    assert (found.channel, found.host.delay_ms, found.allowed, found.notices) == ("T", 0, ("T", "A", "AM"), ())
    assert first.asked == ["T.AAPL", "A.AAPL", "AM.AAPL"]
    assert second.asked == []
    assert first.closed == [1000], "so that the place is free for the feed"


def test_a_delayed_plan_is_found_on_the_second_host() -> None:
    found = with_hosts(Plan(), Plan("T", "A", "AM"))
    assert isinstance(found, Entitlement)
    assert (found.channel, found.host.delay_ms) == ("T", DELAYED_PLAN_MS)


def test_a_plan_of_bars_falls_back_to_second_bars_and_then_to_minute_bars() -> None:
    found = with_hosts(Plan(), Plan("A", "AM"))
    assert isinstance(found, Entitlement)
    assert (found.channel, found.behind_ms) == ("A", 3_000)
    found = with_hosts(Plan(), Plan("AM", one_by_one=True))
    assert isinstance(found, Entitlement)
    assert (found.channel, found.behind_ms) == ("AM", 62_000)


def test_no_plan_is_a_refusal_for_good() -> None:
    words = "Your plan doesn't include websocket access. Visit https://massive.com/pricing to upgrade."
    found = with_hosts(Plan(refusal=words), Plan(refusal=words))
    assert isinstance(found, Ending)
    assert (found.cause, found.fatal) == (Cause.AUTH_FAILED, True)
    assert "Your plan" in found.sentence


def test_other_markets_are_asked_by_their_own_names() -> None:
    plan = Plan("XT")
    found = with_hosts(plan, market=Market.CRYPTO, symbol="BTC")
    assert isinstance(found, Entitlement)
    assert plan.asked == ["XT.BTC-USD", "XAS.BTC-USD", "XA.BTC-USD"]
    plan = Plan("C")
    found = with_hosts(plan, market=Market.FOREX, symbol="EUR/USD")
    assert plan.asked[0] == "C.EUR/USD"


def test_a_host_that_cannot_be_reached_is_a_passing_reason() -> None:
    answer = asyncio.run(ask(Market.STOCKS, Host("ws://127.0.0.1:1"), "secret", "AAPL"))
    assert answer.ended is not None
    assert (answer.allowed, answer.ended.cause, answer.ended.fatal) == ((), Cause.REFUSED, False)


def test_a_host_that_does_not_answer_is_given_up_in_time() -> None:
    found = with_hosts(Plan("T", mute=True))
    assert isinstance(found, Ending)
    assert (found.cause, found.fatal) == (Cause.NO_ACK, False)
