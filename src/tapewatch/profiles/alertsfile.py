"""`alerts.toml` as a whole: rules, channels, and what it says of notifying and watching. Read here, and written."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from tapewatch.errors import MachineError, SettingsError
from tapewatch.notify.channels import Channel, ChannelError, parse_channels
from tapewatch.notify.options import OptionError, notify_options, system_options
from tapewatch.notify.targets import channel_names, confirmed_only
from tapewatch.rules.channels import NotifyOptions, SystemOptions
from tapewatch.rules.machines import machines_of
from tapewatch.rules.model import Rules
from tapewatch.rules.parse import AlertsText, parse_alerts, place
from tapewatch.settings import Settings

__all__ = ["AlertsFile", "Audience", "alerts_of", "read_alerts_file", "read_text", "write_text"]

_T = TypeVar("_T")
BYTES_MAX: Final = 4 * 1024 * 1024
_ALWAYS: Final = frozenset(("log", "webhook"))
"""Channels that are not written there: the program's log, and WEBHOOK_URL."""


class AlertsFile(NamedTuple):
    """What the file says; without it, the defaults."""

    rules: Rules = Rules()
    channels: dict[str, Channel] = {}  # noqa: RUF012
    """By name, as written: secrets are not looked up yet."""
    notify: NotifyOptions = NotifyOptions()
    system: SystemOptions = SystemOptions()
    text: str = ""

    def audience(self, settings: Settings) -> Audience:
        """Whom alerts are told, with the channels of the settings."""
        return Audience(channel_names(settings, self.channels), confirmed_only(self.channels))


class Audience(NamedTuple):
    """The channels that messages are written for, and those of them that take no provisional alerts."""

    channels: tuple[str, ...]
    confirmed_only: frozenset[str] = frozenset()


def read_alerts_file(settings: Settings) -> AlertsFile:
    """Read the setting ALERTS_FILE. Raises SettingsError: as `alerts_of`, or it cannot be read."""
    return alerts_of(read_text(settings.alerts_file), str(settings.alerts_file), slide_ms=settings.slide_ms)


def alerts_of(text: str, where: str, *, slide_ms: int = 60_000) -> AlertsFile:
    """What a text of `alerts.toml` says.

    Raises:
        SettingsError: names the file and line, the table and key, the value and what is allowed, for every wrong one.
    """
    wrong: list[str] = []
    found = None
    try:
        found = parse_alerts(text, where)
        machines_of(found.rules, slide_ms=slide_ms)
    except SettingsError as error:
        wrong.append(str(error) if found is None else f"{where}: {error}")
    if found is None:
        raise SettingsError(wrong[0])
    read = _Read(found, wrong)
    channels = read.table("channels", parse_channels)
    notify = read.table("notify", notify_options)
    system = read.table("system", system_options)
    if channels is not None:
        for name, rule in found.rules.items():
            if strange := sorted(set(rule.channels or ()) - channels.keys() - _ALWAYS):
                known = ", ".join(sorted(channels.keys() | _ALWAYS))
                at = place(text, where, name, "channels")
                wrong.append(f"{at}: [{name}] channels: there is no [channels.{strange[0]}]; expected some of {known}")
    if wrong or channels is None or notify is None or system is None:
        raise SettingsError("\n".join(wrong))
    return AlertsFile(found.rules, channels, notify, system, text)


class _Read:
    """Reads the tables that are no rules, and notes what is wrong with them."""

    def __init__(self, found: AlertsText, wrong: list[str]) -> None:
        self._found = found
        self._wrong = wrong

    def table(self, name: str, read: Callable[[dict[str, Any]], _T]) -> _T | None:
        found = self._found
        try:
            return read(found.others.get(name, {}))
        except (ChannelError, OptionError) as error:
            self._wrong.append(f"{place(found.text, found.where, error.table, error.key)}: {error}")
            return None


def read_text(path: Path) -> str:
    """The file's text; empty where there is none. Raises SettingsError when it cannot be read."""
    try:
        if path.stat().st_size > BYTES_MAX:
            raise SettingsError(f"ALERTS_FILE={path}: expected at most {BYTES_MAX:,} bytes")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"ALERTS_FILE={path}: cannot be read: {error}") from None


def write_text(path: Path, text: str) -> None:
    """Put the file in place whole, or leave the one that is there. Raises MachineError."""
    path = path.resolve()
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), path.stat().st_mode & 0o7777)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise MachineError(f"{path} cannot be written ({error.strerror}); the rules are as before") from None
