"""The doctor: what it says of a machine that will do, and of every way in which one will not."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from notify_parts import answer, endpoint
from ports import held_port
from tapewatch.doctor import RELEASED_NS, Check, Machine, exit_code, report, run_checks
from tapewatch.errors import MachineError
from tapewatch.settings import Settings
from tapewatch.store.connect import Dsn

SECRET = "k3y-that-nobody-may-see"
NOW = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
PATIENT = replace(Machine(), answer_s=60.0, time_ns=lambda: round(NOW.timestamp()) * 10**9)
"""A slow machine on which it is `NOW`."""


def settings(tmp_path: Path, **changes: Any) -> Settings:
    """As on a fresh machine: nothing set but where the data goes."""
    chosen = {"DATA_DIR": tmp_path / "var", "HTTP_PORT": 0, "ALERTS_FILE": tmp_path / "alerts.toml"} | changes
    return Settings(_env_file=None, **chosen)


def told(found: list[Check], name: str) -> Check:
    """The answer to one question."""
    (check,) = [check for check in found if check.name == name]
    return check


def test_a_good_machine(tmp_path: Path) -> None:
    found = run_checks(settings(tmp_path), replace(Machine(), answer_s=60.0))
    assert [check for check in found if not check.ok] == []
    assert exit_code(found) == 0
    assert report(found).endswith("This machine is ready.")
    assert [check.name for check in found] == [
        *("python", "processor", "data folder", "sqlite", "open files", "compiler", "web page", "port", "access"),
        *("alert rules", "database", "clock"),
    ]
    assert list(tmp_path.iterdir()) == [], "the doctor leaves nothing behind"


def _no_zones(name: str) -> ZoneInfo:
    raise OSError(2, f"no {name}")


def _no_library() -> Path:
    raise MachineError("The page's chart library is not installed: run ./start_pipeline.sh")


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("python", {"python": (3, 10, 4)}, "Python 3.10.4 is too old: install 3.11 or newer"),
        ("processor", {"bits": 32}, "Python is a 32-bit program: install a 64-bit Python."),
        ("sqlite", {"sqlite": (3, 34, 1)}, "Python's SQLite is 3.34.1, but 3.35 or newer is needed"),
        ("data folder", {"free_bytes": lambda _: 999_000_000}, "999 MB free, at least 1,000 MB are needed: make room"),
        ("open files", {"open_files": lambda: 256}, "may open 256 files, 1,024 are needed: ulimit -n 1024"),
        ("compiler", {"compiled_in": lambda: Path("/tmp/tapewatch-numba-x1")}, "or set XDG_CACHE_HOME to a folder"),
        ("web page", {"chart_library": _no_library}, "run ./start_pipeline.sh"),
        ("clock", {"time_ns": lambda: RELEASED_NS - 1}, "which is long ago: set it"),
        ("clock", {"time_zone": _no_zones}, "America/New_York is unknown here: pip install tzdata"),
        ("clock", {"started": (RELEASED_NS, 0)}, "the clock was set by"),
    ],
)
def test_a_machine_that_will_not_do(tmp_path: Path, name: str, changes: dict[str, Any], says: str) -> None:
    found = run_checks(settings(tmp_path), replace(Machine(), answer_s=60.0, **changes))
    assert [check.name for check in found if not check.ok] == [name]
    assert says in told(found, name).sentence
    assert exit_code(found) == 6
    assert f"FAIL  {name} " in report(found)
    assert report(found).endswith(f"1 of {len(found)} checks failed.")


def test_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = told(run_checks(settings(tmp_path, DATA_DIR=tmp_path / "file")), "data folder")
    assert not check.ok
    assert "or choose another DATA_DIR" in check.sentence


def test_an_existing_data_folder_is_looked_at_itself(tmp_path: Path) -> None:
    asked = []

    def free_bytes(folder: Path) -> int:
        asked.append(folder)
        return 10**12

    (tmp_path / "var").mkdir()
    run_checks(settings(tmp_path), replace(Machine(), free_bytes=free_bytes))
    run_checks(settings(tmp_path, DATA_DIR=tmp_path / "a" / "b"), replace(Machine(), free_bytes=free_bytes))
    assert asked == [tmp_path / "var", tmp_path]


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with held_port() as port:
        chosen = settings(tmp_path, HTTP_PORT=port)
        with socket.create_server(("127.0.0.1", port)):
            check = told(run_checks(chosen), "port")
        assert not check.ok
        assert check.sentence.startswith(f"127.0.0.1:{port} cannot be used (Address already in use): ")
        assert told(run_checks(chosen), "port") == Check("port", True, f"127.0.0.1:{port} is free")


def test_an_address_of_another_machine(tmp_path: Path) -> None:
    away = settings(tmp_path, HTTP_HOST="192.0.2.1", API_TOKEN=SECRET * 2)
    found = run_checks(away)
    assert not told(found, "port").ok
    assert "other machines can connect to 192.0.2.1, with a token" in told(found, "access").sentence
    assert SECRET not in report(found)


def test_alert_rules(tmp_path: Path) -> None:
    path = tmp_path / "alerts.toml"
    for text, ok, says in (
        ("[golden_cross]\nband_bps = 7\n", True, "is in order"),
        ("[golden_cross]\nband_bps = -7\n", False, "expected a number from 0 to 1,000"),
        ('[channels.hook]\nkind = "webhook"\nurl = "https://host/"\n', True, "4 rules, 1 channel"),
        ('[channels.hook]\nkind = "webhook"\nurl = "env:NOT_THERE"\n', False, "variable NOT_THERE is not set"),
        ("[silver_cross]\n", False, "[silver_cross] kind is missing: expected one of"),
        ("[", False, "not readable as TOML"),
    ):
        path.write_text(text)
        check = told(run_checks(settings(tmp_path)), "alert rules")
        assert (check.ok, says in check.sentence, str(path) in check.sentence) == (ok, True, True), check
    path.write_bytes(b"\xff\xfe")
    assert not told(run_checks(settings(tmp_path)), "alert rules").ok


def test_another_database_that_does_not_answer(tmp_path: Path) -> None:
    with held_port() as port:
        found = run_checks(settings(tmp_path, DB_HOST="127.0.0.1", DB_PORT=port, DB_PASSWORD=SECRET))
    check = told(found, "database")
    assert not check.ok
    assert check.sentence.startswith(f"Cannot reach the database at 127.0.0.1:{port}/stockdb")
    assert SECRET not in report(found)


@pytest.mark.slow
def test_another_database_that_answers(tmp_path: Path, postgres: Dsn) -> None:
    chosen = {"DB_HOST": postgres.host, "DB_PORT": postgres.port, "DB_NAME": postgres.dbname, "DB_USER": postgres.user}
    good = told(run_checks(settings(tmp_path, **chosen, DB_PASSWORD=postgres.password)), "database")
    assert (good.ok, good.sentence) == (
        True,
        f"PostgreSQL 18 at {postgres.host}:{postgres.port}/{postgres.dbname} lets us in",
    )
    assert not told(run_checks(settings(tmp_path, **chosen, DB_PASSWORD="wrong")), "database").ok


# --- Massive ---------------------------------------------------------------------------------------------------


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def ask_massive(tmp_path: Path, status: int, body: bytes) -> tuple[Check, dict[str, str], str]:
    """The answer about Massive when its REST host gives this one; the headers it got; the whole report."""
    async with endpoint(answer(status, body)) as (port, requests):
        chosen = settings(tmp_path, MASSIVE_API_KEY=SECRET, MASSIVE_REST_URL=f"http://127.0.0.1:{port}/")
        found = await asyncio.to_thread(run_checks, chosen, PATIENT)
    assert [request.line for request in requests] == ["GET /v1/marketstatus/now HTTP/1.1"]
    return told(found, "massive"), requests[0].headers, report(found)


def _now(ahead_s: float = 0.0) -> bytes:
    return b'{"market":"open","serverTime":"%s"}' % (NOW + timedelta(seconds=ahead_s)).isoformat().encode()


@pytest.mark.anyio
async def test_a_key_that_is_accepted(tmp_path: Path) -> None:
    check, headers, printed = await ask_massive(tmp_path, 200, _now())
    assert check == Check("massive", True, "127.0.0.1 accepts MASSIVE_API_KEY")
    assert headers["authorization"] == f"bearer {SECRET}"
    assert SECRET not in printed


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (401, b"", "refuses MASSIVE_API_KEY (401): copy it anew"),
        (403, b"", "refuses MASSIVE_API_KEY (403): copy it anew"),
        (500, b"", "answered 500 instead of 200: try again later"),
        (302, b"", "answered 302 instead of 200"),
        (200, b"<html>", "not with the market's status: check MASSIVE_REST_URL"),
        (200, b"[1]", "not with the market's status"),
        (200, b'{"serverTime": "soon"}', "not with the market's status"),
        (200, _now(ahead_s=3600), "s behind 127.0.0.1: set it by NTP"),
        (200, _now(ahead_s=-3600), "s ahead of 127.0.0.1: set it by NTP"),
    ],
    ids=["401", "403", "500", "302", "html", "list", "no time", "clock behind", "clock ahead"],
)
async def test_an_answer_that_will_not_do(tmp_path: Path, status: int, body: bytes, says: str) -> None:
    check, _, printed = await ask_massive(tmp_path, status, body)
    assert not check.ok
    assert says in check.sentence
    assert SECRET not in printed


# --- Coinbase --------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("symbols", "body", "says"),
    [
        ("BTC,ETH-EUR", b'[{"id":"BTC-USD","status":"online"},{"id":"ETH-EUR"}]', ""),
        ("BTC,FOO-USD", b'[{"id":"BTC-USD"}]', "Coinbase does not trade FOO-USD: correct SYMBOLS."),
        ("BTC", b"<html>", "answered 200, but not with its products"),
        ("BTC", b"[{}]", "not with its products"),
        ("BTC", b"[" * 100_000, "not with its products"),
    ],
    ids=["good", "not traded", "html", "no id", "deep"],
)
async def test_coinbase_is_asked_for_its_products(tmp_path: Path, symbols: str, body: bytes, says: str) -> None:
    async with endpoint(answer(200, body)) as (port, requests):
        chosen = settings(tmp_path, FEED="coinbase", SYMBOLS=symbols, COINBASE_REST_URL=f"http://127.0.0.1:{port}")
        check = told(await asyncio.to_thread(run_checks, chosen, PATIENT), "coinbase")
    assert [request.line for request in requests] == ["GET /products HTTP/1.1"]
    assert (check.ok, says in check.sentence) == (not says, True)
    assert says or check.sentence == "127.0.0.1 trades all of SYMBOLS, and asks for no key"


def test_coinbase_without_coins_or_without_an_answer(tmp_path: Path) -> None:
    with held_port() as port:
        chosen = {"FEED": "coinbase", "COINBASE_REST_URL": f"http://127.0.0.1:{port}"}
        stocks = told(run_checks(settings(tmp_path, SYMBOLS="AAPL", **chosen)), "coinbase")
        nobody = told(run_checks(settings(tmp_path, **chosen)), "coinbase")
    assert "FEED=coinbase has coins only" in stocks.sentence
    assert (stocks.ok, nobody.ok) == (False, False)
    assert "127.0.0.1 cannot be asked (ConnectError)" in nobody.sentence


def test_a_host_that_is_not_there(tmp_path: Path) -> None:
    with held_port() as port:
        chosen = settings(tmp_path, MASSIVE_API_KEY=SECRET, MASSIVE_REST_URL=f"http://127.0.0.1:{port}")
        check = told(run_checks(chosen), "massive")
    assert (check.ok, check.sentence) == (
        False,
        "127.0.0.1 cannot be reached (ConnectError): check network, proxy and firewall.",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert not told(run_checks(settings(tmp_path)), "data folder").ok
    finally:
        tmp_path.chmod(0o700)
