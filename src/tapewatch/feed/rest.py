"""The exchange's REST side, as a client that may only ask so often: one page at a time, or a whole answer page by page.

    Pace      calls a minute that the plan allows, shared by all who ask; a 429 makes all of them wait
    Rest      one page: asked again when the server is busy or the network fails, but not after the deadline
    Stopped   why an answer is not whole: what came until then is used

Of `next_url` only path and query are used, so the key never goes to another server. No redirect is followed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self

import httpx
import msgspec

from tapewatch.errors import FeedError, FeedRefused

__all__ = ["Pace", "Page", "PlanLacks", "Rest", "Stopped"]

PAGES_MAX: Final = 200
"""Pages of one answer; beyond it the rest is left out and the answer is an error."""
PAGE_BYTES_MAX: Final = 64 * 1024 * 1024
ATTEMPTS_MAX: Final = 5
RETRY_AFTER_MAX_S: Final = 60.0
"""A server that asks for a longer pause gets this one."""
TIMEOUT_S: Final = 20.0
_MINUTE_S: Final = 60.0


class Page(msgspec.Struct):
    """One page of an answer."""

    results: list[dict[str, Any]] = []
    next_url: str | None = None


_DECODER: Final = msgspec.json.Decoder(Page)


class PlanLacks(FeedRefused):
    """The key is good, but its plan does not have this (HTTP 403)."""


class Stopped(FeedError):
    """The deadline came before the answer was whole; what came until then can be used."""


class Pace:
    """When the next call may be made. One for all who share a key; for any thread.

    ``calls_per_minute`` are the plan's (5 on the free one), 0 for no limit. Nobody may make more in any minute.
    """

    def __init__(self, calls_per_minute: int = 0, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._calls = calls_per_minute
        self._clock_s = clock_s
        self._lock = Lock()
        self._made_s: deque[float] = deque(maxlen=calls_per_minute or 1)
        self._paused_until_s = float("-inf")

    def take(self, until_s: float) -> float | None:
        """Take the next free place: how long to wait for it, in seconds. None: it is later than ``until_s``."""
        with self._lock:
            now_s = self._clock_s()
            at_s = max(now_s, self._paused_until_s)
            if self._calls and len(self._made_s) == self._calls:
                at_s = max(at_s, self._made_s[0] + _MINUTE_S)
            if at_s > until_s:
                return None
            self._made_s.append(at_s)
            return at_s - now_s

    def pause(self, seconds: float) -> None:
        """The server has asked for a pause: nobody calls before it is over."""
        with self._lock:
            self._paused_until_s = max(self._paused_until_s, self._clock_s() + seconds)

    def now_s(self) -> float:
        """The clock that deadlines are told by."""
        return self._clock_s()


class Rest:
    """Asks one server with one key (none: ""). An async context manager.

    ``sleep`` waits for a place and before a repeated request.
    """

    def __init__(
        self,
        rest_url: str,
        key: str,
        *,
        pace: Pace | None = None,
        pages_max: int = PAGES_MAX,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.calls = 0
        """Requests made."""
        self._base = httpx.URL(rest_url.rstrip("/"))
        self._pace = pace or Pace()
        self._pages_max = pages_max
        self._sleep = sleep
        authorization = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(
            headers=authorization, timeout=TIMEOUT_S, follow_redirects=False, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    @property
    def host(self) -> str:
        """The server's name."""
        return self._base.host

    def deadline_s(self, seconds: float | None) -> float:
        """The moment, for ``until_s``, that is so many seconds away; None is never."""
        return float("inf") if seconds is None else self._pace.now_s() + seconds

    def url(self, path: str, parameters: Mapping[str, str] | None = None) -> httpx.URL:
        """The address of ``path`` (percent-encoded) on this server."""
        base = self._base.raw_path.decode().rstrip("/")
        return self._base.copy_with(raw_path=f"{base}{path}".encode()).copy_merge_params(dict(parameters or {}))

    async def pages(
        self, path: str, parameters: Mapping[str, str], what: str, until_s: float = float("inf")
    ) -> AsyncIterator[Page]:
        """The pages of ``GET path``, one after the other. ``what`` names the answer in errors: "the trades of AAPL".

        Raises:
            FeedRefused: the key, or the plan (PlanLacks), does not allow it.
            Stopped: the next page cannot be had before ``until_s`` (`deadline_s`).
            FeedError: no usable answer after some attempts, or more pages than the limit.
        """
        url = self.url(path, parameters)
        for _ in range(self._pages_max):
            page = _parsed((await self.get(url, what, until_s))[1], what)
            yield page
            if not page.next_url:
                return
            try:
                url = self._base.copy_with(raw_path=httpx.URL(page.next_url).raw_path)
            except httpx.InvalidURL as error:
                raise FeedError(f"{_start(what)} go on at an address that is none: {error}.") from None
        raise FeedError(f"{_start(what)} fill more than {self._pages_max} pages; ask for less time (WARMUP).")

    async def get(self, url: httpx.URL, what: str, until_s: float = float("inf")) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of one good answer, asked for again when the server is busy or the network fails.

        Raises: as `pages`.
        """
        failure, wait_s = "", 0.0
        for attempt in range(ATTEMPTS_MAX):
            if wait_s > 0:
                if self._pace.now_s() + wait_s > until_s:
                    raise Stopped(f"{_start(what)} could not be had in time: {failure}.")
                await self._sleep(wait_s)
            await self._wait_for_place(failure, what, until_s)
            wait_s = 0.5 * 2**attempt
            try:
                status, headers, body = await self._get(url, until_s)
            except httpx.TransportError as error:
                failure = str(error) or type(error).__name__
                continue
            if status == 200:
                return headers, body
            failure = f"HTTP {status}{_said(body)}"
            if status in (401, 403):
                refused = f"The exchange refused {what} by REST ({failure}): "
                if status == 403:
                    raise PlanLacks(f"{refused}the plan lacks {_kind(what)} (REST) of this market.")
                raise FeedRefused(f"{refused}check MASSIVE_API_KEY.")
            if status != 429 and status < 500:
                raise FeedError(f"The exchange did not understand the request for {what}: {failure}.")
            wait_s = max(wait_s, min(_seconds(headers.get("Retry-After", "")), RETRY_AFTER_MAX_S))
            if status == 429:
                self._pace.pause(wait_s)
        raise FeedError(
            f"{_start(what)} cannot be had from {self._base.host} after {ATTEMPTS_MAX} attempts: {failure}."
        )

    async def _wait_for_place(self, failure: str, what: str, until_s: float) -> None:
        place_s = self._pace.take(until_s)
        if place_s is None:
            why = failure or "the plan allows no more calls in this time (REST_CALLS_PER_MINUTE)"
            raise Stopped(f"{_start(what)} could not be had in time: {why}.")
        if place_s > 0:
            await self._sleep(place_s)

    async def _get(self, url: httpx.URL, until_s: float) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers, and the body, which is read no further than `PAGE_BYTES_MAX`."""
        self.calls += 1
        left_s = until_s - self._pace.now_s()
        timeout = httpx.Timeout(max(0.01, min(TIMEOUT_S, left_s)))
        async with self._client.stream("GET", url, timeout=timeout) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > PAGE_BYTES_MAX:
                    raise FeedError(f"The answer of {url.host} is larger than {PAGE_BYTES_MAX} bytes; it was not read.")
                if self._pace.now_s() > until_s:
                    raise Stopped(f"The answer of {url.host} did not come whole in time.")
            return response.status_code, response.headers, bytes(body)


def _seconds(retry_after: str) -> float:
    """The header's pause: a number of seconds, or a date; 0 where it is neither."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _parsed(body: bytes, what: str) -> Page:
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FeedError(f"The exchange's answer for {what} cannot be read: {str(error)[:200]}.") from None


def _said(body: bytes) -> str:
    """What the exchange says about an error, if it says it in the usual form."""
    try:
        answer = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    text = answer.get("message") or answer.get("error")
    return f", {text[:200]}" if isinstance(text, str) else ""


def _start(what: str) -> str:
    return what[:1].upper() + what[1:]


def _kind(what: str) -> str:
    """``the trades of AAPL`` -> ``trades``."""
    return what.removeprefix("the ").partition(" of ")[0]
