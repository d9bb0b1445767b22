"""Two thousand open streams on one process: how late the last of them hears of a price, and what they cost.

    python bench/streams.py [--quick]

A real `tapewatch run` with the built-in simulator; the streams are opened from another process on the same machine. A
push is measured from the moment at which the feed received a trade (which travels with it) to its arrival at a client,
so decoding, log, engine, commit and shaping are in it. All streams are read; every twentieth is looked at.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import psutil

from report import ROOT, Figure, main
from tapewatch.profiles.instance import running

STREAMS = 2_000
LOOKED_AT = 20
SECONDS = 30.0
SYMBOLS = "AAPL,TSLA,GOOGL,MSFT,BTC"
_RECEIVED = re.compile(rb'"received_at":"([^"]+)"')


async def stream(host: str, port: int, is_looked_at: bool, ages: list[float], opened: asyncio.Semaphore) -> None:
    """One client: reads for ever; of a watched one each price's age in seconds is kept."""
    reader, writer = await asyncio.open_connection(host, port, limit=2**20)
    writer.write(f"GET /api/v1/stream?bars= HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    await reader.readuntil(b"event: status")
    opened.release()
    known = set[bytes]()
    while data := await reader.read(2**16):
        if is_looked_at:
            now = time.time()
            # a price that comes again with the receipt it had (its average moved on) is no new push
            new = {at for at in _RECEIVED.findall(data) if at not in known}
            known |= new
            ages += [now - datetime.fromisoformat(at.decode()).timestamp() for at in new]


async def listen(url: str, streams: int, seconds: float) -> dict[str, list[float]]:
    """Open them all, wait until they are open, and then measure."""
    host, port = url.removeprefix("http://").strip("/").split(":")
    ages: list[float] = []
    opened = asyncio.Semaphore(0)
    started = time.monotonic()
    tasks = []
    for i in range(streams):
        tasks.append(asyncio.create_task(stream(host, int(port), i % LOOKED_AT == 0, ages, opened)))
        await opened.acquire()
    took_s = time.monotonic() - started
    ages.clear()
    await asyncio.sleep(seconds)
    ended = [task for task in tasks if task.done()]
    assert not ended, f"{len(ended)} streams ended: {ended[0].exception()}"
    for task in tasks:
        task.cancel()
    return {"ages": ages, "opened_s": [took_s]}


def measure(quick: bool) -> list[Figure]:
    """A pipeline, and a process with the clients."""
    streams, seconds = (200, 5.0) if quick else (STREAMS, SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        environment = kept | {"DATA_DIR": folder, "HTTP_PORT": "0", "SYMBOLS": SYMBOLS}
        command = [sys.executable, "-m", "tapewatch", "run"]
        pipeline = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            url = _url(Path(folder), pipeline)
            before = _bytes(pipeline.pid)
            found = subprocess.run(
                [sys.executable, __file__, "--listen", url, str(streams), str(seconds)],
                capture_output=True, check=True, cwd=ROOT / "bench", preexec_fn=_many_files,
            )  # fmt: skip
            heard = msgspec.json.decode(found.stdout, type=dict[str, list[float]])
            grown = heard["most_bytes"][0] - before
        finally:
            pipeline.terminate()
            pipeline.wait(60)
    ages = np.array(heard["ages"])
    assert len(ages) > streams // LOOKED_AT, "nothing was pushed"
    note = f"{streams:,} streams, {len(ages):,} pushes looked at"
    p50, p99 = (float(1_000 * np.percentile(ages, at)) for at in (50, 99))
    return [
        Figure(name="receipt of a trade to its arrival, p50", unit="ms", values=[p50], note=note),
        Figure(name="receipt of a trade to its arrival, p99", unit="ms", values=[p99], note=note, target=1_000.0),
        Figure(name="memory of the process", unit="MiB", values=[heard["most_bytes"][0] / 2**20], note=note),
        Figure(name="of it for a stream", unit="KiB", values=[grown / streams / 1_024], note=note),
        Figure(name="to open them, one after the other", unit="s", values=heard["opened_s"], note=note),
    ]


def _url(folder: Path, pipeline: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and pipeline.poll() is None:
        for _, info in running(folder):
            with urllib.request.urlopen(f"{info.url}readyz") as answer:
                assert answer.status == 200
            return info.url
        time.sleep(0.2)
    raise RuntimeError("the pipeline does not answer")


def _bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


def _many_files() -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, STREAMS + 500), hard))


def _listen_and_tell(url: str, streams: str, seconds: str) -> None:
    """The other process: prints what it heard, and the memory of the pipeline then."""
    owner = next(
        c.pid
        for c in psutil.net_connections("tcp")
        if c.laddr and c.laddr.port == int(url.strip("/").rsplit(":", 1)[1]) and c.status == "LISTEN"
    )

    async def both() -> dict[str, list[float]]:
        heard = asyncio.create_task(listen(url, int(streams), float(seconds)))
        most = 0
        while not heard.done():
            most = max(most, _bytes(owner))
            await asyncio.sleep(0.5)
        return heard.result() | {"most_bytes": [float(most)]}

    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(both())))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--listen"]:
        _listen_and_tell(*sys.argv[2:])
    else:
        main("Many open streams", measure)
