"""The command that asks the exchange what has become of a day, and corrects its rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tapewatch.cli_parts import OriginName
from tapewatch.errors import LogError
from tapewatch.settings import load_settings

if TYPE_CHECKING:
    from tapewatch.feed.reconcile import Difference
    from tapewatch.profiles.reconcile import DayReport

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add it to the program."""
    app.command(short_help="Ask what has become of a day's trades; correct its rows.")(reconcile)


def reconcile(
    day: Annotated[str, typer.Argument(metavar="DAY", help="such as 2026-11-20, or yesterday (New York; crypto UTC)")],
    symbol: Annotated[
        list[str] | None, typer.Option("--symbol", metavar="SYMBOL", help="only this one; may be given several times")
    ] = None,
    revise: Annotated[
        bool, typer.Option("--revise", help="rewrite the rows that differ, and keep what they were")
    ] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="name at most so many trades of each symbol")] = 20,
    origin: OriginName = "",
) -> None:
    """Compare a day's logged trades with what the exchange says of them now.

    Named are trades that are missing, extra, cancelled, corrected, and those that came too late for their minute. The
    log stays as it is. With --revise the bars and windows that they touch are rewritten, at a higher revision, and
    what they were is kept; tapewatch verify proves them too.

    Exit code: 0 nothing differs, or all of it was rewritten; 1 something differs.
    """
    settings = load_settings()
    from tapewatch.profiles.parts import Parts
    from tapewatch.profiles.reconcile import day_of
    from tapewatch.profiles.reconcile import reconcile as compare
    from tapewatch.profiles.reconcile import revise as rewrite
    from tapewatch.profiles.rooms import open_rooms

    asked = day_of(day)
    if settings.kafka_servers is not None:
        raise LogError("reconcile reads the embedded log, and with KAFKA_BOOTSTRAP_SERVERS the log is Kafka")
    with open_rooms(settings, origin) as rooms:
        names = [name.upper() for name in symbol or []]
        report = compare(settings, rooms, Parts.load(settings), asked, names)
        print("\n".join(report_lines(report, limit)))
        rows = sum(1 for _ in report.rows())
        if not revise or not rows:
            if rows:
                print(f"{rows:,} rows would be others; --revise rewrites them.")
            raise typer.Exit(1 if report.differs else 0)
        revised, left = rewrite(rooms, report)
    print(f"Rewrote {revised:,} rows; {rows - revised - left:,} said so already.")
    if left:
        print(f"{left:,} rows are not final yet: run it again later.")
    raise typer.Exit(1 if left or any(one.why for one in report.symbols) else 0)


def report_lines(report: DayReport, limit: int) -> Iterator[str]:
    """The report as lines; at most ``limit`` trades of each symbol."""
    from tapewatch.feed.reconcile import What, counts

    yield f"{'symbol':<14} {'logged':>10} {'told':>10}" + "".join(f" {what.value:>9}" for what in What)
    for one in report.symbols:
        if one.why:
            yield f"{one.symbol:<14} not compared: {one.why}"
            continue
        numbers = counts(one.compared.differences)
        line = f"{one.symbol:<14} {one.compared.logged:>10,} {one.compared.told:>10,}"
        yield line + "".join(f" {numbers[what]:>9,}" for what in What)
        for difference in one.compared.differences[:limit]:
            yield f"    {_difference_line(difference)}"
        if (more := len(one.compared.differences) - limit) > 0 and limit:
            yield f"    and {more:,} more (--limit)"
        for keys, words in ((one.vanished, "would not have come"), (one.appeared, "would have come too")):
            for key in keys:
                yield f"    {key.rule.replace('_', ' ')} of the minute {_utc(key.pane)} {words}"
    if not report.differs:
        yield "The log holds what the exchange says, trade by trade."


def _difference_line(one: Difference) -> str:
    numbers = [
        f"{words} {pair[0]:,g} x {pair[1]:,g}" for words, pair in (("logged", one.logged), ("told", one.told)) if pair
    ]
    if one.logged == one.told:
        numbers = numbers[:1]
    return f"{_utc(one.time_ms)}  {one.what.value:<9}  {'; '.join(numbers)}  id {one.trade_id or '-'}"


def _utc(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S.") + f"{time_ms % 1_000:03d}"
