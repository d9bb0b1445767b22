"""Opening a socket to the exchange, and what its errors say about the ending.

The system's proxies are not used, no redirect is followed (the key would go there too), certificates are checked, and
a frame of more than `FRAME_BYTES_MAX` ends the connection. Nobody pings by itself: the client's watcher does.
"""

from __future__ import annotations

import ssl
from typing import Any, Final

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from tapewatch.feed.endings import Cause, Ending, cause_of_close, cause_of_error, cause_of_http, ending
from tapewatch.settings import FRAME_BYTES_MAX

__all__ = ["ending_of", "open_socket"]

OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0


class _NoRedirects(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def open_socket(url: str, tls: ssl.SSLContext | None = None) -> connect:
    """A connection to be entered with `async with`; raises what `ending_of` understands."""
    given: dict[str, Any] = {} if tls is None else {"ssl": tls}
    return _NoRedirects(
        url,
        **given,
        proxy=None,
        compression=None,
        max_size=FRAME_BYTES_MAX,
        open_timeout=OPEN_TIMEOUT_S,
        close_timeout=CLOSE_TIMEOUT_S,
        ping_interval=None,  # the watcher pings: an answer is one sign of life among others
    )


def ending_of(error: OSError | WebSocketException) -> Ending:
    """What an error of the socket says about the ending."""
    match error:
        case ConnectionClosed(rcvd=None, sent=sent) if sent is not None and sent.code in (1002, 1007, 1009):
            detail = f"the limit is {FRAME_BYTES_MAX} bytes" if sent.code == 1009 else f"{sent.code} {sent.reason}"
            return ending(cause_of_close(sent.code, sent.reason), detail.strip())
        case ConnectionClosed(rcvd=None):
            return ending(Cause.CUT, "no close frame")
        case ConnectionClosed(rcvd=received):
            assert received is not None
            detail = f"{received.code} {received.reason}".strip()
            return ending(cause_of_close(received.code, received.reason), detail)
        case InvalidStatus(response=response):
            asked = response.headers.get("Retry-After", "")
            return ending(
                cause_of_http(response.status_code),
                f"HTTP {response.status_code}",
                retry_after_s=float(asked) if asked.isascii() and asked.isdigit() else 0.0,
            )
        case ssl.SSLCertVerificationError():
            return ending(Cause.CERTIFICATE, error.verify_message)
        case _:
            text = str(error) or type(error).__name__
            return ending(cause_of_error([base.__name__ for base in type(error).__mro__], text), text)
