"""The tables `[notify]` and `[system]`: what they say, what is refused with which words; and docs/alerts.md of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tapewatch.notify import policy
from tapewatch.notify.downs import AFTER_MS, RECOVERY
from tapewatch.notify.options import OptionError, notify_options, system_options
from tapewatch.profiles.troubles import CHANNEL_FAILURES, EXTENDED_PATIENCE
from tapewatch.profiles.watchdog import TEST_S
from tapewatch.rules.channels import NotifyOptions, Rate, SystemOptions
from tapewatch.rules.model import CONDITIONS
from tapewatch.settings import duration_text

PAGE = (Path(__file__).parent.parent / "docs" / "alerts.md").read_text("utf-8")


def test_what_is_not_said_is_the_default() -> None:
    assert notify_options({}) == NotifyOptions()
    assert system_options({}) == SystemOptions()


def test_everything_can_be_said() -> None:
    said = {"limit": "5/s", "digest": "1m", "burst": "0s", "hold_grade_d": False, "link": "https://tape.example.org/"}
    assert notify_options(said) == NotifyOptions(
        limit=Rate(5, 1_000), digest_ms=60_000, burst_ms=0, hold_grade_d=False, link="https://tape.example.org"
    )
    said = {"ping_url": "env:PING", "ping_every": "30s", "test_at_open": True, "test_channels": ["phone"]}
    assert system_options(said) == SystemOptions(
        ping_url="env:PING", ping_every_ms=30_000, test_at_open=True, test_channels=("phone",)
    )


@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        ("notify", "limits", "5/s", "there is no such key; expected one of burst, digest"),
        ("notify", "limit", 5, "expected how many in a second, minute or hour"),
        ("notify", "digest", 60, "expected a duration such as"),
        ("notify", "digest", "1s", "expected 10s to 1d"),
        ("notify", "burst", "2h", "expected 0s to 1h"),
        ("notify", "hold_grade_d", "yes", "expected true or false"),
        ("notify", "link", "tape.example.org", "expected the page's address"),
        ("notify", "link", "https://me:secret@tape.example.org", "everyone who gets a message reads it"),
        ("system", "ping_url", "https://hc.example.org/uuid", 'expected "env:NAME": the address is a secret'),
        ("system", "ping_every", "1s", "expected 10s to 1d"),
        ("system", "test_channels", "phone", "expected names of channels"),
        ("system", "test_channels", [], "expected names of channels"),
    ],
)
def test_what_is_wrong_is_named(table: str, key: str, value: Any, words: str) -> None:
    read = notify_options if table == "notify" else system_options
    with pytest.raises(OptionError, match=re.escape(words)) as caught:
        read({key: value})
    assert (caught.value.table, caught.value.key) == (table, key)
    assert "secret@" not in str(caught.value)


def test_the_page_shows_every_key_and_the_defaults() -> None:
    blocks = [re.sub(r"(?m)^    ", "", block) for block in re.findall(r"(?:^    .*\n)+", PAGE, re.M)]
    tables = [tomllib.loads(block) for block in blocks if block.startswith("[")]
    found = {name: table for one in tables for name, table in one.items()}
    assert {**found["notify"], "link": ""} | {"link": "https://tape.example.org"} == found["notify"]
    assert notify_options({k: v for k, v in found["notify"].items() if k != "link"}) == NotifyOptions()
    assert len(found["notify"]) == len(NotifyOptions.__struct_fields__)
    assert len(found["system"]) == len(SystemOptions.__struct_fields__)
    system_options(found["system"])
    assert duration_text(SystemOptions().ping_every_ms) == found["system"]["ping_every"]


def test_the_page_says_how_long_is_waited() -> None:
    rows = dict(re.findall(r"(?m)^\| `([a-z_]+)` \|.*\| ([^|]+) \|$", PAGE))
    assert set(CONDITIONS) <= rows.keys()
    for condition in CONDITIONS:
        after_ms = AFTER_MS.get(condition)
        said = "FEED_STALL" if after_ms is None else "at once" if not after_ms else f"{after_ms // 1_000} s"
        assert rows[condition].startswith(said), condition
    for fact in (
        f"has been for {RECOVERY.seconds} s",
        f"fails {CHANNEL_FAILURES} times in a row",
        "ten times as much",
        "has not\narrived within a minute",
        f"at most every {policy.NOTICE_EVERY.seconds // 60} minutes",
        f"again every {policy.GRADE_LOOK.seconds} s",
        f"not at all after {policy.GRADE_HELD_MAX.seconds // 60} minutes",
        f"{policy.DIGEST_WAIT.seconds} s later and then at most every `digest`",
    ):
        assert fact in PAGE, fact
    assert (EXTENDED_PATIENCE, TEST_S) == (10, 60.0)
