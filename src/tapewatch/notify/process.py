"""The sender's own process, as its starter sees it: started, told when there is something, watched, started again.

    starter ── stdin: the plan once, then a line for each "there is something new" ──► python -m tapewatch.notify
            ◄─ stdout: a line of JSON each second, what was sent and how the channels do ──

What reaches out of this machine lives there, apart from the path of the data: a channel that eats memory, hangs in a
name look-up or crashes takes nothing with it. The process ends when its input does, so also when its starter is killed.
One that says nothing for a while is killed. Whenever it ends by itself it is started again, after a pause that grows.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from tapewatch.metrics import NOTIFY_DEAD, NOTIFY_OLDEST, NOTIFY_SENT, NOTIFY_STARTS, NOTIFY_WAITING
from tapewatch.notify.channels import Channel
from tapewatch.settings import NOTIFY_DEADLINE_S, NOTIFY_POLL_S, NOTIFY_SILENCE_S, NOTIFY_STOP_S

__all__ = ["Plan", "Report", "SenderProcess"]

_START_S: Final = 30.0
"""A busy machine takes a while to load it: so much longer it may be silent at first."""
_FIRST_PAUSE_S: Final = 0.5
_PAUSE_S_MAX: Final = 30.0
_LINE_BYTES_MAX: Final = 4 * 1024 * 1024
_SAYS_BYTES_MAX: Final = 5_000_000
_UNREAD_BYTES_MAX: Final = 4_096
"""With so many lines unread it knows that there is something new."""

_logger = structlog.get_logger("tapewatch.notify")


class Plan(msgspec.Struct, kw_only=True):
    """All that the process needs to know. It holds secrets, so it goes through a pipe and is never written down."""

    conninfo: str
    channels: list[Channel]
    attempts_max: int
    news_age_ms: int
    notices: str | None = None
    """File of the messages that are told while the database is away, if there are such."""
    deadline_s: float = NOTIFY_DEADLINE_S
    first_backoff_s: float = 2.0
    poll_s: float = NOTIFY_POLL_S
    """How often it looks by itself."""
    log_level: str = "info"


class Report(msgspec.Struct, omit_defaults=True):
    """What the process says of itself."""

    sent: list[tuple[str, str, int]] = []
    """Channel, result, how many since the report before."""
    waiting: int = 0
    dead: int = 0
    oldest_s: float = 0.0
    channels: dict[str, dict[str, Any]] = {}
    """Health by channel."""


class SenderProcess:
    """Keeps one such process running. To be used in the event loop."""

    def __init__(self, plan: Plan, says: Path, *, silence_s: float = NOTIFY_SILENCE_S) -> None:
        """``says`` takes what it logs; a large one is kept once, as `….1`."""
        self._plan = plan
        self._says = says
        self._silence_s = silence_s
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self.channels: Mapping[str, dict[str, Any]] = {}
        """The newest health of each channel."""

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> asyncio.Task[None]:
        """Begin; the task ends only by `stop`, or by an error of this program."""
        assert self._task is None
        self._task = asyncio.create_task(self._keep(), name="sender process")
        return self._task

    def wake(self) -> None:
        """There is something new in the outbox."""
        self._write(b"\n")

    async def change(self, channels: list[Channel]) -> None:
        """Other channels from now on: the process ends in good order and begins anew with these."""
        self._plan = msgspec.structs.replace(self._plan, channels=channels)
        await self._end()

    async def stop(self) -> None:
        """End it in good order."""
        self._is_stopping = True
        await self._end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._is_stopping:
            began = asyncio.get_running_loop().time()
            code = await self._run_once()
            if self._is_stopping:
                return
            if code != 0:
                lived_s = asyncio.get_running_loop().time() - began
                pause_s = _FIRST_PAUSE_S if lived_s > _PAUSE_S_MAX else min(pause_s * 2, _PAUSE_S_MAX)
                _logger.error("the sender ended", exit_code=code, again_in_s=pause_s, said=str(self._says))
                await asyncio.sleep(pause_s)

    async def _run_once(self) -> int:
        """From its start to its end; its exit code, or -1 if it could not be started."""
        try:
            process = self._process = await self._spawn()
        except OSError as error:
            _logger.error("the sender cannot be started", error=str(error))
            return -1
        NOTIFY_STARTS.inc()
        try:
            await self._listen(process)
        finally:
            with suppress(ProcessLookupError):
                process.kill()  # harmless once it has ended
            code = await process.wait()
        return code

    async def _spawn(self) -> asyncio.subprocess.Process:
        if self._says.exists() and self._says.stat().st_size > _SAYS_BYTES_MAX:
            self._says.replace(self._says.with_name(self._says.name + ".1"))
        with self._says.open("ab") as says:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tapewatch.notify", stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, stderr=says, start_new_session=True, limit=_LINE_BYTES_MAX,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(self._plan) + b"\n")
        return process

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Take its reports until it ends, or is silent for too long."""
        assert process.stdout is not None
        patience_s = self._silence_s + _START_S
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    line = await process.stdout.readline()
                if not line:
                    return
                self._take(msgspec.json.decode(line, type=Report))
                patience_s = self._silence_s
            except TimeoutError:
                _logger.error("the sender says nothing, and is killed", silence_s=patience_s)
                return
            except ValueError as error:  # no report, or an endless line
                _logger.error("the sender says what nobody understands, and is killed", error=str(error)[:200])
                return

    def _take(self, report: Report) -> None:
        for channel, result, count in report.sent:
            NOTIFY_SENT.labels(channel, result).inc(count)
        NOTIFY_WAITING.set(report.waiting)
        NOTIFY_DEAD.set(report.dead)
        NOTIFY_OLDEST.set(report.oldest_s)
        self.channels = report.channels

    def _write(self, line: bytes) -> None:
        process = self._process
        if process is None or process.returncode is not None or process.stdin is None:
            return
        if process.stdin.transport.get_write_buffer_size() < _UNREAD_BYTES_MAX:
            with suppress(OSError, RuntimeError):  # it is ending; its successor looks by itself
                process.stdin.write(line)

    async def _end(self) -> None:
        """Its input ends, so it does; killed if it takes too long."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(2 * NOTIFY_STOP_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
