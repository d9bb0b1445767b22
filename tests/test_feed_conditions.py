"""What condition codes allow: the table, the AND, Form T, unknown codes."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest_server import Answer, Server
from tapewatch.errors import FeedError
from tapewatch.feed.condition_data import FILE_NAME, built_in, load_conditions, refresh_conditions, write_conditions
from tapewatch.feed.conditions import (
    ALL,
    CODES_MIN,
    FORM_T,
    HIGH_LOW,
    INSIDE,
    OUTSIDE_SHIFT,
    PART_HIGH_LOW,
    PART_PRICE,
    PART_VOLUME,
    PRICE,
    TABLE_DATE,
    UNKNOWN,
    VERDICT,
    VOLUME,
    ConditionTable,
    eligibility,
    table_of,
    wire_codes,
)
from tapewatch.feed.decode import Decoder
from tapewatch.feed.dedupe import Seen
from tapewatch.feed.ingest import Ingest
from tapewatch.feed.queue import Frame
from tapewatch.feed.rest import Rest
from tapewatch.feed.unknown import CODES_MAX
from tapewatch.log.blocks import BlockCodec
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.verify import oracle_rows
from tapewatch.records import Market, Refused, Tables
from tapewatch.rules.model import Rules
from tapewatch.sessions import Calendar, sessions_of
from tapewatch.settings import load_settings

# The published table again, row by row, as a person would check it: H, L (open/close/last), V.
TABLE = """
0 YYY, 1 YYY, 2 nnY, 3 YYY, 4 YYY, 5 YnY, 6 YYY, 7 nnY, 8 YYY, 9 YYY, 10 YnY, 11 YYY, 12 nnY, 13 nnY, 14 YYY, 15 nnn,
16 nnn, 17 YnY, 18 YYY, 19 YYY, 20 nnY, 21 nnY, 22 YnY, 23 YYY, 24 YYY, 25 YYY, 27 YYY, 28 YYY, 29 nnY, 30 YYY, 31 YYY,
32 YnY, 33 YnY, 34 YYY, 35 YYY, 36 YYY, 37 nnY, 38 YYn, 41 YYY, 52 nnY, 53 nnY, 55 YYY
"""
ROWS = [row.split() for row in TABLE.replace("\n", " ").split(",")]
NEUTRAL = [*range(57, 61), *range(62, 72)]


@pytest.mark.parametrize(("code", "rules"), ROWS)
def test_each_code_alone_inside_the_session(code: str, rules: str) -> None:
    high_low, price, volume = (letter == "Y" for letter in rules)
    assert eligibility((int(code),)) & ALL == high_low * HIGH_LOW | price * PRICE | volume * VOLUME


def test_the_table_has_no_other_rows() -> None:
    assert {code for code in INSIDE if code >= 0} == {int(code) for code, _ in ROWS} | set(NEUTRAL)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", TABLE_DATE)


@pytest.mark.parametrize("code", NEUTRAL)
def test_marks_are_neutral(code: int) -> None:
    assert eligibility((code,)) == eligibility(())
    assert eligibility((37, code)) == eligibility((37,))


def test_form_t_sets_prices_outside_the_regular_session_only() -> None:
    assert eligibility((FORM_T,)) == VOLUME | ALL << OUTSIDE_SHIFT
    # ... and there too, unless another code forbids it: an odd lot
    assert eligibility((FORM_T, 37)) == VOLUME | VOLUME << OUTSIDE_SHIFT


def test_an_unknown_code_leaves_the_volume_and_is_marked() -> None:
    assert eligibility((99,)) == VOLUME | VOLUME << OUTSIDE_SHIFT | UNKNOWN
    assert eligibility((15, 99)) == UNKNOWN


def test_parts_of_bars() -> None:
    both = 1 | 1 << OUTSIDE_SHIFT
    assert [eligibility((part,)) for part in (PART_PRICE, PART_HIGH_LOW, PART_VOLUME)] == [
        PRICE * both,
        HIGH_LOW * both,
        VOLUME * both,
    ]


@given(st.lists(st.integers(0, 80), max_size=4), st.lists(st.integers(0, 80), max_size=4))
def test_two_lists_together_allow_what_both_allow(a: list[int], b: list[int]) -> None:
    one, other, both = eligibility(tuple(a)), eligibility(tuple(b)), eligibility((*a, *b))
    assert both & ~UNKNOWN == one & other & ~UNKNOWN
    assert both & UNKNOWN == (one | other) & UNKNOWN


# --- what is known today -------------------------------------------------------------------------------------------


def wire_rows(**changed: dict[str, Any]) -> list[dict[str, Any]]:
    """The built-in table as REST tells it, with some codes ``changed`` (by name ``c72``)."""
    table = built_in()
    rows: dict[int, dict[str, Any]] = {}
    for code, bits in table.inside.items():
        rules = {"updates_open_close": bool(bits & PRICE), "updates_high_low": bool(bits & HIGH_LOW)}
        both = {"consolidated": rules | {"updates_volume": bool(bits & VOLUME)}, "market_center": {}}
        rows[code] = {"id": code, "name": table.names.get(code, ""), "data_types": ["trade"], "update_rules": both}
        if code in NEUTRAL:
            del rows[code]["update_rules"]
    return list((rows | {int(name[1:]): row for name, row in changed.items()}).values())


NEW = {"id": 72, "name": "New", "data_types": ["trade", "bbo"], "update_rules": {"consolidated": {
    "updates_open_close": True, "updates_high_low": True, "updates_volume": True}}}  # fmt: skip
QUOTE = {"id": 90, "name": "Of quotes", "data_types": ["nbbo"]}


def test_the_file_in_the_package_is_the_frozen_table() -> None:
    """Until the exchange says something else: then the file changes, and the frozen table never."""
    table = built_in()
    assert table.inside == {code: bits for code, bits in INSIDE.items() if code >= 0}
    assert table.date == TABLE_DATE
    assert table.names[37] == "Odd Lot Trade"


def test_the_exchange_s_table_is_read_as_it_is_told() -> None:
    table = table_of([*wire_rows(), QUOTE], "2026-12-01", "there")
    assert table.inside == built_in().inside
    assert table.differences(table_of([*wire_rows(c72=NEW)], "2026-12-02", "there")) == {72: (None, ALL)}
    assert table.eligibility((FORM_T,)) == eligibility((FORM_T,)), (
        "outside the session it sets prices, as the rule says"
    )


@pytest.mark.parametrize(
    "rows",
    [
        wire_rows()[:10],
        [],
        [*wire_rows(), {"id": "12"}],
        [*wire_rows(), {"id": -1}],
        [*wire_rows(), {"id": VERDICT, "data_types": ["trade"]}],
        [*wire_rows(), {"id": 72, "data_types": ["trade"], "update_rules": {"consolidated": {"updates_volume": True}}}],
        [*wire_rows(), {"id": 72, "data_types": ["trade"], "update_rules": {"consolidated": 5}}],
    ],
)
def test_what_is_no_table_is_refused(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"id=|codes: a whole table has"):
        table_of(rows, "2026-12-01", "there")
    assert len(built_in().inside) > CODES_MIN


def test_a_newer_table_is_kept_and_an_older_or_damaged_one_is_not_used(tmp_path: Path) -> None:
    assert load_conditions(tmp_path) == built_in()
    for date, used in (("2999-01-01", True), ("2020-01-01", False)):
        write_conditions(table_of(wire_rows(c72=NEW), date, "there"), tmp_path)
        assert (72 in load_conditions(tmp_path).inside) is used
        assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    (tmp_path / FILE_NAME).write_text('{"date": "2999-01-01", "source": "", "codes": {"1": {"allows": 9}}}')
    assert load_conditions(tmp_path) == built_in()
    (tmp_path / FILE_NAME).write_bytes(b"\xff" * 100)
    assert load_conditions(tmp_path) == built_in()


def test_it_is_asked_for_once_a_day_and_an_answer_that_is_none_changes_nothing(tmp_path: Path) -> None:
    answers: list[Answer] = [(200, {}, {"results": wire_rows(c72=NEW)})]
    server = Server(lambda *_: answers[-1])
    now_ns = int(datetime(2030, 1, 1, 23, 59, tzinfo=UTC).timestamp()) * 10**9

    async def ask(known: ConditionTable) -> ConditionTable:
        async with Rest(server.url, "k") as rest:
            return await refresh_conditions(rest, tmp_path, known, clock_ns=lambda: now_ns)

    with server.running():
        table = asyncio.run(ask(built_in()))
        assert table.inside[72] == ALL
        assert load_conditions(tmp_path) == table
        path, query, _ = server.asked[0]
        assert (path, query["asset_class"], query["data_type"], query["limit"]) == (
            "/v3/reference/conditions", "stocks", "trade", "1000",
        )  # fmt: skip
        assert asyncio.run(ask(table)) is table
        assert len(server.asked) == 1, "of today already"
        now_ns += 60 * 10**9
        table = asyncio.run(ask(table))
        assert (table.date, len(server.asked)) == ("2030-01-02", 2)
        answers.append((200, {}, {"results": wire_rows()[:10]}))
        with pytest.raises(ValueError, match="10 codes"):
            asyncio.run(ask(built_in()))
        answers.append((403, {}, {}))
        with pytest.raises(FeedError, match="the plan lacks table"):
            asyncio.run(ask(built_in()))
    assert load_conditions(tmp_path) == table


# --- what is logged, and what a replay says of it ----------------------------------------------------------------


def trade(number: int, *codes: int, time_ms: int = 1_788_877_046_300) -> dict[str, Any]:
    return {"ev": "T", "sym": "AAPL", "p": 10.0, "ds": "1", "t": time_ms, "x": 4, "i": str(number), "c": list(codes)}


def frame(*events: dict[str, Any]) -> Frame:
    return Frame(Market.STOCKS, json.dumps(events).encode(), events[-1]["t"] * 10**6)


def logged(tables: Tables, batch: Any) -> list[tuple[int, ...]]:
    return [tables.conditions.values[number] for number in batch.conditions.tolist()]


def test_a_newer_table_holds_for_newer_trades_and_the_log_keeps_what_each_was_judged_by() -> None:
    tables = Tables()
    ingest = Ingest(tables, Seen())
    before = ingest.step([frame(trade(1, 72), trade(2, 37))])
    newer = table_of(wire_rows(c72=NEW, c41=QUOTE | {"id": 41}), "2026-12-01", "there")
    ingest.judge_by(newer)
    after = ingest.step([frame(trade(3, 72), trade(4, 37), trade(5), trade(6, 72, 37))])
    assert logged(tables, before) == [(72,), (37,)]
    stamped = logged(tables, after)
    assert stamped == [(72, VERDICT + (ALL | ALL << 3)), (37,), (), (72, 37, VERDICT + (VOLUME | VOLUME << 3))]
    assert [wire_codes(codes) for codes in stamped] == [(72,), (37,), (), (72, 37)]
    # the engine and the oracle know the frozen table only, and read the verdict from the log
    assert [eligibility(codes) & UNKNOWN for codes in logged(tables, before) + stamped] == [UNKNOWN, 0, 0, 0, 0, 0]
    parts = Parts(load_settings(_env_file=None), Rules(), {})
    assert [row.bits for row in oracle_rows(before, tables, parts)] == [VOLUME, VOLUME]
    assert [row.bits for row in oracle_rows(after, tables, parts)] == [ALL, VOLUME, ALL, VOLUME]
    # and so does a log that was written, and a table that has changed its mind since
    again = Tables()
    read = BlockCodec(again).decode(BlockCodec(tables).encode(after, first=0, reached_ms=0, logged_ns=0))
    assert [row.bits for row in oracle_rows(read, again, parts)] == [ALL, VOLUME, ALL, VOLUME]


def test_our_own_codes_are_refused_from_the_exchange() -> None:
    tables = Tables()
    decoded = Decoder(tables).decode([(Market.STOCKS, json.dumps([trade(1, VERDICT), trade(2, 37)]).encode(), 0)])
    assert (decoded.batch.ids, decoded.refused) == (["2"], {Refused.BAD_VALUE: 1})


@given(st.lists(st.integers(0, 90), max_size=16))
def test_what_is_stamped_is_what_its_table_says(codes: list[int]) -> None:
    newer = table_of(wire_rows(c72=NEW, c37=NEW | {"id": 37}), "2026-12-01", "there")
    stamped = newer.stamped(tuple(codes))
    assert eligibility(stamped) == newer.eligibility(tuple(codes))
    assert len(stamped) <= 16
    assert (stamped == tuple(codes)) == (eligibility(tuple(codes)) == newer.eligibility(tuple(codes)))


def test_unknown_codes_are_counted_by_code_and_not_without_end() -> None:
    ingest = Ingest(Tables(), Seen())
    ingest.step([frame(trade(1, 99), trade(2, 99, 37), trade(3, 98, 99), trade(4, 37), trade(5)), frame(trade(1, 99))])
    assert ingest.unknown_codes.counts == {99: 3, 98: 1}
    ingest.step([frame(*(trade(100 + n, 200 + n) for n in range(2 * CODES_MAX)))])
    assert len(ingest.unknown_codes.counts) == CODES_MAX + 1
    assert ingest.unknown_codes.counts[-1] == 2 * CODES_MAX - (CODES_MAX - 2)
    ingest.judge_by(table_of(wire_rows(c72=NEW), "2026-12-01", "there"))
    ingest.step([frame(trade(7, 72))])
    assert 72 not in ingest.unknown_codes.counts


# --- Form T by the exchange's own days ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "sets_price"),
    [
        ("2025-11-26 09:29:59", True),
        ("2025-11-26 09:30:00", False),
        ("2025-11-26 15:59:59", False),
        ("2025-11-26 16:00:00", True),
        ("2025-11-27 12:00:00", True),  # Thanksgiving: there is no regular session
        ("2025-11-28 12:59:59", False),  # the half day after it
        ("2025-11-28 13:00:00", True),
        ("2025-11-29 12:00:00", True),  # a Saturday
        ("2026-03-06 09:30:00", False),  # winter time: 14:30 UTC
        ("2026-03-06 09:29:59", True),
        ("2026-03-09 09:30:00", False),  # summer time: 13:30 UTC
        ("2026-03-09 09:29:59", True),
        ("2026-10-30 15:59:59", False),
        ("2026-11-02 16:00:00", True),
        ("2026-11-02 15:59:59", False),
    ],
)
def test_form_t_sets_a_price_outside_the_exchange_s_own_session(moment: str, sets_price: bool, days: Calendar) -> None:
    """In the oracle, and in the engine: on holidays, half days, and either side of the change of the clocks."""
    at = datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo("America/New_York"))
    assert sessions_of(days, Market.STOCKS).regular(int(at.timestamp() * 1000)) is not sets_price
    tables = Tables()
    batch = Ingest(tables, Seen()).step([frame(trade(1, FORM_T, time_ms=int(at.timestamp() * 1000)))])
    parts = Parts(load_settings(_env_file=None), Rules(), days)
    (row,) = oracle_rows(batch, tables, parts)
    assert bool(row.bits & PRICE) is sets_price
    engine = parts.engine(tables)
    engine.step(batch)
    assert bool(len(engine.drain().bars)) is sets_price
