"""The command line: help, exit codes, one sentence for every error, and the listing of the log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from tapewatch import __version__
from tapewatch.cli import app, execute
from tapewatch.errors import StoreUnavailable
from tapewatch.log.local import LogWriter
from tapewatch.records import Batch, Gap, Kind, Market, Origin, Tables
from tapewatch.settings import Settings
from tapewatch.store.connect import Dsn
from trading_days import give_days

ROOT = Path(__file__).parent.parent
SHARED_DAY = ROOT.parent / "shared" / "data" / "us-equities-trades-2013-10-07.csv.gz"
NOON = 1_763_658_000_000  # 2025-11-20 17:00:00 UTC, in a regular session
MINUTE = 60_000
Lines = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def _nobodys_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)
    monkeypatch.delenv("TAPEWATCH_CALLED_FROM", raising=False)
    monkeypatch.chdir(tmp_path)


def sentence(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the one line on standard error; nothing on standard output."""
    code = execute(list(arguments))
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"tapewatch: [^\n]+\n", err), err
    return code, err.removeprefix("tapewatch: ").rstrip()


# --- help and arguments -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_every_command_in_a_whole_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert execute(arguments) == 0
    lines = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    names = [info.name or info.callback.__name__ for info in app.registered_commands if info.callback is not None]
    names += [group.name for group in app.registered_groups if group.name is not None]
    assert [line.split()[0] for line in lines] == names
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for info in app.registered_commands:
        assert info.callback is not None
        assert execute([info.name or info.callback.__name__, "--help"]) == 0
        assert capsys.readouterr().out.lower().startswith("usage:")
    for command in ("up", "down", "status"):
        assert execute(["cluster", command, "--help"]) == 0
        assert capsys.readouterr().out.lower().startswith(f"usage: tapewatch cluster {command}")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["--version"]) == 0
    assert capsys.readouterr().out == f"tapewatch {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runn"], "No such command 'runn'"),
        (["run", "--sped", "1"], "No such option: --sped"),
        (["log", "--kind", "quote"], "Invalid value for '--kind': 'quote' is not one of 'trade', 'tick', 'gap'"),
        (["replay", "--out", "x"], "Missing argument 'FILE...'"),
    ],
)
def test_a_wrong_argument_is_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    code, line = sentence(capsys, *arguments)
    assert code == 2
    assert line.startswith(said)
    assert re.search(r"\(see tapewatch( \w+)? --help\)$", line)


@pytest.mark.parametrize("speed", ["0", "-1", "fast", "nan", "inf", ""])
def test_a_wrong_speed(capsys: pytest.CaptureFixture[str], speed: str) -> None:
    code, line = sentence(capsys, "run", "--speed", speed)
    assert (code, line) == (2, f"--speed {speed}: expected a number above 0, such as 1 or 60, or max")


def test_a_recording_that_is_not_there_is_looked_for_where_the_caller_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sentence(capsys, "run", "--replay", "day.csv.gz") == (2, "--replay day.csv.gz: there is no such file")
    monkeypatch.setenv("TAPEWATCH_CALLED_FROM", "/some/folder")
    said = "--replay /some/folder/day.csv.gz: there is no such file"
    assert sentence(capsys, "run", "--replay", "day.csv.gz") == (2, said)
    assert sentence(capsys, "run", "--replay", "/day.csv.gz") == (2, "--replay /day.csv.gz: there is no such file")


def test_replay_takes_no_pace(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = sentence(capsys, "replay", "x.csv.gz", "--out", "y", "--speed", "60")
    assert code == 2
    assert "tapewatch run --replay FILE" in line


# --- settings, and a machine that will not do ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["run", "stop", "status", "log", "verify", "rebuild", "init-db", "psql", "repair", "doctor"]
)
def test_a_wrong_setting_stops_every_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("HTTP_PORT", "70000")
    assert sentence(capsys, command) == (2, "HTTP_PORT='70000': expected at most 65535")


@pytest.mark.parametrize("command", ["log", "verify", "rebuild", "psql", "repair"])
def test_nothing_was_recorded_yet(capsys: pytest.CaptureFixture[str], command: str) -> None:
    said = "var: nothing was recorded here yet; start with ./start_pipeline.sh"
    assert sentence(capsys, command) == (2, said)


@pytest.mark.parametrize("command", ["log", "verify", "rebuild", "psql", "repair"])
def test_a_wrong_origin(capsys: pytest.CaptureFixture[str], command: str) -> None:
    said = "--origin real: expected one of simulated, replayed, live"
    assert sentence(capsys, command, "--origin", "real") == (2, said)


@pytest.mark.parametrize("command", [("verify",), ("rebuild",), ("report", "today")])
def test_a_kind_of_data_that_was_never_recorded(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    said = "--origin live: nothing of that kind was recorded in var yet"
    assert sentence(capsys, *command, "--origin", "live") == (2, said)
    assert not Path("var/live").exists()


def test_only_a_database_of_ones_own_needs_init_db(capsys: pytest.CaptureFixture[str]) -> None:
    said = "init-db is for a database of your own: set DB_HOST; the embedded one is made at every start"
    assert sentence(capsys, "init-db") == (2, said)


def test_init_db(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, postgres: Dsn) -> None:
    values = {"HOST": postgres.host, "PORT": postgres.port, "NAME": postgres.dbname, "USER": postgres.user}
    for name, value in values.items():
        monkeypatch.setenv(f"DB_{name}", str(value))
    monkeypatch.setenv("DB_PASSWORD", postgres.password)
    assert execute(["init-db"]) == 0
    assert capsys.readouterr().out == f"The tables in 127.0.0.1:{postgres.port}/stockdb are complete.\n"


def test_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["status"]) == 3
    assert capsys.readouterr().out == "Tapewatch is not running here; start it with ./start_pipeline.sh\n"
    assert execute(["stop"]) == 0
    assert capsys.readouterr().out == "Nothing was running.\n"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--detach", "--foreground"])
def test_a_folder_that_cannot_be_written(how: str) -> None:
    Path("var").write_text("a file where a folder should be")
    # In a process of its own: it sets up logging for as long as it lives.
    ran = subprocess.run([sys.executable, "-m", "tapewatch", "run", how], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (6, "")
    assert re.fullmatch(r"tapewatch: DATA_DIR: var/simulated cannot be written \([^\n]+\n", ran.stderr)


# --- how it ends ---------------------------------------------------------------------------------------------------


def ending(error: BaseException) -> int:
    """The exit code of a command that raises ``error``."""
    program = typer.Typer()

    @program.command()
    def fail() -> None:
        raise error

    return execute([], program)


def test_an_error_made_on_purpose_is_its_sentence_and_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(StoreUnavailable("the database is away")) == 5
    assert capsys.readouterr().err == "tapewatch: the database is away\n"


def test_a_bug_shows_where_it_is_and_ends_with_70(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(AssertionError("offset 7")) == 70
    err = capsys.readouterr().err
    assert "AssertionError: offset 7" in err
    assert "in fail" in err
    assert err.splitlines()[-1].startswith("tapewatch: this is a bug")


def test_a_file_of_another_user_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(PermissionError(13, "Permission denied", "var/live/postgres.json")) == 6
    said = "tapewatch: var/live/postgres.json may not be used by this user; run it as its owner\n"
    assert capsys.readouterr().err == said


def test_control_c_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_it_does_not_run_without_its_own_checks() -> None:
    ran = subprocess.run([sys.executable, "-O", "-m", "tapewatch", "--version"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "tapewatch: Tapewatch does not run under python -O: its own checks would be gone\n"


# --- the log -------------------------------------------------------------------------------------------------------


def record(
    kind: Kind, at_ms: int, symbol: int, price: float, size: float, late_ms: int = 100, code: int = 0
) -> tuple[Any, ...]:
    received_ns = (at_ms + late_ms) * 1_000_000
    return (kind, Market.STOCKS, symbol, at_ms, received_ns, price, round(size * 1e8), 4, 0, code, f"t{at_ms % 10_000}")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose simulated log holds eight records, the seventh of them late, the eighth from the future."""
    folder = tmp_path_factory.mktemp("data")
    give_days(folder)
    tables = Tables()
    aapl, msft = tables.symbols.index("AAPL"), tables.symbols.index("MSFT")
    derivative = tables.conditions.index((4, 41))  # derivatively priced: volume only
    contingent = tables.conditions.index((15,))  # official close: nothing at all
    gap = Gap(market=Market.STOCKS, from_ms=NOON - 5_000, to_ms=NOON - 1, cause="start", symbols=[])
    rows = [
        (*record(Kind.GAP, NOON - 1, -1, 0, 0)[:-1], gap.encode()),
        record(Kind.TRADE, NOON, aapl, 270.25, 100),
        record(Kind.TRADE, NOON + 1_500, msft, 460.1234, 0.5, code=derivative),
        (*record(Kind.TICK, NOON + 2_000, -1, 0, 0)[:-1], ""),
        record(Kind.TRADE, NOON + 3_000, aapl, 270.3, 1, code=contingent),
        record(Kind.TRADE, NOON + 3 * MINUTE, aapl, 271, 12_345),
        record(Kind.TRADE, NOON + 4_000, aapl, 99, 7, late_ms=3 * MINUTE),
        record(Kind.TRADE, NOON + 30 * MINUTE, aapl, 300, 1, late_ms=-26 * MINUTE),
    ]
    with LogWriter.open(folder / "simulated" / "log" / "log.db", tables, origin=Origin.SIMULATED) as log:
        log.append(Batch.of(rows[:5]))
        log.append(Batch.of(rows[5:]))
    return folder


@pytest.fixture
def log(data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Lines:
    """Runs `tapewatch log` on it; returns the lines."""
    monkeypatch.setenv("DATA_DIR", str(data_dir))

    def lines(*arguments: str) -> list[str]:
        assert execute(["log", *arguments]) == 0
        return capsys.readouterr().out.splitlines()

    return lines


def test_the_log_is_listed(log: Lines) -> None:
    header, *lines = (" ".join(line.split()) for line in log())
    assert header == "offset time (UTC) received symbol price size conditions exchange id"
    assert [line.split()[0] for line in lines] == list("01234567")
    assert lines[0].endswith("-- gap of stocks from 2025-11-20 16:59:55.000: start")
    assert lines[1] == "1 2025-11-20 17:00:00.000 +0.100s AAPL 270.25 100 - 4 t0"
    assert lines[2] == "2 2025-11-20 17:00:01.500 +0.100s MSFT 460.1234 0.5 4,41 4 t1500"
    assert lines[3].endswith("-- tick of stocks")
    assert lines[7].split()[3] == "-1560.000s"


@pytest.mark.parametrize(
    ("arguments", "offsets"),
    [
        (["--symbol", "msft"], "2"),
        (["--symbol", "ZZZ"], ""),
        (["--kind", "tick"], "3"),
        (["--kind", "gap"], "0"),
        (["--kind", "trade", "--limit", "2"], "67"),
        (["--from", "2025-11-20T17:00:01.5Z", "--to", "2025-11-20 17:00:04"], "234"),
        (["--from", str(NOON), "--to", str(NOON + 1)], "1"),
        (["--only", "late"], "6"),
        (["--only", "future"], "7"),
        (["--only", "ineligible"], "4"),
        (["--only", "applied", "--symbol", "AAPL"], "15"),
        (["--only", "late", "--symbol", "MSFT"], ""),
    ],
)
def test_what_is_asked_for(log: Lines, arguments: list[str], offsets: str) -> None:
    lines = log(*arguments)
    if offsets:
        assert "".join(line.split()[0] for line in lines[1:]) == offsets
    else:
        assert lines == ["No such records."]


def test_more_match_than_are_shown(log: Lines) -> None:
    lines = log("--only", "applied", "--limit", "1")
    assert [line.split()[0] for line in lines[1:-1]] == ["5"]
    assert lines[-1] == "3 records match; these are the newest 1 (--limit)"


def test_totals_tell_the_bytes_of_a_trade(log: Lines, data_dir: Path) -> None:
    lines = log("--stats")
    assert re.fullmatch(r"log [0-9a-z-]+, SIMULATED: records 0 to 8", lines[0])
    assert lines[1] == "trades 6  ticks 1  gaps 1  rules 0"
    assert lines[2] == "trades from 2025-11-20 17:00:00.000 to 2025-11-20 17:30:00.000 (UTC)"
    assert lines[3] == "AAPL 5  MSFT 1"
    size = sum(path.stat().st_size for path in (data_dir / "simulated" / "log").glob("log.db*"))
    per_trade = float(re.search(r"([\d.,]+) a trade", lines[4])[1].replace(",", ""))
    assert 0 < per_trade <= size / 6 + 0.1


def test_a_wrong_time(log: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = sentence(capsys, "log", "--from", "noon")
    assert code == 2
    assert line == "--from noon: expected a time such as 2026-11-20T14:30:00Z, or Unix milliseconds"


@pytest.mark.slow
def test_a_reader_that_has_heard_enough(data_dir: Path) -> None:
    """As with `tapewatch log | head`: the pipe is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        ran = subprocess.run(
            [sys.executable, "-m", "tapewatch", "log"],
            env={**os.environ, "DATA_DIR": str(data_dir)},
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (ran.returncode, ran.stderr) == (1, "")


def test_a_sound_log_is_repaired_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "var" / "simulated" / "log" / "log.db"
    tables = Tables()
    tables.symbols.index("AAPL")
    with LogWriter.open(path, tables, origin=Origin.SIMULATED) as log:
        log.append(Batch.of([record(Kind.TRADE, NOON, 0, 1.0, 1)]))
    assert execute(["repair"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "var/simulated/log/log.db: kept 1 records, lost 0.",
        "The damaged file is now var/simulated/log/log.db.damaged-1.",
    ]
    assert sentence(capsys, "repair", "nowhere.db")[0] == 4


# --- replay ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_DAY.exists(), reason=f"{SHARED_DAY.name} is not beside the repository")
def test_a_day_is_computed_into_files_with_one_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["replay", str(SHARED_DAY), "--out", str(tmp_path / "out"), "--batch", "777"]) == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "breakout_alerts.csv", "price_bars.csv", "stock_aggregates.csv",
    ]  # fmt: skip
    assert re.search(r"^records \d+  trades 388417  repeated 0$", printed, re.MULTILINE)
    assert re.search(r"^sha256 [0-9a-f]{64}$", printed, re.MULTILINE)


# --- the page that explains the sentences ---------------------------------------------------------------------------


def test_troubleshooting_quotes_what_the_program_says() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    files = [*(ROOT / "src" / "tapewatch").rglob("*.py"), *(ROOT / "scripts").glob("*.sh")]
    # Literals that stand one below the other are one text, with whatever braces hold left out.
    source = "\n".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8")) for path in files)
    source = re.sub(r"\{[^{}\n]*\}", "…", source)
    headings = re.findall(r"^### (.+)$", page, re.MULTILINE)
    assert len(headings) > 20
    missing = [h for h in headings if not all(part.strip(" .") in source for part in h.split("…"))]
    assert missing == []


# --- rules ----------------------------------------------------------------------------------------------------------


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert execute(list(arguments)) == 0
    return capsys.readouterr().out.splitlines()


def test_rules_are_added_changed_switched_and_taken_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    added = told(
        capsys, "rules", "add", "apple_200", "kind=level", "level=200", "symbols=AAPL,TSLA", "expires=2030-12-31"
    )
    assert added[0].startswith("alerts.toml, version ")
    end_of_day = 'expires = "2031-01-01T05:00:00Z"'
    assert added[1:] == ["[apple_200]", 'kind = "level"', 'symbols = ["AAPL", "TSLA"]', end_of_day, "level = 200"]
    written = (tmp_path / "alerts.toml").read_text().splitlines()
    assert sorted(written) == sorted([*added[1:3], added[3], 'expires = "2030-12-31"', added[5]])
    told(capsys, "rules", "off", "apple_200")
    told(capsys, "rules", "add", "golden_cross", "band_bps=7.5", "quiet=22:00-07:00")
    listed = {line.split()[0]: line.split() for line in told(capsys, "rules", "list")}
    assert list(listed) == ["golden_cross", "death_cross", "high_volume", "system_down", "apple_200"]
    assert listed["apple_200"][1] == "level"
    assert listed["apple_200"][3] == "off"
    assert 'quiet="22:00-07:00' in listed["golden_cross"]
    told(capsys, "rules", "on", "apple_200")
    assert "enabled" not in told(capsys, "rules", "add", "golden_cross", "band_bps=")[-1]
    told(capsys, "rules", "remove", "apple_200")
    assert len(told(capsys, "rules", "list")) == 4
    assert told(capsys, "rules", "check") == ["alerts.toml: 4 rules, 4 of them on; channels log. All is in order."]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "mine"], "kind is missing: expected one of cross, "),
        (["add", "mine", "level"], "level: expected KEY=VALUE, such as level=200"),
        (["add", "mine", "kind=level", "level=x", "symbols=A"], "level = 'x': expected a number from 1e-08 to 1e+15"),
        (["off", "mine"], "alerts.toml: there is no rule mine; expected one of golden_cross, "),
        (["remove", "mine"], "alerts.toml: there is no rule mine; expected one of golden_cross, "),
        (["check", "other.toml"], "other.toml: there is no such file"),
    ],
)
def test_a_wrong_change_of_rules_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], said: str
) -> None:
    code, line = sentence(capsys, "rules", *arguments)
    assert (code, line.startswith(said)) == (2, True), line
    assert not (tmp_path / "alerts.toml").exists()


def test_each_mistake_of_a_rules_file_is_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[golden_cross]\nband_bps = -1\n[channels.desk]\nkind = 'pigeon'\n[x]\n")
    assert execute(["rules", "check", "my.toml"]) == 2
    err = capsys.readouterr().err
    assert re.findall(r"my\.toml, line (\d)", err) == ["2", "5"]
    (tmp_path / "my.toml").write_text("[channels.desk]\nkind = 'pigeon'\n[notify]\nlimit = 5\n")
    assert execute(["rules", "check", "my.toml"]) == 2
    assert re.findall(r"my\.toml, line (\d)", capsys.readouterr().err) == ["2", "4"]
