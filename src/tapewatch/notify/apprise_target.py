"""A channel that goes through Apprise: email, Telegram, ntfy, Pushover, Discord, Teams and others.

Apprise runs in a process of its own (`apprise_worker`), started with the first message and ended after a while without
any. A message that takes longer than the deadline is a failure, and the process is killed: Apprise's own time-outs
never end an answer that drips a byte every three seconds.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec

from tapewatch.notify.channels import Channel
from tapewatch.notify.target import Outcome, Receipt
from tapewatch.records import Notification
from tapewatch.settings import NOTIFY_DEADLINE_S

__all__ = ["AppriseTarget"]

_WORKER: Final = "tapewatch.notify.apprise_worker"
_START_S: Final = 60.0
"""A busy machine takes a while to load Apprise; that is not the receiver's fault."""
_IDLE_S: Final = 120.0
_LINE_BYTES_MAX: Final = 64 * 1024
_INHERITED: Final = (
    "PATH",
    "LANG",
    "LC_ALL",
    "PYTHONPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "TZ",
)
"""All that the process sees of the environment: no secrets, no proxies."""


class AppriseTarget:
    """Delivers through one worker. ``deadline_s`` covers one message whole."""

    in_order = False
    parallel = 1

    def __init__(self, channel: Channel, *, deadline_s: float = NOTIFY_DEADLINE_S, idle_s: float = _IDLE_S) -> None:
        """``channel`` has its secrets filled in."""
        self._channel = channel
        self._deadline_s = deadline_s
        self._idle_s = idle_s
        self._worker: asyncio.subprocess.Process | None = None
        self._one_at_a_time = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def deliver(self, notification: Notification, earlier: Receipt | None = None) -> Outcome:
        """Try once; see `sender.Target`."""
        async with self._one_at_a_time:
            self._stay()
            try:
                return await self._ask(_asked(notification, self._deadline_s))
            finally:
                self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._end)

    async def close(self) -> None:
        """End the worker."""
        self._stay()
        self._end()
        if self._ending:
            await asyncio.wait(self._ending)

    async def _ask(self, message: bytes) -> Outcome:
        worker = self._worker
        started = worker is None or worker.returncode is not None
        try:
            if worker is None or worker.returncode is not None:
                worker = self._worker = await _start(self._channel)
            assert worker.stdin is not None
            assert worker.stdout is not None
            async with asyncio.timeout(self._deadline_s + (_START_S if started else 0.0)):
                if started:
                    await worker.stdout.readline()  # it is ready
            async with asyncio.timeout(self._deadline_s):
                worker.stdin.write(message + b"\n")
                await worker.stdin.drain()
                line = await worker.stdout.readline()
        except TimeoutError:
            await self.close()
            return Outcome(f"not delivered within {self._deadline_s:g} s")
        except OSError as error:
            await self.close()
            return Outcome(f"the process that holds Apprise failed: {type(error).__name__}")
        except asyncio.CancelledError:
            self._end()
            raise
        if not line:
            await self.close()
            return Outcome("the process that holds Apprise ended without an answer")
        return msgspec.json.decode(line, type=Outcome)

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _end(self) -> None:
        """Without waiting."""
        worker, self._worker = self._worker, None
        if worker is not None:
            task = asyncio.create_task(_killed(worker))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


async def _start(channel: Channel) -> asyncio.subprocess.Process:
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", _WORKER,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env=_environment(os.environ), start_new_session=True, limit=_LINE_BYTES_MAX,
    )  # fmt: skip
    assert worker.stdin is not None
    worker.stdin.write(msgspec.json.encode(channel) + b"\n")
    return worker


async def _killed(worker: asyncio.subprocess.Process) -> None:
    """It has no more to do, or too much: it ends at once, and its pipes are closed."""
    with suppress(ProcessLookupError):
        worker.kill()
    if worker.stdin is not None:
        worker.stdin.close()
    await worker.communicate()


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    kept = {name: own[name] for name in _INHERITED if name in own}
    return kept | {"NETRC": os.devnull, "HOME": os.devnull, "PYTHONUNBUFFERED": "1"}


def _asked(notification: Notification, deadline_s: float) -> bytes:
    payload = notification.payload
    link = payload.get("url")
    text = str(payload["text"]) + (f"\n{link}" if link else "")
    asked = {
        "id": notification.id,
        "alert_id": notification.alert_id,
        "title": str(payload.get("title") or "Tapewatch"),
        "text": text,
        "severity": str(payload.get("severity") or "info"),
        "deadline_s": deadline_s,
    }
    return msgspec.json.encode(asked)
