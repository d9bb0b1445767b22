"""What people do with alerts, over the fake market: marks, mutes, channels and System Down in memory."""

from __future__ import annotations

from typing import Any

from tapewatch.serve.shapes import iso

Row = dict[str, Any]


class FakeLife:
    """The `serve.life.Marks` of a fake market, and what its queries say of channels and the system."""

    def __init__(self, alert_rows: dict[str, Row], now_ms: int) -> None:
        self._alert_rows = alert_rows
        self._now_ms = now_ms
        self.muted: list[Row] = []
        self.channels: list[Row] = []
        self.downs: list[Row] = []
        self.tests = 0

    async def acknowledge(self, alert_id: str, by: str, note: str, *, seen: bool) -> bool:
        row = self._alert_rows.get(alert_id) or next((d for d in self.downs if d["system_id"] == alert_id), None)
        if row is None:
            return False
        row |= {"acknowledged_at": iso(self._now_ms) if seen else None, "acknowledged_by": by, "note": note}
        return True

    async def mute(
        self, *, rule: str | None, symbol: str | None, channel: str | None, for_ms: int, by: str, note: str
    ) -> str:
        mute_id = f"m{len(self.muted) + 1}"
        times = {"muted_from": iso(self._now_ms), "muted_to": iso(self._now_ms + for_ms)}
        names = {"mute_id": mute_id, "rule": rule, "symbol": symbol, "channel": channel}
        self.muted.append(names | times | {"muted_by": by, "note": note})
        return mute_id

    async def unmute(self, mute_id: str) -> bool:
        left = [row for row in self.muted if row["mute_id"] != mute_id]
        found, self.muted = len(left) < len(self.muted), left
        return found

    async def test(self, channels: list[str] | None) -> str:
        self.tests += 1
        return f"test-{self.tests}"

    def channel(self, name: str, kind: str, failures: int = 0, **values: Any) -> None:
        """A channel that does well, or not."""
        times = {"accepted_at": iso(self._now_ms), "failed_at": iso(self._now_ms) if failures else None}
        counts = {"waiting": 0, "held": 0, "dead": 0, "delivered_24h": 12, "paused_until": None}
        error = {"last_error": "hooks.example.org answered 500" if failures else None, "failures": failures}
        self.channels.append(
            {"channel": name, "kind": kind, "updated_at": iso(self._now_ms), **times, **counts, **error, **values}
        )

    def down(self, room: str, detail: str) -> None:
        """Something of the system that is not well."""
        names = {"system_id": f"system_down-{room.replace(' ', '-')}-1", "rule": "system_down", "room": room}
        times = {"began_at": iso(self._now_ms), "announced_at": iso(self._now_ms), "recovered_at": None}
        seen = {"acknowledged_at": None, "acknowledged_by": None, "note": None}
        self.downs.append({**names, "state": "down", "detail": detail, **times, **seen})
