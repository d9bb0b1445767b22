"""What a key may have, by the plan that was bought: which channels, real time or delayed, and how much of REST.

    plan        streams                         REST
    free        none (auth_failed)              5 calls a minute; no trades
    starter     bars, 15 minutes late           everything but trades, 15 minutes late
    developer   bars and trades, 15 min late    everything, 15 minutes late
    advanced    everything, both hosts          everything

The hosts are told apart by the path here: ``/stocks`` is the real-time one's, ``/delayed/stocks`` the delayed one's.
Pure: no I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["BAR_CHANNELS", "DELAY_NS", "PLANS", "TRADE_CHANNELS", "Plan"]

DELAY_NS: Final = 15 * 60 * 1_000_000_000
"""How far the delayed host is behind."""
FREE_CALLS_A_MINUTE: Final = 5
BAR_CHANNELS: Final = frozenset(["A", "AM", "XAS", "XA", "CAS", "CA"])
TRADE_CHANNELS: Final = frozenset(["T", "XT", "C", "V"])


@dataclass(frozen=True, slots=True)
class Plan:
    """Channels by host; None is all of them."""

    name: str
    has_streams: bool = True
    live: frozenset[str] | None = None
    delayed: frozenset[str] | None = None
    rest_trades: bool = True
    rest_delay_ns: int = 0
    calls_a_minute: int | None = None

    def allows(self, channel: str, is_delayed: bool) -> bool:
        """Whether ``channel`` may be had from that host."""
        channels = self.delayed if is_delayed else self.live
        return channels is None or channel in channels


PLANS: Final = {
    plan.name: plan
    for plan in (
        Plan(
            "free",
            has_streams=False,
            rest_trades=False,
            rest_delay_ns=DELAY_NS,
            calls_a_minute=FREE_CALLS_A_MINUTE,
        ),
        Plan("starter", live=frozenset(), delayed=BAR_CHANNELS, rest_trades=False, rest_delay_ns=DELAY_NS),
        Plan("developer", live=frozenset(), delayed=BAR_CHANNELS | TRADE_CHANNELS, rest_delay_ns=DELAY_NS),
        Plan("advanced"),
    )
}
"""By name."""
