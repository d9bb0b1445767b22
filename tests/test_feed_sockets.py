"""What the errors of a socket say about the ending of a connection."""

from __future__ import annotations

import socket
import ssl

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import (
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidMessage,
    InvalidStatus,
    WebSocketException,
)
from websockets.frames import Close
from websockets.http11 import Response

from tapewatch.feed.endings import Cause
from tapewatch.feed.sockets import ending_of


def answer(status: int, **headers: str) -> InvalidStatus:
    return InvalidStatus(Response(status, "", Headers({k.replace("_", "-"): v for k, v in headers.items()})))


def distrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "cause", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), Cause.NAME, "Name or service not known"),
        (TimeoutError("timed out during opening handshake"), Cause.UNREACHABLE, "timed out"),
        (TimeoutError(), Cause.UNREACHABLE, "TimeoutError"),
        (OSError(113, "No route to host"), Cause.UNREACHABLE, "No route to host"),
        (ConnectionRefusedError(111, "Connect call failed"), Cause.REFUSED, "Connect call failed"),
        (ConnectionResetError(104, "Connection reset by peer"), Cause.CUT, "reset by peer"),
        (ssl.SSLError(1, "wrong version number"), Cause.TLS, "wrong version number"),
        (distrusted(), Cause.CERTIFICATE, "self-signed certificate"),
        (InvalidMessage("did not receive a valid HTTP response"), Cause.HTTP, "valid HTTP response"),
        (answer(403), Cause.HTTP_REFUSED, "HTTP 403"),
        (answer(404), Cause.HTTP, "HTTP 404"),
        (ConnectionClosedError(None, None), Cause.CUT, "no close frame"),
        (ConnectionClosedError(None, Close(1009, "")), Cause.TOO_LARGE, "16777216 bytes"),
        (ConnectionClosedError(None, Close(1002, "reserved bits")), Cause.UNREADABLE, "1002 reserved bits"),
        (ConnectionClosedError(None, Close(1007, "")), Cause.UNREADABLE, "1007"),
        (ConnectionClosedOK(Close(1000, ""), Close(1000, ""), True), Cause.CLOSED, "1000"),
        (ConnectionClosedError(Close(1008, "policy"), None), Cause.CLOSED, "1008 policy"),
    ],
)
def test_what_an_error_says(error: OSError | WebSocketException, cause: Cause, words: str) -> None:
    how = ending_of(error)
    assert how.cause is cause
    assert words in how.sentence


@pytest.mark.parametrize(
    ("asked", "wait_s"), [("30", 30), ("0", 0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("-1", 0), ("1.5", 0)]
)
def test_only_a_plain_number_of_seconds_is_a_retry_after(asked: str, wait_s: float) -> None:
    assert ending_of(answer(429, Retry_After=asked)).wait_min_s == wait_s
