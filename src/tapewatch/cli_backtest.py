"""The commands that compute recorded days: their rows, and what rules would have made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from tapewatch.errors import InputError
from tapewatch.settings import load_settings

if TYPE_CHECKING:
    from tapewatch.profiles.backtest import Made, Recording
    from tapewatch.profiles.noise import Proposal

__all__ = ["add_commands"]

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="trades flat files (csv.gz), raw captures, or a log.db")
]


def add_commands(app: typer.Typer) -> None:
    """Add them to the program."""
    app.command(short_help="Compute recorded days into CSV files, with one hash.")(replay)
    app.command(short_help="Try rules on recorded days; fit them to a budget of alerts.")(backtest)


def replay(
    files: Files,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="folder for the three CSV files")],
    speed: Annotated[str, typer.Option(help="only max: files are replayed as fast as they can be")] = "max",
    batch: Annotated[int, typer.Option(min=1, help="records per step of the engine; the result is the same")] = 20_000,
) -> None:
    """Compute the rows and alerts of recorded days or captures, without sockets or database, and print one hash."""
    if speed != "max":
        raise InputError(f"--speed {speed}: expected max; to watch a day at its own pace: tapewatch run --replay FILE")
    from tapewatch.profiles.parts import Parts
    from tapewatch.profiles.replay import replay_files

    done = replay_files(files, out, Parts.load(load_settings()), batch_size=batch)
    print(f"records {done.records}  trades {done.trades}  repeated {done.repeated}")
    print("decisions " + "  ".join(f"{name} {number}" for name, number in done.decisions.items()))
    for reason, number in done.skipped.items():
        print(f"skipped {number} rows: {reason}")
    for sentence in done.said:
        print(sentence)
    print(f"stock_aggregates {done.windows}  price_bars {done.bars}  breakout_alerts {sum(done.alerts.values())}")
    for name, number in done.alerts.items():
        print(f"  {name}: {number}")
    print(f"engine {done.trades / done.seconds:,.0f} trades/s")
    print(f"alerts sha256 {done.alerts_sha256}")
    print(f"sha256 {done.sha256}")


def backtest(
    rules: Annotated[Path, typer.Argument(metavar="RULES", help="the rules to try, such as alerts.toml")],
    files: Files,
    noise_budget: Annotated[
        str | None,
        typer.Option("--noise-budget", metavar="N/day", help="propose settings that tell at most so many alerts a day"),
    ] = None,
    symbol: Annotated[
        list[str] | None, typer.Option("--symbol", metavar="SYMBOL", help="only this one; may be given several times")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="write every alert with its moves into this CSV file")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="name at most so many lost alerts")] = 5,
) -> None:
    """Try rules on recorded days: how many alerts a day, how many taken back, what the price did afterwards.

    The same engine as live, without a database. The hash is that of a live pipeline's alerts over the same records.

    Exit code: 0 done; 1 no settings were found that keep to the budget.
    """
    settings = load_settings()
    from tapewatch.profiles.backtest import Recording
    from tapewatch.profiles.noise import propose, read_budget
    from tapewatch.profiles.parts import Parts

    budget = None if noise_budget is None else read_budget(noise_budget)
    if not rules.is_file():
        raise InputError(f"{rules}: there is no such file of rules; expected one such as alerts.toml.example")
    if out is not None and not out.parent.is_dir():  # said before the days are computed
        raise InputError(f"--out {out}: cannot be written: there is no folder {out.parent}")
    parts = Parts.load(settings.model_copy(update={"alerts_file": rules}))
    recording = Recording.read(files, parts, symbol or None)
    print("\n".join(_about(recording, files)))
    proposals: list[Proposal] = []
    if budget is not None:
        a_day = len(recording.present.told) / len(recording.days)
        print(f"\nBudget {budget:g} alerts a day: these rules tell {a_day:.1f}.")
        if a_day > budget:
            proposals = propose(recording, budget, settings.notify)
            for number, proposal in enumerate(proposals, 1):
                print("\n".join(["", *_proposal(recording, proposal, number, limit)]))
    if out is not None:
        recording.present.write(out, {proposal.way: proposal.fates() for proposal in proposals})
    raise typer.Exit(1 if proposals and not any(proposal.is_enough for proposal in proposals) else 0)


def _about(recording: Recording, files: Sequence[Path]) -> Iterator[str]:
    """What was read, and what the rules came to."""
    from tapewatch.profiles.forward import HORIZONS_MIN

    symbols, days = recording.symbols, recording.days
    span = str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"
    of = f"{len(symbols):,} symbol{'s' * (len(symbols) != 1)} on {len(days):,} day{'s' * (len(days) != 1)}"
    yield f"{', '.join(path.name for path in files)}: {recording.trades:,} trades of {of}, {span}"
    for reason, number in recording.found.skipped.items():
        yield f"skipped {number} rows: {reason}"
    yield from recording.found.said
    yield ""
    yield f"{'rule':<22} fired confirmed retracted   rate   told   a day busiest day"
    for count in recording.present.counts():
        rate = "     -" if count.retraction_rate is None else f"{count.retraction_rate:>6.1%}"
        told = count.days.total()
        yield (
            f"{count.rule:<22} {count.fired:>5,} {count.confirmed:>9,} {count.retracted:>9,} {rate} {told:>6,}"
            f" {told / len(days):>7,.1f} {max(count.days.values(), default=0):>11,}"
        )
    yield ""
    yield "What the price did then, in the alert's direction, from when it was told (in bps: 1/100 %):"
    yield _MOVES_HEAD
    for name in recording.present.rules:
        made = [one for one in recording.present.told if one.alert.rule == name]
        if made:
            for minutes in HORIZONS_MIN:
                yield _moves(recording, name, made, minutes)
    yield f"alerts sha256 {recording.present.sha256}"


_MOVES_HEAD = f"{'':<22} after known     mean ± error   median  its way    size   any minute: mean    size"


def _moves(recording: Recording, name: str, made: Sequence[Made], minutes: int) -> str:
    from tapewatch.profiles.forward import HORIZONS_MIN, Spread

    spread = Spread.of([one.moves[HORIZONS_MIN.index(minutes)] for one in made])
    line = f"{name:<22} {minutes:>4}m {spread.number:>5,}"
    if spread.mean is None or spread.median is None or spread.right is None or spread.size is None:
        return line
    error = "      -" if spread.error is None else f"{spread.error:>7.1f}"
    # Without a direction there is no way to go: the signed numbers say where the price went.
    right = f"{spread.right:>8.0%}" if any(one.alert.direction for one in made) else "       -"
    line += f" {spread.mean:>+8.1f} {error} {spread.median:>+8.1f} {right} {spread.size:>7.1f}"
    usual = recording.any_minute(made, minutes)
    return line if usual is None else f"{line} {usual[0]:>+18.1f} {usual[1]:>7.1f}"


def _proposal(recording: Recording, proposal: Proposal, number: int, limit: int) -> Iterator[str]:
    """One way to keep to the budget, and what it would have left untold."""
    from tapewatch.profiles.forward import HORIZONS_MIN
    from tapewatch.profiles.knobs import WAYS

    told = proposal.outcome.told
    *_, count = proposal.outcome.counts()
    a_day, busiest = len(told) / len(recording.days), max(count.days.values(), default=0)
    words = f"{number}. {WAYS[proposal.way].capitalize()}:"
    if not proposal.is_enough:
        yield f"{words} cannot keep to it. The fewest are {a_day:.1f} a day."
        return
    rate = "" if count.retraction_rate is None else f", {count.retraction_rate:.1%} retracted"
    yield f"{words} {a_day:.1f} a day (busiest day {busiest}){rate}"
    yield from (f"   {line}" for line in proposal.toml())
    later = f"{len(proposal.later)} later"
    if proposal.later:
        delays = [new.told_ms - old.told_ms for old, new in proposal.later if new.told_ms and old.told_ms]
        later += f" (by {median(delays) / 60_000:.1f} minutes at the median)"
    new = f", {len(proposal.new)} told only now" if proposal.new else ""
    yield f"   Of those told before: {len(proposal.kept)} as before, {later}, {len(proposal.lost)} lost{new}."
    yield f"   {_MOVES_HEAD}"
    for name, made in (("what would be told", told), ("what would be lost", proposal.lost)):
        for minutes in HORIZONS_MIN:
            yield f"   {_moves(recording, name, made, minutes)}"
    most = sorted(proposal.lost, key=lambda one: (-one.best_bps, one.alert.alert_id))[:limit]
    if most:
        after = ", ".join(f"{minutes}m" for minutes in HORIZONS_MIN)
        yield f"   Of the lost ones, the {len(most)} that moved most (after {after}):"
    for one in most:
        moves = " ".join("      -" if move is None else f"{move:>+7.1f}" for move in one.moves)
        at = f"{one.moment:%Y-%m-%d %H:%M:%S}"
        yield f"     {at}  {one.alert.symbol:<8} {one.alert.rule:<22} {one.alert.price:>12,.10g} {moves}"
