"""The rules in force: the file is followed, a mistake changes nothing, and the log says what holds from where on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tapewatch.errors import InputError, MachineError, SettingsError
from tapewatch.profiles.alertsfile import AlertsFile, alerts_of, write_text
from tapewatch.profiles.rulebook import Rulebook, change_rules
from tapewatch.profiles.said import REPEAT_MS, RulesSaid, first_rules, rules_before
from tapewatch.records import Batch, Kind
from tapewatch.rules.change import RuleChange
from tapewatch.rules.edit import with_rule, without_rule
from tapewatch.rules.model import CrossRule, LevelRule, Rules
from tapewatch.rules.parse import parse_rules
from tapewatch.settings import Settings
from virtual_time import run_virtual

T = 1_788_877_046_300
SEVEN = Rules(golden_cross=CrossRule(band_bps=7.0))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, alerts_file=tmp_path / "alerts.toml", data_dir=tmp_path / "var")


def heard_of(book: Rulebook) -> list[tuple[AlertsFile, str]]:
    heard: list[tuple[AlertsFile, str]] = []
    book.listen(lambda found, who: heard.append((found, who)))
    return heard


# --- the file -----------------------------------------------------------------------------------------------------


def test_the_file_is_followed(settings: Settings) -> None:
    book = Rulebook(settings)
    heard = heard_of(book)
    assert book.rules == Rules()
    assert not book.look()
    settings.alerts_file.write_text("[golden_cross]\nband_bps = 7\n")
    assert book.look()
    assert (book.rules, book.who) == (SEVEN, "file")
    assert not book.look()
    settings.alerts_file.unlink()
    assert book.look()
    assert book.rules == Rules()
    assert [(found.rules, who) for found, who in heard] == [(SEVEN, "file"), (Rules(), "file")]


def test_a_mistake_changes_nothing_and_is_told(settings: Settings) -> None:
    settings.alerts_file.write_text("[golden_cross]\nband_bps = 7\n")
    book = Rulebook(settings)
    heard = heard_of(book)
    settings.alerts_file.write_text("[golden_cross]\nband_bps = 'wide'\n")
    assert not book.look()
    assert book.rules == SEVEN
    said = f"{settings.alerts_file}, line 2: [golden_cross] band_bps = 'wide': expected a number from 0 to 1,000"
    assert (book.problem, book.shown()["problem"]) == (said, said)
    settings.alerts_file.write_text("# again\n[golden_cross]\nband_bps = 7\n")
    assert not book.look()  # nothing but a comment is new
    assert (book.problem, heard) == ("", [])


def test_a_wrong_file_stops_the_start(settings: Settings) -> None:
    settings.alerts_file.write_text("[golden_cross]\nband_bps = -1\n")
    with pytest.raises(SettingsError, match="line 2"):
        Rulebook(settings)


def test_what_cannot_be_read_changes_nothing(settings: Settings) -> None:
    book = Rulebook(settings)
    settings.alerts_file.write_bytes(b"\xff\xfe")
    assert not book.look()
    assert "cannot be read" in book.problem


def test_it_looks_by_itself_and_tells_the_recording(settings: Settings) -> None:
    async def follow() -> tuple[Rules, str]:
        told: asyncio.Queue[tuple[Rules, str]] = asyncio.Queue()
        async with AsyncExitStack() as undo, asyncio.timeout(10):
            Rulebook(settings).start(undo, lambda error: None, lambda rules, who: told.put_nowait((rules, who)))
            settings.alerts_file.write_text("[notify]\nlimit = '1/m'\n")  # no change of the rules
            await asyncio.sleep(0)
            settings.alerts_file.write_text("[golden_cross]\nband_bps = 7\n")
            return await told.get()

    assert run_virtual(follow()) == (SEVEN, "file")


def test_a_file_that_is_just_being_written_is_left_until_it_is_whole(settings: Settings) -> None:
    """An editor empties it first: without this all rules of one's own would be gone for a moment, and begin anew."""
    text = "[golden_cross]\nband_bps = 7\n"
    settings.alerts_file.write_text(text)

    async def follow() -> list[Rules]:
        told: list[Rules] = []
        async with AsyncExitStack() as undo:
            Rulebook(settings).start(undo, lambda error: None, lambda rules, who: told.append(rules))
            for at_s, part in ((0.5, ""), (1.5, text + "cool"), (2.5, text + "cooldown = '1m'\n")):
                await asyncio.sleep(at_s - asyncio.get_running_loop().time())
                settings.alerts_file.write_text(part)
            await asyncio.sleep(2)
        return told

    assert run_virtual(follow()) == [Rules(golden_cross=CrossRule(band_bps=7.0, cooldown_ms=60_000))]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[golden_cross]\nchannels = ['desk']\n",
            "a.toml, line 2: [golden_cross] channels: there is no [channels.desk]; expected some of log, webhook",
        ),
        ("[channels.desk]\nkind = 'pigeon'\n", "a.toml, line 2: [channels.desk] kind: "),
        ("[notify]\n\nlimit = 5\n", "a.toml, line 3: [notify] limit: "),
        ("[system]\nping_url = 5\n", "a.toml, line 2: [system] ping_url: "),
        (
            "[fast]\nkind='move'\npercent=1\nwithin='90s'\n",
            'a.toml: [fast] within = "90s": expected a whole number of SLIDE_DURATION=1m',
        ),
    ],
)
def test_the_other_tables_are_checked_too(text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        alerts_of(text, "a.toml")
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_a_rule_may_name_the_channels_that_are_written() -> None:
    text = "[golden_cross]\nchannels = ['phone', 'log']\n[channels.phone]\nkind = 'ntfy'\ntopic = 'tape'\n"
    found = alerts_of(text, "a.toml")
    assert list(found.channels) == ["phone"]
    assert found.rules.golden_cross.channels == ("phone", "log")


@pytest.mark.parametrize("error", ["", "PHONE_TOKEN is not set"])
def test_other_channels_are_taken_up_or_told_of(settings: Settings, error: str) -> None:
    async def follow() -> str:
        asked = asyncio.Event()

        async def change() -> None:
            asked.set()
            if error:
                raise SettingsError(error)

        async with AsyncExitStack() as undo, asyncio.timeout(10):
            book = Rulebook(settings)
            book.start(undo, lambda error: None, None, change)
            settings.alerts_file.write_text("[channels.phone]\nkind = 'ntfy'\ntopic = 'tape'\n")
            await asked.wait()
            while error and not book.problem:
                await asyncio.sleep(0)
            assert list(book.now.channels) == ["phone"]
            assert book.now.audience(settings).channels == ("log", "phone")
            return book.problem

    assert run_virtual(follow()) == error


# --- changing it --------------------------------------------------------------------------------------------------

TEXT = """# my rules

# of the desk
[golden_cross]
band_bps = 7  # wide
channels = [
  "log",
]
# the end of it

[apple]           # a level
kind = "level"
level = 200
symbols = ["AAPL"]

[notify]
limit = "5/m"
"""


def lines_changed(before: str, after: str) -> tuple[list[str], list[str]]:
    one, other = before.splitlines(), after.splitlines()
    return [line for line in one if line not in other], [line for line in other if line not in one]


@pytest.mark.parametrize(
    ("name", "keys", "gone", "new"),
    [
        ("golden_cross", {"band_bps": 9}, ["band_bps = 7  # wide"], ["band_bps = 9"]),
        ("golden_cross", {"channels": ["webhook"]}, ["channels = [", '  "log",', "]"], ['channels = ["webhook"]']),
        ("golden_cross", {"enabled": False}, [], ["enabled = false"]),
        ("golden_cross", {"band_bps": None}, ["band_bps = 7  # wide"], []),
        ("death_cross", {"enabled": False}, [], ["[death_cross]", "enabled = false"]),
        ("apple", {"level": 210.5, "text": 'a "b"'}, ["level = 200"], ["level = 210.5", 'text = "a \\"b\\""']),
        (
            "apple",
            {"kind": "move", "percent": 2, "within": "10m"},
            ["[apple]           # a level", 'kind = "level"', "level = 200", 'symbols = ["AAPL"]'],
            ["[apple]", 'kind = "move"', "percent = 2", 'within = "10m"'],
        ),
        ("mine", {"kind": "extreme"}, [], ["[mine]", 'kind = "extreme"']),
    ],
)
def test_a_change_touches_only_its_own_lines(name: str, keys: dict[str, Any], gone: list[str], new: list[str]) -> None:
    after = with_rule(TEXT, name, keys, "a.toml")
    assert lines_changed(TEXT, after) == (gone, new)


def test_a_rule_is_taken_out_with_its_comment() -> None:
    cross = "# of cross\n[golden_cross]\nband_bps = 7\n"
    text = f'# one\n\n# of apple\n[apple]\nkind = "level"\nlevel = 1\nsymbols = ["A"]\n\n{cross}'
    assert without_rule(text, "apple", "a.toml") == f"# one\n\n{cross}"
    assert parse_rules(without_rule(text, "golden_cross", "a.toml"))["golden_cross"] == CrossRule()
    with pytest.raises(SettingsError, match="there is no rule pear; expected one of golden_cross, "):
        without_rule(text, "pear", "a.toml")


@pytest.mark.parametrize("text", ["golden_cross = {band_bps = 7}\n", "golden_cross.band_bps = 7\n"])
def test_what_is_written_otherwise_is_left_to_an_editor(text: str) -> None:
    with pytest.raises(SettingsError, match="is not written as a table of its own, so change it with an editor"):
        with_rule(text, "golden_cross", {"band_bps": 8}, "a.toml")
    with pytest.raises(SettingsError, match="is not written as a table of its own"):
        without_rule(text, "golden_cross", "a.toml")


def test_a_change_by_the_page_is_in_force_at_once_and_says_whose_it_is(settings: Settings) -> None:
    book = Rulebook(settings)
    heard = heard_of(book)
    shown = book.write("apple", {"kind": "level", "level": 200, "symbols": ["AAPL"]})
    assert book.rules["apple"] == LevelRule(level=200.0, symbols=("AAPL",))
    assert shown["changed_by"] == "api"
    assert shown["rules"][-1] == {
        "rule": "apple", "kind": "level", "version": book.rules.version("apple"), "enabled": True, "is_default": False,
        "keys": {"kind": "level", "symbols": ["AAPL"], "level": 200.0},
    }  # fmt: skip
    assert book.remove("apple")["rules"][-1]["rule"] == "system_down"
    assert [who for _, who in heard] == ["api", "api"]
    change_rules(settings, lambda text, where: with_rule(text, "apple", {"kind": "extreme"}, where), "command")
    assert (book.look(), book.who) == (True, "command")
    settings.alerts_file.write_text("")
    assert (book.look(), book.who) == (True, "file")


@pytest.mark.parametrize(
    ("name", "keys", "sentence"),
    [
        ("apple", {"kind": "level"}, "level is missing"),
        ("apple", {}, "kind is missing"),
        ("Apple", {"kind": "extreme"}, "is no name of a rule"),
        ("notify", {"kind": "extreme"}, "is no name of a rule"),
        ("golden_cross", {"band_bps": "x"}, "band_bps = 'x': expected a number"),
        ("golden_cross", {"channels": ["desk"]}, "there is no"),
    ],
)
def test_a_wrong_change_writes_nothing(settings: Settings, name: str, keys: dict[str, Any], sentence: str) -> None:
    book = Rulebook(settings)
    with pytest.raises(InputError, match=sentence):
        book.write(name, keys)
    assert not settings.alerts_file.exists()


def test_a_file_that_cannot_be_written_stays(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot be written"):
        write_text(tmp_path / "missing" / "alerts.toml", "x")
    settings.alerts_file.write_text("")
    os.chmod(settings.alerts_file, 0o640)
    write_text(settings.alerts_file, "# new\n")
    assert settings.alerts_file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["alerts.toml"]


# --- the log ------------------------------------------------------------------------------------------------------


def ticks(*times: int) -> Batch:
    return Batch.of([(Kind.TICK, 0, -1, time_ms, time_ms * 10**6, 0.0, 0, 0, 0, 0, "") for time_ms in times])


def said(batch: Batch) -> list[tuple[Rules, str, int]]:
    changes = [
        RuleChange.decode(text, time_ms) for text, time_ms in zip(batch.ids, batch.time_ms.tolist(), strict=True)
    ]
    return [(change.rules, change.who, change.time_ms) for change in changes]


def test_the_log_says_the_rules_at_the_start_at_a_change_and_now_and_then() -> None:
    rules = RulesSaid(SEVEN)
    assert rules.is_waiting
    assert len(rules.batch([], None, 1)) == 0  # no time is known yet
    assert said(rules.batch([ticks(T + 5, T)], None, 1)) == [(SEVEN, "start", T)]
    assert not rules.is_waiting
    assert len(rules.batch([ticks(T + 9)], T + REPEAT_MS - 1, 1)) == 0
    rules.say(Rules(), "api")
    assert said(rules.batch([], T + 10, 1)) == [(Rules(), "api", T + 10)]
    assert said(rules.batch([ticks(T)], T + 10 + REPEAT_MS, 1)) == [(Rules(), "repeat", T + 10 + REPEAT_MS)]
    assert len(rules.batch([], T + 11 + REPEAT_MS, 1)) == 0


def test_nothing_is_said_of_rules_that_nobody_gave() -> None:
    rules = RulesSaid(None)
    assert not rules.is_waiting
    assert len(rules.batch([ticks(T)], T + REPEAT_MS, 1)) == 0


class Log:
    """Records of one list, as `LogReader` gives them: some at a time."""

    def __init__(self, batches: Sequence[Batch], first: int = 100, step: int = 3) -> None:
        self._all = Batch.join(list(batches)) if batches else Batch.empty()
        self._step = step
        self.first, self.end = first, first + len(self._all)

    def batches(self, start: int, stop: int | None = None) -> Iterator[Batch]:
        stop = self.end if stop is None else stop
        for offset in range(start, stop, self._step):
            batch = self._all.slice(offset - self.first, min(offset + self._step, stop) - self.first)
            batch.offset = offset
            yield batch


def change(rules: Rules, time_ms: int) -> Batch:
    return Batch.of([RuleChange(rules, "file", time_ms).row(Kind.RULES, 1)])


def test_the_rules_of_a_place_are_those_said_last_before_it() -> None:
    log = Log(
        [ticks(T, T + 1), change(SEVEN, T + 2), ticks(*range(T + 3, T + 9)), change(Rules(), T + 9), ticks(T + 10)]
    )
    nothing = Rules(death_cross=CrossRule(direction="below", enabled=False))
    assert first_rules(log, nothing) == SEVEN
    assert [rules_before(log, offset, nothing) for offset in (100, 102, 103, 109, 110, 111, 999)] == [
        SEVEN, SEVEN, SEVEN, SEVEN, Rules(), Rules(), Rules(),
    ]  # fmt: skip
    for empty in (Log([]), Log([ticks(T, T + 1)])):
        assert first_rules(empty, nothing) == rules_before(empty, empty.end, nothing) == nothing


def test_the_search_ends_where_rules_would_have_been_said() -> None:
    far = [ticks(*range(T, T + 4 * REPEAT_MS, REPEAT_MS // 2))]
    assert first_rules(Log([*far, change(SEVEN, T)]), Rules()) == Rules()
    assert rules_before(Log([change(SEVEN, T), *far]), 10**6, Rules()) == SEVEN  # the first words of the log after all
