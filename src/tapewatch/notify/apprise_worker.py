"""A process that holds Apprise, for one channel: `python -m tapewatch.notify.apprise_worker`.

    line in    the channel once, then one message each        JSON
    line out   how each message went                          JSON

Apprise is made of some 150 plugins by many hands. So it gets a process of its own, which its starter kills when a
message takes too long, and in which little is possible (`sys.addaudithook` cannot be taken back):

* a connection is made only to an address that messages may be sent to, judged as it is made, whatever name led there;
* no program is started, no socket of this machine is spoken to, redirects are not followed;
* the environment that it inherits holds no secrets, no proxies and no `.netrc`.

It ends when its input does.
"""

from __future__ import annotations

import logging
import math
import signal
import smtplib
import socket
import sys
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

import apprise
import msgspec
import requests

from tapewatch.notify.addresses import refusal
from tapewatch.notify.channels import Channel, ChannelError
from tapewatch.notify.posting import asked_pause_s
from tapewatch.notify.services import Service, service_of
from tapewatch.settings import NOTIFY_DEADLINE_S

__all__ = ["Asked", "Told", "main"]

_TYPES: Final = {"info": "info", "success": "success", "warning": "warning", "critical": "failure"}
_FORBIDDEN: Final = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
)
_SENDING: Final = ("socket.connect", "socket.sendto", "socket.sendmsg")
_ADDRESS_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class Asked(msgspec.Struct):
    """One message to deliver."""

    id: str
    alert_id: str
    title: str
    text: str
    severity: str = "info"
    deadline_s: float = NOTIFY_DEADLINE_S


class Told(msgspec.Struct, omit_defaults=True):
    """How it went: as `sender.Outcome`."""

    error: str = ""
    pause_s: float | None = None


class NotAllowed(OSError):
    """A connection that must not be made."""


class Watch:
    """What the receivers answered to the message in hand, and what was forbidden."""

    def __init__(self) -> None:
        self.private = False
        self.forget()

    def forget(self) -> None:
        """A new message begins."""
        self.reason = ""
        self.pause_s: float | None = None
        self.refused = False

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called by Python before whatever it does. Raises what is then raised instead."""
        if event in _SENDING:
            self._judge(arguments[0], arguments[1] if len(arguments) > 1 else None)
        elif event in _FORBIDDEN:
            self._refuse(f"{event} is not allowed here")

    def _judge(self, connection: socket.socket, address: Any) -> None:
        if connection.family not in _ADDRESS_FAMILIES or not isinstance(address, tuple):
            self._refuse("a socket of this machine is not spoken to")
        elif why := refusal(str(address[0]), private=self.private):
            self._refuse(f"{address[0]} is an address that messages may not be sent to: {why}")

    def _refuse(self, reason: str) -> None:
        self.reason, self.refused = reason, True
        raise NotAllowed(reason)

    def answered(self, host: str, status: int, retry_after: str) -> None:
        """An HTTP answer."""
        if not 200 <= status < 300:
            self.reason = f"{host} answered {status}" + (
                ", a redirect, which is not followed" if 300 <= status < 400 else ""
            )
            if status in (429, 503):
                self.pause_s = asked_pause_s(retry_after, datetime.now(UTC)) if retry_after else None

    def failed(self, host: str, error: Exception) -> None:
        """No HTTP answer."""
        if not self.refused:
            self.reason = f"{host}: {type(error).__name__}"


WATCH: Final = Watch()


class _Adapter(requests.adapters.HTTPAdapter):
    """Tells `WATCH` of every answer, and does not ask again a receiver that has asked to be left alone."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        host = str(urlsplit(request.url or "").hostname)
        if WATCH.pause_s is not None:
            raise requests.ConnectionError("it asked to be left alone")
        try:
            response = super().send(request, *args, **kwargs)
        except requests.RequestException as error:
            WATCH.failed(host, error)
            raise
        WATCH.answered(host, response.status_code, response.headers.get("Retry-After", ""))
        return response


class _Session(requests.Session):
    """What `requests.post` uses: no proxies, no passwords of the environment."""

    def __init__(self) -> None:
        super().__init__()
        self.mount("https://", _Adapter())
        self.mount("http://", _Adapter())


class _Smtp:
    """Remembers the number of a mail server's last refusal."""

    original = smtplib.SMTP.getreply

    @staticmethod
    def getreply(connection: smtplib.SMTP) -> tuple[int, bytes]:
        code, text = _Smtp.original(connection)
        if code >= 400:
            WATCH.reason = f"the mail server answered {code}{_SMTP_WORDS.get(code, '')}"
        return code, text


_SMTP_WORDS: Final = {535: ": user or password refused", 550: ": sender or recipient refused", 421: ": it is busy"}


def _prepare(channel: Channel) -> Service:
    """From here on this process can do no more than it needs."""
    WATCH.private = channel.private
    requests.sessions.Session = _Session  # type: ignore[misc]
    smtplib.SMTP.getreply = _Smtp.getreply  # type: ignore[method-assign, assignment]
    logging.disable(logging.CRITICAL)  # what Apprise says of an address may hold a secret
    service = service_of(channel)
    _made(service)  # loads what it needs, before nothing more may be loaded
    sys.addaudithook(WATCH.audit)
    return service


def _made(service: Service, headers: dict[str, str] | None = None) -> Any:
    """Apprise's object for one message. Raises ValueError when it will have none of it."""
    asset = apprise.AppriseAsset(
        http_redirects=False, async_mode=False, app_id="Tapewatch", app_desc="Tapewatch", app_url="",
        image_url_mask=False, service_timeout=0,
    )  # fmt: skip
    given: Any = service.get("url") or {"verify": True, **service}
    if headers and isinstance(given, dict) and given["schema"].startswith("mailto"):
        given["headers"] = headers
    plugin: Any
    try:
        plugin = apprise.Apprise.instantiate(given, asset=asset, suppress_exceptions=False)
    except TypeError as error:
        raise ValueError("Apprise does not take these values") from error
    if plugin is None:
        raise ValueError("Apprise does not take these values")
    plugin.request_rate_per_sec = 0
    plugin.throttle = lambda *_, **__: None  # limits are the sender's
    if service.notify_url is not None:
        plugin.notify_url = service.notify_url
    return plugin


def _deliver(service: Service, asked: Asked) -> Told:
    WATCH.forget()
    signal.alarm(math.ceil(asked.deadline_s) + 1)  # should its starter be gone by then: this ends the process
    headers = {"X-Tapewatch-Id": asked.id, "References": f"<{asked.alert_id}@tapewatch>"}
    plugin = _made(service, headers)
    try:
        accepted = plugin.notify(body=asked.text, title=asked.title, notify_type=_TYPES.get(asked.severity, "info"))
    except (OSError, ValueError, requests.RequestException) as error:
        WATCH.failed("the connection", error)
        accepted = False
    signal.alarm(0)
    if accepted:
        return Told()
    return Told(WATCH.reason or "Apprise could not deliver it", WATCH.pause_s)


def main() -> None:
    """Serve one channel until the input ends."""
    lines, out = sys.stdin.buffer, sys.stdout.buffer
    try:
        service = _prepare(msgspec.json.decode(lines.readline(), type=Channel))
    except (ChannelError, ValueError) as error:
        told = error.message if isinstance(error, ChannelError) else str(error)
        service, broken = Service(), f"the channel's values do not do: {told}"
    else:
        broken = ""
    _say(out, Told())  # ready
    for line in lines:
        asked = msgspec.json.decode(line, type=Asked)
        _say(out, Told(broken) if broken else _deliver(service, asked))


def _say(out: BinaryIO, told: Told) -> None:
    out.write(msgspec.json.encode(told) + b"\n")
    out.flush()


if __name__ == "__main__":
    main()
