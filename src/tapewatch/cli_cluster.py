"""The commands `tapewatch cluster up`, `down` and `status`: Kafka, PostgreSQL and Spark on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from tapewatch.cli_parts import start_logging
from tapewatch.settings import load_settings

__all__ = ["add_commands"]

_cluster = typer.Typer(
    help="Kafka, PostgreSQL and Spark on this machine, for development and tests.",
    add_completion=False,
    rich_markup_mode=None,
)


def add_commands(app: typer.Typer) -> None:
    """Add them to the program."""
    app.add_typer(_cluster, name="cluster", short_help="Kafka, PostgreSQL and Spark on this machine.")


@_cluster.callback(invoke_without_command=True)
def _about(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@_cluster.command(short_help="Start what does not run yet.")
def up(
    spark: Annotated[
        bool, typer.Option("--spark/--no-spark", help="the job too, which computes what is in Kafka")
    ] = True,
) -> None:
    """Start Kafka, PostgreSQL and the Spark job in the background, or what of them does not run; also after a crash.

    Java and Maven are needed. The addresses and the password are in DATA_DIR/cluster/cluster.env, to be sourced.
    """
    settings = load_settings()
    start_logging(settings)
    from tapewatch.profiles.cluster import Cluster

    for sentence in Cluster(settings).up(spark=spark):
        print(sentence, flush=True)


@_cluster.command(short_help="End all of it; the data stays.")
def down() -> None:
    """End the Spark job, PostgreSQL and Kafka, also what a crash has left of them. The data stays."""
    from tapewatch.profiles.cluster import Cluster

    said = Cluster(load_settings()).down()
    print("\n".join(said) if said else "Nothing was running.")


@_cluster.command(short_help="How each part is.")
def status() -> None:
    """How Kafka, PostgreSQL and the Spark job are. Exit code: 0 all is well, 1 something is not, 3 nothing runs."""
    from tapewatch.profiles.cluster import Cluster

    cluster = Cluster(load_settings())
    for part in cluster.status():
        print(f"{part.name:<9} {part.says}")
    is_well = all(part.is_well for part in cluster.status())
    raise typer.Exit(3 if not cluster.runs else 0 if is_well else 1)
