"""Memory that a start needed and nothing needs afterwards, given back to the system.

    the compiler's code    50 MiB of LLVM are read to load what it compiled before; then none of it runs
    freed blocks           what the C library keeps of memory that was freed: 10 MiB after a warm-up

Whatever is needed again after all comes back by itself, page by page.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

__all__ = ["give_back"]

_MAPS: Final = Path("/proc/self/maps")
_COMPILER: Final = "libllvmlite"
_DONTNEED: Final = 4
"""MADV_DONTNEED of Linux's `madvise`."""


def give_back() -> None:
    """Do so, where the system can: Linux, and the C library of GNU. Takes some milliseconds."""
    library = ctypes.CDLL(None)
    if (trim := getattr(library, "malloc_trim", None)) is not None:
        trim(ctypes.c_size_t(0))
    for begin, end in _code_of(_COMPILER):
        library.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _DONTNEED)


def _code_of(name: str) -> list[tuple[int, int]]:
    """Where the code of a loaded library lies: from, to. It is as in the file, so its pages can be read again."""
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:  # not Linux
        return []
    mine = [fields for line in lines if name in line and (fields := line.split())[1] == "r-xp"]
    return [(int(first, 16), int(last, 16)) for first, _, last in (fields[0].partition("-") for fields in mine)]
