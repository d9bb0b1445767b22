"""The webhook against real endpoints that answer, hang, drip, refuse, redirect and lie about where they are."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from notify_parts import START, Clock, MemoryOutbox, Respond, Row, answer, endpoint, message, outlets
from ports import held_port
from tapewatch import __version__
from tapewatch.notify.addresses import Unfit
from tapewatch.notify.posting import pause_s
from tapewatch.notify.sender import Sender
from tapewatch.notify.signing import key_of, verify
from tapewatch.notify.target import Outcome
from tapewatch.notify.webhook import Webhook
from tapewatch.settings import NOTIFY_RETRY_AFTER_S_MAX

pytestmark = pytest.mark.anyio

QUICK_S = 0.3


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def post(url: str, deadline_s: float = 60.0) -> Outcome:
    """One message to ``url``."""
    webhook = Webhook(url, private=True, deadline_s=deadline_s)
    try:
        return await webhook.deliver(message())
    finally:
        await webhook.close()


async def test_what_a_receiver_gets() -> None:
    async with endpoint(answer(200)) as (port, requests):
        assert await post(f"http://user:pass@127.0.0.1:{port}/hook?a=b") == Outcome()
    (request,) = requests
    assert request.line == "POST /hook?a=b HTTP/1.1"
    assert json.loads(request.body) == message().payload
    wanted = {
        "host": f"127.0.0.1:{port}",
        "content-type": "application/json",
        "idempotency-key": message().id.lower(),
        "user-agent": f"tapewatch/{__version__}",
        "authorization": "basic dxnlcjpwyxnz",
    }
    assert {name: request.headers.get(name) for name in wanted} == wanted


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_accepted(status: int) -> None:
    async with endpoint(answer(status)) as (port, _):
        assert await post(f"http://127.0.0.1:{port}/") == Outcome()


@pytest.mark.parametrize("status", [400, 401, 404, 410, 500, 502, 504])
async def test_refused_with_the_status_and_not_with_what_was_answered(status: int) -> None:
    async with endpoint(answer(status, b"secret of an inner service" * 1000)) as (port, _):
        assert await post(f"http://127.0.0.1:{port}/") == Outcome(f"127.0.0.1 answered {status}")


@pytest.mark.parametrize("status", [429, 503])
async def test_asked_to_come_back_later(status: int) -> None:
    async with endpoint(answer(status, Retry_After="17")) as (port, _):
        assert await post(f"http://127.0.0.1:{port}/") == Outcome(f"127.0.0.1 answered {status}", pause_s=17.0)


@pytest.mark.parametrize(
    ("status", "asked", "expected"),
    [
        (429, "0", 0.0),
        (429, "30", 30.0),
        (503, "999999999999999999999", NOTIFY_RETRY_AFTER_S_MAX),
        (429, "Tue, 02 Jan 2024 15:33:05 GMT", 120.0),
        (429, "Tue, 02 Jan 2024 15:30:05 GMT", 0.0),
        (429, "Tue, 02 Jan 2074 15:30:05 GMT", NOTIFY_RETRY_AFTER_S_MAX),
        (429, "-5", None),
        (429, "soon", None),
        (429, "", None),
        (500, "30", None),
    ],
)
def test_the_pause_that_is_asked_for(status: int, asked: str, expected: float | None) -> None:
    assert pause_s(httpx.Response(status, headers={"Retry-After": asked}), START) == expected


async def test_a_redirect_is_not_followed() -> None:
    async with endpoint(answer(200)) as (elsewhere, reached):
        for status in (301, 302, 303, 307, 308):
            there = f"http://127.0.0.1:{elsewhere}/latest/meta-data"
            async with endpoint(answer(status, Location=there)) as (port, _):
                outcome = await post(f"http://127.0.0.1:{port}/")
            assert outcome.error == f"127.0.0.1 answered {status}, a redirect, which is not followed"
    assert reached == []


async def _hang(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _drip_headers(writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Slow: yes\r\n" * 1000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.05)


async def _drip_body(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 503 Busy\r\nRetry-After: 9\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(1000):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("respond", [_hang, _drip_headers])
async def test_an_answer_has_a_deadline_however_slowly_it_drips(respond: Respond) -> None:
    async with endpoint(respond) as (port, _), asyncio.timeout(30):
        outcome = await post(f"http://127.0.0.1:{port}/", QUICK_S)
    assert outcome == Outcome("127.0.0.1 did not answer within 0.3 s")


async def test_a_dripping_reason_is_not_waited_for() -> None:
    async with endpoint(_drip_body) as (port, _), asyncio.timeout(30):
        outcome = await post(f"http://127.0.0.1:{port}/", 10.0)
    assert outcome.error == "127.0.0.1 answered 503"
    assert outcome.pause_s == 9.0


async def test_a_dripping_answer_of_2xx_is_accepted_at_once() -> None:
    async def respond(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        await asyncio.Event().wait()

    async with endpoint(respond) as (port, _), asyncio.timeout(30):
        assert await post(f"http://127.0.0.1:{port}/", 10.0) == Outcome()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _garbage(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\xff not HTTP at all\r\n\r\n")


async def _endless_headers(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000_000)


@pytest.mark.parametrize("respond", [_close, _garbage, _endless_headers])
async def test_nonsense_is_a_failure_and_no_crash(respond: Respond) -> None:
    async with endpoint(respond) as (port, _):
        outcome = await post(f"http://127.0.0.1:{port}/")
    assert outcome.error.startswith("127.0.0.1: RemoteProtocolError: ")


async def test_nobody_listens() -> None:
    with held_port() as port:
        assert (await post(f"http://127.0.0.1:{port}/")).error.startswith("127.0.0.1: ConnectError: ")


async def test_a_name_that_does_not_exist() -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    webhook = Webhook("http://nowhere.invalid/", resolve=unknown)
    assert (await webhook.deliver(message())).error == "nowhere.invalid: OSError: [Errno -2] Name or service not known"
    await webhook.close()


async def test_the_second_address_is_tried_when_nobody_listens_on_the_first() -> None:
    async def two(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with endpoint(answer(200)) as (port, requests):
        webhook = Webhook(f"http://receiver.test:{port}/", private=True, resolve=two)
        assert await webhook.deliver(message()) == Outcome()
        await webhook.close()
    assert [request.headers["host"] for request in requests] == [f"receiver.test:{port}"]


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "2852039166",  # the same as one number
        "0xa9fea9fe",
        "0xa9.0xfe.0xa9.0xfe",
        "169.254.43518",
        "[::ffff:169.254.169.254]",
        "[fe80::1]",
        "[::]",
        "0.0.0.0",
        "0",
    ],
)
async def test_other_spellings_of_a_forbidden_address_are_seen_through(host: str) -> None:
    outcome = await post(f"http://{host}:9/latest/meta-data")
    assert "an address that messages may not be sent to: " in outcome.error


async def test_the_address_that_was_checked_is_the_one_connected_to() -> None:
    answers = iter([["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1", "169.254.169.254"]])
    asked = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return next(answers)

    async with endpoint(answer(200)) as (port, requests):
        webhook = Webhook(f"http://rebinding.test:{port}/", private=True, resolve=rebinding)
        assert await webhook.deliver(message()) == Outcome()
        assert asked == [("rebinding.test", port)], "resolved more than once in one attempt"
        for _ in range(2):
            outcome = await webhook.deliver(message())
            assert "169.254.169.254, an address that messages may not be sent to" in outcome.error
        await webhook.close()
    assert len(requests) == 1


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with endpoint(answer(200)) as (proxy, through), endpoint(answer(200)) as (port, _):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        assert await post(f"http://127.0.0.1:{port}/") == Outcome()
    assert through == []


async def test_the_secret_in_the_address_is_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    marker = "T0KEN5ECRET"
    outbox = MemoryOutbox()
    refusals: list[Respond] = [answer(500, b"no"), answer(302, Location="/"), _close, _garbage]
    with capture_logs() as lines:
        for respond in refusals:
            outbox.rows[message().id] = Row(message(), START, START)
            async with endpoint(respond) as (port, _):
                url = f"http://{marker}:{marker}@127.0.0.1:{port}/{marker}?key={marker}"
                webhook = Webhook(url, private=True)
                sender = Sender(outbox, outlets(webhook=webhook), attempts_max=1, news_age_ms=1_000, now=Clock())
                await sender.step("webhook")
                await webhook.close()
            assert outbox.rows[message().id].state == "dead"
            assert marker not in str(outbox.rows[message().id])
    assert len(lines) == len(refusals)
    assert marker not in str(lines)
    assert marker not in caplog.text


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_tls_checks_the_name_and_not_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=receiver.test"]
    command += ["-addext", "subjectAltName=DNS:receiver.test"]
    subprocess.run(command, check=True, capture_output=True)
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def here(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with endpoint(answer(200), tls=server_side) as (port, requests):
        for name, error in (("receiver.test", ""), ("other.test", "ConnectError")):
            webhook = Webhook(f"https://{name}:{port}/", private=True, resolve=here)
            assert error in (outcome := await webhook.deliver(message())).error, outcome
            assert bool(outcome.error) == bool(error)
            await webhook.close()
    assert len(requests) == 1


@pytest.mark.parametrize("url", ["http://[::1/s3cret", "http://a\n/s3cret"])
def test_an_impossible_address_is_told_without_it(url: str) -> None:
    with pytest.raises(Unfit, match="expected an address such as") as caught:
        Webhook(url)
    assert "s3cret" not in str(caught.value)


async def test_this_machine_and_private_networks_are_reached_only_where_that_is_said() -> None:
    async with endpoint(answer(200)) as (port, requests):
        for url in (f"http://127.0.0.1:{port}/", f"http://localhost:{port}/"):
            webhook = Webhook(url)
            error = (await webhook.deliver(message())).error
            await webhook.close()
            assert error.endswith("this machine; messages go there only if the channel says `private = true`")
    assert requests == []


async def test_what_is_sent_is_signed_anew_with_each_attempt() -> None:
    key, times = key_of("whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVlda"), iter([1_700_000_000.9, 1_700_000_400.0])
    async with endpoint(answer(200)) as (port, requests):
        webhook = Webhook(f"http://127.0.0.1:{port}/", private=True, key=key, now_s=lambda: next(times))
        for _ in range(2):
            assert await webhook.deliver(message()) == Outcome()
        await webhook.close()
    first, second = requests
    assert first.signed_headers["webhook-id"] == second.signed_headers["webhook-id"] == message().id
    assert verify(key, first.signed_headers, first.body, 1_700_000_000) == ""
    assert verify(key, second.signed_headers, second.body, 1_700_000_400) == ""
    assert verify(key, first.signed_headers, first.body, 1_700_000_400) != "", "an old one is not to be believed"
    assert verify(key, first.signed_headers | {"webhook-id": "another"}, first.body, 1_700_000_000) != ""
