"""The command that prints the card of a day."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from tapewatch.cli_parts import ORIGIN_SENTENCES, OriginName, expect_distributed
from tapewatch.records import AlertStatus, Origin
from tapewatch.settings import load_settings

if TYPE_CHECKING:
    from tapewatch.profiles.report import Card

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add it to the program."""
    app.command(short_help="The card of a day: fired, confirmed, delivered, when.")(report)


def report(
    day: Annotated[str, typer.Argument(metavar="DAY", help="such as 2026-11-20, today or yesterday (New York)")],
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="name at most so many alerts, the newest ones")] = 20,
    origin: OriginName = "",
) -> None:
    """The card of a day: what fired, what became of it, who was told and when, and what was missing meanwhile.

    The day is New York's, of coins that of UTC.
    """
    settings = load_settings()
    from tapewatch.profiles.report import card_of, read_day_name
    from tapewatch.profiles.rooms import open_rooms
    from tapewatch.store.connect import conninfo
    from tapewatch.store.day_card import read_day

    asked = read_day_name(day)
    if settings.kafka_servers is not None:
        expect_distributed(settings)
        kind = Origin.SIMULATED if settings.is_simulated else Origin.LIVE
        card = card_of(read_day(conninfo(settings), asked), asked, kind)
    else:
        with open_rooms(settings, origin) as rooms:
            card = card_of(read_day(rooms.conninfo, asked), asked, rooms.origin)
    print("\n".join(card_lines(card, limit)))


def card_lines(card: Card, limit: int) -> Iterator[str]:
    """The card as lines; at most ``limit`` alerts by name."""
    from tapewatch.profiles.report import FATES, HELD_FOR

    yield f"{card.day:%A}, {card.day}. {ORIGIN_SENTENCES[card.origin].split(':')[0].rstrip('.')}."
    if not card.rules:
        yield "No alert fired."
    else:
        yield (
            f"{'rule':<22} fired confirmed retracted  open  late"
            + "".join(f" {fate:>9}" for fate in FATES)
            + "     first     last"
        )
    for rule in card.rules:
        numbers = [rule.statuses[s] for s in (AlertStatus.CONFIRMED, AlertStatus.RETRACTED, AlertStatus.PROVISIONAL)]
        line = f"{rule.rule:<22} {rule.fired:>5,} {numbers[0]:>9,} {numbers[1]:>9,} {numbers[2]:>5,} {rule.late:>5,}"
        line += "".join(f" {rule.fates[fate]:>9,}" for fate in FATES)
        line += f"  {rule.first:%H:%M:%S} {rule.last:%H:%M:%S}"
        yield line + (f"  in {len(rule.versions)} versions" if len(rule.versions) > 1 else "")
    for channel in card.channels:
        states = ", ".join(f"{channel.states[fate]:,} {fate}" for fate in FATES if channel.states[fate])
        held = ", ".join(f"{channel.held_for[why]:,} {why}" for why in HELD_FOR if channel.held_for[why])
        yield f"channel {channel.channel}: {states}" + (f"; were held or folded: {held}" if held else "")
        if channel.delivery.seconds:
            yield f"  from the commit until it was accepted: {channel.delivery}"
    if card.others:
        yield "other messages: " + ", ".join(f"{number:,} {event}" for event, number in sorted(card.others.items()))
    for one in card.rows.system:
        until = "" if one.recovered_at is None else f" until {one.recovered_at:%H:%M:%S}"
        yield f"system: {one.room} {one.state}, {one.began_at:%Y-%m-%d %H:%M:%S}{until} UTC: {one.detail}"
    if gaps := card.rows.gaps:
        left = sum(gap.state != "filled" for gap in gaps)
        yield f"gaps in the data: {len(gaps):,}, {card.gap_s:,.0f} s together; {left:,} of them not filled"
    if card.receipt.seconds:
        yield f"from the trade to its receipt: {card.receipt}"
        yield f"from the receipt to the database: {card.storing}"
    yield f"alerts sha256 {card.sha256}"
    yield from _alerts(card, limit)


def _alerts(card: Card, limit: int) -> Iterator[str]:
    newest = card.rows.alerts[-limit:] if limit else []
    if 0 < len(newest) < len(card.rows.alerts):
        yield f"The newest {len(newest):,} of {len(card.rows.alerts):,} alerts (--limit):"
    for one in newest:
        alert = one.alert
        line = f"{card.moment(one):%H:%M:%S.%f}"[:-3] + f"  {alert.symbol:<8} {alert.rule:<22} {alert.price:>12,.10g}"
        line += f"  {alert.status.value}"
        if alert.status is not AlertStatus.PROVISIONAL:
            line += f" {card.decided(one):%H:%M:%S}"
        if alert.late:
            line += ", history when it came"
        for message in card.told(alert.alert_id):
            line += f"; {message.channel} {message.event}: {message.state}"
            if message.delivered_at is not None:
                line += f" {message.delivered_at.astimezone(card.moment(one).tzinfo):%H:%M:%S}"
            elif message.reason:
                line += f" ({message.reason})"
        yield line
