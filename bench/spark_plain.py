"""The plain Spark design, to compare with: a watermark, a sliding window for each symbol, an upsert of every window.

    Kafka ─► from_json ─► withWatermark ─► groupBy(window 5 min / 1 min, symbol) ─► foreachBatch: INSERT … ON CONFLICT

It reads four fields, knows no conditions, late trades or crosses, and keeps one watermark for all symbols. Otherwise as
good as it gets: RocksDB, as many tasks as partitions, all windows of a task in one statement with array parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming.query import StreamingQuery

TABLE = """
CREATE TABLE IF NOT EXISTS plain_windows (
  symbol text, window_start timestamptz, avg_price float8, max_price float8, min_price float8, volume float8,
  trades bigint, PRIMARY KEY (symbol, window_start))
"""
UPSERT = """
INSERT INTO plain_windows
SELECT * FROM unnest(
  %b::text[], %b::timestamptz[], %b::float8[], %b::float8[], %b::float8[], %b::float8[], %b::bigint[])
ON CONFLICT (symbol, window_start) DO UPDATE SET avg_price = excluded.avg_price, max_price = excluded.max_price,
  min_price = excluded.min_price, volume = excluded.volume, trades = excluded.trades
"""
COLUMNS = ("symbol", "window_start", "avg_price", "max_price", "min_price", "volume", "trades")


def upsert(conninfo: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """For `DataFrame.mapInArrow`: writes the windows it is given, and tells how many."""

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        count = 0
        with psycopg.connect(conninfo) as connection:
            for batch in batches:
                connection.execute(UPSERT, [batch.column(name).to_pylist() for name in COLUMNS])
                count += len(batch)
        yield pa.RecordBatch.from_pylist([{"rows": count}], schema=pa.schema([("rows", pa.int64())]))

    return write


def start_plain(
    session: SparkSession, servers: str, topic: str, conninfo: str, checkpoint: str, batch_records_max: int,
    on_batch: Callable[[], None],
) -> StreamingQuery:  # fmt: skip
    """Compute all that is in the topic now; the query ends by itself."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(TABLE)
        connection.execute("TRUNCATE plain_windows")
    options = {"kafka.bootstrap.servers": servers, "subscribe": topic, "startingOffsets": "earliest"}
    messages = session.readStream.format("kafka").options(**options, maxOffsetsPerTrigger=batch_records_max).load()
    fields = F.from_json(F.col("value").cast("string"), "symbol STRING, price DOUBLE, volume DOUBLE, timestamp BIGINT")
    trades = messages.select(fields.alias("t")).select("t.*").where("symbol IS NOT NULL")
    trades = trades.withColumn("time", F.timestamp_millis("timestamp")).withWatermark("time", "1 minute")
    price: Any = F.col("price")
    windows = trades.groupBy(F.window("time", "5 minutes", "1 minute"), "symbol").agg(
        F.avg(price).alias("avg_price"), F.max(price).alias("max_price"), F.min(price).alias("min_price"),
        F.sum("volume").alias("volume"), F.count("*").alias("trades"),
    )  # fmt: skip
    rows = windows.select("symbol", F.col("window.start").alias("window_start"), *COLUMNS[2:])

    def write(frame: DataFrame, batch_id: int) -> None:
        frame.mapInArrow(upsert(conninfo), "rows BIGINT").collect()
        on_batch()

    writer = rows.writeStream.foreachBatch(write).outputMode("update").option("checkpointLocation", checkpoint)
    return writer.trigger(availableNow=True).start()
