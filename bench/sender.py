"""An exchange that sends as fast as it is told to: Massive's handshake, then frames from a `tape.Tape`.

    python bench/sender.py --symbols AAPL,TSLA --rate 10000 --seconds 20

Prints its address as JSON, sends to the first client that has subscribed to everything, prints what it did as JSON, and
stays connected, silent, until its input ends. Each frame is stamped with the clock just before it is sent; a sender
that the client holds up by not reading falls behind, and says so by its own count and time.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tape import Tape, names

EVERY_S = 0.005
"""How often frames are sent: what is due is then cut into frames."""
PER_FRAME_MAX = 100


class Sent(msgspec.Struct):
    """What was sent, in how long, and what it cost the sender."""

    trades: int
    seconds: float
    cpu_s: float
    late_ms_max: float
    """The most that a frame left after its time."""
    per_frame: int
    frames_ns: list[int]
    """When each frame was handed to its socket, Unix ns."""


class Sender:
    """Serves one client, once."""

    def __init__(self, symbols: list[str], rate: float, seconds: float, per_frame: int) -> None:
        self._topics = {f"T.{name}" for name in symbols}
        self._tape = Tape(symbols, per_frame)
        self._rate = rate
        self._seconds = seconds
        self.sent: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()

    async def serve(self, socket: ServerConnection) -> None:
        """One connection from greeting to end."""
        try:
            await socket.send(_status("connected", "Connected Successfully"), text=True)
            wanted: set[str] = set()
            async for message in socket:
                control: dict[str, Any] = msgspec.json.decode(message)
                if control["action"] == "auth":
                    await socket.send(_status("auth_success", "authenticated"), text=True)
                    continue
                topics = control["params"].split(",")
                wanted.update(topics)
                await socket.send(_status("success", *(f"subscribed to: {topic}" for topic in topics)), text=True)
                if wanted >= self._topics and not self.sent.done():
                    self.sent.set_result(await self._send(socket))
        except ConnectionClosed:
            if not self.sent.done():
                self.sent.set_exception(RuntimeError("the client went away"))

    async def _send(self, socket: ServerConnection) -> Sent:
        tape, frame_s = self._tape, self._tape.per_frame / self._rate
        cpu, started = time.process_time(), time.monotonic()
        frames = max(1, round(self._seconds / frame_s))
        late_s = 0.0
        done = 0
        frames_ns: list[int] = []
        while done < frames:
            now = time.monotonic() - started
            due = min(frames, int(now / frame_s) + 1)
            if due > done:
                late_s = max(late_s, now - done * frame_s)
            while done < due:
                now_ns = time.time_ns()
                await socket.send(tape.next_frame(now_ns // 1_000_000), text=True)
                frames_ns.append(now_ns)
                done += 1
            await asyncio.sleep(max(EVERY_S if frame_s < EVERY_S else done * frame_s - (time.monotonic() - started), 0))
        return Sent(
            trades=tape.trades_given,
            seconds=time.monotonic() - started,
            cpu_s=time.process_time() - cpu,
            late_ms_max=1e3 * late_s,
            per_frame=tape.per_frame,
            frames_ns=frames_ns,
        )


def _status(status: str, *messages: str) -> bytes:
    return msgspec.json.encode([{"ev": "status", "status": status, "message": message} for message in messages])


async def _run(arguments: argparse.Namespace) -> None:
    symbols = names(int(arguments.symbols)) if arguments.symbols.isdigit() else arguments.symbols.split(",")
    per_frame = arguments.per_frame or max(1, min(PER_FRAME_MAX, round(arguments.rate * EVERY_S)))
    sender = Sender(symbols, arguments.rate, arguments.seconds, per_frame)
    async with serve(sender.serve, "127.0.0.1", 0, compression=None, ping_interval=None, max_size=2**24) as server:
        port = server.sockets[0].getsockname()[1]
        _print({"url": f"ws://127.0.0.1:{port}"})
        _print(await sender.sent)
        await asyncio.to_thread(sys.stdin.read)


def _print(said: Any) -> None:
    sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--symbols", required=True, help="a number of made-up symbols, or names separated by commas")
    parser.add_argument("--rate", type=float, required=True, help="trades a second")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument(
        "--per-frame", type=int, default=0, help="trades in a frame; 0: what falls into 5 ms, up to 100"
    )
    asyncio.run(_run(parser.parse_args()))
