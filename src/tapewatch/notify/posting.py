"""One HTTP address that things are posted to: what the targets over HTTP have in common.

Only the person who runs Tapewatch chooses the address, and still it gets no more than it needs: the name is resolved
once per attempt, the addresses that it has are judged (`addresses.refusal`), and one of these is connected to;
redirects are not followed; proxies and passwords of the environment are not used; the whole attempt has one deadline,
so an answer that drips a byte at a time ends too.

A post does not raise for anything a receiver does. The address may hold a secret, so it is never logged nor part of an
error: only its host is. What the receiver answered is not part of an error either: an address that a message was led
astray to must not be read through us. Its status is.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import httpx

from tapewatch import __version__
from tapewatch.notify.addresses import Unfit, refusal
from tapewatch.settings import (
    NOTIFY_ANSWER_BYTES_MAX,
    NOTIFY_DEADLINE_S,
    NOTIFY_REASON_CHARACTERS_MAX,
    NOTIFY_RETRY_AFTER_S_MAX,
)

__all__ = ["Answer", "Poster", "Resolve", "asked_pause_s", "pause_s", "resolve_name"]

Resolve = Callable[[str, int], Awaitable[list[str]]]
_CONNECTIONS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """How one post went. ``error`` is empty when the answer was 2xx."""

    error: str = ""
    pause_s: float | None = None
    """How long the receiver asked to be left alone, if it did."""
    status: int = 0
    body: bytes = b""
    """The start of the answer, for those who know their receiver; never shown."""


class Poster:
    """Posts to one host. ``deadline_s`` covers name, connection, request and answer together."""

    def __init__(
        self, url: str, *, private: bool, deadline_s: float = NOTIFY_DEADLINE_S, resolve: Resolve | None = None
    ) -> None:
        """``private``: addresses of this machine and of private networks are connected to. Raises `Unfit`."""
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL:
            raise Unfit("expected an address such as https://host/path") from None
        self.host = self._url.raw_host.decode("ascii")
        self._private = private
        self._deadline_s = deadline_s
        self._resolve = resolve or resolve_name
        logging.getLogger("httpx").setLevel(logging.WARNING)  # its request line at INFO would hold the whole address
        limits = httpx.Limits(max_connections=_CONNECTIONS_MAX, max_keepalive_connections=_CONNECTIONS_MAX)
        transport = httpx.AsyncHTTPTransport(limits=limits)
        self._client = httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)

    async def post(self, content: bytes, headers: Mapping[str, str], path: str = "") -> Answer:
        """Post once, to ``path`` below the address if there is one."""
        url = self._url.copy_with(path=self._url.path.rstrip("/") + path) if path else self._url
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._attempt(url, content, headers)
        except TimeoutError:
            return Answer(f"{self.host} did not answer within {self._deadline_s:g} s")
        except (httpx.HTTPError, OSError, ValueError) as error:
            return Answer(f"{self.host}: {type(error).__name__}: {str(error)[:NOTIFY_REASON_CHARACTERS_MAX]}")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _attempt(self, url: httpx.URL, content: bytes, headers: Mapping[str, str]) -> Answer:
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = await self._resolve(self.host, port)
        for address in addresses:
            if why := refusal(address, private=self._private):
                return Answer(f"{self.host} is {address}, an address that messages may not be sent to: {why}")
        connect_s = self._deadline_s / len(addresses)
        for address in addresses[:-1]:
            # A name often has an IPv6 address that nobody listens on: then the next one is tried.
            with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await self._post(url, address, content, headers, connect_s)
        return await self._post(url, addresses[-1], content, headers, connect_s)

    async def _post(
        self, url: httpx.URL, address: str, content: bytes, headers: Mapping[str, str], connect_s: float
    ) -> Answer:
        ours = {
            "Host": url.netloc.decode("ascii"),
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"tapewatch/{__version__}",
        }
        stream = self._client.stream(
            "POST",
            url.copy_with(host=address),
            headers={**ours, **headers},
            content=content,
            extensions={"sni_hostname": self.host},
            timeout=httpx.Timeout(self._deadline_s, connect=connect_s),
        )
        async with stream as response:
            body = await self._start_of(response)
            if response.is_success:
                return Answer(status=response.status_code, body=body)
            told = f"{self.host} answered {response.status_code}"
            if response.is_redirect:
                told += ", a redirect, which is not followed"
            return Answer(told, pause_s(response, datetime.now(UTC)), response.status_code, body)

    async def _start_of(self, response: httpx.Response) -> bytes:
        """The start of the answer, as far as it comes at once: the status alone says enough."""
        start = b""
        with suppress(TimeoutError, httpx.HTTPError):
            async with asyncio.timeout(self._deadline_s / 10):
                async for chunk in response.aiter_raw():
                    start = (start + chunk)[:NOTIFY_ANSWER_BYTES_MAX]
                    if len(start) == NOTIFY_ANSWER_BYTES_MAX:
                        break
        return start


async def resolve_name(host: str, port: int) -> list[str]:
    """The addresses of ``host``, as the machine prefers them. Raises OSError when there is none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def pause_s(response: httpx.Response, now: datetime) -> float | None:
    """How long a 429 or 503 asks us to wait, in seconds or as a date; at most `NOTIFY_RETRY_AFTER_S_MAX`."""
    if response.status_code not in (429, 503):
        return None
    return asked_pause_s(response.headers.get("Retry-After", ""), now)


def asked_pause_s(asked: str, now: datetime) -> float | None:
    """The seconds of a `Retry-After`; None if it says nothing."""
    asked = asked.strip()
    if asked.isascii() and asked.isdigit():
        return min(float(asked[:9]), NOTIFY_RETRY_AFTER_S_MAX)
    try:
        at = parsedate_to_datetime(asked)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), NOTIFY_RETRY_AFTER_S_MAX)
