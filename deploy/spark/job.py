"""The Spark job for `spark-submit`: the same as `tapewatch spark`, with its settings from the environment.

    pip install 'tapewatch[spark]'                                         # on the driver and on every executor
    export KAFKA_BOOTSTRAP_SERVERS=… DB_HOST=… DB_PASSWORD=… CHECKPOINT_DIR=…
    spark-submit --master spark://… --packages org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0 job.py

Master, memory and jars are those that spark-submit was told. The options --accept-loss, --forget-checkpoint, --rebuild
and --once, written after job.py, do what they do for `tapewatch spark`; so do the exit codes.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields

from pyspark import SparkConf, SparkContext

from tapewatch.cli_parts import expect_distributed, start_logging
from tapewatch.errors import TapewatchError
from tapewatch.profiles.spark_job import Choices, run_spark
from tapewatch.settings import load_settings


def main() -> int:
    parser = argparse.ArgumentParser(prog="job.py", description="Compute what is in Kafka with Spark.")
    for choice in fields(Choices):
        parser.add_argument(f"--{choice.name.replace('_', '-')}", action="store_true")
    choices = Choices(**vars(parser.parse_args()))
    SparkContext._ensure_initialized()  # only then does SparkConf know what spark-submit was told
    os.environ["SPARK_MASTER"] = SparkConf().get("spark.master", os.environ.get("SPARK_MASTER", "local[*]"))
    try:
        settings = load_settings()
        start_logging(settings)
        expect_distributed(settings)
        run_spark(settings, choices, ())
    except TapewatchError as error:
        print(f"tapewatch: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
