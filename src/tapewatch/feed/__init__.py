"""Trades come in: from the exchange's frames, its REST pages or a recording, to records ready for the log.

wire.py        what a client needs of an exchange's protocol; protocol.py is Massive's                   pure
endings.py     whatever ends a connection: what is done, and what is said                                pure
client.py      the socket: connects, reconnects with back-off, notes gaps and ticks (sockets.py, state.py)
subscriptions.py  symbols -> topics -> messages                                                          pure
entitlement.py what the plan allows, asked of the exchange      lag.py   how old what arrives is
queue.py       frames that wait; full, it slows the sender
decode.py      frames -> records (events.py names the wire's fields, conditions.py what a trade may set)
symbols.py     AAPL, BTC and how each is written on the wire
dedupe.py      each trade once            ingest.py   queue items -> the records to append
ticks.py       event time that passes without a trade
backfill.py    what was missed, by REST   flatfile.py   recorded days
"""
