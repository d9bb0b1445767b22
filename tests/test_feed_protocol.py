"""One connection's states, by calling it: handshake, acknowledgements, changes of what is watched, endings."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.feed.protocol import (
    ACK_LIMIT_NS,
    HANDSHAKE_LIMIT_NS,
    Cause,
    Phase,
    Session,
    TopicState,
    ending,
)
from tapewatch.feed.wire import STABLE_NS
from tapewatch.records import Market
from tapewatch.settings import SUBSCRIBE_TOPICS_MAX

CONNECTED = {"ev": "status", "status": "connected", "message": "Connected Successfully"}
AUTHENTICATED = {"ev": "status", "status": "auth_success", "message": "authenticated"}
DATA = {"ev": "T", "sym": "AAPL", "p": 1}


def ack(topic: str) -> dict[str, str]:
    return {"ev": "status", "status": "success", "message": f"subscribed to: {topic}"}


def status(name: str, message: str = "") -> dict[str, str]:
    return {"ev": "status", "status": name, "message": message}


def say(session: Session, *events: Any, now_ns: int = 0) -> tuple[list[Any], bool]:
    replies, has_data = session.received(json.dumps(events).encode(), now_ns)
    return [json.loads(reply) for reply in replies], has_data


def subscribing(*topics: str) -> Session:
    session = Session(Market.STOCKS, "key", topics, 0)
    say(session, CONNECTED)
    say(session, AUTHENTICATED)
    return session


def test_the_normal_sequence() -> None:
    session = Session(Market.STOCKS, 'k"1', ["T.AAPL", "T.TSLA"], 0)
    assert session.phase is Phase.CONNECTING
    assert say(session, CONNECTED) == ([{"action": "auth", "params": 'k"1'}], False)
    assert session.phase is Phase.AUTHENTICATING
    assert say(session, AUTHENTICATED) == ([{"action": "subscribe", "params": "T.AAPL,T.TSLA"}], False)
    assert session.phase is Phase.SUBSCRIBING
    assert say(session, ack("T.AAPL")) == ([], False)
    assert session.phase is Phase.LIVE
    assert session.acked == ["T.AAPL"]
    assert say(session, ack("T.TSLA"), DATA) == ([], True)
    assert session.acked == ["T.AAPL", "T.TSLA"]


def test_a_greeting_of_the_older_kind() -> None:
    session = Session(Market.STOCKS, "k", ["T.A"], 0)
    assert say(session, status("success", "Connected Successfully"))[0][0]["action"] == "auth"


def test_all_in_one_frame() -> None:
    session = Session(Market.STOCKS, "k", ["T.A", "T.B"], 0)
    replies, has_data = say(session, CONNECTED, AUTHENTICATED, ack("T.A"), DATA, ack("T.B"))
    assert [reply["action"] for reply in replies] == ["auth", "subscribe"]
    assert (session.phase, session.acked, has_data) == (Phase.LIVE, ["T.A", "T.B"], True)


def test_data_before_the_first_ack_is_live() -> None:
    session = subscribing("T.A")
    assert say(session, DATA) == ([], True)
    assert (session.phase, session.acked) == (Phase.LIVE, [])
    say(session, ack("T.A"))
    assert session.acked == ["T.A"]


def test_data_before_the_subscription_is_not_live() -> None:
    session = Session(Market.STOCKS, "k", ["T.A"], 0)
    assert say(session, DATA) == ([], True)
    assert (session.phase, session.was_live) == (Phase.CONNECTING, False)


def test_many_topics_go_in_chunks() -> None:
    topics = [f"T.S{n}" for n in range(2 * SUBSCRIBE_TOPICS_MAX + 1)]
    session = Session(Market.STOCKS, "k", topics, 0)
    say(session, CONNECTED)
    chunks = [reply["params"].split(",") for reply in say(session, AUTHENTICATED)[0]]
    assert [len(chunk) for chunk in chunks] == [SUBSCRIBE_TOPICS_MAX, SUBSCRIBE_TOPICS_MAX, 1]
    assert [topic for chunk in chunks for topic in chunk] == topics


def test_acks_of_other_topics_say_nothing() -> None:
    session = subscribing("T.A")
    say(session, ack("T.B"), status("success", "unsubscribed to: T.A"), status("success"))
    assert (session.phase, session.acked) == (Phase.SUBSCRIBING, [])


def test_a_topic_without_an_answer_is_unconfirmed_and_the_feed_live() -> None:
    session = subscribing("T.A", "T.B")
    say(session, ack("T.A"), now_ns=1)
    session.overdue(ACK_LIMIT_NS - 1)
    assert session.unconfirmed == []
    session.overdue(ACK_LIMIT_NS)
    assert (session.phase, session.unconfirmed, session.ended) == (Phase.LIVE, ["T.B"], None)
    say(session, ack("T.B"))
    assert (session.acked, session.unconfirmed) == (["T.A", "T.B"], [])


@pytest.mark.parametrize(
    ("frames", "cause"),
    [
        ([], Cause.HANDSHAKE),
        ([CONNECTED], Cause.HANDSHAKE),
        ([CONNECTED, AUTHENTICATED], Cause.NO_ACK),
        ([CONNECTED, AUTHENTICATED, status("error", "not authorized")], Cause.NOT_AUTHORIZED),
    ],
)
def test_what_is_waited_for_in_vain(frames: list[Any], cause: Cause) -> None:
    session = Session(Market.STOCKS, "k", ["T.A"], 0)
    for frame in frames:
        say(session, frame, now_ns=5)
    session.overdue(5 + HANDSHAKE_LIMIT_NS)
    assert session.ended is not None
    assert (session.ended.cause, session.phase) == (cause, Phase.CLOSED)


def test_not_authorized_beside_acks_is_counted_and_ends_nothing() -> None:
    session = subscribing("T.A", "Q.A")
    say(session, status("error", "not authorized"), ack("T.A"))
    session.overdue(ACK_LIMIT_NS)
    assert (session.phase, session.not_authorized) == (Phase.LIVE, 1)
    assert (session.refused, session.unconfirmed) == (["Q.A"], [])


def test_a_refusal_names_no_topic_so_it_is_found_by_its_channel() -> None:
    """One channel is confirmed, so the plan has it; of the other the exchange has confirmed nothing."""
    session = subscribing("T.A", "T.B", "Q.A", "Q.B")
    say(session, status("error", "not authorized"), ack("T.A"))
    session.overdue(ACK_LIMIT_NS)
    assert (session.refused, session.unconfirmed) == (["Q.A", "Q.B"], ["T.B"])
    say(session, ack("Q.A"))
    assert session.refused == ["Q.B"]


# --- what is watched changes, and the connection is kept -----------------------------------------------------------


def live(*topics: str) -> Session:
    session = subscribing(*topics)
    say(session, *map(ack, topics))
    return session


def change(session: Session, *topics: str, now_ns: int = 0) -> list[tuple[str, list[str]]]:
    messages = [json.loads(message) for message in session.change(topics, now_ns)]
    return [(message["action"], message["params"].split(",")) for message in messages]


def test_only_the_difference_is_told() -> None:
    session = live("T.A", "T.B")
    assert change(session, "T.B", "T.C", "T.D") == [("subscribe", ["T.C", "T.D"]), ("unsubscribe", ["T.A"])]
    assert change(session, "T.B", "T.C", "T.D") == []
    assert (session.phase, session.acked) == (Phase.LIVE, ["T.B"])
    say(session, ack("T.C"), ack("T.A"))
    assert session.acked == ["T.B", "T.C"], "T.A is not wanted any more, whatever the exchange says of it"


def test_each_request_has_an_ack_timer_of_its_own() -> None:
    session = live("T.A")
    change(session, "T.A", "T.B", now_ns=5)
    change(session, "T.A", "T.B", "T.C", now_ns=9)
    session.overdue(5 + ACK_LIMIT_NS)
    assert (session.unconfirmed, session.ended) == (["T.B"], None)
    session.overdue(9 + ACK_LIMIT_NS)
    assert (session.unconfirmed, session.ended) == (["T.B", "T.C"], None)


def test_an_unconfirmed_topic_is_not_asked_for_again() -> None:
    session = live("T.A")
    change(session, "T.A", "T.B")
    session.overdue(ACK_LIMIT_NS)
    assert change(session, "T.A", "T.B", "T.C") == [("subscribe", ["T.C"])]
    assert session.topics["T.B"] is TopicState.UNCONFIRMED


def test_a_topic_that_was_given_back_may_be_asked_for_again() -> None:
    session = live("T.A", "T.B")
    assert change(session, "T.A") == [("unsubscribe", ["T.B"])]
    say(session, {"ev": "status", "status": "success", "message": "unsubscribed to: T.B"})
    assert change(session, "T.A", "T.B") == [("subscribe", ["T.B"])]


@pytest.mark.parametrize("frames", [[], [CONNECTED]])
def test_a_change_during_the_handshake_is_in_the_first_subscription(frames: list[Any]) -> None:
    session = Session(Market.STOCKS, "k", ["T.A"], 0)
    say(session, *frames)
    assert change(session, "T.A", "T.B") == []
    replies, _ = say(session, *[CONNECTED, AUTHENTICATED][len(frames) :])
    assert replies[-1] == {"action": "subscribe", "params": "T.A,T.B"}


def test_the_whole_market_takes_the_place_of_topics_and_none_is_lost_in_between() -> None:
    session = live("T.A", "T.B")
    assert change(session, "T.*") == [("subscribe", ["T.*"]), ("unsubscribe", ["T.A", "T.B"])]


def test_many_changes_go_in_chunks() -> None:
    session = live("T.A")
    changes = change(session, "T.A", *(f"T.S{n}" for n in range(SUBSCRIBE_TOPICS_MAX + 1)))
    assert [(action, len(topics)) for action, topics in changes] == [
        ("subscribe", SUBSCRIBE_TOPICS_MAX),
        ("subscribe", 1),
    ]


_names = st.lists(st.sampled_from(["T.A", "T.B", "T.C", "T.D"]), unique=True)


@given(st.lists(_names, min_size=1, max_size=6))
def test_after_any_changes_the_exchange_holds_what_is_wanted(wishes: list[list[str]]) -> None:
    session = live("T.A", "T.B")
    held = {"T.A", "T.B"}
    for wish in wishes:
        for action, topics in change(session, *wish):
            if action == "subscribe":
                assert held.isdisjoint(topics), "a held topic would get no answer"
                held |= set(topics)
                say(session, *map(ack, topics))
            else:
                assert held >= set(topics)
                held -= set(topics)
        assert held == set(wish) == set(session.acked)


# --- endings -------------------------------------------------------------------------------------------------------


def test_frames_that_may_hold_a_status_are_told_from_data() -> None:
    session = live("T.A")
    assert session.is_status(json.dumps([status("slow_consumer")]).encode())
    assert not session.is_status(json.dumps([DATA]).encode())
    assert session.opened(0) == [], "the exchange speaks first"


@pytest.mark.parametrize(
    ("name", "cause", "fatal", "wait_s"),
    [
        ("auth_failed", Cause.AUTH_FAILED, True, 0),
        ("auth_timeout", Cause.AUTH_TIMEOUT, False, 0),
        ("auth_required", Cause.AUTH_REQUIRED, False, 0),
        ("max_connections", Cause.MAX_CONNECTIONS, False, 60),
        ("slow_consumer", Cause.SLOW_CONSUMER, False, 0),
        ("force_disconnect", Cause.FORCE_DISCONNECT, False, 0),
    ],
)
def test_statuses_that_end_a_connection(name: str, cause: Cause, fatal: bool, wait_s: float) -> None:
    session = subscribing("T.A")
    say(session, ack("T.A"), DATA, status(name, "the words of the exchange"))
    session.end(ending(Cause.CLOSED, "what follows is its consequence"))
    how = session.ended
    assert how is not None
    assert (how.cause, how.fatal, how.wait_min_s) == (cause, fatal, wait_s)
    assert "the words of the exchange" in how.sentence
    assert (session.phase, session.was_live) == (Phase.CLOSED, True)


def test_an_unknown_status_changes_nothing() -> None:
    session = subscribing("T.A")
    say(session, status("weather", "fine"), {"ev": "status"}, {"ev": "status", "status": 7, "message": []})
    assert (session.phase, session.ended) == (Phase.SUBSCRIBING, None)


def test_silence_is_stale() -> None:
    session = subscribing("T.A")
    session.end(ending(Cause.SILENCE, "for 40 s"))
    assert session.phase is Phase.STALE


def test_stable_after_ten_seconds_of_live() -> None:
    session = subscribing("T.A")
    assert not session.is_stable(10 * STABLE_NS)
    say(session, ack("T.A"), now_ns=7)
    assert not session.is_stable(7 + STABLE_NS - 1)
    assert session.is_stable(7 + STABLE_NS)


_events = st.sampled_from(
    [CONNECTED, AUTHENTICATED, ack("T.A"), ack("T.B"), DATA, status("error", "not authorized"), status("slow_consumer")]
)


@given(st.lists(_events, max_size=8), st.lists(st.integers(0, 8), max_size=3))
def test_the_state_does_not_depend_on_how_events_are_framed(events: list[Any], cuts: list[int]) -> None:
    whole, parts = (Session(Market.STOCKS, "k", ["T.A", "T.B"], 0) for _ in range(2))
    edges = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    replies: list[Any] = []
    for a, b in itertools.pairwise(edges):
        replies += say(parts, *events[a:b])[0]
    assert say(whole, *events)[0] == replies
    assert (whole.topics, whole.ended) == (parts.topics, parts.ended)


@given(st.binary(max_size=80))
def test_no_bytes_raise(data: bytes) -> None:
    session = subscribing("T.A")
    session.received(data, 0)
    session.received(b"[" * 100_000, 0)
    assert session.ended is None
