"""The watchlist: SYMBOLS and the changes, kept on the disk, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapewatch.errors import InputError, MachineError
from tapewatch.profiles.watchlist import FILE_NAME, Watchlist
from tapewatch.settings import SYMBOLS_MAX


def test_symbols_alone_without_changes(tmp_path: Path) -> None:
    watchlist = Watchlist(["AAPL", "BTC", "X:BTC-USD"], tmp_path)
    assert watchlist.symbols == ("AAPL", "BTC")
    assert (watchlist.added, watchlist.removed) == ((), ())
    assert not (tmp_path / FILE_NAME).exists()


def test_changes_outlive_a_restart_and_a_change_of_symbols(tmp_path: Path) -> None:
    watchlist = Watchlist(["AAPL", "TSLA"], tmp_path)
    assert watchlist.add(["nvda", "AAPL", " BTC-USD "]) == ["NVDA", "BTC"]
    assert watchlist.remove(["TSLA"]) == ["TSLA"]
    assert watchlist.symbols == ("AAPL", "NVDA", "BTC")
    assert Watchlist(["AAPL", "TSLA"], tmp_path).symbols == ("AAPL", "NVDA", "BTC")
    later = Watchlist(["MSFT", "NVDA"], tmp_path)
    assert later.symbols == ("MSFT", "NVDA", "BTC")
    assert (later.added, later.removed) == (("BTC",), ())


def test_what_was_removed_may_be_added_again(tmp_path: Path) -> None:
    watchlist = Watchlist(["AAPL", "TSLA"], tmp_path)
    watchlist.remove(["TSLA"])
    assert watchlist.add(["TSLA"]) == ["TSLA"]
    assert (watchlist.symbols, watchlist.added, watchlist.removed) == (("AAPL", "TSLA"), (), ())


@pytest.mark.parametrize("name", ["", "AA PL", "a" * 40, "AAPL;DROP", "\x00", "*", "ÄÖÜ"])
def test_what_is_no_symbol_is_refused_and_changes_nothing(tmp_path: Path, name: str) -> None:
    watchlist = Watchlist(["AAPL"], tmp_path)
    with pytest.raises(InputError, match="expected symbols"):
        watchlist.add([name])
    assert watchlist.symbols == ("AAPL",)


def test_only_what_is_watched_can_be_removed_and_not_the_last(tmp_path: Path) -> None:
    watchlist = Watchlist(["AAPL", "TSLA"], tmp_path)
    with pytest.raises(InputError, match="NVDA is not watched"):
        watchlist.remove(["AAPL", "NVDA"])
    with pytest.raises(InputError, match="At least one symbol"):
        watchlist.remove(["AAPL", "TSLA"])
    assert watchlist.symbols == ("AAPL", "TSLA")


def test_there_is_a_limit(tmp_path: Path) -> None:
    watchlist = Watchlist([f"S{n}" for n in range(SYMBOLS_MAX)], tmp_path)
    with pytest.raises(InputError, match=f"At most {SYMBOLS_MAX} symbols"):
        watchlist.add(["ONEMORE"])


@pytest.mark.parametrize("text", ["{", "[]", '{"added": 7}', '{"added": ["A B"]}'])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(InputError, match=FILE_NAME):
        Watchlist(["AAPL"], tmp_path)


def test_what_cannot_be_kept_is_not_in_force(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    watchlist = Watchlist(["AAPL"], folder)
    folder.rmdir()
    with pytest.raises(MachineError, match="cannot be written"):
        watchlist.add(["NVDA"])
    assert watchlist.symbols == ("AAPL",)


def test_another_process_may_change_the_file(tmp_path: Path) -> None:
    mine, others = Watchlist(["AAPL"], tmp_path), Watchlist(["AAPL"], tmp_path)
    assert not mine.reload()
    others.add(["NVDA"])
    assert mine.reload()
    assert mine.symbols == ("AAPL", "NVDA")
    assert not mine.reload()


_some = st.lists(st.sampled_from(["AAPL", "TSLA", "NVDA", "BTC", "BTC-EUR"]), min_size=1, max_size=3)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), _some), max_size=8))
def test_a_restart_at_any_point_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, list[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("watched")
    watchlist, model = Watchlist(["AAPL", "TSLA"], folder), {"AAPL", "TSLA"}
    for is_added, names in steps:
        if is_added:
            watchlist.add(names)
            model |= set(names)
        elif set(names) <= model and set(names) != model:
            watchlist.remove(names)
            model -= set(names)
        assert set(watchlist.symbols) == set(Watchlist(["AAPL", "TSLA"], folder).symbols) == model
