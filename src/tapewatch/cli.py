"""The command `tapewatch`: reads settings and arguments, calls the profile that does the work, prints sentences.

Exit codes: 0 done, 1 something was found to be wrong, 2 a wrong setting or argument, 70 a bug, 130 Ctrl-C, and those
of `errors.py`. An error is one sentence on standard error.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from typer.exceptions import TyperException

from tapewatch import (
    __version__,
    cli_alerts,
    cli_backtest,
    cli_capture,
    cli_cluster,
    cli_distributed,
    cli_explain,
    cli_notify,
    cli_reconcile,
    cli_report,
    cli_rules,
    cli_spark,
)
from tapewatch.cli_parts import (
    ORIGIN_SENTENCES,
    OriginName,
    ReplayFiles,
    ReplaySpeed,
    expect_distributed,
    recordings,
    say,
    start_logging,
)
from tapewatch.errors import InputError, MachineError, SettingsError, TapewatchError
from tapewatch.records import Decision, Kind, Origin
from tapewatch.settings import Settings, load_settings

app = typer.Typer(
    name="tapewatch",
    help="Watch the tape: every trade of your symbols, moving averages, and breakouts told once and correctly.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
BUG: Final = 70


def main() -> None:
    """Run the command and exit; see the module's text for the codes."""
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: list[str], program: typer.Typer = app) -> int:
    """The exit code of ``tapewatch arguments``."""
    try:
        if not __debug__:
            raise SettingsError("Tapewatch does not run under python -O: its own checks would be gone")
        code = program(arguments, prog_name="tapewatch", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as ended:  # of the simulator's own parser, or of a reader that has heard enough
        code = ended.code
    except TapewatchError as error:
        print(f"tapewatch: {error}", file=sys.stderr)
        return error.exit_code
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = "tapewatch" if context is None else context.command_path
        message = error.format_message().replace("Value error, ", "").rstrip(".")
        is_help = message.startswith("Usage: ")  # of a group of commands, of which none was named
        print(message if is_help else f"tapewatch: {message} (see {command} --help)", file=sys.stderr)
        return error.exit_code
    except PermissionError as error:
        print(
            f"tapewatch: {error.filename or error} may not be used by this user; run it as its owner", file=sys.stderr
        )
        return MachineError.exit_code
    except BrokenPipeError:  # whoever read our output has heard enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:  # noqa: BLE001 - a bug, at the process's top
        traceback.print_exc()
        print(
            "tapewatch: this is a bug; what it had acknowledged is safe, and it may be started again", file=sys.stderr
        )
        return BUG
    return code if isinstance(code, int) else 0


@app.callback(invoke_without_command=True)
def _about(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="print the version")] = False
) -> None:
    if version:
        print(f"tapewatch {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(short_help="Run the pipeline: feed, log, engine, database, page.")
def run(
    replay: ReplayFiles = None,
    speed: ReplaySpeed = "60",
    detach: Annotated[
        bool, typer.Option("--detach/--foreground", help="go on in the background once the page answers, or stay here")
    ] = False,
) -> None:
    """Run the pipeline: feed, log, engine, database, page and notifications.

    Without MASSIVE_API_KEY it watches a simulated market, which is marked as such wherever it is shown. With
    KAFKA_BOOTSTRAP_SERVERS the log is Kafka, and the engine runs by itself: tapewatch spark.
    """
    settings = load_settings()
    files = recordings(replay, speed)
    if detach:
        _run_detached(settings, files, speed)
        return
    start_logging(settings)
    from tapewatch.profiles.front import Replay

    what = Replay(files, speed) if files else None
    if settings.kafka_servers is not None:
        from tapewatch.profiles.distributed import run_both

        asyncio.run(run_both(settings, what, say))
        return
    from tapewatch.profiles.embedded import run_pipeline

    asyncio.run(run_pipeline(settings, what, say))


def _run_detached(settings: Settings, replay: list[Path], speed: str) -> None:
    from tapewatch.profiles.background import start_in_background

    origin = Origin.SIMULATED if settings.is_simulated else Origin.LIVE
    origin = Origin.REPLAYED if replay else origin
    arguments = ["run", "--speed", speed]
    for path in replay:
        arguments += ["--replay", str(path)]
    started = start_in_background(settings, origin, arguments)
    if started.is_new:
        say(started.info.url, origin)
        print(f"It runs in the background and logs to {started.log}; ./stop_pipeline.sh ends it.")
    elif replay:
        raise InputError(f"a replay is running already at {started.info.url}; stop it first with ./stop_pipeline.sh")
    else:
        print(f"Tapewatch is already running: {started.info.url}\n{ORIGIN_SENTENCES[origin]}")


@app.command(short_help="Stop what runs here, also what a killed pipeline left.")
def stop() -> None:
    """Stop every pipeline of DATA_DIR, and what a killed one left running."""
    from tapewatch.profiles.instance import stop_all

    said = stop_all(load_settings().data_dir)
    print("\n".join(said) if said else "Nothing was running.")


@app.command(short_help="One screen of the running pipeline; --watch goes on.")
def status(
    watch: Annotated[bool, typer.Option("--watch", help="again every second, until Ctrl-C")] = False,
) -> None:
    """One screen: every room's state, rates, lag, the last trade of each symbol, gaps, alerts, disk.

    Exit code: 0 all is well, 1 something is not, 3 nothing runs here.
    """
    from tapewatch.profiles.monitor import show_status

    raise typer.Exit(show_status(load_settings(), watch=watch))


class KindName(StrEnum):
    """Kinds of records, as the command line spells them."""

    TRADE = "trade"
    TICK = "tick"
    GAP = "gap"
    RULES = "rules"


class DecisionName(StrEnum):
    """What the engine may have decided about a trade, as the command line spells it."""

    LATE = "late"
    FUTURE = "future"
    INELIGIBLE = "ineligible"
    APPLIED = "applied"


@app.command(short_help="Look at the log: the newest records, or late trades.")
def log(
    symbol: Annotated[str | None, typer.Option(metavar="SYMBOL", help="only trades of this symbol")] = None,
    from_time: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="event time, ISO 8601 in UTC or Unix ms")
    ] = None,
    to_time: Annotated[str | None, typer.Option("--to", metavar="TIME", help="before this event time")] = None,
    kind: Annotated[KindName | None, typer.Option(help="only records of this kind")] = None,
    only: Annotated[
        DecisionName | None, typer.Option(help="only trades the engine decides so about; reads the whole log")
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, max=1_000_000, help="at most so many, the newest ones")
    ] = 50,
    stats: Annotated[bool, typer.Option("--stats", help="count the whole log, and the bytes per trade")] = False,
    origin: OriginName = "",
) -> None:
    """Look at the log: the newest records, oldest first; with --only late, the trades that came too late to count."""
    settings = load_settings()
    from tapewatch.profiles.instance import folder_of
    from tapewatch.profiles.listing import HEADER, Wanted, describe, list_records, read_time_ms, totals
    from tapewatch.profiles.parts import Parts
    from tapewatch.profiles.rooms import find_origin

    path = folder_of(settings.data_dir, find_origin(settings, origin)) / "log" / "log.db"
    if stats:
        print("\n".join(describe(totals(path))))
        return
    wanted = Wanted(
        symbol=symbol.upper() if symbol else None,
        from_ms=read_time_ms("--from", from_time),
        to_ms=read_time_ms("--to", to_time),
        kind=None if kind is None else Kind[kind.name],
        decision=None if only is None else Decision[only.name],
    )
    found = list_records(path, Parts.load(settings), wanted, limit)
    print("\n".join([HEADER, *found.lines]) if found.lines else "No such records.")
    if found.matching is not None and found.matching > len(found.lines):
        print(f"{found.matching:,} records match; these are the newest {len(found.lines):,} (--limit)")


@app.command(short_help="Prove the database against the log.")
def verify(origin: OriginName = "") -> None:
    """Recompute everything from the log with the plain oracle and compare it with the database.

    Exit code: 0 the database is exactly what the log says, 1 it is not.
    """
    settings = load_settings()
    from tapewatch.profiles.parts import Parts
    from tapewatch.profiles.rooms import open_rooms
    from tapewatch.profiles.verify import verify as compare

    if settings.kafka_servers is not None:
        from tapewatch.log.kafka import KafkaPlace
        from tapewatch.profiles.verify_lanes import verify_lanes
        from tapewatch.store.connect import conninfo

        expect_distributed(settings)
        verdict = verify_lanes(KafkaPlace.of(settings), conninfo(settings), Parts.load(settings))
    else:
        with open_rooms(settings, origin) as rooms:
            verdict = compare(rooms.log_path, rooms.conninfo, Parts.load(settings))
    print(f"records {verdict.records}  trades {verdict.trades}  in the log more than once {verdict.repeated}")
    for table, number in verdict.rows.items():
        found = f"lost {verdict.lost[table]}  doubled {verdict.doubled[table]}  wrong {verdict.wrong[table]}"
        print(f"{table}: {number} expected  {found}")
    for table, number in verdict.revised.items():
        print(f"{table}: {number} of them corrected afterwards (tapewatch reconcile), from what the log says")
    for example in verdict.examples:
        print(f"  {example}")
    print("The database is exactly what the log says." if verdict.is_good else "The database differs from the log.")
    raise typer.Exit(0 if verdict.is_good else 1)


@app.command(short_help="Compute every row anew from the log.")
def rebuild(origin: OriginName = "") -> None:
    """Empty the computed tables and fill them anew from the log. Nothing that was sent is sent again."""
    settings = load_settings()
    from tapewatch.profiles.parts import Parts
    from tapewatch.profiles.rooms import open_rooms, rebuild_rows

    with open_rooms(settings, origin) as rooms:
        records = rebuild_rows(rooms, Parts.load(settings))
    print(f"Computed every row anew from {records} records.")


@app.command("init-db", short_help="Make or complete the tables of DB_HOST's database.")
def init_db() -> None:
    """Make or complete tables, views, functions and roles in the database that DB_HOST names, as their owner.

    Every start does the same when its user may; this is for pipelines whose own user may not (docs/tables.md).
    """
    settings = load_settings()
    if settings.db_host is None:
        raise InputError("init-db is for a database of your own: set DB_HOST; the embedded one is made at every start")
    from tapewatch.store.connect import conninfo, place
    from tapewatch.store.writer import StoreWriter

    info = conninfo(settings)
    StoreWriter(info, "init-db").initialise()
    print(f"The tables in {place(info)} are complete.")


@app.command(
    short_help="Open psql on the pipeline's database.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def psql(context: typer.Context, origin: OriginName = "") -> None:
    """Open psql on the pipeline's database; further arguments are psql's, such as -c 'SELECT ...'."""
    from tapewatch.profiles.rooms import psql_command

    program, arguments, environment = psql_command(load_settings(), origin, context.args)
    os.execve(program, arguments, environment)


@app.command(short_help="Save what is readable of a damaged log.")
def repair(
    damaged: Annotated[
        Path | None, typer.Argument(metavar="[LOG]", help="the damaged log; default: that of --origin")
    ] = None,
    origin: OriginName = "",
) -> None:
    """Save what is readable of a damaged log; the damaged file is kept beside it, and what is lost is named."""
    from tapewatch.log.repair import repair as repair_log
    from tapewatch.profiles.instance import folder_of
    from tapewatch.profiles.rooms import find_origin

    if damaged is None:
        settings = load_settings()
        damaged = folder_of(settings.data_dir, find_origin(settings, origin)) / "log" / "log.db"
    done = repair_log(damaged)
    print(f"{done.path}: kept {done.records:,} records, lost {done.records_lost:,}.")
    for start, stop in done.lost:
        print(f"  lost: records {start:,} to {stop:,}")
    print(f"The damaged file is now {done.aside}.")
    if done.records_lost:
        print("Rows computed from lost records stay as they are; to compute all anew: tapewatch rebuild")


@app.command(short_help="Check this machine before the first run.")
def doctor() -> None:
    """Check this machine and these settings before the first run."""
    settings = load_settings()
    from tapewatch.doctor import exit_code, report, run_checks

    checks = run_checks(settings)
    print(report(checks))
    raise typer.Exit(exit_code(checks))


@app.command(
    short_help="Run the market simulator by itself.",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def simulate(context: typer.Context) -> None:
    """Run the market simulator by itself: Massive's protocol on a local port (see simulate --help)."""
    from tapewatch.simulator.__main__ import main as simulate_market

    raise typer.Exit(simulate_market(context.args))


cli_alerts.add_commands(app)
cli_backtest.add_commands(app)
cli_explain.add_commands(app)
cli_capture.add_commands(app)
cli_cluster.add_commands(app)
cli_distributed.add_commands(app)
cli_notify.add_commands(app)
cli_reconcile.add_commands(app)
cli_report.add_commands(app)
cli_rules.add_commands(app)
cli_spark.add_commands(app)
