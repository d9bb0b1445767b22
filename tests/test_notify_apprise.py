"""What goes through Apprise, against real peers on loopback: a mail server, and servers shaped as each service's is."""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from ssl import Purpose, create_default_context
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import psutil
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from notify_parts import Request, Respond, answer, endpoint, message
from tapewatch.notify.apprise_target import AppriseTarget
from tapewatch.notify.channels import Channel, filled, parse_channels
from tapewatch.notify.target import Outcome
from tapewatch.records import Notification

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:aiosmtpd"),
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning"),
]

ENVIRONMENT = {
    "TOKEN": "123456789:abcdefghij_klmnopqrst",
    "PASSWORD": "p@ss/w?rd%41",
    "KEY30": "abcdefghij0123456789klmnopqrst",
    "NTFY": "tk_abc123",
}
LINK = "https://tape.example.org/#/alerts/a1"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def channel(environment: dict[str, str] | None = None, private: bool = True, **values: Any) -> Channel:
    written = parse_channels({"x": {"private": private, **values}})["x"]
    return filled(written, ENVIRONMENT | (environment or {}))


def news(**payload: Any) -> Notification:
    n = message()
    whole = n.payload | {"title": "AAPL golden cross", "text": "190.12 is above <190> & rising", "url": LINK} | payload
    return msgspec.structs.replace(n, payload=whole)


@asynccontextmanager
async def target(of: Channel, deadline_s: float = 60.0) -> AsyncIterator[AppriseTarget]:
    found = AppriseTarget(of, deadline_s=deadline_s)
    try:
        yield found
    finally:
        await found.close()


async def send(of: Channel, notification: Notification | None = None, deadline_s: float = 60.0) -> Outcome:
    async with target(of, deadline_s) as found:
        return await found.deliver(notification or news())


# --- mail --------------------------------------------------------------------------------------------------------


class Mails:
    """A mail server's inbox; ``refuse`` is its answer to every mail."""

    def __init__(self, refuse: str = "") -> None:
        self.got: list[Envelope] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.refuse = refuse

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.refuse:
            return self.refuse
        self.got.append(envelope)
        return "250 OK"

    def authenticate(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == ENVIRONMENT["PASSWORD"].encode(), handled=False)


class FreePort(Controller):
    """On a port that the system chose: aiosmtpd asks its own server for a sign of life, there."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@contextmanager
def mail_server(mails: Mails, **options: Any) -> Iterator[int]:
    # A name of its own: it would ask the network for this machine's.
    patience = {"ready_timeout": 120.0, "server_hostname": "localhost"}
    controller = FreePort(mails, hostname="127.0.0.1", port=0, **patience, **options)
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


def mail(port: int, **more: Any) -> Channel:
    return channel(
        kind="email", host="127.0.0.1", port=port, security="none", to=["a@example.org", "b@example.org"],
        **{"from": "tape@example.org"}, **more,
    )  # fmt: skip


async def test_a_mail() -> None:
    mails = Mails()
    with mail_server(mails) as port:
        assert await send(mail(port)) == Outcome()
    assert {to for envelope in mails.got for to in envelope.rcpt_tos} == {"a@example.org", "b@example.org"}
    for envelope in mails.got:
        assert envelope.mail_from == "tape@example.org"
        assert isinstance(envelope.content, bytes)
        got = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert got["Subject"] == "AAPL golden cross"
        assert got["X-Tapewatch-Id"] == message().id
        assert got["References"] == "<a1@tapewatch>"
        text = got.get_body(("plain", "html"))
        assert text is not None
        assert LINK in text.get_content()
        assert "190.12 is above" in text.get_content()


async def test_a_mail_server_with_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mails = Mails()
    tls = certificate(tmp_path, monkeypatch)
    options = {"tls_context": tls, "require_starttls": True, "authenticator": mails.authenticate, "auth_required": True}
    with mail_server(mails, **options) as port:
        login = {"security": "starttls", "user": "tape@example.org", "password": "env:PASSWORD"}
        good = channel(
            kind="email", host="localhost", port=port, to="a@example.org", **login, **{"from": "tape@example.org"}
        )
        assert await send(good) == Outcome()
        bad = msgspec.structs.replace(good, values=good.values | {"password": "wrong"})
        assert await send(bad) == Outcome("the mail server answered 535: user or password refused")
    assert mails.logins[0] == (b"tape@example.org", ENVIRONMENT["PASSWORD"].encode())
    assert len(mails.got) == 1


async def test_a_mail_that_is_refused_is_tried_again_later() -> None:
    with mail_server(Mails("451 4.7.1 Greylisted, <secret> come back")) as port:
        assert await send(mail(port)) == Outcome("the mail server answered 451")


async def test_no_mail_server() -> None:
    with mail_server(Mails()) as port:
        pass
    assert (await send(mail(port))).error != ""


# --- services over HTTP ------------------------------------------------------------------------------------------


async def test_telegram() -> None:
    async with endpoint(answer(200, b'{"ok": true, "result": {"message_id": 1}}')) as (port, requests):
        chat = channel(
            kind="telegram", token="env:TOKEN", chats=["-100123", "@desk_chat"], api=f"http://127.0.0.1:{port}"
        )
        assert await send(chat) == Outcome()
    assert {path(r) for r in requests} == {f"/bot{ENVIRONMENT['TOKEN']}/sendMessage".lower()}
    bodies = [json.loads(r.body) for r in requests]
    assert [body["chat_id"] for body in bodies] in ([-100123, "@desk_chat"], ["-100123", "@desk_chat"])
    for body in bodies:
        assert "AAPL golden cross" in body["text"]
        assert LINK in body["text"]
        assert len(body["text"]) <= 4_096


async def test_ntfy() -> None:
    async with endpoint(answer(200, b'{"id": "1"}')) as (port, requests):
        phone = channel(kind="ntfy", server=f"http://127.0.0.1:{port}", topic="tape", token="env:NTFY")
        assert await send(phone) == Outcome()
    (request,) = requests
    body = json.loads(request.body)
    assert (body["topic"], body["title"]) == ("tape", "AAPL golden cross")
    assert LINK in body["message"]
    assert request.signed_headers["authorization"] == "Bearer tk_abc123"


async def test_pushover() -> None:
    async with endpoint(answer(200, b'{"status": 1}')) as (port, requests):
        phone = channel(
            kind="pushover", user="env:KEY30", token="env:KEY30", devices=["iphone"], api=f"http://127.0.0.1:{port}"
        )
        assert await send(phone) == Outcome()
    (request,) = requests
    body = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
    assert path(request) == "/1/messages.json"
    assert (body["user"], body["token"], body["device"]) == (ENVIRONMENT["KEY30"], ENVIRONMENT["KEY30"], "iphone")
    assert body["title"] == "AAPL golden cross"
    assert LINK in body["message"]


async def test_discord() -> None:
    async with endpoint(answer(204)) as (port, requests):
        url = f"http://127.0.0.1:{port}/api/webhooks/123/abc-DEF"
        assert await send(channel({"URL": url}, kind="discord", url="env:URL")) == Outcome()
    (request,) = requests
    assert request.line.split(" ")[1].startswith("/api/webhooks/123/abc-DEF")
    body = json.loads(request.body)
    assert "AAPL golden cross" in request.body.decode()
    assert LINK in request.body.decode()
    assert len(body.get("content", "")) <= 2_000


async def test_teams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = certificate(tmp_path, monkeypatch)
    async with endpoint(answer(202), tls=tls) as (port, requests):
        where = f"https://localhost:{port}/workflows/abc123/triggers/manual/paths/invoke?api-version=1&sig=s_1-x"
        assert await send(channel({"URL": where}, kind="teams", url="env:URL")) == Outcome()
        host = where.replace("localhost", "127.0.0.1")
        wrong = await send(channel({"URL": host}, kind="teams", url="env:URL"))
        assert wrong.error != "", "the certificate is of another name"
    (request,) = requests
    parts = urlsplit(request.line.split(" ")[1])
    assert parts.path == "/workflows/abc123/triggers/manual/paths/invoke"
    assert parse_qs(parts.query)["sig"] == ["s_1-x"]
    body = json.loads(request.body)
    (card,) = body["attachments"]
    assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert card["content"]["type"] == "AdaptiveCard"
    assert "AAPL golden cross" in request.body.decode()
    assert LINK in request.body.decode()


def phone(port: int, host: str = "127.0.0.1", private: bool = True) -> Channel:
    return channel(kind="ntfy", server=f"http://{host}:{port}", topic="tape", private=private)


@pytest.mark.parametrize("status", [400, 403, 404, 500])
async def test_a_refusal_is_told_by_its_status(status: int) -> None:
    async with endpoint(answer(status, b'{"error": "inner secret"}')) as (port, _):
        assert await send(phone(port)) == Outcome(f"127.0.0.1 answered {status}")


@pytest.mark.parametrize(("status", "asked", "pause_s"), [(429, "17", 17.0), (503, "5", 5.0), (429, "", None)])
async def test_asked_to_come_back_later(status: int, asked: str, pause_s: float | None) -> None:
    async with endpoint(answer(status, **({"Retry_After": asked} if asked else {}))) as (port, requests):
        assert await send(phone(port)) == Outcome(f"127.0.0.1 answered {status}", pause_s)
    assert len(requests) == 1


async def test_discord_is_not_asked_again_while_it_asks_to_be_left_alone() -> None:
    async with endpoint(answer(429, Retry_After="3")) as (port, requests):
        url = f"http://127.0.0.1:{port}/api/webhooks/123/abc"
        outcome = await send(channel({"URL": url}, kind="discord", url="env:URL"))
    assert outcome == Outcome("127.0.0.1 answered 429", 3.0)
    assert len(requests) == 1


# --- hostile receivers -------------------------------------------------------------------------------------------


async def test_a_redirect_is_not_followed() -> None:
    async with endpoint(answer(200)) as (elsewhere, reached):
        for status in (301, 302, 307, 308):
            async with endpoint(answer(status, Location=f"http://127.0.0.1:{elsewhere}/")) as (port, _):
                outcome = await send(phone(port))
            assert outcome.error == f"127.0.0.1 answered {status}, a redirect, which is not followed"
    assert reached == []


async def _drip(writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Slow: yes\r\n" * 1_000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.1)


async def _hang(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("respond", [_drip, _hang])
async def test_the_deadline_is_hard_and_what_comes_after_is_delivered(respond: Respond) -> None:
    """Apprise's own time-out never ends a drip."""
    calls = iter([True, False])

    async def first_only(writer: asyncio.StreamWriter) -> None:
        await (respond if next(calls) else answer(200, b"{}"))(writer)

    async with endpoint(first_only) as (port, _), target(phone(port), 3.0) as found:
        async with asyncio.timeout(250):
            assert await found.deliver(news()) == Outcome("not delivered within 3 s")
            found._deadline_s = 60.0  # this one may take its time
            assert await found.deliver(news()) == Outcome()


async def test_an_address_that_may_not_be_sent_to_is_not_connected_to_whatever_led_there() -> None:
    """The name is harmless as it is written; it is judged where the connection is made."""
    async with endpoint(answer(200)) as (port, requests):
        outcome = await send(phone(port, "localhost.localdomain", private=False))
    assert requests == []
    assert outcome.error != ""
    outcome = await send(phone(9, "ip6-localhost", private=False))
    assert outcome.error != ""


async def test_this_machine_is_reached_only_where_that_is_said() -> None:
    async with endpoint(answer(200)) as (port, requests):
        allowed = phone(port)
        outcome = await send(msgspec.structs.replace(allowed, private=False))
    assert requests == []
    assert outcome.error.startswith("127.0.0.1 is an address that messages may not be sent to: this machine")


async def test_values_that_apprise_will_not_take_are_told() -> None:
    bad = channel({"TOKEN": "no token"}, kind="telegram", token="env:TOKEN", chats="@desk_chat")
    outcome = await send(bad)
    assert outcome.error.startswith("the channel's values do not do")
    assert "no token" not in outcome.error


async def test_proxies_and_secrets_of_the_environment_do_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "s3cret-of-the-environment")
    async with endpoint(answer(200)) as (proxy, through), endpoint(answer(200, b"{}")) as (port, _):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        async with target(phone(port)) as found:
            assert await found.deliver(news()) == Outcome()
            (worker,) = workers()
            assert "A_SECRET" not in worker.environ()
    assert through == []


async def test_a_worker_without_work_ends_and_comes_back() -> None:
    async with endpoint(answer(200, b"{}")) as (port, requests):
        found = AppriseTarget(phone(port), idle_s=0.05)
        for _ in range(2):
            assert await found.deliver(news()) == Outcome()
            async with asyncio.timeout(120):
                while workers():
                    await asyncio.sleep(0.02)
        await found.close()
    assert len(requests) == 2


def workers() -> list[psutil.Process]:
    """Those that live, and nothing else that the tests have started: a database may be among it."""
    found = []
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE and "apprise_worker" in " ".join(process.cmdline()):
                found.append(process)
    return found


async def test_a_worker_that_dies_is_one_failure() -> None:
    async def kill(writer: asyncio.StreamWriter) -> None:
        for process in workers():
            process.kill()
        await asyncio.Event().wait()

    responds: Iterator[Respond] = iter([kill, answer(200, b"{}")])

    async def respond(writer: asyncio.StreamWriter) -> None:
        await next(responds)(writer)

    async with endpoint(respond) as (port, _), target(phone(port)) as found:
        assert await found.deliver(news()) == Outcome("the process that holds Apprise ended without an answer")
        assert await found.deliver(news()) == Outcome()


# --- help --------------------------------------------------------------------------------------------------------


def path(request: Request) -> str:
    return request.line.split(" ")[1].lower()


def certificate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server's side of TLS for the name localhost, which this process and its children believe."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    key, cert = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(cert))
    context = create_default_context(Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    return context
