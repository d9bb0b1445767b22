"""Rules on recorded days: one hash with a replay, and counts and moves that can be checked by hand."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tapes import write_tape
from tapewatch.errors import InputError
from tapewatch.log.local import LogWriter
from tapewatch.profiles.backtest import Recording
from tapewatch.profiles.forward import HORIZONS_MIN
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.replay import RecordedLog, read_log, replay_files
from tapewatch.records import AlertStatus, Batch, Kind, Market, Origin, Tables
from tapewatch.rules.change import RuleChange
from tapewatch.rules.model import CrossRule, Rules
from tapewatch.settings import Settings
from trading_days import give_days

MINUTE = 60_000


def parts_of(folder: Path, **settings: Any) -> Parts:
    return Parts.load(Settings(_env_file=None, data_dir=folder, alerts_file=folder / "none.toml", **settings))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backtest")
    give_days(folder)
    return folder


@pytest.fixture(scope="module")
def tape(folder: Path) -> Sequence[Path]:
    return write_tape(folder, minutes=90)


@pytest.fixture(scope="module")
def recording(folder: Path, tape: Sequence[Path]) -> Recording:
    return Recording.read(tape, parts_of(folder))


def test_its_alerts_are_those_of_a_replay(recording: Recording, folder: Path, tape: Sequence[Path]) -> None:
    replayed = replay_files(tape, folder / "out", parts_of(folder), batch_size=977)
    assert recording.present.sha256 == replayed.alerts_sha256
    assert sum(replayed.alerts.values()) == len(recording.present.made) > 3


def test_a_log_of_the_same_records_gives_the_same_hash(
    recording: Recording, folder: Path, tape: Sequence[Path]
) -> None:
    """A pipeline's `log.db`: as a live pipeline leaves it."""
    tables, parts = Tables(), parts_of(folder)
    records = read_log(tape, tables, parts).batch
    path = folder / "log" / "log.db"
    with closing(LogWriter.open(path, tables, origin=Origin.LIVE)) as log:
        for start in range(0, len(records), 3_000):
            log.append(records.slice(start, min(start + 3_000, len(records))))
    assert Recording.read([path], parts).present.sha256 == recording.present.sha256
    assert replay_files([path], folder / "out2", parts, batch_size=500).alerts_sha256 == recording.present.sha256
    with pytest.raises(InputError, match="is replayed alone; leave out"):
        Recording.read([path, tape[0]], parts)


def test_rules_that_a_log_recorded_are_left_out_of_a_backtest_and_hold_in_a_replay(
    recording: Recording, folder: Path, tape: Sequence[Path]
) -> None:
    tables, parts = Tables(), parts_of(folder)
    records = read_log(tape, tables, parts).batch
    other = Rules(golden_cross=CrossRule(band_bps=1.0))
    change = RuleChange(other, "start", int(records.time_ms[0]))
    path = folder / "changed" / "log.db"
    with closing(LogWriter.open(path, tables, origin=Origin.LIVE)) as log:
        log.append(Batch.of([change.row(Kind.RULES, 0)]))
        log.append(records)
    assert Recording.read([path], parts).present.sha256 == recording.present.sha256
    replayed = replay_files([path], folder / "out3", parts, batch_size=20_000)
    assert replayed.alerts_sha256 == recording.run(other).sha256 != recording.present.sha256


def test_canary_other_rules_give_another_hash_and_the_same_rules_the_same(recording: Recording) -> None:
    rules = recording.present.rules
    assert recording.run(rules).sha256 == recording.present.sha256
    other = recording.run(rules.changed(golden_cross=CrossRule(band_bps=6.0)))
    assert other.sha256 != recording.present.sha256


def test_counts_by_rule_add_up(recording: Recording) -> None:
    *rules, total = recording.present.counts()
    assert [count.rule for count in rules] == ["golden_cross", "death_cross", "high_volume"]
    assert total.rule == "all"
    for name in ("fired", "confirmed", "retracted"):
        assert getattr(total, name) == sum(getattr(count, name) for count in rules)
    assert total.fired == len(recording.present.made)
    assert total.days.total() == total.confirmed == len(recording.present.told)
    assert total.retraction_rate == total.retracted / (total.confirmed + total.retracted) > 0


def test_it_knows_its_days_and_symbols(recording: Recording) -> None:
    assert recording.days == [date(2026, 1, 22)]
    assert recording.symbols == ["AAPL", "BRK.B", "BTC", "MSFT"]
    assert {one.day for one in recording.present.made} == {date(2026, 1, 22)}


def test_moves_are_measured_from_when_it_is_told_and_in_its_direction(recording: Recording) -> None:
    measured = 0
    for one in recording.present.made:
        if one.alert.status is AlertStatus.RETRACTED:
            assert (one.told_ms, one.moves) == (None, (None,) * 3)
            continue
        assert one.told_ms == one.alert.decided_ms
        for minutes, move in zip(HORIZONS_MIN, one.moves, strict=True):
            raw = recording.prices.move_bps(one.alert.symbol, one.alert.decided_ms, minutes)
            assert move == (None if raw is None else raw * (one.alert.direction or 1))
            measured += move is not None
    assert measured > 5


def test_told_at_once_means_taken_back_ones_too(folder: Path, tape: Sequence[Path], recording: Recording) -> None:
    at_once = Recording.read(tape, parts_of(folder, notify="provisional")).present
    assert len(at_once.told) == len(at_once.made) == len(recording.present.made)
    assert all(one.told_ms == one.alert.triggered_ms for one in at_once.made)
    assert at_once.sha256 == recording.present.sha256, "who is told decides nothing"


def test_a_rule_that_is_never_told_makes_no_noise_and_has_moves(recording: Recording) -> None:
    quiet = recording.run(Rules(golden_cross=CrossRule(notify="never")))
    mine = [one for one in quiet.made if one.alert.rule == "golden_cross"]
    assert len(mine) > 1
    assert [one for one in mine if one.told_ms is not None] == []
    assert any(move is not None for one in mine for move in one.moves)


def test_an_alert_that_was_history_when_it_came_is_not_told(folder: Path, tape: Sequence[Path]) -> None:
    tables, parts = Tables(), parts_of(folder)
    found = read_log(tape, tables, parts)
    found.batch.received_ns += 3_600_000 * 1_000_000
    late = Recording(found, tables, parts).present
    assert late.told == []
    assert all(one.alert.late for one in late.made)
    assert len(late.made) > 3


def test_any_minute_weighs_each_symbol_by_its_alerts(recording: Recording) -> None:
    made = recording.present.made
    chosen = [next(one for one in made if one.alert.rule == "death_cross"), *made[:3]]
    expected = [
        (moves.mean() * (one.alert.direction or 1), np.abs(moves).mean())
        for one in chosen
        if len(moves := recording.prices.any_minute_bps(one.alert.symbol, 5))
    ]
    assert recording.any_minute(chosen, 5) == pytest.approx(np.mean(expected, axis=0))
    assert recording.any_minute([], 5) is None


def test_only_some_symbols(recording: Recording, folder: Path, tape: Sequence[Path]) -> None:
    alone = Recording.read(tape, parts_of(folder), ["aapl"])
    assert alone.symbols == ["AAPL"]
    mine = [one for one in recording.present.made if one.alert.symbol == "AAPL"]
    assert [one.alert.alert_id for one in alone.present.made] == [one.alert.alert_id for one in mine]
    for names, missing in ((["NONE"], "NONE"), (["AAPL", "APPL", "ZZZ"], "APPL, ZZZ")):
        with pytest.raises(InputError, match=rf"stocks\.csv\.gz, .*crypto\.csv: no trades of {missing} to replay"):
            Recording.read(tape, parts_of(folder), names)


def test_days_are_the_exchange_s(folder: Path) -> None:
    """Late in the evening of New York it is the next day in UTC; of a coin that is its day."""
    midnight = 1_769_126_400_000  # 2026-01-23 00:00 UTC, 19:00 in New York
    tables = Tables()
    rows: list[tuple[object, ...]] = []
    for market, name in ((Market.STOCKS, "AAPL"), (Market.CRYPTO, "BTC")):
        symbol = tables.symbols.index(name)
        rows.append((Kind.TRADE, market, symbol, midnight, midnight * 10**6, 1.0, 10**8, 0, 0, 0, ""))
    for row, day in zip(rows, (date(2026, 1, 22), date(2026, 1, 23)), strict=True):
        assert Recording(RecordedLog(Batch.of([row]), 0, {}), tables, parts_of(folder)).days == [day]


def test_without_a_trade_that_counts_there_is_nothing_to_try(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text(
        "ticker,conditions,correction,exchange,id,participant_timestamp,price,sequence_number,sip_timestamp,size,tape,"
        "trf_id,trf_timestamp\nAAPL,15,0,11,1,1769092200000000000,250.0,1,1769092200000000000,100,1,0,0\n"
    )
    with pytest.raises(InputError, match=r"odd\.csv: no trade in it may set a price or a volume"):
        Recording.read([path], parts_of(folder))


def test_the_file_of_alerts_says_it_all(recording: Recording, tmp_path: Path) -> None:
    first = recording.present.made[0].alert.alert_id
    recording.present.write(tmp_path / "alerts.csv", {"both": {first: "lost"}})
    with (tmp_path / "alerts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(recording.present.made)
    assert (rows[0]["alert_id"], rows[0]["both"], rows[1]["both"]) == (first, "lost", "")
    for row, one in zip(rows, recording.present.made, strict=True):
        assert (row["told_at"] == "") is (one.told_ms is None)
        assert row["move_30m_bps"] == ("" if one.moves[1] is None else f"{one.moves[1]:.4f}")
    with pytest.raises(InputError, match="cannot be written"):
        recording.present.write(tmp_path, {})


def test_the_best_move_of_one_without_direction_goes_either_way(recording: Recording) -> None:
    one = next(one for one in recording.present.made if one.alert.direction == 0)
    assert replace(one, moves=(1.0, None, -7.0)).best_bps == 7.0
    cross = next(one for one in recording.present.made if one.alert.direction)
    assert replace(cross, moves=(1.0, None, -7.0)).best_bps == 1.0
    assert replace(cross, moves=(None, None, None)).best_bps == 0.0
