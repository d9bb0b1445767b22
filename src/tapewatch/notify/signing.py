"""How webhooks are signed, and how a receiver checks it: the rules of Standard Webhooks (standardwebhooks.com).

    webhook-id           the message's id: the same however often it is sent
    webhook-timestamp    when this attempt was made, Unix seconds
    webhook-signature    v1,BASE64 of HMAC-SHA256 over "id.timestamp.body"

A receiver that (1) compares the signature in constant time, (2) refuses a timestamp more than five minutes off and
(3) remembers the ids of those minutes is safe from forged, changed and replayed messages. `verify` is that receiver's
half but for the remembering; docs/notifications.md has it in a dozen lines to copy.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

__all__ = ["TOLERANCE_S", "key_of", "signed", "verify"]

TOLERANCE_S: Final = 300
_PREFIX: Final = "whsec_"
SECRET_CHARACTERS_MIN: Final = 24


def key_of(secret: str) -> bytes:
    """The key that a secret stands for: base64 after ``whsec_``, else its own bytes.

    Raises:
        ValueError: it is too short, or not base64.
    """
    if len(secret) < SECRET_CHARACTERS_MIN:
        raise ValueError(f"expected {SECRET_CHARACTERS_MIN} characters or more")
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError:
        raise ValueError(f"expected base64 after {_PREFIX}") from None


def signed(key: bytes, message_id: str, now_s: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(now_s),
        "webhook-signature": f"v1,{_signature(key, message_id, str(now_s), body)}",
    }


def verify(key: bytes, headers: Mapping[str, str], body: bytes, now_s: float) -> str:
    """Why a message is not to be believed; empty if it is. ``headers`` by small names."""
    message_id, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message_id or not stamp.isascii() or not stamp.isdigit():
        return "the id or the timestamp is missing"
    if abs(now_s - int(stamp[:12])) > TOLERANCE_S:
        return f"the timestamp is more than {TOLERANCE_S} s off: replayed, or a wrong clock"
    expected = _signature(key, message_id, stamp, body)
    for part in headers.get("webhook-signature", "").split(" "):
        version, _, given = part.partition(",")
        if version == "v1" and hmac.compare_digest(given.encode(), expected.encode()):
            return ""
    return "the signature is another"


def _signature(key: bytes, message_id: str, stamp: str, body: bytes) -> str:
    content = b".".join([message_id.encode(), stamp.encode(), body])
    return base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
