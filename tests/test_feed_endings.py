"""The table of endings: complete, the same in the documentation, and the waits that follow from it."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.feed.endings import (
    DELAY_MAX_S,
    DETAIL_CHARS_MAX,
    EVICTED_WAIT_S,
    EVICTED_WAIT_S_MAX,
    RETRY_AFTER_S_MAX,
    RULES,
    Action,
    Cause,
    Notice,
    Patience,
    cause_of_close,
    cause_of_error,
    cause_of_http,
    delays,
    ending,
    notice,
)

DOCUMENT = Path(__file__).parent.parent / "docs" / "feed.md"
FATAL = {Cause.AUTH_FAILED, Cause.NOT_AUTHORIZED, Cause.HTTP_REFUSED, Cause.CERTIFICATE, Cause.NOT_TRADED}


def documented() -> list[tuple[str, ...]]:
    """The rows of the table in the section Endings."""
    section = DOCUMENT.read_text(encoding="utf-8").split("\n## Endings\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip() for cell in row) for row in rows]


def test_the_documentation_shows_the_same_table() -> None:
    rules = [
        (f"`{what}`", rule.when, rule.action.value, rule.sentence.replace("({})", "(…)"))
        for what, rule in RULES.items()
    ]
    assert documented() == rules


def test_every_cause_and_every_notice_has_one_rule() -> None:
    assert set(RULES) == {*Cause, *Notice}
    assert len({rule.when for rule in RULES.values()}) == len(RULES)


@pytest.mark.parametrize("cause", Cause)
def test_what_an_ending_leads_to(cause: Cause) -> None:
    how = ending(cause, "detail " * 100)
    assert "detail" in how.sentence
    assert "{" not in how.sentence + ending(cause).sentence
    assert len(how.sentence) < DETAIL_CHARS_MAX + 250
    assert how.fatal == (cause in FATAL)
    assert how.wait_min_s == (EVICTED_WAIT_S if cause is Cause.MAX_CONNECTIONS else 0)


@pytest.mark.parametrize("what", Notice)
def test_what_troubles_a_connection_does_not_end_it(what: Notice) -> None:
    assert RULES[what].action is Action.STAY
    assert "T.AAPL" in notice(what, "T.AAPL")
    assert re.search("[{}]", notice(what)) is None


def test_a_server_that_asks_for_a_pause_gets_it_within_reason() -> None:
    assert ending(Cause.HTTP, "HTTP 503", 30).wait_min_s == 30
    assert ending(Cause.HTTP, "HTTP 503", 10**9).wait_min_s == RETRY_AFTER_S_MAX
    assert ending(Cause.HTTP, "HTTP 503", -5).wait_min_s == 0


@pytest.mark.parametrize(
    ("code", "reason", "cause"),
    [
        (None, "", Cause.CUT),
        (1006, "", Cause.CUT),
        (1000, "", Cause.CLOSED),
        (1000, "replay finished", Cause.FINISHED),
        (1001, "replay finished", Cause.CLOSED),
        (1001, "going away", Cause.CLOSED),
        (1002, "reserved bits", Cause.UNREADABLE),
        (1007, "invalid text", Cause.UNREADABLE),
        (1008, "policy", Cause.CLOSED),
        (1008, "Maximum number of websocket connections exceeded.", Cause.MAX_CONNECTIONS),
        (1009, "", Cause.TOO_LARGE),
        (1011, "keepalive ping timeout", Cause.PING_TIMEOUT),
        (1011, "internal error", Cause.CLOSED),
        (4_999, "of their own", Cause.CLOSED),
    ],
)
def test_close_codes(code: int | None, reason: str, cause: Cause) -> None:
    assert cause_of_close(code, reason) is cause


@pytest.mark.parametrize(
    ("names", "text", "cause"),
    [
        (["gaierror", "OSError"], "[Errno -2] Name or service not known", Cause.NAME),
        (["ConnectionRefusedError", "ConnectionError", "OSError"], "[Errno 111] Connect call failed", Cause.REFUSED),
        (["OSError"], "Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] ...", Cause.REFUSED),
        (["ConnectionResetError", "ConnectionError", "OSError"], "", Cause.CUT),
        (["SSLCertVerificationError", "SSLError", "OSError", "ValueError"], "", Cause.CERTIFICATE),
        (["SSLError", "OSError"], "[SSL: WRONG_VERSION_NUMBER]", Cause.TLS),
        (["SSLEOFError", "SSLError", "OSError"], "", Cause.TLS),
        (["TimeoutError", "OSError"], "timed out during opening handshake", Cause.UNREACHABLE),
        (["InvalidMessage", "InvalidHandshake", "WebSocketException"], "no valid HTTP response", Cause.HTTP),
        (["ProtocolError", "WebSocketException"], "", Cause.UNREADABLE),
        (["OSError"], "[Errno 113] No route to host", Cause.UNREACHABLE),
        ([], "", Cause.UNREACHABLE),
    ],
)
def test_errors_of_the_socket(names: list[str], text: str, cause: Cause) -> None:
    assert cause_of_error(names, text) is cause


@pytest.mark.parametrize(
    ("status", "cause"),
    [(401, Cause.HTTP_REFUSED), (403, Cause.HTTP_REFUSED), (302, Cause.HTTP), (404, Cause.HTTP), (429, Cause.HTTP)],
)
def test_http_answers(status: int, cause: Cause) -> None:
    assert cause_of_http(status) is cause


@given(st.integers(0, 2**32))
def test_delays_grow_to_a_cap_and_are_never_alike(seed: int) -> None:
    first, *rest = itertools.islice(delays(random.Random(seed)), 12)
    assert 0.2 <= first <= 1.0
    ceilings = [2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]
    assert all(ceiling / 2 <= delay <= ceiling for delay, ceiling in zip(rest, ceilings, strict=True))
    assert max(rest) <= DELAY_MAX_S
    other = list(itertools.islice(delays(random.Random(seed + 1)), 12))
    assert other != [first, *rest]


def test_only_a_stable_connection_makes_the_waits_short_again() -> None:
    patience = Patience(random.Random(1))
    cut = ending(Cause.CUT)
    waits = [patience.wait_s(cut, was_stable=False) for _ in range(8)]
    assert waits[7] >= DELAY_MAX_S / 2
    assert patience.wait_s(cut, was_stable=True) <= 1.0
    assert patience.wait_s(cut, was_stable=False) >= 1.0


def test_a_server_that_asks_for_a_pause_is_obeyed() -> None:
    assert Patience(random.Random(1)).wait_s(ending(Cause.HTTP, "", 45), was_stable=True) >= 45


def test_two_programs_with_one_key_do_not_fight() -> None:
    """Evicted again and again, the wait doubles, even if the connection was stable in between."""
    patience = Patience(random.Random(1))
    evicted = ending(Cause.MAX_CONNECTIONS)
    waits = [patience.wait_s(evicted, was_stable=True) for _ in range(6)]
    assert all(
        low <= wait <= low + 1 for wait, low in zip(waits, [60, 120, 240, 480, EVICTED_WAIT_S_MAX, 600], strict=True)
    )
    patience.wait_s(ending(Cause.CUT), was_stable=False)
    assert patience.wait_s(evicted, was_stable=True) >= EVICTED_WAIT_S_MAX
    patience.wait_s(ending(Cause.CUT), was_stable=True)  # the other one is gone: it ended for another reason
    assert patience.wait_s(evicted, was_stable=True) <= EVICTED_WAIT_S + 1
