"""The market simulator as a program: ``python -m tapewatch.simulator``.

When it is ready it prints one line of JSON with its addresses and its process's number; what may be asked for is in
`arguments.py`.
It ends on SIGTERM or SIGINT, and with ``--parent`` when that process is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from random import Random
from typing import Final

from tapewatch.capturefile import is_capture
from tapewatch.errors import InputError, TapewatchError
from tapewatch.simulator.arguments import parser
from tapewatch.simulator.chaos import Fault, Script
from tapewatch.simulator.corrections import Corrections
from tapewatch.simulator.frames import FramePlayer
from tapewatch.simulator.hours import Hours, hours_at
from tapewatch.simulator.market import SeededMarket
from tapewatch.simulator.plans import PLANS
from tapewatch.simulator.replay import Play, RecordedTape
from tapewatch.simulator.sent import SentFile
from tapewatch.simulator.server import DELAYED, Options, Simulator
from tapewatch.simulator.session import Rules
from tapewatch.simulator.tape import Tape
from tapewatch.simulator.trouble import Trouble
from tapewatch.spare import give_back
from tapewatch.tapefile import read_tape

PARENT_POLL_S: Final = 0.5
SETTLED_S: Final = 60.0
"""After the start: what the questions for history took, which come first, is given back then."""
BARS_FLUSH_NS: Final = 62 * 1_000_000_000
"""After the last trade a replay goes on this long, so that the last minute's bar is sent."""


def main(argv: list[str] | None = None) -> int:
    """Run the simulator until it is told to end; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        return asyncio.run(_serve(arguments))
    except TapewatchError as error:
        print(f"tapewatch simulate: {error}", file=sys.stderr)
        return error.exit_code


async def _serve(arguments: argparse.Namespace) -> int:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with AsyncExitStack() as undo:
        sent = undo.enter_context(SentFile(arguments.sent)) if arguments.sent is not None else None
        simulator = _server(arguments, sent)
        await undo.enter_async_context(simulator)
        address = f"{arguments.host}:{simulator.port}"
        said = {"ws": f"ws://{address}", "delayed": f"ws://{address}{DELAYED}", "rest": f"http://{address}"}
        print(json.dumps({**said, "pid": os.getpid()}), flush=True)
        loop.call_later(SETTLED_S, _settle)
        waiting = [asyncio.create_task(ended.wait()), asyncio.create_task(simulator.failed())]
        if arguments.parent is not None:
            waiting.append(asyncio.create_task(_gone(arguments.parent)))
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        for task in done:
            task.result()
    return 0


def _settle() -> None:
    gc.collect()
    give_back()


def _server(arguments: argparse.Namespace, sent: SentFile | None) -> Simulator | FramePlayer:
    if arguments.replay and is_capture(arguments.replay[0]):
        if arguments.chaos is not None or arguments.fault or sent is not None:
            raise InputError("a raw capture is played byte for byte: --chaos, --fault and --sent are not for it")
        return FramePlayer(arguments.replay, host=arguments.host, port=arguments.port, speed=arguments.speed)
    tape, play = _tape(arguments)
    return Simulator(tape, _options(arguments), play, trouble=_trouble(arguments), witness=sent)


def _trouble(arguments: argparse.Namespace) -> Trouble | None:
    if arguments.chaos is None and not arguments.fault:
        return None
    seed = arguments.chaos or 0
    rng = None if arguments.chaos is None else Random(seed)
    script = Script(rng, arguments.fault, arguments.every, arguments.only or tuple(Fault))
    return Trouble(script, Random(seed + 1), repeats=arguments.chaos is not None)


def _tape(arguments: argparse.Namespace) -> tuple[Tape, Play | None]:
    if not arguments.replay:
        return SeededMarket(arguments.seed, arguments.rate, arguments.sessions), None
    tape = RecordedTape(read_tape(arguments.replay))
    if not len(tape):
        raise InputError(f"{', '.join(map(str, arguments.replay))}: no trades to play")
    return tape, Play(tape.first_ns, tape.last_ns + BARS_FLUSH_NS, arguments.speed)


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        host=arguments.host,
        port=arguments.port,
        rules=Rules(
            arguments.keys,
            arguments.no_plan_keys,
            arguments.channels,
            arguments.acks == "single",
            PLANS[arguments.plan],
        ),
        evict=arguments.evict,
        connections_max=arguments.connections,
        auth_deadline_s=arguments.auth_deadline,
        buffer_bytes_max=int(arguments.buffer_mb * 2**20),
        frame_events_max=max(1, arguments.frame_events),
        compression=arguments.compression,
        ping_interval_s=arguments.pings,
        answers_pings=not arguments.swallow_pongs,
        corrections=Corrections(arguments.corrections),
        hours=hours_at if arguments.replay or arguments.sessions == "real" else _always,
    )


def _always(minute_ms: int) -> Hours:
    hours = hours_at(minute_ms)
    return Hours.REGULAR if hours is Hours.CLOSED else hours


async def _gone(parent: int) -> None:
    """Return when the process ``parent`` is no more.

    A process descriptor tells it at once. (PR_SET_PDEATHSIG would not do: it follows the thread that started us.)
    """
    if not hasattr(os, "pidfd_open"):
        while os.getppid() == parent:
            await asyncio.sleep(PARENT_POLL_S)
        return
    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


if __name__ == "__main__":
    if not __debug__:
        sys.exit("tapewatch simulate: refuses to run under python -O, which switches its checks off")
    sys.exit(main())
