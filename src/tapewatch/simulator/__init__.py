"""The built-in market simulator: a local server that speaks Massive's WebSocket and REST protocol.

    market.py    a seeded market: every trade of every moment, as a pure function of time
                 (listing.py what is traded, hours.py when, path.py at what price, orders.py in what prints)
    replay.py    or the trades of flat files
    tape.py      what both give to the server
    session.py   one connection's side of the protocol, without the connection
    bars.py      second and minute bars made from the same trades
    rest.py      the REST side, from the same trades
    server.py    the port, the clock and the pace

It starts quickly and stays small: nothing here imports the settings, the engine or the database.
"""
