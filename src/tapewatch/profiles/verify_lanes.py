"""The proof for the distributed profile: every row of the database against the plain oracle's. See `verify.py`.

Each lane is read from its first message up to where the database has it, and judged by an oracle of its own.
"""

from __future__ import annotations

from contextlib import closing

from tapewatch.feed.symbols import market_of
from tapewatch.log.kafka import KafkaPlace, ensure_topic, open_lanes
from tapewatch.profiles.parts import Parts
from tapewatch.profiles.verify import Expected, Verdict, expect_whole, judge, position_of
from tapewatch.records import Tables
from tapewatch.store.reading import Reading

__all__ = ["verify_lanes"]


def verify_lanes(topic: KafkaPlace, conninfo: str, parts: Parts) -> Verdict:
    """Recompute everything from the topic and compare it with the database.

    Raises: as `verify.verify`, and LogUnavailable.
    """
    log_id = ensure_topic(topic).log_id
    lanes: list[Expected] = []
    with Reading(conninfo) as database, closing(open_lanes(topic, market_of)) as reader:
        for lane, (first, end) in reader.extents().items():
            if end == first and database.position(str(lane)) is None:
                continue  # nothing was ever written to it
            position = position_of(database, str(lane), log_id)
            expect_whole(f"Topic {topic.topic}, partition {lane}", first)
            tables = Tables()
            lanes.append(Expected(parts))
            for batch in reader.lane(lane, tables, position):
                lanes[-1].add(batch, tables)
        return judge(lanes, database)
