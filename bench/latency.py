"""From the socket to the database and to the browser: how long a trade takes.

    python bench/latency.py [--quick]

The sender notes when it hands each frame to its socket. Two watchers note how many trades had become visible by when:

    row       polls the committed rows of `latest_prices` about every 2 ms and adds up their counts of trades
    event     reads `/api/v1/stream` over a socket, as a page does, and adds up the same counts in its price events

A frame's latency ends when its last trade is counted. So each frame is measured, not only those that begin a commit,
and what the watchers themselves cost or wait is in the figure. Sender, watchers, pipeline and PostgreSQL share the
machine.
"""

from __future__ import annotations

import socket
import threading
import time
from urllib.parse import urlsplit

import msgspec
import numpy as np
import psycopg
from numpy.typing import NDArray

from pipeline import Pipeline, SenderProcess
from report import Figure, main, print_figures

SYMBOLS = "AAPL,TSLA,GOOGL,MSFT,NVDA"
RATES = (1_000, 10_000)
WARM_S = 4.0
POLL_S = 0.002
TARGET_MS = 100
Milliseconds = NDArray[np.float64]
COUNTED = ("trades", "ineligible", "late", "future")


class Seen:
    """By when how many trades were visible."""

    def __init__(self) -> None:
        self.counts: list[int] = [0]
        self.times_ns: list[int] = [0]
        self.stop = threading.Event()

    def note(self, count: int) -> None:
        """``count`` trades are visible now."""
        if count > self.counts[-1]:
            self.counts.append(count)
            self.times_ns.append(time.time_ns())

    def latencies_ms(self, frames_ns: list[int], per_frame: int, since_ns: int) -> Milliseconds:
        """Of every frame handed over after ``since_ns``."""
        sent_ns = np.array(frames_ns)
        first = np.searchsorted(self.counts, per_frame * np.arange(1, len(sent_ns) + 1))
        assert first.max() < len(self.counts), "a frame was never seen"
        late_ms: Milliseconds = (np.array(self.times_ns)[first] - sent_ns) / 1e6
        return late_ms[sent_ns >= since_ns]


def watch_rows(seen: Seen, conninfo: str) -> None:
    """Poll what is committed."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while not seen.stop.is_set():
            row = connection.execute(
                f"SELECT sum({'+'.join(COUNTED)}) FROM latest_prices",  # noqa: S608 - names of columns
                prepare=True,
            ).fetchone()
            seen.note(int(row[0] or 0) if row else 0)
            time.sleep(POLL_S)


def watch_events(seen: Seen, url: str) -> None:
    """Read the live stream until told to stop."""
    place = urlsplit(url)
    counts: dict[str, int] = {}
    with socket.create_connection((place.hostname, place.port), 5) as connection:
        connection.sendall(f"GET /api/v1/stream HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
        lines = connection.makefile("rb")
        event = b""
        for line in lines:
            if line.startswith(b"event: "):
                event = line[7:].strip()
            elif line.startswith(b"data: ") and event == b"price":
                for row in msgspec.json.decode(line[6:]):
                    counts[row["symbol"]] = sum(row[name] for name in COUNTED)
                seen.note(sum(counts.values()))
            if seen.stop.is_set():
                return


def run_once(rate: float, seconds: float, symbols: str = SYMBOLS) -> list[Milliseconds]:
    """Latencies in ms to the row and to the event."""
    sender = SenderProcess(symbols, rate, WARM_S + seconds)
    try:
        with Pipeline(url=sender.url, symbols=symbols) as pipeline:
            since_ns = time.time_ns() + int(WARM_S * 1e9)
            rows, events = Seen(), Seen()
            threads = [
                threading.Thread(target=watch_rows, args=(rows, pipeline.conninfo)),
                threading.Thread(target=watch_events, args=(events, pipeline.url)),
            ]
            for thread in threads:
                thread.start()
            sent = sender.wait()
            pipeline.wait_stored(sent.trades)
            time.sleep(2.5)  # the stream's heartbeat wakes its watcher
            for seen in (rows, events):
                seen.stop.set()
            for thread in threads:
                thread.join(10)
    finally:
        sender.close()
    return [seen.latencies_ms(sent.frames_ns, sent.per_frame, since_ns) for seen in (rows, events)]


def measure(quick: bool) -> list[Figure]:
    """All figures of this file."""
    seconds, repetitions = (4, 1) if quick else (20, 3)
    figures: list[Figure] = []
    for rate in RATES:
        runs = [run_once(rate, seconds) for _ in range(repetitions)]
        for place, name in enumerate(("socket to database row", "socket to browser event")):
            mine = []
            for words, percent in (("p50", 50), ("p99", 99), ("max", 100)):
                values = [float(np.percentile(run[place], percent)) for run in runs]
                mine.append(Figure(name=f"{name}, {words}", note=f"{rate:,} trades/s", unit="ms", values=values))
            mine[1].target = TARGET_MS
            print_figures(mine)
            figures += mine
        print(f"  {len(runs[0][0])} frames in each of {repetitions} repetitions of {seconds} s")
    return figures


if __name__ == "__main__":
    main("From the socket to the database row and to the browser event", measure)
