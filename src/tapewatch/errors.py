"""Everything Tapewatch may raise on purpose, and the exit code each kind ends a command with.

* TapewatchError
    * SettingsError        a wrong value; nothing was started                       exit 2
    * InputError           a file or an argument that cannot be used                exit 2
        * UnknownSymbol    the log holds nothing of it                              exit 2
    * FeedError            the exchange or the network; the feed reconnects         exit 3
        * FeedRefused      the key or the plan does not allow it; retrying is vain  exit 3
    * LogError             the durable log                                          exit 4
        * LogBusy          another process writes this log
        * LogCorrupt       damage; a person must decide (`tapewatch repair`)
        * LogFull          no room left; the feed is paused until there is
        * LogUnavailable   Kafka does not answer; the feed is paused until it does
        * LogLost          records asked for are no longer kept
    * StoreError           the database                                             exit 5
        * StoreUnavailable it does not answer; the batch is kept and sent again
        * StoreMismatch    it belongs to another log, or another engine moved it
    * MachineError         a port, a folder or a tool this machine lacks            exit 6
        * MachineBusy      it was too slow for something that is tried again

Refused input from the exchange is none of these: it is a counted value (`records.Refused`). A bug is an
``AssertionError``: it stops the process (exit 70), and recovery does its work.

Every message says what, where, what was expected and got, and what the program does now or what to do.
"""

from __future__ import annotations

__all__ = [
    "FeedError",
    "FeedRefused",
    "InputError",
    "LogBusy",
    "LogCorrupt",
    "LogError",
    "LogFull",
    "LogLost",
    "LogUnavailable",
    "MachineBusy",
    "MachineError",
    "SettingsError",
    "StoreError",
    "StoreMismatch",
    "StoreUnavailable",
    "TapewatchError",
    "UnknownSymbol",
]


class TapewatchError(Exception):
    """The root of the tree; its text is a whole sentence for the person at the terminal."""

    exit_code = 1


class SettingsError(TapewatchError):
    """A setting has a wrong value: names the setting, the value and what is allowed."""

    exit_code = 2


class InputError(TapewatchError):
    """A file or an argument cannot be used: names it, and what was expected."""

    exit_code = 2


class UnknownSymbol(InputError):
    """A symbol was asked about of which the log holds no trade."""


class FeedError(TapewatchError):
    """The exchange or the network failed; the caller reconnects with back-off."""

    exit_code = 3


class FeedRefused(FeedError):
    """The exchange refused the key, the plan or the market; trying again changes nothing."""


class LogError(TapewatchError):
    """The durable log cannot be read or written."""

    exit_code = 4


class LogBusy(LogError):
    """Another process holds the log for writing."""


class LogCorrupt(LogError):
    """A block is damaged. Refused, never skipped; `tapewatch repair` decides with the person."""


class LogFull(LogError):
    """The disk has no room for the batch; nothing of it was written, and it may be appended again."""


class LogUnavailable(LogError):
    """Kafka does not answer, or not in time; what was not acknowledged may be in the log or not."""


class LogLost(LogError):
    """Records that were asked for are no longer kept (retention), or were never written."""


class StoreError(TapewatchError):
    """The database failed."""

    exit_code = 5


class StoreUnavailable(StoreError):
    """The database does not answer; the caller keeps the batch and tries again."""


class StoreMismatch(StoreError):
    """The database belongs to another log, or another engine has moved its position."""


class MachineError(TapewatchError):
    """This machine lacks something: a free port, a writable folder, a program."""

    exit_code = 6


class MachineBusy(MachineError):
    """It had too much to do for something that has a limit of its own; it is tried again."""
