"""The sender as a program of its own: ``python -m tapewatch.notify``; see `process`.

Its first line of input is the plan. Each further line says that there is something new. It ends in good order when the
input ends, or on SIGTERM: what is under way is finished, and marked.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from tapewatch.errors import StoreUnavailable
from tapewatch.logs import start_logging_at
from tapewatch.metrics import NOTIFY_SENT
from tapewatch.notify.notices import Notices
from tapewatch.notify.postgres import PostgresOutbox
from tapewatch.notify.process import Plan, Report
from tapewatch.notify.sender import Counts, OutboxStore, Sender
from tapewatch.notify.targets import outlet_of
from tapewatch.settings import NOTIFY_POLL_S

__all__ = ["main"]

_LINE_BYTES_MAX: Final = 4 * 1024 * 1024
_COUNT_S: Final = 10.0
"""How often it counts what waits while nothing is sent."""


class Program:
    """One run of it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._outlets = {channel.name: outlet_of(channel, deadline_s=plan.deadline_s) for channel in plan.channels}
        self._outbox = PostgresOutbox(plan.conninfo)
        self._notices = None if plan.notices is None else Notices(Path(plan.notices))
        stores: list[OutboxStore] = [self._outbox] if self._notices is None else [self._outbox, self._notices]
        self._senders = [self._sender(store) for store in stores]
        self._told: dict[tuple[str, str], float] = {}
        self._counts = Counts(0, 0, 0.0)
        self._count_at = 0.0

    async def run(self, lines: asyncio.StreamReader) -> None:
        """Until the input ends."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGINT, self._stop)
        listening = asyncio.create_task(self._listen(lines))
        reporting = asyncio.create_task(self._report())
        try:
            await asyncio.gather(*(sender.run() for sender in self._senders))
        finally:
            listening.cancel()
            reporting.cancel()
            await asyncio.wait([listening, reporting])
            await self._say()
            for outlet in self._outlets.values():
                await outlet.target.close()
            await self._outbox.close()
            if self._notices is not None:
                await self._notices.close()

    def _sender(self, store: OutboxStore) -> Sender:
        plan = self._plan
        return Sender(
            store, self._outlets, attempts_max=plan.attempts_max, news_age_ms=plan.news_age_ms,
            first_backoff_s=plan.first_backoff_s, poll_s=plan.poll_s,
        )  # fmt: skip

    def _stop(self) -> None:
        for sender in self._senders:
            sender.stop()

    async def _listen(self, lines: asyncio.StreamReader) -> None:
        while await lines.readline():
            for sender in self._senders:
                sender.wake()
        self._stop()

    async def _report(self) -> None:
        while True:
            await self._say()
            await asyncio.sleep(NOTIFY_POLL_S)

    async def _say(self) -> None:
        for outlet in self._outlets.values():
            if not outlet.is_told:
                with suppress(StoreUnavailable):
                    await self._outbox.tell_health(outlet)
                    outlet.is_told = True
        sent, now = self._sent(), asyncio.get_running_loop().time()
        if sent or now >= self._count_at:
            with suppress(StoreUnavailable):
                self._counts, self._count_at = await self._outbox.counts(), now + _COUNT_S
        waiting, dead, oldest_s = self._counts
        channels = {name: outlet.told() for name, outlet in self._outlets.items()}
        report = Report(sent=sent, waiting=waiting, dead=dead, oldest_s=oldest_s, channels=channels)
        with suppress(BrokenPipeError):
            sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
            sys.stdout.buffer.flush()

    def _sent(self) -> list[tuple[str, str, int]]:
        """What was sent since it was asked before."""
        found = []
        for sample in next(iter(NOTIFY_SENT.collect())).samples:
            if not sample.name.endswith("_total"):
                continue
            key = (sample.labels["channel"], sample.labels["result"])
            if sample.value > self._told.get(key, 0.0):
                found.append((*key, int(sample.value - self._told.get(key, 0.0))))
                self._told[key] = sample.value
        return found


async def _run() -> None:
    lines = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    first = await lines.readline()
    if not first:
        return
    plan = msgspec.json.decode(first, type=Plan)
    start_logging_at(plan.log_level)
    await Program(plan).run(lines)


def main() -> None:
    """Send until the input ends."""
    with suppress(OSError):
        os.nice(5)  # the path of the data goes first
    asyncio.run(_run())


if __name__ == "__main__":
    main()
