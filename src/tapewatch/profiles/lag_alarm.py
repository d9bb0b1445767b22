"""The lag alarm: what a market's feed brings is older than FEED_LAG_MAX, beside what its plan makes it late anyway.

    receive time − event time − the plan's delay − a bar's length  >  FEED_LAG_MAX  ─►  status "lagging", metric, log

Of every market by itself: one that lags does not hide another, and the test for where the fault is lies in it. All
markets late alike: this machine reads too slowly. One alone: the exchange has it late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from tapewatch import metrics
from tapewatch.feed.client import FeedClient, FeedState
from tapewatch.feed.endings import Notice, notice
from tapewatch.feed.lag import Lag
from tapewatch.feed.wire import Phase
from tapewatch.records import Market
from tapewatch.settings import Settings, duration_text

__all__ = ["LagAlarm"]

_LOOK_S: Final = 1.0
_log = structlog.get_logger(__name__)


class LagAlarm:
    """In the feeds' event loop; ``lag`` is noted by the recorder's thread."""

    def __init__(
        self,
        settings: Settings,
        clients: Sequence[FeedClient],
        lag: Lag,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._limit_ms = settings.feed_lag_max_ms
        self._clients = clients
        self._lag = lag
        self._clock_ns = clock_ns
        self._lagging: set[Market] = set()

    def lag_ms(self, state: FeedState) -> int | None:
        """How old the freshest of a market's last trades was, beside its plan's delay; None if nothing came lately."""
        freshest_ns = self._lag.freshest_ns(state.market, self._clock_ns())
        return None if freshest_ns is None else freshest_ns // 1_000_000 - state.delay_ms - state.behind_ms

    def sentence(self, state: FeedState) -> str:
        """What is wrong; empty if nothing is."""
        lag_ms = self.lag_ms(state)
        if state.phase is not Phase.LIVE or lag_ms is None or lag_ms <= self._limit_ms:
            return ""
        return notice(Notice.LAGGING, f"{lag_ms / 1_000:.1f} s, FEED_LAG_MAX is {duration_text(self._limit_ms)}")

    async def run(self) -> None:
        """Look every second, for ever: the metric, and a line in the log when it begins and when it ends."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Look once."""
        for client in self._clients:
            state = client.state
            name, why = state.market.name.lower(), self.sentence(state)
            metrics.FEED_LAGGING.labels(name).set(bool(why))
            if why and state.market not in self._lagging:
                _log.warning("feed lags", market=name, why=why)
                self._lagging.add(state.market)
            elif not why and state.market in self._lagging:
                _log.info("feed lags no more", market=name)
                self._lagging.discard(state.market)
