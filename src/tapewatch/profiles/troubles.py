"""What is wrong at this moment, from what the rooms say of themselves and from what does not move.

    feed     no_data (never any), no_trades (silent while its market is open), connection, lag
    log      disk (full, nearly full), log (gets nothing though a feed is live)
    engine   behind, and does not move
    store    does not answer
    notify   a channel fails again and again

No clock is read here: the time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tapewatch.feed.symbols import market_of
from tapewatch.notify.downs import Trouble
from tapewatch.records import Market, Origin
from tapewatch.sessions import Calendar, sessions_of
from tapewatch.settings import Settings, duration_text

__all__ = ["Rooms"]

EXTENDED_PATIENCE: Final = 10
"""Before and after the regular session trades are rare: silence is waited for so many times longer."""
CHANNEL_FAILURES: Final = 3
"""So many failures in a row are no accident."""
LOG_STILL: Final = timedelta(seconds=5)
"""A live feed's log gets a tick each second."""
_CONNECTION: Final = frozenset(("connecting", "reconnecting", "stopped"))


class Rooms:
    """Remembers since when each trouble lasts. ``look`` is called about once a second."""

    def __init__(self, settings: Settings, origin: Origin, calendar: Calendar) -> None:
        self._settings = settings
        self._origin = origin
        self._calendar = calendar
        self._since: dict[tuple[str, str], datetime] = {}
        self._moved: dict[str, tuple[int | None, datetime]] = {}

    def look(
        self, status: Mapping[str, Any], channels: Mapping[str, Mapping[str, Any]], now: datetime
    ) -> list[Trouble]:
        """All that is wrong now. ``status`` is a `serve.models.Status`."""
        found = [trouble for feed in status["feeds"] if (trouble := self._feed(feed, now)) is not None]
        if not status["feeds"]:
            found += self._nothing_ever(now)
        found += self._log(status, now)
        found += self._engine(status, now)
        if status["store"]["state"] != "ok":
            found.append(self._lasting("store", "store", _said("The database", status["store"]), now))
        for name, health in channels.items():
            if int(health.get("failures") or 0) >= CHANNEL_FAILURES:
                why = f"Channel {name} fails again and again: {health.get('last_error') or 'no reason known'}."
                found.append(self._lasting("notify", f"channel {name}", why, now))
        present = {(trouble.condition, trouble.room) for trouble in found}
        self._since = {key: since for key, since in self._since.items() if key in present}
        return found

    def _feed(self, feed: Mapping[str, Any], now: datetime) -> Trouble | None:
        market, state = Market[feed["market"].upper()], feed["state"]
        room = f"feed {feed['market']}"
        if state in _CONNECTION and self._origin is not Origin.REPLAYED and self._is_open(market, feed, now):
            return self._lasting("connection", room, _said(f"The {feed['market']} feed", feed), now)
        if state == "lagging":
            return self._lasting("lag", room, _said(f"The {feed['market']} feed", feed), now)
        if state != "stale":
            return None
        last, begun = _time(feed.get("last_trade_at")), _time(feed.get("since"))
        opened, patience = self._session(market, int(feed.get("delay_ms") or 0), now)
        known = [at for at in (last, begun, opened) if at is not None]
        since = max(known) if known else self._since.setdefault(("no_data", room), now)
        quiet = duration_text(max(1, int((now - since).total_seconds())) * 1_000)
        if last is None:
            sentence = f"The {feed['market']} feed is connected, but no trade has ever come, for {quiet}."
            return Trouble("no_data", room, sentence, since, patience)
        sentence = f"No trade of the {feed['market']} feed for {quiet}, though its market is open."
        return Trouble("no_trades", room, sentence, since, patience)

    def _nothing_ever(self, now: datetime) -> list[Trouble]:
        """A page without feeds of its own, over a database that has never got a trade."""
        markets = {market_of(symbol) for symbol in self._settings.symbols}
        at_ms = int(now.timestamp() * 1_000) - self._settings.feed_delay_ms
        is_open = any(sessions_of(self._calendar, market).is_open(at_ms) for market in markets)
        if self._origin is Origin.REPLAYED or not (is_open or self._origin is Origin.SIMULATED):
            return []
        return [self._lasting("no_data", "feed", "No trade of any market has ever come.", now)]

    def _session(self, market: Market, delay_ms: int, now: datetime) -> tuple[datetime | None, int]:
        """When the market opened today, and how much patience is needed at this time of its day."""
        sessions = sessions_of(self._calendar, market)
        at_ms = int(now.timestamp() * 1_000) - delay_ms
        if self._origin is Origin.SIMULATED or not len(sessions.day_open) or (day := sessions.day(at_ms)) < 0:
            return None, 1
        is_regular = sessions.regular(at_ms)
        opened_ms = int((sessions.regular_open if is_regular else sessions.day_open)[day]) + delay_ms
        return datetime.fromtimestamp(opened_ms / 1_000, UTC), 1 if is_regular else EXTENDED_PATIENCE

    def _is_open(self, market: Market, feed: Mapping[str, Any], now: datetime) -> bool:
        if self._origin is Origin.SIMULATED:
            return True
        at_ms = int(now.timestamp() * 1_000) - int(feed.get("delay_ms") or 0)
        return sessions_of(self._calendar, market).is_open(at_ms)

    def _log(self, status: Mapping[str, Any], now: datetime) -> list[Trouble]:
        log = status["log"]
        if log["state"] in ("full", "low"):
            return [self._lasting("disk", "disk", _said("The log", log), now)]
        if log["state"] != "ok":
            return [self._lasting("log", "log", _said("The log", log), now)]
        end, since = log.get("end"), None
        if isinstance(end, int):
            since = self._still("log", None if _is_warming(status) else end, now)
        is_live = any(feed["state"] == "live" for feed in status["feeds"])
        if (
            self._origin is Origin.REPLAYED
            or not is_live
            or _is_warming(status)
            or since is None
            or now - since < LOG_STILL
        ):
            return []
        quiet = int((now - since).total_seconds())
        return [Trouble("log", "log", f"The log has got no record for {quiet} s, though a feed is live.", since)]

    def _engine(self, status: Mapping[str, Any], now: datetime) -> list[Trouble]:
        engine = status.get("engine")
        if engine is None:
            return []
        if engine["state"] != "ok":
            return [self._lasting("engine", "engine", _said("The engine", engine), now)]
        position = engine.get("position")
        since = None
        if isinstance(position, int):
            since = self._still("engine", None if _is_warming(status) else position, now)
        if (
            since is None
            or _is_warming(status)
            or not engine.get("behind")
            or status["store"]["state"] != "ok"
            or now - since < LOG_STILL
        ):
            return []
        quiet = int((now - since).total_seconds())
        why = f"The engine stands still for {quiet} s, {engine['behind']} records behind."
        return [Trouble("engine", "engine", why, since)]

    def _still(self, room: str, place: int | None, now: datetime) -> datetime:
        """Since when a number has not moved; None: that it stands still is in order."""
        known = self._moved.get(room)
        if known is None or place is None or known[0] != place:
            self._moved[room] = known = (place, now)
        return known[1]

    def _lasting(self, condition: str, room: str, sentence: str, now: datetime) -> Trouble:
        return Trouble(condition, room, sentence, self._since.setdefault((condition, room), now))


def _is_warming(status: Mapping[str, Any]) -> bool:
    """Trades missed before the start are being fetched: until they are recorded, nothing newer is."""
    return any(feed.get("warming") for feed in status["feeds"])


def _said(name: str, room: Mapping[str, Any]) -> str:
    detail = room.get("detail")
    return f"{name} is {room['state']}" + (f": {detail}" if detail else ".")


def _time(text: Any) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None
