"""The commands that need Spark: the distributed engine, and the proof that it is the same as the embedded one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tapewatch import metrics_server
from tapewatch.cli_parts import expect_distributed, start_logging
from tapewatch.errors import InputError
from tapewatch.settings import load_settings

__all__ = ["add_commands"]


def add_commands(app: typer.Typer) -> None:
    """Add them to the program."""
    app.command(short_help="Distributed: compute what is in Kafka with Spark.")(spark)
    app.command(short_help="Prove that both profiles come to the same rows.")(parity)


def spark(
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="messages that Kafka no longer keeps become a gap, and it goes on")
    ] = False,
    forget_checkpoint: Annotated[
        bool, typer.Option("--forget-checkpoint", help="go on from the database's own snapshots")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="empty the computed tables and compute all that Kafka keeps anew")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="end when all that is there now is computed")] = False,
) -> None:
    """Compute what is in Kafka with Spark Structured Streaming, into the database; until Ctrl-C or SIGTERM."""
    settings = load_settings()
    start_logging(settings)
    expect_distributed(settings)
    with metrics_server.shared(settings.metrics_port):
        from tapewatch.profiles.jars import ensure_jars
        from tapewatch.profiles.spark_job import Choices, run_spark

        run_spark(settings, Choices(accept_loss, forget_checkpoint, rebuild, once), ensure_jars("spark"))


def parity(
    log: Annotated[Path, typer.Argument(metavar="LOG", help="a log (log.db), such as var/simulated/log/log.db")],
    partitions: Annotated[str, typer.Option(metavar="N,N", help="numbers of Kafka partitions to try")] = "1,3,8",
    batch: Annotated[str, typer.Option(metavar="N,N", help="sizes of batches to try")] = "1000,20000",
) -> None:
    """Replay one recorded log through the embedded engine and through Kafka and Spark; print one hash for each.

    It starts a broker, a database and Spark of its own, and removes them. Exit code: 0 all hashes are the same, 1 not.
    """
    settings = load_settings()
    start_logging(settings)
    from tapewatch.profiles.parity import Certificate, certify
    from tapewatch.profiles.parts import Parts
    from tapewatch.profiles.workshop import open_workshop

    if not log.is_file():
        raise InputError(f"{log}: there is no such file; expected a log, such as var/simulated/log/log.db")
    lanes, sizes = _numbers("--partitions", partitions, 200), _numbers("--batch", batch, 10_000_000)
    with open_workshop(settings) as workshop:
        for found in certify(log, Parts.load(settings), workshop, lanes, sizes):
            if not isinstance(found, Certificate):
                print(f"{found.sha256}  {found.name} ({found.seconds:.1f} s)", flush=True)
                print("".join(f"  {difference}\n" for difference in found.differences), end="", flush=True)
                continue
            verdict = "all runs came to the same." if found.is_good else "the runs DIFFER."
            counts = (found.records, found.windows, found.bars, found.alerts)
            print("{:,} records, {:,} windows, {:,} bars, {:,} alerts: ".format(*counts) + verdict)
            raise typer.Exit(0 if found.is_good else 1)


def _numbers(name: str, text: str, most: int) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if not all(0 < number <= most for number in numbers):
        raise InputError(f"{name} {text}: expected whole numbers from 1 to {most}, separated by commas")
    return numbers
