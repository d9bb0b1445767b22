"""What the feed knows beside its trades: the table of conditions, and how our bars agree with the exchange's."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from tapewatch import metrics
from tapewatch.errors import FeedError
from tapewatch.feed.compare import Comparison
from tapewatch.feed.condition_data import load_conditions, refresh_conditions
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.rest import Rest
from tapewatch.records import Market
from tapewatch.settings import Settings

__all__ = ["FeedFacts"]

_FRESH_S: Final = 6 * 3_600.0
"""The table of conditions is asked for again after this time; the exchange is asked once a day at most."""
_log = structlog.get_logger(__name__)


class FeedFacts:
    """Made before the feed starts; ``ingest`` is given when there is one. ``told`` is for the Health view."""

    def __init__(self, settings: Settings) -> None:
        self.conditions = load_conditions(settings.data_dir)
        self.compares = settings.compares_bars
        """Whether our bars are held against the exchange's."""
        self.comparison = Comparison(_count)
        self.ingest: Ingest | None = None
        self._folder = settings.data_dir

    def told(self) -> dict[str, Any]:
        """``bars`` and ``conditions`` of a `serve.health.HealthReport`."""
        if self.ingest is None:
            return {}
        unknown = sorted(self.ingest.unknown_codes.counts.items())
        return {
            "bars": self.comparison.report(),
            "conditions": {
                "date": self.conditions.date,
                "source": self.conditions.source,
                "codes": len(self.conditions.inside),
                "unknown": {"others" if code < 0 else str(code): number for code, number in unknown},
            },
        }

    async def keep_fresh(self, rest_url: str, key: str) -> None:
        """Ask the exchange for the table of conditions, now and then, for ever."""
        while True:
            try:
                async with Rest(rest_url, key) as rest:
                    table = await refresh_conditions(rest, self._folder, self.conditions)
            except (FeedError, ValueError) as error:
                _log.warning("the table of conditions cannot be refreshed", why=str(error), date=self.conditions.date)
            else:
                if table is not self.conditions and self.ingest is not None:
                    self.conditions = table
                    self.ingest.judge_by(table)
                    _log.info("the table of conditions is new", date=table.date, codes=len(table.inside))
            await asyncio.sleep(_FRESH_S)


def _count(market: Market, fields: list[str]) -> None:
    metrics.BARS_COMPARED.labels(market.name.lower()).inc()
    for name in fields:
        metrics.BARS_DIFFERENT.labels(market.name.lower(), name).inc()
