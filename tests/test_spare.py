"""`tapewatch.spare`: what is given back is gone from the process, and comes back when it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tapewatch import spare
from tapewatch.spare import give_back

COMPILES = """
import numba
from pathlib import Path
from tapewatch.spare import give_back

def resident():
    parts = Path("/proc/self/smaps").read_text().split("VmFlags")
    of_code = [part for part in parts if "libllvmlite" in part and " r-xp " in part]
    return sum(int(part.split("Rss:")[1].split()[0]) for part in of_code)

twice = numba.njit(lambda x: 2 * x)
thrice = numba.njit(lambda x: 3 * x)
assert twice(2) == 4
before = resident()
give_back()
after = resident()
assert twice(3) == 6  # runs without the compiler
still = resident()
assert thrice(3) == 9  # compiles again
print(before, after, still, resident())
"""


def test_the_compilers_code_is_given_back_and_read_again_when_needed() -> None:
    run = subprocess.run([sys.executable, "-c", COMPILES], capture_output=True, text=True, check=True)
    before, after, still, again = map(int, run.stdout.split())
    assert before > 1_000
    assert after == still == 0
    assert again > 1_000


def test_what_is_in_use_stays_as_it_is() -> None:
    numbers, names = np.arange(100_000), {n: str(n) for n in range(10_000)}
    give_back()
    assert numbers.tolist() == list(range(100_000))
    assert all(names[n] == str(n) for n in range(10_000))


def test_it_does_nothing_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spare, "_MAPS", tmp_path / "maps")
    give_back()


def test_only_code_is_given_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "7000-7100 r--p 0000 00:01 7 /lib/libllvmlite.so\n"
        "7100-7200 r-xp 0100 00:01 7 /lib/libllvmlite.so\n"
        "7200-7300 r--p 0200 00:01 7 /lib/libllvmlite.so\n"  # relocated: no more as in the file
        "7300-7400 rw-p 0300 00:01 7 /lib/libllvmlite.so\n"
        "8000-8100 r-xp 0000 00:01 8 /lib/libc.so.6\n"
        "9000-9100 rwxp 0000 00:00 0\n"
    )
    monkeypatch.setattr(spare, "_MAPS", maps)
    assert spare._code_of("libllvmlite") == [(0x7100, 0x7200)]
