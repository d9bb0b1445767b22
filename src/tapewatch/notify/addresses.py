"""Where messages may be sent to: which addresses a person may write, and which addresses may then be connected to.

A target's address is checked twice. As it is written (`check_url`): nothing that two programs would read differently,
no other scheme than expected. And as it is resolved (`refusal`), at every attempt, the very address that is then
connected to: so a name that points elsewhere tomorrow gets no further than one that does today.

    public addresses                                          allowed
    this machine, private networks, carrier networks          only where the channel says `private = true`
    link-local, cloud metadata, multicast, reserved           never

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

__all__ = ["Unfit", "check_url", "refusal", "written_refusal"]

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Give any process of the machine its credentials, yet are not link-local: AWS, Google, Alibaba, Azure, Oracle.
_METADATA: Final = {
    ipaddress.ip_address(a)
    for a in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
}
_THIS_NETWORK: Final = ipaddress.ip_network("0.0.0.0/8")
_NAT64: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
# Private, though not every Python says so: site-local, IPv4's own uses, a network's own NAT64, examples of books.
_LOCAL: Final = tuple(map(ipaddress.ip_network, ("fec0::/10", "192.0.0.0/24", "64:ff9b:1::/48", "3fff::/20")))
_COMPATIBLE: Final = ipaddress.ip_network("::/96")
_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-)){0,20}\.?")
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")
URL_CHARACTERS_MAX: Final = 2_000


class Unfit(ValueError):
    """An address that nothing is sent to; the text is why."""


def check_url(url: str, schemes: Sequence[str], *, userinfo: bool = False) -> str:
    """The address as it is. ``userinfo``: a user and a password may stand before the host.

    Raises:
        Unfit: with the reason; the address itself is not in it, since it may hold a secret.
    """
    if len(url) > URL_CHARACTERS_MAX:
        raise Unfit(f"the address is longer than {URL_CHARACTERS_MAX} characters")
    if not url.isascii() or any(c <= " " or c in '\\"<>^`{|}\x7f' for c in url):
        raise Unfit("the address holds a space or another character that must be written as %XX (a host: as xn--)")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Unfit("expected an address such as https://host/path") from None
    if parts.scheme not in schemes:
        raise Unfit(f"expected an address starting with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not userinfo and "@" in parts.netloc:
        raise Unfit("a user or password before the host is not allowed: programs disagree on which part is the host")
    if parts.fragment or url.endswith("#"):
        raise Unfit("a part after # is never sent, so it is not allowed")
    if port == 0:
        raise Unfit("port 0 is no port")
    _check_host(parts.hostname or "", parts.netloc)
    return url


def _check_host(host: str, netloc: str) -> None:
    """A name, an IPv4 address as four decimal numbers, or an IPv6 address in brackets."""
    if not host:
        raise Unfit("expected an address such as https://host/path: it has no host")
    if "[" in netloc:
        try:
            ipaddress.IPv6Address(host)  # one with a zone reaches a network card, not a host
        except ValueError:
            raise Unfit("what stands in brackets is no IPv6 address") from None
        if "%" in host:
            raise Unfit("an IPv6 address with a zone is one of this machine's own links")
        return
    if not _NAME.fullmatch(host):
        raise Unfit("the host is no name: expected letters, digits, hyphens and dots")
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise Unfit("the host is a number, which is no plain IPv4 address: expected such as 192.0.2.1") from None


def refusal(address: str, *, private: bool) -> str:
    """Why nothing may be sent to this IP address; empty if it may. ``private``: this machine and private ones too."""
    try:
        ip: IPAddress = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "no IP address"
    is_local = any(ip in network for network in _LOCAL)
    if isinstance(ip, ipaddress.IPv6Address):
        ip = _inner(ip)
        is_local = is_local or any(ip in network for network in _LOCAL)
    if ip in _METADATA:
        return "the metadata service of a cloud, which gives away the machine's credentials"
    if ip.is_link_local:
        return "link-local: the cloud's metadata service, or the next network card"
    if ip.is_unspecified or (ip.version == 4 and ip in _THIS_NETWORK):
        return "no address of any host"
    if ip.is_multicast:
        return "multicast: many hosts at once"
    if ip.is_loopback:
        return "" if private else _say("this machine")
    if ip.is_reserved:
        return "reserved: no host has it"
    if is_local or not ip.is_global:
        return "" if private else _say("of a private network")
    return ""


def _say(what: str) -> str:
    return f"{what}; messages go there only if the channel says `private = true`"


def _inner(ip: ipaddress.IPv6Address) -> IPAddress:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if any(ip in network for network in _NAT64) or (ip in _COMPATIBLE and int(ip) > 1):
        return ipaddress.IPv4Address(ip.packed[-4:])
    if ip.teredo is not None:
        return ip.teredo[1]
    return ip.ipv4_mapped or ip.sixtofour or ip


def written_refusal(url: str, *, private: bool) -> str:
    """The same for an address as it is written, where that says enough: a number, or a name that is always the same."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host in ("metadata", "metadata.google.internal", "instance-data"):
        return "the metadata service of a cloud, which gives away the machine's credentials"
    if host == "localhost" or host.endswith(".localhost"):
        return refusal("127.0.0.1", private=private)
    try:
        return refusal(str(ipaddress.ip_address(host)), private=private)
    except ValueError:
        return ""
