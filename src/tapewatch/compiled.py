"""The one way to compile a function here: `@compiled` or `@inlined`, cached on disk, without the interpreter's lock.

Numba's cache looks only at the file of the function itself; a change in another file that was compiled into it
would go unnoticed, and yesterday's arithmetic would run. So the cache's folder is named after a hash of every
source file that uses this module, and of every file whose constants such a file imports.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])
_IMPORTED: Final = re.compile(rb"^from tapewatch\.([\w.]+) import ", re.MULTILINE)


def _cache_dir(package: Path) -> Path:
    """A folder for this state of the sources: beside them where that is writable, else the user's cache."""
    digest = hashlib.sha256(numba.__version__.encode())
    users = {path: source for path in package.rglob("*.py") if b"tapewatch.compiled" in (source := path.read_bytes())}
    names = {name.decode() for source in users.values() for name in _IMPORTED.findall(source)}
    imported = {package.joinpath(*name.split(".")).with_suffix(".py") for name in names}
    for path in sorted(imported | users.keys()):
        digest.update(path.read_bytes())
    name = f"numba-{digest.hexdigest()[:16]}"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tapewatch"
    for parent in (package / "__pycache__", home, Path(tempfile.gettempdir()) / f"tapewatch-{os.getuid()}"):
        try:
            (parent / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if os.access(parent / name, os.W_OK) and (parent / name).stat().st_uid == os.getuid():
            return parent / name
    return Path(tempfile.mkdtemp(prefix="tapewatch-numba-"))


numba.config.CACHE_DIR = str(  # type: ignore[attr-defined]
    _cache_dir(Path(__file__).parent)
)


def compiled(function: _Function) -> _Function:
    """Compile on first use, for each kind of arguments; keep the machine code for the next process.

    Such a function works on the arrays it is given and makes none: without reference counts (`_nrt`) the engine's step
    is fifteen times quicker. Numba refuses to compile one that allocates.
    """
    return _compiled(function, cache=True)


def inlined(function: _Function) -> _Function:
    """The same for a function that compiled ones call for every record, pane or row: it becomes a part of them.

    A call passes each field of each array of its arguments, over two hundred numbers for the engine's.
    """
    return _compiled(function, forceinline=True)


def _compiled(function: _Function, **how: bool) -> _Function:
    options: Any = {"nogil": True, "error_model": "numpy", "_nrt": False, **how}
    return cast(_Function, numba.njit(**options)(function))
