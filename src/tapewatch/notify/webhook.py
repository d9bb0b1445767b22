"""A channel over HTTP to a receiver of one's own: each message as JSON, signed where there is a secret.

`Idempotency-Key` and `webhook-id` are the message's id: the same however often it is sent, so that a receiver can tell
a repeat. How it is signed, and how to check that: `signing.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from tapewatch.notify.posting import Poster, Resolve
from tapewatch.notify.signing import signed
from tapewatch.notify.target import Outcome, Receipt
from tapewatch.records import Notification
from tapewatch.settings import NOTIFY_DEADLINE_S

__all__ = ["Webhook"]

_PARALLEL: Final = 8
"""So many at once: a receiver that lets one request hang still gets the others."""


class Webhook:
    """Posts each message to one address. Accepted means that the endpoint answered 2xx."""

    in_order = False
    parallel = _PARALLEL

    def __init__(
        self,
        url: str,
        *,
        private: bool = False,
        key: bytes | None = None,
        deadline_s: float = NOTIFY_DEADLINE_S,
        resolve: Resolve | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """``key`` signs what is sent. Raises `addresses.Unfit` for an impossible address."""
        self._poster = Poster(url, private=private, deadline_s=deadline_s, resolve=resolve)
        self._key = key
        self._now_s = now_s

    async def deliver(self, notification: Notification, earlier: Receipt | None = None) -> Outcome:
        """Post once."""
        body = msgspec.json.encode(notification.payload)
        headers = {"Idempotency-Key": notification.id}
        if self._key is not None:
            headers |= signed(self._key, notification.id, int(self._now_s()), body)
        answer = await self._poster.post(body, headers)
        return Outcome(answer.error, answer.pause_s)

    async def close(self) -> None:
        """Close the connections."""
        await self._poster.close()
