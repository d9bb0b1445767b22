"""Which addresses messages go to: hostile ones are refused, each with its reason, and no other is."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notify_parts import message
from tapewatch.notify.addresses import Unfit, check_url, refusal, written_refusal
from tapewatch.notify.channels import ChannelError, parse_channels
from tapewatch.notify.webhook import Webhook

pytestmark = pytest.mark.anyio

MACHINE, PRIVATE, LINK = "this machine", "of a private network", "link-local"
METADATA, NOBODY, MANY, RESERVED = "metadata service of a cloud", "no address of any host", "multicast", "reserved"
NUMBER, CHARACTER, SCHEME = "no plain IPv4 address", "must be written as %XX", "expected an address starting with"

HOSTILE = [
    # another scheme than HTTP
    ("file:///etc/passwd", SCHEME),
    ("gopher://10.0.0.1:6379/_FLUSHALL", SCHEME),
    ("javascript:alert(1)", SCHEME),
    ("//169.254.169.254/latest", SCHEME),
    # this machine, in all its spellings
    ("http://127.0.0.1:5432/", MACHINE),
    ("http://localhost/", MACHINE),
    ("http://metrics.localhost./", MACHINE),
    ("http://[::1]:8787/", MACHINE),
    ("http://[::ffff:127.0.0.1]/", MACHINE),
    ("http://2130706433/", NUMBER),
    ("http://0x7f.0.0.1/", NUMBER),
    ("http://0177.0.0.1/", NUMBER),
    ("http://127.1/", NUMBER),
    ("http://0.0.0.0/", NOBODY),
    # the cloud's own services
    ("http://169.254.169.254/latest/meta-data/iam/", LINK),
    ("http://[::ffff:a9fe:a9fe]/", LINK),
    ("http://[64:ff9b::a9fe:a9fe]/", LINK),
    ("http://metadata.google.internal/computeMetadata/v1/", METADATA),
    ("http://[fd00:ec2::254]/", METADATA),
    ("http://100.100.100.200/", METADATA),
    # private networks, and what is no host at all
    ("http://10.0.0.5/hook", PRIVATE),
    ("http://192.168.1.1/setup.cgi", PRIVATE),
    ("http://[fc00::1]/", PRIVATE),
    ("http://[fec0::1]/", PRIVATE),
    ("http://192.0.0.8/", PRIVATE),
    ("http://[2002:a9fe:a9fe::]/", LINK),
    ("http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/", MACHINE),
    ("http://[::ffff:0:127.0.0.1]/", RESERVED),
    ("http://192.0.0.192/opc/v2/instance/", METADATA),
    ("http://224.0.0.1/", MANY),
    ("http://255.255.255.255/", RESERVED),
    ("http://[fe80::1%25eth0]/", "zone"),
    # what two programs read differently
    ("http://hooks.example.com@169.254.169.254/", "user or password before the host"),
    ("http://hooks.example.com\\@127.0.0.1/", CHARACTER),
    ("http://hooks.example.com/\r\nX-Evil: 1", "printable characters"),
    ("http://127。0。0。1/", CHARACTER),
    ("http://hooks.example.com:0/", "port 0"),
    ("http://hooks.example.com/#@127.0.0.1/", "after #"),
    ("http:///latest/meta-data", "no host"),
    ("http:/127.0.0.1/", "no host"),
    ("http://127.0.0.1./", NUMBER),
    ("http://127.0.0.1:99999/", "expected an address such as"),
    ("http://①②⑦.0.0.1/", CHARACTER),
    ("http://1.1.1.1%00.example.com/", "the host is no name"),
    ("http://%31%32%37.0.0.1/", "the host is no name"),
    # names that look harmless and lead elsewhere
    ("http://rebinding.example.com/", LINK),
    ("http://both.example.com/", MACHINE),
    ("http://intranet.example.com/", PRIVATE),
    ("http://mapped.example.com/", METADATA),
    ("http://127.0.0.1.names.example.com/", MACHINE),
]
NAMES = {
    "rebinding.example.com": ["169.254.169.254"],
    "both.example.com": ["93.184.215.14", "127.0.0.1"],
    "intranet.example.com": ["10.11.12.13"],
    "mapped.example.com": ["::ffff:100.100.100.200"],
    "127.0.0.1.names.example.com": ["127.0.0.1"],
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def resolve(host: str, port: int) -> list[str]:
    return NAMES[host]


async def reason(url: str) -> str:
    """Why nothing is sent there: as it is read from alerts.toml, or else when it is to be connected to."""
    try:
        channel = parse_channels({"desk": {"kind": "webhook", "url": url}})["desk"]
    except ChannelError as error:
        return str(error)
    webhook = Webhook(channel.values["url"], private=channel.private, resolve=resolve)
    try:
        return (await webhook.deliver(message())).error
    finally:
        await webhook.close()


@pytest.mark.parametrize(("url", "why"), HOSTILE, ids=[url for url, _ in HOSTILE])
async def test_a_hostile_address_is_refused_with_its_reason(url: str, why: str) -> None:
    assert why in await reason(url)


def test_there_are_enough_of_them() -> None:
    assert len({url for url, _ in HOSTILE}) >= 25


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.slack.com/services/T0/B0/x",
        "http://receiver.example.org:8080/hook?a=b&c=%20d",
        "https://xn--bcher-kva.example/",
        "https://93.184.215.14/",
        "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:8443/x",
        "https://a_b-c.example.org./~user/",
    ],
)
def test_others_are_taken_as_they_are(url: str) -> None:
    assert check_url(url, ("http", "https")) == url
    assert written_refusal(url, private=False) == ""


@pytest.mark.parametrize(
    ("address", "here", "elsewhere"),
    [
        ("93.184.215.14", True, True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True, True),
        ("127.0.0.1", False, True),
        ("127.255.255.254", False, True),
        ("::1", False, True),
        ("10.1.2.3", False, True),
        ("172.16.0.1", False, True),
        ("192.168.1.20", False, True),
        ("100.64.0.1", False, True),
        ("fd12:3456::1", False, True),
        ("fec0::1", False, True),
        ("64:ff9b:1::808:808", False, True),
        ("192.0.0.8", False, True),
        ("::ffff:192.0.0.8", False, True),
        ("198.18.0.1", False, True),
        ("2001:db8::1", False, True),
        ("3fff::1", False, True),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", False, True),
        ("64:ff9b:1::a9fe:a9fe", False, False),
        ("2001:0:4136:e378:8000:63bf:5601:5601", False, False),
        ("::ffff:0:127.0.0.1", False, False),
        ("192.0.0.192", False, False),
        ("169.254.170.2", False, False),
        ("::ffff:127.0.0.1", False, True),
        ("64:ff9b::7f00:1", False, True),
        ("2002:7f00:1::", False, True),
        ("::7f00:1", False, True),
        ("169.254.169.254", False, False),
        ("169.254.0.1", False, False),
        ("::ffff:169.254.169.254", False, False),
        ("::ffff:a9fe:a9fe", False, False),
        ("64:ff9b::a9fe:a9fe", False, False),
        ("2002:a9fe:a9fe::1", False, False),
        ("fe80::1", False, False),
        ("fe80::1%eth0", False, False),
        ("febf::1", False, False),
        ("fd00:ec2::254", False, False),
        ("100.100.100.200", False, False),
        ("168.63.129.16", False, False),
        ("0.0.0.0", False, False),
        ("0.1.2.3", False, False),
        ("::", False, False),
        ("::ffff:0.0.0.0", False, False),
        ("224.0.0.1", False, False),
        ("ff02::1", False, False),
        ("255.255.255.255", False, False),
        ("240.0.0.1", False, False),
        ("no address", False, False),
    ],
)
def test_addresses_that_messages_may_be_sent_to(address: str, here: bool, elsewhere: bool) -> None:
    """``here``: without, ``elsewhere``: with `private = true`."""
    assert (refusal(address, private=False) == "") is here
    assert (refusal(address, private=True) == "") is elsewhere


@given(st.ip_addresses())
def test_no_address_is_allowed_only_without_private(address: object) -> None:
    if refusal(str(address), private=True):
        assert refusal(str(address), private=False)


@given(st.text(max_size=80))
def test_nothing_that_is_written_can_raise_anything_else(text: str) -> None:
    for url in (text, f"http://{text}", f"https://host/{text}"):
        with suppress(Unfit):
            written_refusal(check_url(url, ("http", "https")), private=False)
