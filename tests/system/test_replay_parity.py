"""Replays: files alone, files through the whole pipeline, and the plain oracle come to the same rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline_runs import Pipeline, until
from tapes import plain_records, write_days, write_tape
from tapewatch.oracle import Settings as OracleSettings
from tapewatch.oracle import bars
from tapewatch.oracle_alerts import AlertOracle
from tapewatch.profiles.backtest import Recording
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.replay import replay_files
from tapewatch.profiles.rows import ALERT_COLUMNS, BAR_COLUMNS, WINDOW_COLUMNS, alerts_sha256, iso
from tapewatch.profiles.verify import BAR_NAMES
from tapewatch.records import Kind
from tapewatch.settings import Settings
from tapewatch.store.reading import read_alerts, read_bars, read_windows
from trading_days import give_days

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

SHARED_DAY = Path(__file__).parents[3] / "shared" / "data" / "us-equities-trades-2013-10-07.csv.gz"
TABLES = ("stock_aggregates", "price_bars", "breakout_alerts")
Lines = list[list[str]]


def parts_of(folder: Path, rules: str = "none.toml") -> Parts:
    give_days(folder)
    return Parts.load(Settings(_env_file=None, data_dir=folder, alerts_file=folder / rules))


@pytest.fixture(params=["made", "shared day"])
def tape(request: pytest.FixtureRequest, tmp_path: Path) -> Sequence[Path]:
    """A tape full of oddities, and a real day."""
    if request.param == "made":
        return write_tape(tmp_path)
    if not SHARED_DAY.exists():
        pytest.skip(f"{SHARED_DAY} is not here")
    return [SHARED_DAY]


def test_a_replay_is_the_oracle_in_every_row_whatever_the_batch(tape: Sequence[Path], tmp_path: Path) -> None:
    parts = parts_of(tmp_path)
    first = replay_files(tape, tmp_path / "first", parts, batch_size=20_000)
    second = replay_files(tape, tmp_path / "second", parts, batch_size=977)
    assert first.sha256 == second.sha256
    assert first.windows > 100
    assert sum(first.alerts.values()) > 3
    expected = oracle_lines(tape, parts)
    for table in TABLES:
        assert lines(tmp_path / "first" / f"{table}.csv", KEYS[table]) == expected[table], table


def test_the_made_tape_holds_what_it_is_made_for(tmp_path: Path) -> None:
    done = replay_files(write_tape(tmp_path), tmp_path / "out", parts_of(tmp_path), batch_size=500)
    assert done.repeated > 50
    assert done.skipped.keys() == {"correction 1", "correction 8", "no price"}
    assert done.decisions["ineligible"] > 10
    assert {name.split()[0] for name in done.alerts} == {"golden_cross", "death_cross", "high_volume"}
    assert {name.split()[1] for name in done.alerts} == {"confirmed", "retracted"}


def test_the_whole_pipeline_comes_to_the_rows_of_the_files_alone(tape: Sequence[Path], tmp_path: Path) -> None:
    offline = replay_files(tape, tmp_path / "out", parts_of(tmp_path), batch_size=20_000)
    options = [word for path in tape for word in ("--replay", str(path))]
    with Pipeline(tmp_path, ALERTS_FILE=str(tmp_path / "none.toml")) as pipeline:
        pipeline.start(*options, "--speed", "max")
        until(lambda: is_finished(pipeline), "the recording is finished, logged and stored", 600)
        found = database_lines(pipeline.conninfo("replayed"))
        for table in TABLES:
            assert found[table] == lines(tmp_path / "out" / f"{table}.csv"), table
        live = alerts_sha256(read_alerts(pipeline.conninfo("replayed")))
        pipeline.stop()
        log = pipeline.origin_folder("replayed") / "log" / "log.db"
        tried = [Recording.read(files, parts_of(tmp_path)).present.sha256 for files in (tape, [log])]
        assert {live, offline.alerts_sha256, *tried} == {live}, "one hash: live, in a replay and in a backtest"
        if tape == [SHARED_DAY]:
            return  # its rows are the files', which are the oracle's: that was computed above
        verdict = pipeline.verify("replayed")
        assert verdict.is_good, verdict
        rules = sum(int((batch.kind == Kind.RULES).sum()) for batch in pipeline.records("replayed")[0])
        assert (verdict.records - rules, verdict.trades) == (offline.records, offline.trades)


RULES = """
[golden_cross]
band_bps = 8
confirm_bars = 2
[averages]
kind = "cross"
left = "ema(3)"
right = "sma(8)"
direction = "either"
[day_s_vwap]
kind = "cross"
right = "vwap"
volume_multiple = 1.1
[bands]
kind = "cross"
right = "upper(10, 2)"
session = "regular"
[apple]
kind = "level"
symbols = ["AAPL"]
level = 250
direction = "either"
cooldown = "0ms"
[moved]
kind = "move"
percent = 0.3
within = "5m"
symbols = ["!MSFT"]
[of_the_day]
kind = "extreme"
cooldown = "0ms"
expires = 2026-01-21
[of_bars]
kind = "extreme"
of = 10
[of_days]
kind = "extreme"
of = "1d"
symbols = ["B*", "A*"]
[strong]
kind = "threshold"
indicator = "rsi(6)"
value = 60
[low_in_range]
kind = "threshold"
indicator = "stochastic(10)"
value = 30
direction = "below"
[macd_up]
kind = "threshold"
indicator = "macd(3, 8)"
value = 0
[busy_for_this_time]
kind = "volume"
symbols = ["AAPL", "MSFT", "BTC"]
multiple = 1.5
days = 2
days_min = 1
"""
"""Every kind of market rule, and every kind of line."""
NEVER_TOLD = {"system_down"}


def test_rules_of_every_kind_are_one_hash_live_in_a_replay_and_in_a_backtest(tmp_path: Path) -> None:
    tape = write_days(tmp_path, 3, trades=2_500, minutes=30)
    (tmp_path / "rules.toml").write_text(RULES)
    parts = parts_of(tmp_path, "rules.toml")
    tried = Recording.read(tape, parts).present
    assert {count.rule for count in tried.counts() if count.confirmed} == {*parts.rules, "all"} - NEVER_TOLD
    assert {one.alert.status for one in tried.made} == {"confirmed", "retracted"}
    offline = replay_files(tape, tmp_path / "out", parts, batch_size=977)
    found = lines(tmp_path / "out" / "breakout_alerts.csv", KEYS["breakout_alerts"])
    assert found == oracle_lines(tape, parts)["breakout_alerts"]
    options = [word for path in tape for word in ("--replay", str(path))]
    with Pipeline(tmp_path, ALERTS_FILE=str(tmp_path / "rules.toml")) as pipeline:
        pipeline.start(*options, "--speed", "max")
        until(lambda: is_finished(pipeline), "the recording is finished, logged and stored", 600)
        live = alerts_sha256(read_alerts(pipeline.conninfo("replayed")))
        pipeline.stop()
        log = pipeline.origin_folder("replayed") / "log" / "log.db"
        logged = Recording.read([log], parts).present.sha256
        assert {live, offline.alerts_sha256, tried.sha256, logged} == {live}
        assert pipeline.verify("replayed").is_good
    other = parts_of(tmp_path)  # canary
    assert Recording.read([log], other).present.sha256 != live


def is_finished(pipeline: Pipeline) -> bool:
    """Every market's recording is over, and the database holds all of the log, its last ticks too."""
    status = pipeline.status()
    feeds = [(feed["state"], feed["detail"]) for feed in status["feeds"]]
    assert {state for state, _ in feeds} <= {"connecting", "live", "closed"}
    return set(feeds) == {("closed", "The recording is finished.")} and not status["engine"]["behind"]


# --- the same rows from three places, as the lines of the CSV files ---------------------------------------------------

KEYS: dict[str, Sequence[str]] = {
    "stock_aggregates": WINDOW_COLUMNS,
    "price_bars": BAR_COLUMNS,
    "breakout_alerts": tuple(name for name in ALERT_COLUMNS if name not in ("alert_id", "kind")),
}
"""The columns that the oracle knows."""


def lines(path: Path, columns: Sequence[str] = ()) -> Lines:
    """The rows of a CSV file, all columns or these."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [[row[name] for name in columns or row] for row in rows]
    return sorted(found) if columns else found


def oracle_lines(tape: Sequence[Path], parts: Parts) -> dict[str, Lines]:
    """What the oracle makes of the files."""
    s = parts.settings
    oracle = AlertOracle(
        OracleSettings(
            s.window_ms, s.slide_ms, s.watermark_delay_ms, s.confirm_delay_ms, s.future_limit_ms, parts.rules
        )
    )
    for record in plain_records(tape, parts):
        oracle.take(record)
    made = {"stock_aggregates": oracle.rows(s.window_ms), "price_bars": bars(oracle.rows(s.slide_ms))}
    found = {
        table: sorted(
            [symbol, iso(start), *(text(row[BAR_NAMES.get(name, name)]) for name in KEYS[table][2:])]
            for (symbol, start), row in rows
        )
        for table, rows in made.items()
    }
    found["breakout_alerts"] = sorted(
        [
            *(key.rule, oracle.versions[key], key.symbol, str(key.direction), alert.status),
            *(iso(key.pane), iso(alert.triggered), iso(alert.decided), text(alert.price), text(alert.line)),
        ]
        for key, alert in oracle.alerts.items()
    )
    return found


def database_lines(conninfo: str) -> dict[str, Lines]:
    """The database's tables."""

    def rows(found: Iterator[tuple[Any, ...]]) -> Lines:
        return [[row[0], iso(row[1]), *map(text, row[2:])] for row in found]

    alerts = [
        [iso(value) if name.endswith(("_at", "_start")) else text(value) for name, value in alert_values(alert)]
        for alert in read_alerts(conninfo)
    ]
    return {
        "stock_aggregates": rows(read_windows(conninfo)),
        "price_bars": rows(read_bars(conninfo)),
        "breakout_alerts": alerts,
    }


def alert_values(alert: Any) -> Iterator[tuple[str, Any]]:
    renamed = {"pane_start": "pane_start_ms", "triggered_at": "triggered_ms", "decided_at": "decided_ms"}
    return ((name, getattr(alert, renamed.get(name, name))) for name in ALERT_COLUMNS)


def text(value: Any) -> str:
    """As in the files."""
    if value is None or value != value:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_text_is_what_a_reader_gets_back() -> None:
    assert [text(v) for v in (None, float("nan"), True, 0.1 + 0.2, 7)] == ["", "", "true", "0.30000000000000004", "7"]
    assert datetime.fromisoformat(iso(0)).timestamp() == 0
