"""The commands of the channels: try one, see how they do, look at what was given up and send it again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tapewatch.cli_parts import OriginName
from tapewatch.errors import InputError
from tapewatch.settings import Settings, load_settings

if TYPE_CHECKING:
    from tapewatch.notify.channels import Channel
    from tapewatch.notify.letters import ChannelRow, Letter
    from tapewatch.notify.notices import Notices
    from tapewatch.profiles.rooms import Rooms

__all__ = ["add_commands"]

_notify = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def add_commands(app: typer.Typer) -> None:
    """Add them to the program, as `notify`."""
    app.add_typer(_notify, name="notify", short_help="Channels: test, list, dead letters, send again.")


@_notify.callback()
def _about() -> None:
    """The channels that alerts are told on: those of alerts.toml, WEBHOOK_URL's, and the program's log."""


@_notify.command(short_help="Send a test message to a channel, now.")
def test(channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="its name in alerts.toml")]) -> None:
    """Deliver one test message to the channel, and say what became of it.

    It goes straight there, whether a pipeline runs or not, past mutes, quiet hours and limits.

    Exit code: 0 the receiver accepted it; 1 it did not.
    """
    import asyncio

    from tapewatch.notify.trial import trial

    found, disabled = _channels(load_settings())
    if channel in disabled:
        raise InputError(f"the channel {channel} is turned off: its table says enabled = false")
    if channel not in found:
        raise InputError(f"there is no channel {channel}; expected one of {', '.join(sorted(found))}")
    outcome, seconds = asyncio.run(trial(found[channel]))
    if outcome.error:
        print(f"{channel}: not delivered: {outcome.error}")
        if outcome.pause_s is not None:
            print(f"{channel}: it asks to be left alone for {outcome.pause_s:g} s")
        raise typer.Exit(1)
    print(f"{channel}: accepted after {seconds * 1_000:.0f} ms")


@_notify.command("list", short_help="The channels, and how each does.")
def list_channels(origin: OriginName = "") -> None:
    """Every channel with its kind and limit; and, from the database, what waits, failed and was delivered."""
    from tapewatch.notify.letters import channel_rows
    from tapewatch.profiles.rooms import open_rooms

    settings = load_settings()
    found, disabled = _channels(settings)
    with open_rooms(settings, origin) as rooms:
        rows = {row.channel: row for row in channel_rows(rooms.conninfo)}
    print(f"{'channel':<16} {'kind':<10} {'limit':<8} {'waiting':>7} {'dead':>5} {'24 h':>6}  state")
    for name in sorted(found.keys() | disabled.keys() | rows.keys()):
        print(_channel_line(name, found.get(name) or disabled.get(name), rows.get(name)))


@_notify.command(short_help="What was given up, newest first, and why.")
def dead(
    limit: Annotated[str, typer.Option(metavar="N", help="at most so many: 1 to 1000")] = "20",
    origin: OriginName = "",
) -> None:
    """Notifications that were given up. `tapewatch notify resend ID` sends one again."""
    from tapewatch.notify.letters import LETTERS_MAX, dead_letters
    from tapewatch.profiles.rooms import open_rooms

    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= LETTERS_MAX):
        raise InputError(f"--limit {limit}: expected a whole number from 1 to {LETTERS_MAX}")
    with open_rooms(load_settings(), origin) as rooms:
        letters = dead_letters(rooms.conninfo, int(limit))
        if (notices := _notices(rooms)) is not None:
            letters += notices.dead_letters(int(limit))
    letters.sort(key=lambda letter: (letter.created_at, letter.id), reverse=True)
    for letter in letters[: int(limit)]:
        print("\n".join(_letter_lines(letter)))
    if not letters:
        print("No notification was given up.")


@_notify.command(short_help="Send dead letters again.")
def resend(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="as `tapewatch notify dead` shows them")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="all of them")] = False,
    channel: Annotated[str, typer.Option(metavar="CHANNEL", help="all of this channel")] = "",
    origin: OriginName = "",
) -> None:
    """Let dead letters wait to be sent again, with their old ids; a running pipeline sends them at once.

    Exit code: 0 all that were named; 1 one of them was not dead.
    """
    from tapewatch.notify.letters import channel_rows
    from tapewatch.notify.letters import resend as send_again
    from tapewatch.profiles.rooms import open_rooms

    if bool(ids) == (everything or bool(channel)):
        raise InputError("expected the ids of dead letters, or --channel CHANNEL, or --all")
    settings = load_settings()
    with open_rooms(settings, origin) as rooms:
        known = _names(settings) | {row.channel for row in channel_rows(rooms.conninfo)} if channel else set()
        if channel and channel not in known:
            raise InputError(
                f"--channel {channel}: there is no such channel; expected one of {', '.join(sorted(known))}"
            )
        found = send_again(rooms.conninfo, ids or None, channel or None)
        if (notices := _notices(rooms)) is not None:
            found += notices.resend(ids or None, channel or None, datetime.now(UTC))
    print(f"{len(found):,} notification{'' if len(found) == 1 else 's'} will be sent again.")
    if missing := sorted(set(ids or ()) - set(found)):
        print("\n".join(f"{one}: is no dead letter" for one in missing))
        raise typer.Exit(1)


def _channels(settings: Settings) -> tuple[dict[str, Channel], dict[str, Channel]]:
    """Those that are in use, and those that are turned off."""
    from tapewatch.notify.targets import channels_of
    from tapewatch.profiles.alertsfile import read_alerts_file

    written = read_alerts_file(settings).channels
    return channels_of(settings, written), {name: one for name, one in written.items() if not one.enabled}


def _names(settings: Settings) -> set[str]:
    """All of them, without their secrets."""
    from tapewatch.notify.targets import channel_names
    from tapewatch.profiles.alertsfile import read_alerts_file

    written = read_alerts_file(settings).channels
    return {*channel_names(settings), *written}


def _notices(rooms: Rooms) -> Notices | None:
    """What is told of the system itself, which is not in the database."""
    from tapewatch.notify.notices import Notices
    from tapewatch.profiles.telling import notices_of

    path = notices_of(rooms.folder)
    return Notices(path) if path.exists() else None


def _channel_line(name: str, channel: Channel | None, row: ChannelRow | None) -> str:
    from tapewatch.notify.kinds import limit_text

    kind = "-" if channel is None else channel.kind
    limit = "-" if channel is None or channel.limit is None else limit_text(channel.limit)
    waiting, dead_ones, delivered = (0, 0, 0) if row is None else (row.waiting, row.dead, row.delivered)
    return f"{name:<16} {kind:<10} {limit:<8} {waiting:>7,} {dead_ones:>5,} {delivered:>6,}  {_state(channel, row)}"


def _state(channel: Channel | None, row: ChannelRow | None) -> str:
    if channel is None:
        return "is in no setting any more"
    if not channel.enabled:
        return "turned off"
    if row is None or (row.accepted_at is None and row.failed_at is None):
        return "nothing was sent yet"
    if row.failures:
        until = "" if row.paused_until is None else f", paused until {_time(row.paused_until)}"
        return f"failing ({row.failures} in a row{until}): {row.last_error}"
    return "sound" if row.accepted_at is None else f"sound, accepted {_time(row.accepted_at)}"


def _letter_lines(letter: Letter) -> list[str]:
    tried = f"{letter.attempts} attempt{'' if letter.attempts == 1 else 's'}"
    return [f"{_time(letter.created_at)}  {letter.id}", f"    {letter.text}", f"    {tried}: {letter.reason}"]


def _time(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
