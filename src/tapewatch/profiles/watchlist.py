"""What is watched: SYMBOLS, and what a person added or took away since, which is kept in the data folder.

    SYMBOLS ─┐
             ├─► symbols        watchlist.json  {"added": ["NVDA"], "removed": ["TSLA"]}
    changes ─┘

Only the changes are kept, so a later change of SYMBOLS still counts. A change is on the disk before it is in force.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tapewatch.errors import InputError, MachineError
from tapewatch.feed.symbols import product_symbol
from tapewatch.settings import SYMBOLS_MAX, read_symbols

__all__ = ["Watchlist"]

FILE_NAME: Final = "watchlist.json"


class _Changes(msgspec.Struct):
    added: list[str] = []
    removed: list[str] = []


class Watchlist:
    """The symbols of one pipeline, by the product's names. Not for several threads."""

    def __init__(self, base: Iterable[str], folder: Path) -> None:
        """``base`` is the setting SYMBOLS.

        Raises:
            InputError: the file of changes in ``folder`` cannot be read.
        """
        self._base = list(dict.fromkeys(map(product_symbol, base)))
        self._path = folder / FILE_NAME
        self._changes = self._read()

    @property
    def symbols(self) -> tuple[str, ...]:
        """All that is watched: SYMBOLS in their order without the removed ones, then the added ones."""
        removed = set(self._changes.removed)
        return tuple(dict.fromkeys(s for s in (*self._base, *self._changes.added) if s not in removed))

    @property
    def added(self) -> tuple[str, ...]:
        """What is watched beyond SYMBOLS."""
        return tuple(self._changes.added)

    @property
    def removed(self) -> tuple[str, ...]:
        """What SYMBOLS names and is not watched."""
        return tuple(self._changes.removed)

    def add(self, names: Sequence[str]) -> list[str]:
        """Watch these too, in any of a symbol's forms; those that are new.

        Raises:
            InputError: a name is no symbol, or there are too many.
            MachineError: the change cannot be kept.
        """
        before = set(self.symbols)
        new = [name for name in _names(names) if name not in before]
        if len(before) + len(new) > SYMBOLS_MAX:
            raise InputError(f"At most {SYMBOLS_MAX} symbols can be watched; with these they would be more.")
        if new:
            removed = [name for name in self._changes.removed if name not in new]
            added = [*self._changes.added, *(name for name in new if name not in self._base)]
            self._keep(_Changes(added, removed))
        return new

    def remove(self, names: Sequence[str]) -> list[str]:
        """Watch these no more; those that were watched.

        Raises:
            InputError: a name is no symbol or is not watched, or nothing would be left.
            MachineError: the change cannot be kept.
        """
        before = self.symbols
        gone = list(_names(names))
        if strange := [name for name in gone if name not in before]:
            raise InputError(f"{strange[0]} is not watched; the watchlist is in GET /api/v1/watchlist.")
        if len(gone) == len(before):
            raise InputError("At least one symbol must be watched; add another one first.")
        added = [name for name in self._changes.added if name not in gone]
        removed = [*self._changes.removed, *(name for name in gone if name in self._base)]
        self._keep(_Changes(added, removed))
        return gone

    def reload(self) -> bool:
        """Read the file again; whether that changed what is watched.

        Raises:
            InputError: it cannot be read.
        """
        before, self._changes = self.symbols, self._read()
        return self.symbols != before

    def _read(self) -> _Changes:
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_Changes)
            added = _names(found.added) if found.added else ()
            removed = _names(found.removed) if found.removed else ()
        except (FileNotFoundError, NotADirectoryError):
            return _Changes()  # whoever is to write there says that it cannot
        except (OSError, msgspec.MsgspecError, InputError) as error:
            raise InputError(
                f"{self._path} cannot be read ({error}); correct it, or remove it to watch SYMBOLS alone"
            ) from None
        return _Changes([name for name in added if name not in self._base], [n for n in removed if n in self._base])

    def _keep(self, changes: _Changes) -> None:
        part = self._path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                file.write(msgspec.json.encode(changes))
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        except OSError as error:
            raise MachineError(
                f"{self._path} cannot be written ({error.strerror}); the watchlist is as before"
            ) from None
        self._changes = changes


def _names(written: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(map(product_symbol, read_symbols(written))))
    except ValueError as error:
        raise InputError(f"symbols: {error}") from None
