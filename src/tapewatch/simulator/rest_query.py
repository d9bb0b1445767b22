"""What the questions of the REST side have in common: numbers, moments, and what is said to a wrong one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from typing import Final

from tapewatch.records import Market
from tapewatch.simulator.hours import NEW_YORK
from tapewatch.simulator.tape import NS_PER_MS

__all__ = ["LATEST_NS", "Problem", "day_ns", "whole"]

LATEST_NS: Final = 2**63 - 1


class Problem(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: HTTPStatus, message: str, kind: str = "ERROR", retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.retry_after_s = retry_after_s


def whole(parameters: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """A whole number of a question. Raises `Problem`."""
    text = parameters.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        raise Problem(HTTPStatus.BAD_REQUEST, f"{name}={text!r}: expected a whole number from {least} to {most}")
    return int(text)


def day_ns(value: str, market: Market) -> tuple[int, int] | None:
    """The [start, end) of a day written as YYYY-MM-DD, in New York for stocks; None if it is no such."""
    try:
        day = date.fromisoformat(value)
        following = day + timedelta(days=1)
    except (ValueError, OverflowError):
        return None
    zone = UTC if market in (Market.CRYPTO, Market.FOREX) else NEW_YORK
    starts = (datetime(d.year, d.month, d.day, tzinfo=zone) for d in (day, following))
    first, end = (int(start.timestamp()) * 1000 * NS_PER_MS for start in starts)
    return first, end
