"""A second feed of the same key, market and host is refused, in this process and in another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tapewatch.errors import MachineError
from tapewatch.profiles.feedlock import FeedLock
from tapewatch.records import Market

URL = "wss://socket.massive.com"
HOLD = """
import sys
from pathlib import Path
from tapewatch.profiles.feedlock import FeedLock
from tapewatch.records import Market
with FeedLock("secret", Market.STOCKS, "wss://SOCKET.massive.com/", Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_one_is_refused_with_a_sentence_that_names_the_first(tmp_path: Path) -> None:
    with FeedLock("secret", Market.STOCKS, URL, tmp_path):
        with pytest.raises(MachineError, match=r"the stocks feed of socket\.massive\.com .*\(process \d+, started"):
            FeedLock("secret", Market.STOCKS, URL, tmp_path).__enter__()
        with pytest.raises(MachineError) as refused:
            FeedLock("secret", Market.STOCKS, URL, tmp_path).__enter__()
        assert "secret" not in str(refused.value)
        assert all("secret" not in path.name + path.read_text() for path in tmp_path.iterdir())
    with FeedLock("secret", Market.STOCKS, URL, tmp_path):
        pass


@pytest.mark.parametrize(
    ("key", "market", "url"),
    [
        ("other", Market.STOCKS, URL),
        ("secret", Market.CRYPTO, URL),
        ("secret", Market.STOCKS, "wss://delayed.massive.com"),
        ("secret", Market.STOCKS, f"{URL}:9"),
    ],
)
def test_another_key_market_or_host_is_another_feed(tmp_path: Path, key: str, market: Market, url: str) -> None:
    with FeedLock("secret", Market.STOCKS, URL, tmp_path), FeedLock(key, market, url, tmp_path):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(MachineError, match=f"process {holder.pid}"):
            FeedLock("secret", Market.STOCKS, URL, tmp_path).__enter__()
        holder.kill()
        holder.wait()
        with FeedLock("secret", Market.STOCKS, URL, tmp_path):
            pass


def test_a_folder_that_others_may_write_is_not_trusted(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(MachineError, match="of this user alone"):
        FeedLock("secret", Market.STOCKS, URL, tmp_path).__enter__()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(elsewhere)
    with pytest.raises(MachineError, match="of this user alone"):
        FeedLock("secret", Market.STOCKS, URL, tmp_path / "link").__enter__()


def test_the_usual_folder_is_the_users_runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with FeedLock("secret", Market.STOCKS, URL):
        assert len(list((tmp_path / "tapewatch").iterdir())) == 1
