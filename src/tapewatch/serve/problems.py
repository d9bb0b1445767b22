"""What is wrong, in one sentence each, and what to do about it: for the Health view and `/readyz`, worst first.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from typing import Any, Final

from tapewatch.settings import QUEUE_BYTES_MAX

__all__ = ["Problem", "further", "problems"]

Problem = dict[str, str]
"""``room``, ``state`` (bad or warn), ``sentence`` (what is wrong) and ``advice`` (what to do)."""

LAG_MS_MAX: Final = 10_000
WAIT_MS_MAX: Final = 600_000
_WELL: Final = ("ok", "live", "closed")
_LOG_FULL: Final = "Free room on that disk, or set DATA_DIR to a larger one: recording goes on by itself."
_STORE_DOWN: Final = (
    "Nothing is lost. A database of ours is started again by itself; start your own, or correct DB_HOST."
)
_TRIES_AGAIN: Final = "It tries again by itself, and fetches what it missed; if it stays so, look at the network."
_STALE: Final = "If the market is open, look at the exchange's status page; FEED_STALL says how long silence is usual."
_LAGGING: Final = (
    "If all feeds lag, this machine is too slow: watch fewer SYMBOLS. If one does, the exchange has it late."
)
_ADVICE: Final = {
    ("log", "full"): _LOG_FULL,
    ("log", "waiting"): "Start Kafka again; what waits is written then, in order.",
    ("feed", "stopped"): "Mend what it says, then ./stop_pipeline.sh and ./start_pipeline.sh.",
    ("feed", "reconnecting"): _TRIES_AGAIN,
    ("feed", "stale"): _STALE,
    ("feed", "lagging"): _LAGGING,
    ("store", "mismatch"): "Choose another DB_NAME or KAFKA_TOPIC_RAW_TRADES, or run `tapewatch spark --rebuild`.",
    ("store", "down"): _STORE_DOWN,
    ("engine", "stalled"): "Start `tapewatch spark`, or look at what it says.",
    ("feed", "connecting"): "Wait a few seconds; if it stays so, look at the network and at MASSIVE_WS_URL.",
    ("log", "low"): "Free room on that disk soon, or shorten LOG_RETENTION.",
}
"""Worst first: what loses trades, then what delays them, then what only may."""
_ORDER: Final = list(_ADVICE)
_MILD: Final = {("feed", "connecting"), ("log", "low")}
_OTHERWISE: Final = "Look at what the process says in its log."
STORE_SILENT: Final[Problem] = {
    "room": "store",
    "state": "bad",
    "sentence": "The database does not answer this page.",
    "advice": "Nothing is lost: the log keeps the trades. Look at the database's own log, and at DB_HOST.",
}


def problems(status: dict[str, Any]) -> list[Problem]:
    """One for each room that is not well; none if all are. ``status`` is a `models.Status`."""
    rooms = [("feed", f"The {feed['market']} feed", feed) for feed in status["feeds"]]
    rooms += [("log", "The log", status["log"]), ("store", "The store", status["store"])]
    if "engine" in status:
        rooms.append(("engine", "The engine", status["engine"]))
    found = [(room, name, state) for room, name, state in rooms if state["state"] not in _WELL]
    found.sort(key=lambda one: _rank(one[0], one[2]["state"]))
    return [_problem(room, name, state) for room, name, state in found]


def further(
    status: dict[str, Any], vitals: dict[str, Any] | None, now_ms: int, waiting_ms: int | None
) -> list[Problem]:
    """What no room says of itself: a full queue, a long way, notifications that do not get out.

    ``vitals`` is what the database says, None if nothing; ``waiting_ms`` is when the oldest notification that waits
    was written.
    """
    found = []
    waiting = status.get("queue_bytes") or 0
    if waiting > QUEUE_BYTES_MAX / 2:
        share = f"{100 * waiting / QUEUE_BYTES_MAX:.0f} %"
        found.append(_warning(
            "queue", f"The queue before the log is {share} full: trades come faster than they are recorded.",
            "Nothing is dropped. Look at what else uses this machine's processor and disk, or watch fewer SYMBOLS.",
        ))  # fmt: skip
    lag_ms = status.get("lag_ms")
    if lag_ms is not None and lag_ms > LAG_MS_MAX:
        found.append(_warning(
            "engine", f"The newest trades were stored {lag_ms / 1_000:.0f} s after they came.",
            "After a start or an outage it catches up by itself; if it does not, see docs/performance-tuning.md.",
        ))  # fmt: skip
    dead = (vitals or {}).get("dead") or 0
    if dead:
        were = "notification was" if dead == 1 else "notifications were"
        found.append(_warning(
            "notify", f"{dead} {were} given up.",
            "See /api/v1/notifications?state=dead for why, and mend the channel.",
        ))  # fmt: skip
    if waiting_ms is not None and now_ms - waiting_ms > WAIT_MS_MAX:
        found.append(_warning(
            "notify", f"A notification has waited for {(now_ms - waiting_ms) / 60_000:.0f} min.",
            "It is tried again and again; see /api/v1/notifications?state=waiting for why it fails.",
        ))  # fmt: skip
    return found


def _rank(room: str, state: str) -> int:
    return _ORDER.index((room, state)) if (room, state) in _ADVICE else 0


def _problem(room: str, name: str, state: dict[str, Any]) -> Problem:
    word, detail = state["state"], state.get("detail")
    return {
        "room": room,
        "state": "warn" if (room, word) in _MILD else "bad",
        "sentence": f"{name} is {word}" + (f": {detail}" if detail else "."),
        "advice": _ADVICE.get((room, word), _OTHERWISE),
    }


def _warning(room: str, sentence: str, advice: str) -> Problem:
    return {"room": room, "state": "warn", "sentence": sentence, "advice": advice}
