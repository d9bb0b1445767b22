"""Telling the person: from an alert to a message that has arrived.

outbox.py     which alerts are news, and what the message says                                  pure
postgres.py   the table `notifications`: the messages that wait, in the same database as the alerts
targets.py    the channels a message can go to
webhook.py    one of them: an HTTP endpoint
sender.py     takes what waits, delivers it, tries again, gives up visibly
"""
