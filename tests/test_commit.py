"""profiles/commit.py: what a lane has to write, as bytes and back."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

import store_rows as row
from tapewatch.profiles.commit import Commit, RejectedMessage
from tapewatch.records import BAR_ROW, LATEST_ROW, QUALITY_ROW, WINDOW_ROW, Changes, Origin
from tapewatch.rules.change import RuleChange
from tapewatch.rules.model import Rules

EMPTY = Changes(
    symbols=["AAPL", "BTC", "MSFT"],
    windows=np.zeros(0, WINDOW_ROW), bars=np.zeros(0, BAR_ROW), latest=np.zeros(0, LATEST_ROW),
    quality=np.zeros(0, QUALITY_ROW), alerts=[], gaps=[],
)  # fmt: skip


def commit_of(changes: Changes, **others: object) -> Commit:
    values = {
        "lane": "2", "old": 5, "new": 9, "origin": Origin.LIVE, "notifications": [], "rejected": [],
        "decisions": [4, 0, 0, 0], "appended_ms": 17,
    }  # fmt: skip
    return Commit.of(changes, **values | others)


def test_it_comes_back_as_it_was_with_only_the_names_that_are_used() -> None:
    changes = row.changes(windows=[row.window(2)], bars=[row.bar(0), row.bar(2)], alerts=[row.alert()])
    changes.rules = RuleChange(Rules(), "api", 5, 7).versions()
    rejected = [RejectedMessage(7, "no number", b"\xff\x00")]
    commit = commit_of(changes, rejected=rejected, snapshot=b"state")
    again = Commit.decode(commit.encode())
    assert again == commit
    assert again.symbols == ["AAPL", "MSFT"]
    back = again.changes()
    assert back.windows["symbol"].tolist() == [1]
    assert back.bars["symbol"].tolist() == [0, 1]
    assert back.bars["high"].tolist() == changes.bars["high"].tolist()
    assert back.windows["ma_5min"].tobytes() == changes.windows["ma_5min"].tobytes()
    assert (back.alerts, back.gaps, back.rules) == (changes.alerts, changes.gaps, changes.rules)
    assert changes.bars["symbol"].tolist() == [0, 2], "what it was made of stays as it was"


def test_of_nothing_it_is_nothing() -> None:
    again = Commit.decode(commit_of(EMPTY, origin=None).encode())
    assert again.symbols == []
    assert again.rows == {}
    assert again.origin is None
    assert again.changes().is_empty()


@pytest.mark.parametrize("data", [b"", b"\x80", commit_of(EMPTY).encode()[:-1]])
def test_bytes_that_are_no_commit_are_no_commit(data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        Commit.decode(data)
