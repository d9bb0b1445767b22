"""The Java programs that development and tests need, a Kafka broker and Spark's connector: fetched once by Maven.

    deploy/kafka, deploy/spark       pom.xml: what, in which version; jars.sha256: what must come
    ~/.cache/tapewatch/jars/…        where they are kept (XDG_CACHE_HOME is heeded), for all folders of this user

Every jar is compared with its checksum each time: a wrong, missing or additional one is an error, and nothing is run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import structlog

from tapewatch.errors import MachineError

__all__ = ["ensure_jars", "java"]

_log = structlog.get_logger(__name__)
_POMS: Final = Path(__file__).parents[3] / "deploy"
_PACKAGES: Final = {"java": "default-jre-headless", "mvn": "maven"}
_FETCH_S: Final = 900.0


def ensure_jars(kind: Literal["kafka", "spark"]) -> list[Path]:
    """The jars of that kind, in the order of their names; fetched if they are not here yet.

    Raises:
        MachineError: they cannot be fetched, or are not what they should be.
    """
    wanted = _wanted(kind)
    stamp = hashlib.sha256(repr(sorted(wanted.items())).encode()).hexdigest()[:16]
    folder = _cache() / f"{kind}-{stamp}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder.with_suffix(".lock")):
            if not folder.exists():
                _fetch(kind, folder, wanted)
            _compare(folder, wanted)
    except OSError as error:
        raise MachineError(
            f"The jars cannot be kept in {folder}: {error.strerror}; make room or rights, or set XDG_CACHE_HOME to "
            "another folder"
        ) from error
    return sorted(folder / name for name in wanted)


def java() -> str:
    """The program `java`. Raises MachineError."""
    return _program("java")


def _cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "tapewatch" / "jars"


def _wanted(kind: str) -> dict[str, str]:
    """Name and checksum of every jar."""
    path = _POMS / kind / "jars.sha256"
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError:
        raise MachineError(
            f"{path} is missing: the cluster for development runs from a checkout of Tapewatch's source; elsewhere set "
            "KAFKA_BOOTSTRAP_SERVERS and SPARK_MASTER to your own"
        ) from None
    return {name: checksum for checksum, name in lines}


def _fetch(kind: str, folder: Path, wanted: Mapping[str, str]) -> None:
    """By Maven, into a folder beside it that takes its place when it is whole."""
    maven = _program("mvn")
    unfinished = folder.with_suffix(".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    _log.info("fetching jars", kind=kind, number=len(wanted))
    command = [maven, "-B", "-q", "-f", str(_POMS / kind / "pom.xml"), "dependency:copy-dependencies"]
    try:
        done = subprocess.run(
            [*command, f"-DoutputDirectory={unfinished}"], capture_output=True, text=True, timeout=_FETCH_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"Maven has not fetched the {kind} jars within {_FETCH_S:.0f} s; is the network there? Then run it again"
        ) from None
    if done.returncode:
        said = [line.partition("[ERROR] ")[2] for line in done.stdout.splitlines() if "[ERROR] " in line]
        why = (said or [done.stderr.strip() or f"it ended with exit code {done.returncode}"])[0]
        raise MachineError(f"Maven cannot fetch the {kind} jars: {why[:400]}")
    _compare(unfinished, wanted)
    unfinished.rename(folder)


def _compare(folder: Path, wanted: Mapping[str, str]) -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.jar")}
    wrong = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if wrong:
        raise MachineError(
            f"{folder}: {wrong[0]} is missing, additional or not what deploy/*/jars.sha256 says ({len(wrong)} of "
            f"{len(wanted)} differ): delete that folder and run it again"
        )


def _program(name: str) -> str:
    """Its path. As root on Debian a missing one is installed."""
    if (found := shutil.which(name)) is not None:
        return found
    package = _PACKAGES[name]
    if os.geteuid() == 0 and shutil.which("apt-get") is not None:
        _log.info("installing", package=package)
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update", "-qq"], ["install", "-y", "-qq", package]):
            subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, check=False)
        if (found := shutil.which(name)) is not None:
            return found
    raise MachineError(f"The program {name} is missing: install it, on Debian with apt-get install {package} (as root)")


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    with path.open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
