"""Who may ask: host names, the token, browser sessions, and requests from other sites.

Without a token the server listens on loopback only (settings see to that), and the `Host` header must name this
machine, or a web page elsewhere could reach it through a DNS name of its own that points here.

With a token, programs send `Authorization: Bearer …`. A browser's `EventSource` cannot, so the page exchanges the
token once for a session cookie. The cookie holds no token: it is an expiry time and its HMAC under the token, so
nothing needs storing, and changing the token ends all sessions. Tokens never appear in an address.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tapewatch.serve.answers import error_answer
from tapewatch.settings import SESSION_S

__all__ = ["LOOPBACK", "Gate", "Sessions", "allowed_hosts"]

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_OPEN: Final = ("/healthz", "/", "/api/v1/session")
_OPEN_FOLDERS: Final = ("/static/", "/vendor/")
_SAFE: Final = ("GET", "HEAD", "OPTIONS")


def allowed_hosts(bind_host: str, names: Iterable[str]) -> frozenset[str] | None:
    """The `Host` names to answer to: None, meaning any, unless the server listens on loopback."""
    return LOOPBACK | frozenset(names) if bind_host in LOOPBACK else None


class Sessions:
    """Session cookies of one token."""

    def __init__(self, token: str, clock: Callable[[], float] = time.time) -> None:
        self._key = token.encode()
        self._clock = clock

    def accepts_token(self, token: str) -> bool:
        """Compared in constant time."""
        return hmac.compare_digest(token.encode(), self._key)

    def cookie(self, secure: bool) -> str:
        """A `Set-Cookie` value for a new session."""
        expires = str(int(self._clock()) + SESSION_S)
        value = f"{expires}.{self._seal(expires)}"
        return f"{_name(secure)}={value}; Max-Age={SESSION_S}{_attributes(secure)}"

    @staticmethod
    def forget(secure: bool) -> str:
        """A `Set-Cookie` value that ends the browser's session."""
        return f"{_name(secure)}=; Max-Age=0{_attributes(secure)}"

    def accepts_cookie(self, header: str, secure: bool) -> bool:
        """Whether the request's `Cookie` header holds a session that has not ended."""
        try:
            morsel = SimpleCookie(header).get(_name(secure))
        except CookieError:
            return False
        expires, _, seal = morsel.value.partition(".") if morsel else ("", "", "")
        sealed = hmac.compare_digest(seal.encode(), self._seal(expires).encode())
        return sealed and int(expires) > self._clock()

    def _seal(self, expires: str) -> str:
        return hmac.new(self._key, f"tapewatch session {expires}".encode(), hashlib.sha256).hexdigest()


class Gate:
    """ASGI middleware: refuses what may not enter, as 400, 401 or 403."""

    def __init__(self, app: ASGIApp, sessions: Sessions | None, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._sessions = sessions
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] != "http" or (refusal := self._refusal(scope, Headers(scope=scope))) is None:
            await self._app(scope, receive, send)
            return
        status, error, detail = refusal
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        await error_answer(status, error, detail, scope["state"]["request_id"], headers)(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        host = _host_name(headers.get("host", ""))
        if self._hosts is not None and host not in self._hosts:
            return (
                400,
                "wrong_host",
                f"This server does not answer to the name {host!r}; add it to HTTP_NAMES if it is right.",
            )
        bearer = self._has_bearer(headers)
        if scope["method"] not in _SAFE and not bearer and _is_cross_site(headers):
            return 403, "cross_site", "This request comes from another web site and is refused."
        if self._sessions is None or bearer or scope["path"] in _OPEN or scope["path"].startswith(_OPEN_FOLDERS):
            return None
        if self._sessions.accepts_cookie(headers.get("cookie", ""), scope["scheme"] == "https"):
            return None
        return (
            401,
            "not_authenticated",
            "A token is needed: send it as 'Authorization: Bearer …', or sign in on the page.",
        )

    def _has_bearer(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return self._sessions is not None and scheme.lower() == "bearer" and self._sessions.accepts_token(token.strip())


def _is_cross_site(headers: Headers) -> bool:
    """What browsers say about where a request comes from; a program that says nothing is no browser."""
    if (site := headers.get("sec-fetch-site")) is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()


def _host_name(host: str) -> str:
    """``"[::1]:8787"`` -> ``"::1"``; empty if it cannot be read."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _name(secure: bool) -> str:
    # The prefix makes browsers insist on Secure, on this host alone, for all paths; it needs https.
    return "__Host-tapewatch" if secure else "tapewatch"


def _attributes(secure: bool) -> str:
    return "; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
