"""What the REST side knows beside trades: conditions, exchanges, tickers, holidays, in the service's own shapes. Pure.

The conditions are written down here on their own, from the published table, and not shared with the feed: so that a
client which reads them by REST, and one that has them built in, can be compared.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any, Final

from tapewatch.records import Market
from tapewatch.simulator.holidays import early_closes, holidays
from tapewatch.simulator.hours import NEW_YORK

__all__ = ["CONDITIONS", "EXCHANGES", "conditions", "exchanges", "ticker_row", "upcoming"]

# id, name, may set high and low, may set open and close, counts for the volume. From the year 2026.
_STOCK_CONDITIONS: Final = (
    (0, "Regular Sale", "YYY"), (1, "Acquisition", "YYY"), (2, "Average Price Trade", "NNY"),
    (3, "Automatic Execution", "YYY"), (4, "Bunched Trade", "YYY"), (5, "Bunched Sold Trade", "YNY"),
    (6, "CAP Election", "YYY"), (7, "Cash Sale", "NNY"), (8, "Closing Prints", "YYY"), (9, "Cross Trade", "YYY"),
    (10, "Derivatively Priced", "YNY"), (11, "Distribution", "YYY"), (12, "Form T/Extended Hours", "NNY"),
    (13, "Extended Hours (Sold Out Of Sequence)", "NNY"), (14, "Intermarket Sweep", "YYY"),
    (15, "Market Center Official Close", "NNN"), (16, "Market Center Official Open", "NNN"),
    (17, "Market Center Opening Trade", "YNY"), (18, "Market Center Reopening Trade", "YYY"),
    (19, "Market Center Closing Trade", "YYY"), (20, "Next Day", "NNY"), (21, "Price Variation Trade", "NNY"),
    (22, "Prior Reference Price", "YNY"), (23, "Rule 155 Trade (AMEX)", "YYY"), (24, "Rule 127 NYSE", "YYY"),
    (25, "Opening Prints", "YYY"), (27, "Stopped Stock (Regular Trade)", "YYY"), (28, "Re-Opening Prints", "YYY"),
    (29, "Seller", "NNY"), (30, "Sold Last", "YYY"), (31, "Sold Last and Stopped Stock", "YYY"),
    (32, "Sold (Out of Sequence)", "YNY"), (33, "Sold (Out of Sequence) and Stopped Stock", "YNY"),
    (34, "Split Trade", "YYY"), (35, "Stock Option Trade", "YYY"), (36, "Yellow Flag Regular Trade", "YYY"),
    (37, "Odd Lot Trade", "NNY"), (38, "Corrected Consolidated Close", "YYN"), (41, "Trade Thru Exempt", "YYY"),
    (52, "Contingent Trade", "NNY"), (53, "Qualified Contingent Trade", "NNY"),
    (55, "Opening/Reopening Trade Detail", "YYY"),
)  # fmt: skip
_NEUTRAL: Final = (
    (57, "Short Sale Restriction Activated"), (58, "Short Sale Restriction Continued"),
    (59, "Short Sale Restriction Deactivated"), (60, "Short Sale Restriction In Effect"),
    *((number, f"Financial Status {number - 61}") for number in range(62, 72)),
)  # fmt: skip
_CRYPTO_CONDITIONS: Final = ((1, "Sellside"), (2, "Buyside"))


def _stock_condition(number: int, name: str, flags: str) -> dict[str, Any]:
    high_low, open_close, volume = (flag == "Y" for flag in flags)
    rules = {"updates_high_low": high_low, "updates_open_close": open_close, "updates_volume": volume}
    return {
        "id": number, "type": "sale_condition", "name": name, "asset_class": "stocks", "data_types": ["trade"],
        "sip_mapping": {"CTA": "", "UTP": ""}, "update_rules": {"consolidated": rules, "market_center": rules},
    }  # fmt: skip


CONDITIONS: Final[list[dict[str, Any]]] = [
    *(_stock_condition(*row) for row in _STOCK_CONDITIONS),
    *(
        {
            "id": number,
            "type": "short_sale_restriction_indicator" if number < 62 else "financial_status_indicator",
            "name": name,
            "asset_class": "stocks",
            "data_types": ["trade"],
        }
        for number, name in _NEUTRAL
    ),
    # Ids are unique within a data type alone: this one is also the cash sale's among trades.
    {"id": 7, "type": "quote_condition", "name": "Slow Quote", "asset_class": "stocks", "data_types": ["bbo", "nbbo"]},
    *(
        {"id": number, "type": "condition", "name": name, "asset_class": "crypto", "data_types": ["trade"]}
        for number, name in _CRYPTO_CONDITIONS
    ),
]
"""Results of `/v3/reference/conditions`."""

_STOCK_EXCHANGES: Final = (
    (1, "AMEX", "XASE", "exchange", "NYSE American, LLC"), (2, "BX", "XBOS", "exchange", "Nasdaq OMX BX, Inc."),
    (3, "NSX", "XCIS", "exchange", "NYSE National, Inc."), (4, "FINRA NYSE TRF", "FINN", "TRF", "FINRA NYSE TRF"),
    (4, "FINRA Nasdaq TRF Carteret", "FINC", "TRF", "FINRA Nasdaq TRF Carteret"),
    (4, "FINRA Nasdaq TRF Chicago", "FINY", "TRF", "FINRA Nasdaq TRF Chicago"),
    (4, "FINRA ADF", "XADF", "TRF", "FINRA Alternative Display Facility"),
    (5, "UTP", "", "SIP", "Unlisted Trading Privileges"), (7, "EDGA", "EDGA", "exchange", "Cboe EDGA"),
    (8, "EDGX", "EDGX", "exchange", "Cboe EDGX"), (9, "CHX", "XCHI", "exchange", "NYSE Chicago, Inc."),
    (10, "NYSE", "XNYS", "exchange", "New York Stock Exchange"), (11, "ARCA", "ARCX", "exchange", "NYSE Arca, Inc."),
    (12, "NASDAQ", "XNAS", "exchange", "Nasdaq"), (13, "CTA", "", "SIP", "Consolidated Tape Association"),
    (14, "LTSE", "LTSE", "exchange", "Long-Term Stock Exchange"), (15, "IEX", "IEXG", "exchange", "Investors Exchange"),
    (17, "PHLX", "XPHL", "exchange", "Nasdaq Philadelphia Exchange LLC"), (18, "BYX", "BATY", "exchange", "Cboe BYX"),
    (19, "BZX", "BATS", "exchange", "Cboe BZX"), (20, "PEARL", "EPRL", "exchange", "MIAX Pearl"),
    (21, "MEMX", "MEMX", "exchange", "Members Exchange"), (62, "OTC", "OOTC", "exchange", "OTC Equity Security"),
)  # fmt: skip
_CRYPTO_EXCHANGES: Final = ((1, "Coinbase"), (2, "Bitfinex"), (6, "Bitstamp"), (23, "Kraken"))
EXCHANGES: Final[list[dict[str, Any]]] = [
    *(
        {
            "id": number, "type": kind, "asset_class": "stocks", "locale": "us", "name": name, "acronym": acronym,
            **({"mic": mic} if mic else {}),
        }
        for number, acronym, mic, kind, name in _STOCK_EXCHANGES
    ),
    *(
        {"id": number, "type": "exchange", "asset_class": "crypto", "locale": "global", "name": name}
        for number, name in _CRYPTO_EXCHANGES
    ),
]  # fmt: skip
"""Results of `/v3/reference/exchanges`. Number 4 is there four times, once for each facility."""


def conditions(asset_class: str | None, data_type: str | None) -> list[dict[str, Any]]:
    """The conditions of one kind of asset and of data; None is any."""
    return [
        row
        for row in CONDITIONS
        if asset_class in (None, row["asset_class"]) and (data_type is None or data_type in row["data_types"])
    ]


def exchanges(asset_class: str | None) -> list[dict[str, Any]]:
    """The exchanges of one kind of asset; None is any."""
    return [row for row in EXCHANGES if asset_class in (None, row["asset_class"])]


_MARKET_WORDS: Final = {
    Market.STOCKS: ("stocks", "us"),
    Market.CRYPTO: ("crypto", "global"),
    Market.OPTIONS: ("options", "us"),
    Market.FUTURES: ("futures", "us"),
    Market.FOREX: ("fx", "global"),
    Market.INDICES: ("indices", "us"),
}


def ticker_row(market: Market, ticker: str) -> dict[str, Any]:
    """A result of `/v3/reference/tickers`."""
    word, locale = _MARKET_WORDS[market]
    row = {"ticker": ticker, "name": f"{ticker} (simulated)", "market": word, "locale": locale, "active": True}
    if market is Market.STOCKS:
        row |= {"type": "CS", "primary_exchange": "XNAS", "currency_name": "usd"}
    return row


def upcoming(today: date, most: int = 16) -> list[dict[str, Any]]:
    """`/v1/marketstatus/upcoming`: the next days with other hours, for both exchanges."""
    found: list[tuple[date, str, str]] = []
    for year in (today.year, today.year + 1):
        found += [(day, name, "closed") for day, name in holidays(year).items()]
        found += [(day, name, "early-close") for day, name in early_closes(year).items()]
    rows = ((day, name, status, place) for day, name, status in sorted(found) for place in ("NYSE", "NASDAQ"))
    return [_upcoming_row(*row) for row in rows if row[0] >= today][:most]


def _upcoming_row(day: date, name: str, status: str, place: str) -> dict[str, Any]:
    row = {"date": day.isoformat(), "exchange": place, "name": name, "status": status}
    if status == "early-close":
        opens, closes = (datetime.combine(day, at, NEW_YORK).astimezone(UTC) for at in (time(9, 30), time(13)))
        row |= {"open": f"{opens:%Y-%m-%dT%H:%M:%S}.000Z", "close": f"{closes:%Y-%m-%dT%H:%M:%S}.000Z"}
    return row
