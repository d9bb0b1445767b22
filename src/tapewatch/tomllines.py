"""On which line of a TOML text a table or a key is, for messages: the parser itself does not say.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

__all__ = ["key_lines", "line_in", "table_lines"]

_HEADER: Final = re.compile(r"\s*\[{1,2}\s*([^\[\]#]+?)\s*\]{1,2}\s*(?:#.*)?$")
_KEY: Final = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*'))*)\s*="""
)
_TEXTS: Final = re.compile(r'"""|\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#.*|[\[\]{}]')


def line_in(text: str, table: str, key: str | None = None) -> int | None:
    """The line (from 1) of a key in a table such as ``channels.phone``; of the table's header without a key, or where
    the key is not written. None where neither is.

    >>> line_in('[a]\\nb = 1\\n\\n[a.c]\\nb = 2', "a.c", "b"), line_in("[a]", "a", "b"), line_in("a.b = 1", "a", "b")
    (5, 1, 1)
    """
    header = None
    for number, current, written in _places(text):
        full = current if written is None else ".".join(part for part in (current, written) if part)
        if header is None and (full == table or full.startswith(f"{table}.")):
            header = number
        if key is not None and written is not None and full == f"{table}.{key}":
            return number
    return header


def table_lines(text: str, table: str) -> tuple[int, int] | None:
    """The lines [from, to) of a table's part of the text, from 0: its header and all before the next one's comments.

    None where it has no header of its own.
    """
    lines = text.splitlines()
    headers = [(number - 1, current) for number, current, written in _places(text) if written is None]
    for i, (start, current) in enumerate(headers):
        if current == table:
            stop = headers[i + 1][0] if i + 1 < len(headers) else len(lines)
            while stop > start + 1 and (not lines[stop - 1].strip() or lines[stop - 1].lstrip().startswith("#")):
                if i + 1 == len(headers) and lines[stop - 1].strip():
                    break  # comments at the end of the text are this table's
                stop -= 1
            return start, stop
    return None


def key_lines(text: str, table: str, key: str) -> tuple[int, int] | None:
    """The lines [from, to) of a key and its value in a table with a header of its own, from 0; or None."""
    block = table_lines(text, table)
    if block is None:
        return None
    lines = text.splitlines()
    mine = [(number - 1, written) for number, full, written in _places(text) if full == table and written is not None]
    for i, (start, written) in enumerate(mine):
        if written == key:
            stop = mine[i + 1][0] if i + 1 < len(mine) else block[1]
            while stop > start + 1 and (not lines[stop - 1].strip() or lines[stop - 1].lstrip().startswith("#")):
                stop -= 1
            return start, stop
    return None


def _places(text: str) -> Iterator[tuple[int, str, str | None]]:
    """Line, table and key (None: the header itself) of all that is written, texts and lists of several lines aside."""
    table, depth, quotes = "", 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        is_inside = depth > 0 or quotes != ""
        if not is_inside and (header := _HEADER.fullmatch(line)):
            table = _plain(header[1])
            yield number, table, None
            continue
        if not is_inside and (key := _KEY.match(line)):
            yield number, table, _plain(key[1])
        for found in _TEXTS.finditer(line):
            mark = found[0]
            if quotes:
                quotes = "" if mark == quotes else quotes
            elif mark in ('"""', "'''"):
                quotes = mark
            elif mark in "[{":
                depth += 1
            elif mark in "]}":
                depth = max(0, depth - 1)


def _plain(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))
