"""The signature of webhooks: by the published rules, and refused when anything is another."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.notify.signing import TOLERANCE_S, key_of, signed, verify

KEY = key_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
NOW_S = 1_614_265_330


def test_the_example_of_the_published_rules() -> None:
    """From the specification of Standard Webhooks."""
    headers = signed(KEY, "msg_p5jXN8AQM9LWM0D4loKWxJek", NOW_S, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_secrets_are_base64_after_their_prefix_or_their_own_bytes() -> None:
    assert key_of("whsec_" + base64.b64encode(b"x" * 24).decode()) == b"x" * 24
    assert key_of("a secret of 24 characters") == b"a secret of 24 characters"
    for wrong, why in (
        ("short", "24 characters or more"),
        ("whsec_" + "é" * 30, "base64"),
        ("whsec_" + "*" * 30, "base64"),
    ):
        with pytest.raises(ValueError, match=why):
            key_of(wrong)


@given(st.text(min_size=1, max_size=50), st.binary(max_size=200), st.integers(-TOLERANCE_S, TOLERANCE_S))
def test_what_was_signed_is_believed_for_a_while(message_id: str, body: bytes, off_s: int) -> None:
    assert verify(KEY, signed(KEY, message_id, NOW_S, body), body, NOW_S + off_s) == ""


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_another_body_is_not(body: bytes, other: bytes) -> None:
    assert (verify(KEY, signed(KEY, "a1", NOW_S, body), other, NOW_S) == "") == (body == other)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"webhook-id": "another"}, "the signature is another"),
        ({"webhook-id": ""}, "missing"),
        ({"webhook-timestamp": str(NOW_S + 1)}, "the signature is another"),
        ({"webhook-timestamp": "yesterday"}, "missing"),
        ({"webhook-timestamp": "²"}, "missing"),
        ({"webhook-signature": ""}, "the signature is another"),
        ({"webhook-signature": "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="}, "the signature is another"),
        ({"webhook-signature": "v1,é"}, "the signature is another"),
    ],
)
def test_anything_else_is_not_believed(change: dict[str, str], why: str) -> None:
    assert why in verify(KEY, signed(KEY, "a1", NOW_S, b"{}") | change, b"{}", NOW_S)


def test_an_old_one_is_a_replay() -> None:
    headers = signed(KEY, "a1", NOW_S, b"{}")
    assert "replayed" in verify(KEY, headers, b"{}", NOW_S + TOLERANCE_S + 1)
    assert "replayed" in verify(KEY, headers, b"{}", NOW_S - TOLERANCE_S - 1)


def test_one_of_several_signatures_is_enough() -> None:
    """While a secret is being changed, a sender may sign with both."""
    headers = signed(KEY, "a1", NOW_S, b"{}")
    headers["webhook-signature"] = "v1,b3RoZXI= " + headers["webhook-signature"]
    assert verify(KEY, headers, b"{}", NOW_S) == ""
    assert verify(key_of("another secret of 24 characters"), headers, b"{}", NOW_S) != ""
