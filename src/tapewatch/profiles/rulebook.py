"""The rules in force, and their change at run time: one file, however it comes to be changed.

    editor, `tapewatch rules`, POST /api/v1/rules ─► alerts.toml ─► looked at each second ─► a RULES record of the log
                                                                                         └─► channels and options follow

A file with a mistake changes nothing; what is wrong with it is logged once, and shown. A change is in force from its
record on, for every engine that reads the log. Who wanted it is told by a note in the data folder (`CHANGED_BY`).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, get_args

import msgspec
import structlog

from tapewatch.errors import InputError, SettingsError
from tapewatch.profiles.alertsfile import AlertsFile, alerts_of, read_text, write_text
from tapewatch.rules.change import Who
from tapewatch.rules.edit import with_rule, without_rule
from tapewatch.rules.model import DEFAULTS, Rules, kind_of
from tapewatch.rules.parse import RuleErrors, as_table
from tapewatch.settings import Settings

__all__ = ["Rulebook", "change_rules"]

CHANGED_BY: Final = "rules-by.json"
LOOK_S: Final = 1.0
_log = structlog.get_logger(__name__)
_Edit = Callable[[str, str], str]


class _By(msgspec.Struct):
    """Who made the text that has this hash."""

    sha256: str
    who: Who


class Rulebook:
    """What `alerts.toml` says, as far as it is in force. In one event loop."""

    def __init__(self, settings: Settings) -> None:
        """Read the file. Raises SettingsError when it is wrong."""
        self._settings = settings
        self._path = settings.alerts_file
        self._seen: tuple[int, ...] | None = self._stamp()
        self._listeners: list[Callable[[AlertsFile, Who], object]] = []
        self.now: AlertsFile = self._read(read_text(self._path))
        """What is in force."""
        self.who: Who = "start"
        self.since_ns = time.time_ns()
        """When it came to be in force, by this machine's clock."""
        self._changing: set[asyncio.Task[None]] = set()
        self.problem = ""
        """Why the file as it is now is not in force; empty when it is."""

    @property
    def rules(self) -> Rules:
        """The rules in force."""
        return self.now.rules

    def listen(self, to: Callable[[AlertsFile, Who], object]) -> None:
        """``to`` is called in the loop with what is in force from now on, whenever that changes."""
        self._listeners.append(to)

    def start(
        self,
        undo: AsyncExitStack,
        on_end: Callable[[BaseException | None], object],
        say: Callable[[Rules, Who], object] | None = None,
        change_channels: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Follow the file until ``undo``.

        ``say`` puts changed rules into the log, where it is written here. ``change_channels`` is awaited when other
        channels are in force; where it raises SettingsError, those of before go on, and that is told.
        """
        if say is not None:
            said = self.rules

            def tell(found: AlertsFile, who: Who) -> None:
                nonlocal said
                if found.rules != said:
                    said = found.rules
                    say(said, who)

            self.listen(tell)
        if change_channels is not None:
            known, change = self.now.channels, change_channels

            def tell_channels(found: AlertsFile, who: Who) -> None:
                nonlocal known
                if found.channels != known:
                    known = found.channels
                    changing = asyncio.create_task(self._change_channels(change), name="channels")
                    self._changing.add(changing)
                    changing.add_done_callback(self._changing.discard)
                    changing.add_done_callback(lambda t: None if t.cancelled() else _ended(t, on_end))

            self.listen(tell_channels)
        task = asyncio.create_task(self.run(), name="rules")
        undo.callback(task.cancel)
        task.add_done_callback(lambda t: None if t.cancelled() else on_end(t.exception()))

    async def _change_channels(self, change: Callable[[], Awaitable[object]]) -> None:
        try:
            await change()
        except SettingsError as error:
            _log.error("the channels are as before", why=str(error))
            self.problem = str(error)

    async def run(self) -> None:
        """Follow the file, until cancelled. One that is being written is left until it is as it was a look before."""
        while True:
            before = self._stamp()
            await asyncio.sleep(LOOK_S)
            if self._stamp() == before:
                self.look()

    def look(self) -> bool:
        """Look at the file, and follow it; whether what is in force has changed."""
        stamp = self._stamp()
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            text = read_text(self._path)
            found = self._read(text)
        except SettingsError as error:
            if str(error) != self.problem:
                _log.error("the alert rules are as before", why=str(error))
            self.problem = str(error)
            return False
        self.problem = ""
        if found._replace(text="") == self.now._replace(text=""):
            self.now = found
            return False
        self._take(found, _changed_by(self._settings, text))
        return True

    def _take(self, found: AlertsFile, who: Who) -> None:
        before, self.now = self.now, found
        self.who, self.since_ns = who, time.time_ns()
        changed = [n for n in {**before.rules, **found.rules} if before.rules.get(n) != found.rules.get(n)]
        _log.info("alert rules changed", by=who, rules=changed, version={n: found.rules.version(n) for n in changed
                  if n in found.rules})  # fmt: skip
        for listener in self._listeners:
            listener(found, who)

    def shown(self) -> dict[str, Any]:
        """What `/api/v1/rules` answers."""
        return {
            "rules": [
                {
                    "rule": name,
                    "kind": kind_of(rule),
                    "version": self.rules.version(name),
                    "enabled": rule.enabled,
                    "is_default": name in DEFAULTS,
                    "keys": as_table(name, rule),
                }
                for name, rule in self.rules.items()
            ],
            "changed_by": self.who,
            "since": self.since_ns // 1_000_000,
            "problem": self.problem or None,
        }

    def write(self, name: str, keys: Mapping[str, Any]) -> dict[str, Any]:
        """Add a rule, or change these keys of it; what is in force then.

        Raises:
            InputError: it is no rule, or the file is wrong.
            MachineError: the file cannot be written; all is as before.
        """
        return self._edit(lambda text, where: with_rule(text, name, keys, where))

    def remove(self, name: str) -> dict[str, Any]:
        """Take a rule out; of a default, what was written of it. Raises: as `write`; InputError when it is none."""
        return self._edit(lambda text, where: without_rule(text, name, where))

    def _edit(self, edit: _Edit) -> dict[str, Any]:
        change_rules(self._settings, edit, "api")
        self.look()
        return self.shown()

    def _read(self, text: str) -> AlertsFile:
        return alerts_of(text, str(self._path), slide_ms=self._settings.slide_ms)

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino)


def change_rules(settings: Settings, edit: _Edit, who: Who) -> AlertsFile:
    """Change the file by ``edit``, which gets its text and name; what it says then. A running pipeline follows.

    Raises:
        InputError: the file is wrong, before or after.
        MachineError: it cannot be written.
    """
    where = str(settings.alerts_file)
    try:
        text = edit(read_text(settings.alerts_file), where)
        found = alerts_of(text, where, slide_ms=settings.slide_ms)
    except (SettingsError, RuleErrors) as error:
        raise InputError(str(error)) from None
    by = msgspec.json.encode(_By(_hash(text), who))
    with suppress(OSError):  # then it is the file's change
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        (settings.data_dir / CHANGED_BY).write_bytes(by)
    write_text(settings.alerts_file, text)
    return found


def _ended(task: asyncio.Task[None], on_end: Callable[[BaseException | None], object]) -> None:
    if (error := task.exception()) is not None:
        on_end(error)


def _changed_by(settings: Settings, text: str) -> Who:
    try:
        found = msgspec.json.decode((settings.data_dir / CHANGED_BY).read_bytes(), type=_By)
    except (OSError, msgspec.MsgspecError):
        return "file"
    return found.who if found.sha256 == _hash(text) and found.who in get_args(Who) else "file"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
