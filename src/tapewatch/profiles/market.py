"""The simulator as a process of its own, for a pipeline without a key and for replays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from tapewatch.errors import InputError, MachineError

__all__ = ["SimulatorProcess"]

KEY: Final = "simulated"


class _Ready(msgspec.Struct):
    ws: str
    rest: str
    pid: int


class SimulatorProcess:
    """Starts `python -m tapewatch.simulator`; it ends with this process, however that ends."""

    def __init__(self, arguments: Sequence[str], says: Path) -> None:
        """``says`` is the file that takes what it prints beside its address."""
        command = [sys.executable, "-m", "tapewatch.simulator", "--parent", str(os.getpid()), *arguments]
        self._says = says
        with says.open("wb") as stderr:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        self.ws_url = self.rest_url = ""

    @classmethod
    def seeded(cls, seed: int, rate: float, says: Path) -> SimulatorProcess:
        """A market made of ``seed``, with about ``rate`` trades a second and symbol."""
        return cls(["--seed", str(seed), "--rate", str(rate)], says)

    @classmethod
    def replaying(cls, files: Sequence[Path], speed: str, says: Path) -> SimulatorProcess:
        """The trades of the files at ``speed`` times their own pace, or ``max``."""
        return cls(["--replay", *map(str, files), "--speed", speed], says)

    def wait_ready(self) -> None:
        """Until it answers; its addresses are then known.

        Raises:
            InputError, MachineError: it could not start; its own sentence.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._says.read_text(errors="replace").strip().splitlines()
            code = self._process.wait()
            sentence = said[-1] if said else f"the simulator ended with exit code {code}"
            raise (InputError if code == InputError.exit_code else MachineError)(sentence)
        ready = msgspec.json.decode(line, type=_Ready)
        self.ws_url, self.rest_url = ready.ws, ready.rest

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def stop(self) -> None:
        """End it and wait."""
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
