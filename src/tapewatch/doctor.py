"""Whether this machine can run Tapewatch with these settings: `tapewatch doctor`.

Every check says what it found, and one that fails says what to do. Checks leave nothing behind: what they write
goes to a folder that is removed again. What a check learns of the machine comes from a `Machine`, so that tests
can describe one that is too old, too small or wrong about the time.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import httpx
import msgspec
import numba

from tapewatch.compiled import compiled
from tapewatch.errors import MachineError, SettingsError, StoreError
from tapewatch.feed.symbols import wire_symbol
from tapewatch.notify.targets import channels_of
from tapewatch.profiles.alertsfile import read_alerts_file
from tapewatch.profiles.sources import check_symbols
from tapewatch.serve.pages import chart_library
from tapewatch.settings import DISK_FREE_BYTES_MIN, Settings
from tapewatch.store.connect import conninfo, open_connection, place
from tapewatch.store.launch import Runner, program

PYTHON_MIN: Final = (3, 11)
SQLITE_MIN: Final = (3, 35)
OPEN_FILES_MIN: Final = 1_024
"""Enough for 500 live streams, the database, the log and the feed."""
ANSWER_S: Final = 5.0
"""How long a check waits for another machine or program."""
CLOCK_SKEW_MS_MAX: Final = 2_000
"""A clock that is further off makes trades look late or from the future."""
RELEASED_NS: Final = 1_735_689_600 * 10**9
"""2025-01-01: a clock that says earlier has never been set."""


class Check(NamedTuple):
    """One answer: what was looked at, whether it will do, and a sentence that says why or what to do."""

    name: str
    ok: bool
    sentence: str


def _open_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _compiled_in() -> Path:
    return Path(vars(numba.config)["CACHE_DIR"])


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the checks ask of the machine; by default the real one."""

    python: tuple[int, ...] = tuple(sys.version_info[:3])
    bits: int = sys.maxsize.bit_length() + 1
    sqlite: tuple[int, ...] = sqlite3.sqlite_version_info
    time_ns: Callable[[], int] = time.time_ns
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    time_zone: Callable[[str], object] = ZoneInfo
    free_bytes: Callable[[Path], int] = _free_bytes
    open_files: Callable[[], int] = _open_files
    chart_library: Callable[[], Path] = chart_library
    compiled_in: Callable[[], Path] = _compiled_in
    answer_s: float = ANSWER_S
    started: tuple[int, int] = field(default_factory=lambda: (time.time_ns(), time.monotonic_ns()))
    """Both clocks (ns) when this was made; what they have since counted is compared."""


class _Failed(Exception):
    """A check's way to say no; its text is the sentence."""


def run_checks(settings: Settings, machine: Machine | None = None) -> list[Check]:
    """Do every check that ``settings`` call for. Takes a few seconds at most."""
    machine = machine or Machine()
    return [_done(name, check, settings, machine) for name, check in _checks(settings)]


def report(checks: list[Check]) -> str:
    """The answers, one a line, and what they come to."""
    width = max(len(check.name) for check in checks)
    lines = [f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.sentence}" for check in checks]
    failed = sum(not check.ok for check in checks)
    end = f"{failed} of {len(checks)} checks failed." if failed else "This machine is ready."
    return "\n".join([*lines, "", end])


def exit_code(checks: list[Check]) -> int:
    """0 when all is well, else that of a `MachineError`."""
    return 0 if all(check.ok for check in checks) else MachineError.exit_code


_Question = Callable[[Settings, Machine], str]


def _checks(settings: Settings) -> Iterator[tuple[str, _Question]]:
    yield "python", _python
    yield "processor", _processor
    yield "data folder", _data_folder
    yield "sqlite", _sqlite
    yield "open files", _open_files_limit
    yield "compiler", _compiler
    yield "web page", _web_page
    yield "port", _port
    yield "access", _access
    yield "alert rules", _alert_rules
    yield ("database", _embedded_database) if settings.db_host is None else ("database", _other_database)
    if settings.feed == "coinbase":
        yield "coinbase", _coinbase
    elif settings.massive_api_key is not None:
        yield "massive", _massive
    yield "clock", _clock  # last: both clocks have then run for a while


def _done(name: str, check: _Question, settings: Settings, machine: Machine) -> Check:
    try:
        return Check(name, True, check(settings, machine))
    except (_Failed, MachineError, SettingsError, StoreError) as error:
        return Check(name, False, str(error))


# --- the program and its files ---------------------------------------------------------------------------------


def _python(settings: Settings, machine: Machine) -> str:
    version = ".".join(map(str, machine.python))
    if machine.python < PYTHON_MIN:
        raise _Failed(f"Python {version} is too old: install 3.11 or newer, then run ./start_pipeline.sh again.")
    return f"Python {version}"


def _processor(settings: Settings, machine: Machine) -> str:
    if machine.bits != 64:
        raise _Failed(f"Python is a {machine.bits}-bit program: install a 64-bit Python.")
    return f"{platform.machine()}, 64 bits, {os.cpu_count()} cores"


def _existing(folder: Path) -> Path:
    """``folder``, or the nearest folder above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _data_folder(settings: Settings, machine: Machine) -> str:
    folder = _existing(settings.data_dir)
    named = f"DATA_DIR={settings.data_dir}"
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder):
            pass
    except OSError as error:
        raise _Failed(
            f"{named}: cannot write in {folder} ({error.strerror}): make it writable, or choose another DATA_DIR."
        ) from None
    free = machine.free_bytes(folder)
    if free < DISK_FREE_BYTES_MIN:
        raise _Failed(f"{named}: {free / 1e6:,.0f} MB free, at least 1,000 MB are needed: make room, or move DATA_DIR.")
    return f"{named} is writable, {free / 1e9:,.1f} GB free"


def _sqlite(settings: Settings, machine: Machine) -> str:
    version = ".".join(map(str, machine.sqlite))
    if machine.sqlite < SQLITE_MIN:
        raise _Failed(f"Python's SQLite is {version}, but 3.35 or newer is needed: use a newer Python.")
    folder = _existing(settings.data_dir)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as scratch:
            connection = sqlite3.connect(Path(scratch, "check.sqlite"))
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            connection.execute("CREATE TABLE checked (value)")
            connection.close()
    except (OSError, sqlite3.Error) as error:
        raise _Failed(f"SQLite cannot keep a file in {folder}: {error}; choose another DATA_DIR.") from None
    if mode != "wal":
        raise _Failed(f"{folder} cannot hold a SQLite log in WAL mode (got {mode}): put DATA_DIR on a local disk.")
    return f"SQLite {version}, WAL mode works"


def _open_files_limit(settings: Settings, machine: Machine) -> str:
    limit = machine.open_files()
    if limit == resource.RLIM_INFINITY:
        return "no limit"
    if limit < OPEN_FILES_MIN:
        raise _Failed(f"a process may open {limit} files, {OPEN_FILES_MIN:,} are needed: ulimit -n {OPEN_FILES_MIN}")
    return f"a process may open {limit:,} files"


@compiled
def _half(number: float) -> float:
    return number / 2.0


def _compiler(settings: Settings, machine: Machine) -> str:
    if _half(3.0) != 1.5:
        raise _Failed("numba computes 3 / 2 wrongly on this processor: please report it with the processor's name.")
    if machine.compiled_in().name.startswith("tapewatch-numba-"):  # the last resort of `compiled`, gone at the end
        raise _Failed(
            "numba has no lasting place for its machine code, so every start compiles anew (about 20 s): "
            "make the package's __pycache__ or ~/.cache writable, or set XDG_CACHE_HOME to a folder that is."
        )
    return f"numba {numba.__version__} compiles, and keeps the result"


def _web_page(settings: Settings, machine: Machine) -> str:
    machine.chart_library()
    return "the chart library is installed"


# --- what the settings ask for ---------------------------------------------------------------------------------


def _port(settings: Settings, machine: Machine) -> str:
    where = f"{settings.http_host}:{settings.http_port}"
    try:
        found = socket.getaddrinfo(settings.http_host, settings.http_port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise _Failed(
            f"{where} cannot be used ({error.strerror}): if Tapewatch is running already, that is it "
            "(./stop_pipeline.sh ends it); else set HTTP_PORT to a free port, and HTTP_HOST to an address of "
            "this machine."
        ) from None
    return "any free port" if settings.http_port == 0 else f"{where} is free"


def _access(settings: Settings, machine: Machine) -> str:
    """`Settings` refuses another machine's access without a token; here it is only told."""
    token = "with" if settings.api_token is not None else "without"
    if settings.http_host in ("127.0.0.1", "::1", "localhost"):
        return f"only this machine can connect, {token} a token"
    return f"other machines can connect to {settings.http_host}, {token} a token; the traffic itself is not encrypted"


def _alert_rules(settings: Settings, machine: Machine) -> str:
    """And the channels: their secrets are there. Nothing is sent."""
    path = settings.alerts_file
    found = read_alerts_file(settings)
    channels_of(settings, found.channels)
    if not path.exists():
        return f"no {path}, so the built-in rules hold"
    number = len(found.channels)
    return f"{path} is in order: {len(found.rules)} rules, {number} channel{'' if number == 1 else 's'}"


def _embedded_database(settings: Settings, machine: Machine) -> str:
    try:
        command = Runner(settings.data_dir / "postgres").command([program("postgres"), "--version"])
        ran = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=machine.answer_s, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise _Failed(
            f"the embedded PostgreSQL does not start here ({said.strip()[:200]}): set DB_HOST to one of your own."
        ) from None
    return f"{ran.stdout.strip()}, embedded"


def _other_database(settings: Settings, machine: Machine) -> str:
    where = conninfo(settings)
    connection = open_connection(where, "tapewatch doctor")
    version = connection.info.server_version // 10_000
    connection.close()
    return f"PostgreSQL {version} at {place(where)} lets us in"


def _coinbase(settings: Settings, machine: Machine) -> str:
    check_symbols(settings, settings.symbols)
    url = f"{settings.coinbase_rest_url.rstrip('/')}/products"
    host = httpx.URL(url).host
    try:
        answer = httpx.get(url, timeout=machine.answer_s)
    except (httpx.HTTPError, ValueError) as error:
        raise _Failed(
            f"{host} cannot be asked ({type(error).__name__}): check network, proxy and COINBASE_REST_URL."
        ) from None
    try:
        traded = {product["id"] for product in msgspec.json.decode(answer.content, type=list[dict[str, Any]])}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError):
        raise _Failed(f"{host} answered {answer.status_code}, but not with its products: try again later.") from None
    if wrong := [product for product in map(wire_symbol, settings.symbols) if product not in traded]:
        raise _Failed(f"Coinbase does not trade {', '.join(wrong)}: correct SYMBOLS.")
    return f"{host} trades all of SYMBOLS, and asks for no key"


def _massive(settings: Settings, machine: Machine) -> str:
    assert settings.massive_api_key is not None
    url = f"{settings.massive_rest_url.rstrip('/')}/v1/marketstatus/now"
    host = httpx.URL(url).host
    key = settings.massive_api_key.get_secret_value()
    try:
        answer = httpx.get(url, headers={"Authorization": f"Bearer {key}"}, timeout=machine.answer_s)
    except (httpx.HTTPError, ValueError) as error:
        raise _Failed(
            f"{host} cannot be reached ({type(error).__name__}): check network, proxy and firewall."
        ) from None
    if answer.status_code in (401, 403):
        raise _Failed(f"{host} refuses MASSIVE_API_KEY ({answer.status_code}): copy it anew from your account's page.")
    if answer.status_code != 200:
        raise _Failed(
            f"{host} answered {answer.status_code} instead of 200: try again later, or check MASSIVE_REST_URL."
        )
    skew_ms = _skew_ms(answer, machine)
    if skew_ms is None:
        raise _Failed(f"{host} answered 200, but not with the market's status: check MASSIVE_REST_URL.")
    if abs(skew_ms) > CLOCK_SKEW_MS_MAX:
        raise _Failed(
            f"this machine's clock is {abs(skew_ms) / 1000:.1f} s {'ahead of' if skew_ms > 0 else 'behind'} {host}: "
            "set it by NTP (timedatectl set-ntp true), or trades will look late."
        )
    return f"{host} accepts MASSIVE_API_KEY"


def _skew_ms(answer: httpx.Response, machine: Machine) -> int | None:
    """This machine's clock less the server's, which counts whole seconds; None when the answer has no time."""
    try:
        status: Any = msgspec.json.decode(answer.content)
        server = datetime.fromisoformat(status["serverTime"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return None
    server = server if server.tzinfo else server.replace(tzinfo=UTC)
    return machine.time_ns() // 1_000_000 - round(server.timestamp() * 1000)


def _clock(settings: Settings, machine: Machine) -> str:
    try:
        machine.time_zone("America/New_York")
    except (ZoneInfoNotFoundError, OSError, ValueError):
        raise _Failed("the time zone America/New_York is unknown here: pip install tzdata") from None
    wall_ns = machine.time_ns()
    if wall_ns < RELEASED_NS:
        raise _Failed(f"the clock says {wall_ns // 10**9} s after 1970, which is long ago: set it, best by NTP.")
    drift_ms = ((wall_ns - machine.started[0]) - (machine.monotonic_ns() - machine.started[1])) / 1e6
    if abs(drift_ms) > 500:
        raise _Failed(f"the clock was set by {drift_ms:,.0f} ms during these checks: wait until NTP has settled it.")
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC, steady")
