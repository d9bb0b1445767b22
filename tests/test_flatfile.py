"""tapefile.py and feed/flatfile.py: flat files in, records out, and a clear sentence for what cannot be read."""

from __future__ import annotations

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.errors import InputError
from tapewatch.feed.flatfile import peek_symbols, read_flatfile
from tapewatch.records import E8, Kind, Market, Tables
from tapewatch.tapefile import ROWS_PER_BLOCK, read_tape

HEADER = (
    "ticker,conditions,correction,exchange,id,participant_timestamp,price,sequence_number,sip_timestamp,size,tape,"
    "trf_id,trf_timestamp"
)
T0 = 1_700_000_000_000_000_000
SHARED_DAY = Path(__file__).parents[2] / "shared" / "data" / "us-equities-trades-2013-10-07.csv.gz"


def row(
    ticker: str = "AAPL",
    conditions: str = "",
    correction: object = 0,
    exchange: object = 11,
    trade_id: str = "1",
    price: object = 100.5,
    sequence: object = 1,
    sip: object = T0,
    size: object = 100,
    trf: object = 0,
    trf_time: object = 0,
) -> str:
    quoted = f'"{conditions}"' if "," in conditions else conditions
    return (
        f"{ticker},{quoted},{correction},{exchange},{trade_id},{sip},{price},{sequence},{sip},{size},1,{trf},{trf_time}"
    )


def write(tmp_path: Path, *rows: str, header: str = HEADER, name: str = "day.csv.gz") -> Path:
    path = tmp_path / name
    data = ("\n".join([header, *rows]) + "\n").encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["day.csv.gz", "day.csv"])
def test_a_row_becomes_a_record(tmp_path: Path, name: str) -> None:
    line = row("SPY", "14,37,41", 12, 4, "x9", 167.41, 7, T0 + 1_999_999, "0.25", 202, T0)
    tables = Tables()
    batch = read_flatfile(write(tmp_path, line, name=name), tables).batch
    assert len(batch) == 1
    assert tables.symbols.values[batch.symbol[0]] == "SPY"
    assert tables.conditions.values[batch.conditions[0]] == (14, 37, 41)
    assert batch.kind[0] == Kind.TRADE
    assert batch.market[0] == Market.STOCKS
    assert batch.time_ms[0] == T0 // 1_000_000 + 1  # floor, not rounded
    assert batch.received_ns[0] == T0 + 1_999_999
    assert (batch.price[0], batch.size_e8[0]) == (167.41, E8 // 4)
    assert (batch.exchange[0], batch.trf[0], batch.ids[0]) == (4, 202, "x9")
    assert batch.offset == -1


def test_rows_are_sorted_by_time_then_sequence_then_place(tmp_path: Path) -> None:
    rows = [
        row("B", trade_id="late", sip=T0 + 5, sequence=1),
        row("A", trade_id="second", sip=T0, sequence=9),
        row("B", trade_id="first", sip=T0, sequence=2),
        row("A", trade_id="third", sip=T0, sequence=9),
    ]
    batch = read_flatfile(write(tmp_path, *rows), Tables()).batch
    assert list(batch.ids) == ["first", "second", "third", "late"]


def test_cancelled_and_priceless_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    corrections = [0, 1, 7, 8, 8, 10, 11, 12]
    rows = [row(trade_id=str(n), correction=code) for n, code in enumerate(corrections)]
    found = read_flatfile(write(tmp_path, *rows, row(trade_id="free", price=0)), Tables())
    assert list(found.batch.ids) == ["0", "7"]
    assert found.skipped == {
        "correction 1": 1, "correction 7": 1, "correction 8": 2, "correction 10": 1, "correction 11": 1, "no price": 1
    }  # fmt: skip


def test_crypto_is_named_by_its_product_symbol(tmp_path: Path) -> None:
    rows = [row("X:BTC-USD", "1"), row("X:BTCUSD", "2"), row("X:BTC-EUR"), row("AAPL")]
    path, tables = write(tmp_path, *rows), Tables()
    batch = read_flatfile(path, tables).batch
    assert [tables.symbols.values[s] for s in batch.symbol] == ["BTC", "BTC", "BTC-EUR", "AAPL"]
    assert batch.market.tolist() == [1, 1, 1, 0]
    assert peek_symbols(path) == ["AAPL", "BTC", "BTC-EUR"]


def test_every_market_is_told_by_its_ticker(tmp_path: Path) -> None:
    header = "ticker,conditions,exchange,price,sip_timestamp,size,sequence_number"
    tickers = ["O:SPY251219C00650000", "ESZ5", "C:EURUSD", "I:SPX"]
    rows = [f"{ticker},227,1,2.5,{T0},1,{number}" for number, ticker in enumerate([*tickers, "ESZ5"])]
    tables = Tables()
    batch = read_flatfile(write(tmp_path, *rows, header=header), tables).batch
    assert [tables.symbols.values[s] for s in batch.symbol] == [*tickers, "ESZ5"]
    assert batch.market.tolist() == [Market.OPTIONS, Market.FUTURES, Market.FOREX, Market.INDICES, Market.FUTURES]
    assert not batch.conditions.any()
    # The first one's sequence number is 0, which is none.
    assert list(batch.ids) == ["", f"{T0 // 10**6}q1", "", "", f"{T0 // 10**6}q4"]


def test_what_crypto_calls_conditions_is_no_condition_of_stocks(tmp_path: Path) -> None:
    tables = Tables()
    batch = read_flatfile(write(tmp_path, row("X:BTC-USD", "2"), row("AAPL", "2", sequence=2)), tables).batch
    assert [tables.conditions.values[c] for c in batch.conditions] == [(), (2,)]


def test_crypto_files_have_no_sip_time(tmp_path: Path) -> None:
    header = "ticker,conditions,exchange,id,participant_timestamp,price,size"
    batch = read_flatfile(write(tmp_path, f"X:ETH-USD,2,1,77,{T0},2801.5,0.00000001", header=header), Tables()).batch
    assert (batch.received_ns[0], batch.size_e8[0], batch.ids[0]) == (T0, 1, "77")


def test_only_the_wanted_symbols_are_read_in_any_form(tmp_path: Path) -> None:
    tables = Tables()
    path = write(tmp_path, row("AAPL"), row("X:BTC-USD"), row("MSFT", price="not a number"))
    batch = read_flatfile(path, tables, ["BTC-USD", "AAPL"]).batch
    assert len(batch) == 2
    assert sorted(tables.symbols.values) == ["AAPL", "BTC"]
    assert len(read_flatfile(path, Tables(), []).batch) == 0


def test_columns_are_found_by_name_and_others_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, f"9.5,extra,{T0},AAPL,3", "", header="price,new,sip_timestamp,ticker,size", name="d.csv")
    batch = read_flatfile(path, Tables()).batch
    assert (batch.price[0], batch.size_e8[0], batch.ids[0], batch.conditions[0]) == (9.5, 3 * E8, "", 0)


BAD_CELLS = [
    ({"price": "abc"}, "line 4, column price: 'abc' is not a number, 0 or more"),
    ({"price": "nan"}, "line 4, column price: 'nan' is not a number, 0 or more"),
    ({"price": -1}, "line 4, column price: '-1' is not a number, 0 or more"),
    ({"size": "1x"}, "line 4, column size: '1x' is not a number from 0 to 90000000000"),
    ({"size": "1e30"}, "line 4, column size: '1e30' is not a number from 0 to 90000000000"),
    ({"size": -5}, "line 4, column size: '-5' is not a number from 0 to 90000000000"),
    ({"sip": T0 // 1_000_000}, "is not a time in Unix nanoseconds"),
    ({"sip": ""}, "column participant_timestamp: '' is not a time in Unix nanoseconds"),
    ({"sip": 2**63}, "is not a time in Unix nanoseconds"),
    ({"sequence": "-1"}, "line 4, column sequence_number: '-1' is not a whole number"),
    ({"exchange": 99999}, "line 4, column exchange: '99999' is not a whole number from 0 to 32767"),
    ({"correction": "C"}, "line 4, column correction: 'C' is not"),
    ({"conditions": "12,F"}, "line 4, column conditions: '12,F' is not condition codes separated by commas"),
    ({"trf_time": 5}, "line 4, column trf_timestamp: '5' is not a time in Unix nanoseconds, 0 or nothing"),
    ({"ticker": ""}, "line 4, column ticker: '' is not a ticker"),
]


@pytest.mark.parametrize(("cell", "message"), BAD_CELLS)
def test_a_bad_cell_is_named_with_its_line(tmp_path: Path, cell: dict[str, object], message: str) -> None:
    path = write(tmp_path, row(), row(), row(**cell), row(), name="d.csv")  # type: ignore[arg-type]
    with pytest.raises(InputError) as error:
        read_flatfile(path, Tables())
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_the_line_is_right_far_into_the_file_and_after_blank_lines(tmp_path: Path) -> None:
    rows = [row()] * (ROWS_PER_BLOCK + 10) + ["", row(price="?")]
    with pytest.raises(InputError, match=f"line {ROWS_PER_BLOCK + 13}, column price"):
        read_flatfile(write(tmp_path, *rows), Tables())


def test_a_row_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 3 has 14 columns, expected 13"):
        read_flatfile(write(tmp_path, row(), row() + ",1"), Tables())


def test_files_that_are_no_flat_files(tmp_path: Path) -> None:
    good = write(tmp_path, *[row(sequence=n) for n in range(5000)])
    cases: list[tuple[str, bytes, str]] = [
        ("plain.csv.gz", b"ticker,price\n", "is not a gzip file, though its name ends with .gz"),
        ("cut.csv.gz", good.read_bytes()[:-200], "the gzip file is cut off after line"),
        ("empty.csv", b"", "has no column ticker, price, size, sip_timestamp"),
        ("bars.csv", b"ticker,volume,open,window_start\n", "has no column price, size, sip_timestamp"),
        ("binary.csv", b"ticker,price,size,sip_timestamp\n\xff\xfe\n", "is not text in columns after line"),
    ]
    for name, data, message in cases:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_flatfile(tmp_path / name, Tables())
    with pytest.raises(InputError, match=r"none\.csv: cannot be read \(No such file or directory\)"):
        read_flatfile(tmp_path / "none.csv", Tables())
    damaged = bytearray(good.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    (tmp_path / "damaged.csv.gz").write_bytes(damaged)
    with pytest.raises(InputError, match=r"damaged|cut off|not text|column"):
        read_flatfile(tmp_path / "damaged.csv.gz", Tables())


@given(st.integers(0, 10**17))
def test_sizes_are_exact(size_e8: int) -> None:
    whole, part = divmod(size_e8, E8)
    for text in (f"{whole}.{part:08d}", f"{whole}.{part:08d}9", f"{whole}.{part:08d}".rstrip("0").rstrip(".")):
        with TemporaryDirectory() as folder:
            batch = read_flatfile(write(Path(folder), row(size=text), name="d.csv"), Tables()).batch
        assert batch.size_e8[0] == size_e8


def test_several_files_are_one_tape(tmp_path: Path) -> None:
    first = write(tmp_path, row(trade_id="b", sip=T0 + 1), row(trade_id="d", sip=T0 + 3), name="1.csv")
    second = write(tmp_path, row(trade_id="c", sip=T0 + 2), row(trade_id="a"), name="2.csv.gz")
    assert read_tape([first, second]).ids == ["a", "b", "c", "d"]
    assert read_tape([]).ids == []


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_DAY.exists(), reason=f"the shared day is not at {SHARED_DAY}")
def test_the_shared_day(tmp_path: Path) -> None:
    tables = Tables()
    found = read_flatfile(SHARED_DAY, tables)
    assert (len(found.batch), found.skipped) == (388_417, {})
    assert sorted(tables.symbols.values) == ["AIG", "BAC", "IBM", "SPY"]
    assert bool(np.all(np.diff(found.batch.received_ns) >= 0))
    assert tables.conditions.values[0] == ()
    assert set(tables.conditions.values) >= {(), (12,), (14,)}
