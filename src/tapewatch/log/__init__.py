"""The durable order of all records: everything after it can be computed anew from it.

local.py     the writer: appends a batch, and returns when the disk has it; retention
reader.py    reading by offset, from any process, while the writer writes
blocks.py    a batch as compressed, checksummed bytes, and back
sqlite.py    the connections and statements      files.py   end mark, writer's lock, names      wal.py   its frames
repair.py    what is readable of a damaged log (salvage.py looks for it page by page)

kafka.py     the writer of the distributed log, a Kafka topic      lanes.py   reading it back at the feed's start
outgoing.py  records to its messages                           messages.py  and back
"""
