"""simulator/session.py and bars.py: the protocol's statuses byte for byte, and bars that agree with the trades."""

from __future__ import annotations

import doctest

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.records import E8, Market
from tapewatch.simulator import session as module
from tapewatch.simulator import tape as tape_module
from tapewatch.simulator.bars import CryptoBar, StockBar, bars
from tapewatch.simulator.market import SeededMarket
from tapewatch.simulator.session import End, Rules, Session, State
from tapewatch.simulator.tape import NS_PER_MS, Prints

AUTH = '{"action":"auth","params":"key"}'


def status(status: str, message: str) -> bytes:
    return b'{"ev":"status","status":"%s","message":"%s"}' % (status.encode(), message.encode())


def signed_in(market: Market = Market.STOCKS, **rules: object) -> Session:
    session = Session(market, Rules(**rules))  # type: ignore[arg-type]
    assert session.received(AUTH).frames == [b"[" + status("auth_success", "authenticated") + b"]"]
    return session


def subscribe(params: str, action: str = "subscribe") -> str:
    return f'{{"action":"{action}","params":"{params}"}}'


def test_the_usual_course_byte_for_byte() -> None:
    session = Session(Market.STOCKS, Rules())
    assert session.opened() == b'[{"ev":"status","status":"connected","message":"Connected Successfully"}]'
    assert session.received(AUTH).frames == [b'[{"ev":"status","status":"auth_success","message":"authenticated"}]']
    assert session.received(subscribe("T.AAPL,AM.*")).frames == [
        b'[{"ev":"status","status":"success","message":"subscribed to: T.AAPL"},'
        b'{"ev":"status","status":"success","message":"subscribed to: AM.*"}]'
    ]
    assert session.received(subscribe("T.AAPL", "unsubscribe")).frames == [
        b'[{"ev":"status","status":"success","message":"unsubscribed to: T.AAPL"}]'
    ]
    assert session.symbols("T") == set()
    assert session.symbols("AM") == {"*"}


def test_acknowledgements_may_come_one_a_frame() -> None:
    frames = signed_in(single_acks=True).received(subscribe("T.A,T.B")).frames
    assert frames == [b"[" + status("success", f"subscribed to: T.{s}") + b"]" for s in "AB"]


@pytest.mark.parametrize(
    ("params", "acknowledged"),
    [
        (" T.AAPL ,  T.MSFT,", ["T.AAPL", "T.MSFT"]),  # trimmed
        ("T.BRK.B", ["T.BRK.B"]),  # split at the first dot
        ("T.*", ["T.*"]),
        ("ZZ.AAPL,T.A", ["T.A"]),  # an unknown channel is silent
        ("XT.BTC-USD", []),  # another cluster's channel too
        ("AAPL,T.,,.A", []),
        ("T.A,T.A", ["T.A"]),  # a repeat is silent
        ("T.NOSUCHTICKER", ["T.NOSUCHTICKER"]),  # an unknown ticker is acknowledged
    ],
)
def test_topics(params: str, acknowledged: list[str]) -> None:
    frames = signed_in().received(subscribe(params)).frames
    found = [s["message"] for frame in frames for s in msgspec.json.decode(frame)]
    assert found == [f"subscribed to: {topic}" for topic in acknowledged]


def test_what_is_held_or_not_held_is_silent() -> None:
    session = signed_in()
    session.received(subscribe("T.A"))
    assert session.received(subscribe("T.A")).frames == []
    assert session.received(subscribe("T.B", "unsubscribe")).frames == []
    assert session.received(AUTH).frames == []
    assert session.listens()
    session.received(subscribe("T.A", "unsubscribe"))
    assert not session.listens()


def test_a_channel_outside_the_plan_is_refused_first_and_without_its_name() -> None:
    session = signed_in(channels=frozenset(["AM"]))
    frames = session.received(subscribe("AM.A,T.A,T.B")).frames
    assert frames == [b"[" + status("error", "not authorized") + b"," + status("success", "subscribed to: AM.A") + b"]"]
    assert session.symbols("T") == set()


def test_keys() -> None:
    rules = Rules(keys=frozenset(["good", "poor"]), no_plan_keys=frozenset(["poor"]))
    good, bad, poor, empty = (Session(Market.STOCKS, rules) for _ in range(4))
    assert good.received(subscribe("good", "auth")).end is None
    answer = bad.received(subscribe("other", "auth"))
    assert answer == (
        [b"[" + status("auth_failed", "authentication failed") + b"]"],
        End(1008, "authentication failed"),
    )
    answer = poor.received(subscribe("poor", "auth"))
    text = "Your plan doesn't include websocket access. Visit https://massive.com/pricing to upgrade."
    assert answer == ([b"[" + status("auth_failed", text) + b"]"], End(None))  # cut off without a close
    assert empty.received(subscribe("", "auth")).end is not None
    assert [s.state for s in (good, bad, poor, empty)] == [State.AUTHENTICATED, *[State.ENDED] * 3]
    assert Session(Market.STOCKS, Rules()).received(subscribe("", "auth")).end is not None


def test_endings_that_are_not_the_clients() -> None:
    session = Session(Market.STOCKS, Rules())
    answer = session.timed_out()
    assert answer.frames == [b"[" + status("auth_timeout", "No authentication request received.") + b"]"]
    for end in (Session.evicted, Session.overflowed):
        session = signed_in()
        session.received(subscribe("T.A"))
        answer = end(session)
        assert msgspec.json.decode(answer.frames[0])[0]["status"] in ("max_connections", "slow_consumer")
        assert answer.end is not None
        assert answer.end.code == 1008
        assert not session.listens()


def test_nothing_but_auth_before_auth() -> None:
    session = Session(Market.STOCKS, Rules())
    assert b'"auth_required"' in session.received(subscribe("T.A")).frames[0]
    assert not session.listens()


@given(st.binary(max_size=60) | st.text(max_size=60) | st.sampled_from(['{"action":[]}', "[" * 5000, "{}", "null"]))
def test_nothing_a_client_sends_raises(message: str | bytes) -> None:
    session = signed_in()
    answer = session.received(message)
    assert session.state is State.AUTHENTICATED
    assert all(msgspec.json.decode(frame) for frame in answer.frames)


def test_control_messages_may_be_spaced_and_binary() -> None:
    session = Session(Market.CRYPTO, Rules())
    assert b"auth_success" in session.received(b'{ "action" : "auth",\n "params": " key " , "more": 1}').frames[0]
    assert session.key == "key"
    assert b"XT.BTC-USD" in session.received('{"params": "XT.BTC-USD", "action": "subscribe"}').frames[0]


def test_the_examples_in_the_text_are_true() -> None:
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(tape_module).failed == 0


# --- bars ------------------------------------------------------------------------------------------------------

NOON = 1_763_658_000_000  # 2025-11-20 12:00 in New York
EVENING = NOON + 6 * 3_600_000
TABLE: list[tuple[int, ...]] = [(), (37,), (12,), (10,), (15,), (12, 37)]


def prints(start_ms: int, *rows: tuple[int, float, float, int]) -> Prints:
    """From (ms after the start, price, size, number of the conditions)."""
    count = len(rows)
    none = np.zeros(count, np.int64)
    time_ns = np.array([start_ms + r[0] for r in rows], np.int64) * NS_PER_MS
    return Prints(
        time_ns=time_ns,
        participant_ns=time_ns,
        trf_ns=none,
        price=np.array([r[1] for r in rows]),
        size_e8=np.array([round(r[2] * E8) for r in rows], np.int64),
        exchange=none,
        trf=none,
        tape=none,
        sequence=np.arange(count),
        conditions=np.array([r[3] for r in rows], np.int32),
        ids=[""] * count,
        condition_table=TABLE,
    )


def test_a_minute_bar_by_hand() -> None:
    made = prints(
        NOON,
        (0, 50.0, 10.5, 1),
        (5, 10.0, 100, 0),
        (6, 12.0, 100, 3),
        (7, 9.0, 50, 2),
        (8, 11.0, 100, 0),
        (9, 1, 1e4, 4),
    )  # odd lot: volume only; derived: no close; Form T in regular hours: volume only; official close: nothing
    assert list(bars("AM", Market.STOCKS, "A", made)) == [
        StockBar(
            ev="AM", sym="A", v=360, dv="360.5", vw=round((525 + 1000 + 1200 + 450 + 1100) / 360.5, 6),
            o=10.0, c=11.0, h=12.0, l=10.0, z=72, s=NOON, e=NOON + 60_000,
        )
    ]  # fmt: skip


def test_form_t_makes_bars_in_the_evening_and_odd_lots_alone_make_none() -> None:
    (bar,) = bars("A", Market.STOCKS, "A", prints(EVENING, (1, 9.0, 50, 2), (2, 8.0, 1, 5)))
    assert (bar.o, bar.l, bar.c) == (9.0, 9.0, 9.0)
    assert list(bars("A", Market.STOCKS, "A", prints(NOON, (1, 9.0, 50, 1)))) == []


def test_each_window_has_its_own_bar() -> None:
    made = prints(NOON, (999, 1.0, 1, 0), (1000, 2.0, 1, 0), (1999, 3.0, 1, 0), (5000, 4.0, 1, 0))
    found = list(bars("A", Market.STOCKS, "A", made))
    assert [(b.s - NOON, b.o, b.c) for b in found] == [(0, 1.0, 1.0), (1000, 2.0, 3.0), (5000, 4.0, 4.0)]
    assert [b.e - b.s for b in found] == [1000] * 3


def test_seconds_add_up_to_the_minute_for_crypto() -> None:
    start = NOON * NS_PER_MS
    minute = SeededMarket(1, 20).trades(Market.CRYPTO, "BTC-USD", start, start + 60_000 * NS_PER_MS)
    (whole,) = bars("XA", Market.CRYPTO, "BTC-USD", minute)
    seconds = list(bars("XAS", Market.CRYPTO, "BTC-USD", minute))
    assert isinstance(whole, CryptoBar)
    assert (whole.o, whole.c) == (minute.price[0], minute.price[-1])
    assert whole.h == max(b.h for b in seconds)
    assert whole.l == min(b.l for b in seconds)
    assert whole.v == pytest.approx(sum(b.v for b in seconds))
