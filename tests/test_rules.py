"""The alert rules: what is read from `alerts.toml`, and that every wrong value is one sentence."""

from __future__ import annotations

import json
import re
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.errors import SettingsError
from tapewatch.profiles.said import REPEAT_MS
from tapewatch.rules.change import RuleChange
from tapewatch.rules.check import COVERING_MAX, KEYS, RULES_BYTES_MAX, RULES_MAX, check_rule, key_of
from tapewatch.rules.lines import (
    DAYS_MAX,
    INDICATORS,
    LENGTH_MAX,
    LINES,
    Line,
    LineKind,
    line_help,
    line_of,
    line_text,
    line_words,
)
from tapewatch.rules.machines import machines_of
from tapewatch.rules.model import (
    CONDITIONS,
    DEFAULTS,
    KINDS,
    CrossRule,
    Direction,
    ExtremeRule,
    LevelRule,
    MoveRule,
    Notify,
    Rule,
    Rules,
    Session,
    SystemRule,
    ThresholdRule,
    VolumeRule,
    covers,
    words_of,
)
from tapewatch.rules.parse import as_table, as_toml, parse_alerts, parse_rules, read_rule

EXAMPLE = Path(__file__).parent.parent / "alerts.toml.example"
OLD = {
    "golden_cross": ("enabled", "band_bps", "cooldown"),
    "death_cross": ("enabled", "band_bps", "cooldown"),
    "high_volume": ("enabled", "multiple", "panes", "panes_min", "absolute", "cooldown"),
}


def refusal(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse_rules(text)
    return str(caught.value)


# --- what is read -------------------------------------------------------------------------------------------------


def test_an_empty_file_keeps_every_default() -> None:
    assert parse_rules("") == Rules()
    assert list(Rules()) == ["golden_cross", "death_cross", "high_volume", "system_down"]


def test_what_is_not_named_keeps_its_default() -> None:
    rules = parse_rules('[golden_cross]\nband_bps = 10\ncooldown = "90s"\n[high_volume]\nabsolute = 1e6\n')
    assert rules.golden_cross == CrossRule(band_bps=10.0, cooldown_ms=90_000)
    assert rules.death_cross == CrossRule(direction="below")
    assert rules.high_volume == VolumeRule(absolute=1e6)


def test_a_rule_can_be_switched_off() -> None:
    assert not parse_rules("[death_cross]\nenabled = false").death_cross.enabled


def test_every_kind_of_rule_is_read() -> None:
    rules = parse_rules(
        """
        [fifty_over_two_hundred]
        kind = "cross"
        left = "sma(50)"
        right = " sma( 200 ) "
        direction = "either"
        confirm_bars = 3
        volume_multiple = 1.5
        rearm_bps = 20
        symbols = ["AAPL", "B*", "!BTC"]
        session = "regular"
        notify = "provisional"
        channels = ["phone", "log"]
        quiet = "22:00 - 07:00"
        expires = 2026-12-31
        text = "Look at the chart."
        [busy]
        kind = "volume"
        days = 10
        symbols = ["AAPL"]
        [apple_200]
        kind = "level"
        level = 200
        symbols = ["AAPL"]
        [fast]
        kind = "move"
        percent = 2
        within = "10m"
        [highs]
        kind = "extreme"
        of = "20d"
        [hour]
        kind = "extreme"
        of = 60
        [hot]
        kind = "threshold"
        indicator = "rsi(14)"
        value = 70
        [database]
        kind = "system"
        conditions = ["store", "log"]
        after = "2m"
        """
    )
    assert rules["fifty_over_two_hundred"] == CrossRule(
        left="sma(50)", right="sma(200)", direction="either", confirm_bars=3, volume_multiple=1.5, rearm_bps=20.0,
        symbols=("AAPL", "B*", "!BTC"), session="regular", notify="provisional", channels=("phone", "log"),
        quiet="22:00-07:00 America/New_York", expires_ms=1_798_779_600_000, text="Look at the chart.",
    )  # fmt: skip
    assert rules["busy"] == VolumeRule(days=10, symbols=("AAPL",))
    assert rules["apple_200"] == LevelRule(level=200.0, symbols=("AAPL",))
    assert rules["fast"] == MoveRule(percent=2.0, within_ms=600_000)
    assert (rules["highs"], rules["hour"]) == (ExtremeRule(of="20d"), ExtremeRule(of="60"))
    assert rules["hot"] == ThresholdRule(indicator="rsi(14)", value=70.0)
    assert rules["database"] == SystemRule(conditions=("log", "store"), after_ms=120_000)
    assert list(rules) == [*DEFAULTS, *sorted(set(rules) - set(DEFAULTS))]  # whatever their order in the file


@pytest.mark.parametrize(
    ("written", "expires_ms"),
    [
        ("2026-11-27", 1_795_842_000_000),  # the end of that day in New York
        ('"2026-11-27"', 1_795_842_000_000),
        ("2026-11-27T16:00:00", 1_795_813_200_000),
        ("2026-11-27T16:00:00-05:00", 1_795_813_200_000),
        ('"2026-11-27T21:00:00Z"', 1_795_813_200_000),
    ],
)
def test_a_day_expires_at_its_end_in_new_york(written: str, expires_ms: int) -> None:
    assert parse_rules(f"[golden_cross]\nexpires = {written}").golden_cross.expires_ms == expires_ms


def test_the_other_tables_are_left_to_others() -> None:
    found = parse_alerts('[channels.phone]\nkind = "ntfy"\n[notify]\nlimit = "1/m"\n[system]\nping_url = "x"\n')
    assert found.rules == Rules()
    assert found.others["channels"] == {"phone": {"kind": "ntfy"}}
    assert (found.others["notify"], found.others["system"]) == ({"limit": "1/m"}, {"ping_url": "x"})


def test_the_example_explains_every_key_and_holds_the_defaults() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert parse_rules(text) == Rules()
    for name, keys in OLD.items():
        part = text.partition(f"[{name}]")[2].partition("\n[")[0]
        for key in keys:
            assert f"\n{key} = " in part or f"\n# {key} = " in part, (name, key)
    for kind, rule in KINDS.items():
        for field in rule.__struct_fields__:
            assert re.search(rf"\n(# )?{key_of(field)} = ", text), (kind, field)
    uncommented = "\n".join(re.sub(r"^# (?=\[|\w+ = )", "", line) for line in text.splitlines())
    rules = parse_rules(uncommented)  # what is commented out there can be taken as it stands
    assert {rule.__struct_config__.tag for rule in rules.values()} == set(KINDS)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("band_bps = -1", "band_bps = -1: expected a number from 0 to 1,000"),
        ("band_bps = 1000.1", "band_bps = 1000.1: expected a number from 0 to 1,000"),
        ("band_bps = nan", "band_bps = nan: expected a number from 0 to 1,000"),
        ("band_bps = inf", "band_bps = inf: expected a number from 0 to 1,000"),
        ("band_bps = 'five'", "band_bps = 'five': expected a number from 0 to 1,000"),
        ("band_bps = true", "band_bps = true: expected a number from 0 to 1,000"),
        ("band_bps = [5]", "band_bps = [5]: expected a number from 0 to 1,000"),
        ("enabled = 1", "enabled = 1: expected true or false"),
        ("enabled = 'yes'", "enabled = 'yes': expected true or false"),
        ("cooldown = 5", 'cooldown = 5: expected a duration such as 250ms, 10s, 5m, 1h or 30d, in quotes: "5m"'),
        ("cooldown = 'soon'", "cooldown = 'soon': expected a duration such as 250ms, 10s, 5m, 1h or 30d"),
        ("cooldown = '25h'", "cooldown = '25h': expected at most 1d"),
        ("direction = 'up'", "direction = 'up': expected one of above, below, either"),
        ("session = 'night'", "session = 'night': expected one of any, regular, extended"),
        ("notify = true", "notify = true: expected one of confirmed, provisional, never"),
        ("confirm_bars = 0", "confirm_bars = 0: expected a whole number from 1 to 20"),
        ("symbols = 'AAPL'", "symbols = 'AAPL': expected a list of 1 to 1,000 names, such as [\"AAPL\", "),
        ("symbols = []", "symbols = []: expected a list of 1 to 1,000 names, such as"),
        ("symbols = ['$$']", "symbols = ['$$']: cannot read '$$'; expected names such as"),
        ("channels = ['My Phone']", "channels = ['My Phone']: cannot read 'My Phone'; expected names such as"),
        ("quiet = '25:00-07:00'", "quiet = '25:00-07:00': expected hours and a time zone, such as"),
        ("quiet = '22:00-22:00'", "quiet = '22:00-22:00': expected hours and a time zone"),
        ("quiet = '22:00-07:00 Mars/City'", "quiet = '22:00-07:00 Mars/City': expected hours and a time zone"),
        ("expires = 'never'", "expires = 'never': expected a day or a time, such as 2026-12-31 or"),
        ("expires = 5", "expires = 5: expected a day or a time"),
        ('text = "a\\nb"', "text = 'a\\nb': expected a text of at most 200 characters, on one line"),
        ("right = 'sma'", "right = 'sma': expected sma(20)"),
        ("right = 'sma(0)'", "right = 'sma(0)': expected 1 to 240 panes in sma"),
        ("right = 'sma(999)'", "right = 'sma(999)': expected 1 to 240 panes in sma"),
        ("right = 'high(999d)'", "right = 'high(999d)': expected 1 to 250 days in high"),
        ("right = 'macd(26, 12)'", "right = 'macd(26, 12)': expected the second length of macd to be the longer one"),
        ("right = 'upper(20, 0)'", "right = 'upper(20, 0)': expected more than 0 and at most 10 deviations in upper"),
        ("right = 'wma(20)'", "right = 'wma(20)': expected a number or one of price, average, sma(20), ema(20), "),
        ("right = true", "right = true: expected a number or one of price, "),
        ("right = 'price'", "right = 'price': expected another line than left"),
        ("left = '190'", "left = '190': expected a line; a number may stand on the right"),
        ("kind = 'volume'", 'kind = "volume": this rule is always a cross rule'),
        ("kind = 5", "kind = 5: expected one of cross, volume, level, move, extreme, threshold, system"),
        ("band = 5", "has no band; expected one of band_bps, channels, confirm_bars, cooldown, direction, "),
        ("cooldown_ms = 5", "has no cooldown_ms; expected one of "),
    ],
)  # fmt: skip
def test_a_wrong_value_of_a_cross_is_one_sentence(line: str, sentence: str) -> None:
    for name in ("golden_cross", "death_cross"):
        with pytest.raises(SettingsError) as caught:
            parse_rules(f"# mine\n[{name}]\n{line}\n", "my/rules.toml")
        assert str(caught.value).startswith(f"my/rules.toml, line 3: [{name}] {sentence}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "line", "sentence"),
    [
        ("volume", "multiple = 0.9", "multiple = 0.9: expected a number from 1 to 1,000"),
        ("volume", "panes = 0", "panes = 0: expected a whole number from 1 to 100"),
        ("volume", "panes = 101", "panes = 101: expected a whole number from 1 to 100"),
        ("volume", "panes = 20.0", "panes = 20.0: expected a whole number from 1 to 100"),
        ("volume", "panes_min = 0", "panes_min = 0: expected a whole number from 1 to 100"),
        ("volume", "panes_min = 21", "panes_min = 21: expected at most panes, which is 20"),
        ("volume", "absolute = -1", "absolute = -1: expected a number from 0 to 1e+15"),
        ("volume", "band_bps = 5", "has no band_bps; expected one of absolute, channels, cooldown, days, days_min, "),
        ("volume", "days = 31", "days = 31: expected a whole number from 1 to 30"),
        ("volume", "days = 10", "days = 10: expected symbols with at most 100 plain names, since it remembers days"),
        ("volume", "panes = 4", "panes_min = 5: expected at most panes, which is 4"),
        ("level", "level = 200", "symbols is missing: expected the symbols that the level is for"),
        ("level", "symbols = ['AAPL']", "level is missing: a rule of kind level needs it"),
        ("level", "level = 0\nsymbols = ['A']", "level = 0: expected a number from 1e-08 to 1e+15"),
        ("move", "percent = 2", "within is missing: a rule of kind move needs it"),
        ("move", "percent = 2\nwithin = '1ms'", "within = '1ms': expected at least 1s"),
        ("extreme", "of = 'week'", "of = 'week': expected \"session\", a number of bars such as 60, or of "),
        ("extreme", "of = '0d'", "of = '0d': expected 1 to 250 days in high"),
        ("threshold", "indicator = 'sma(20)'\nvalue = 1", "indicator = 'sma(20)': expected one of rsi(20), stocha"),
        ("threshold", "indicator = 'rsi(14)'\nvalue = 100", "value = 100.0: expected a number between 0 and 100"),
        ("system", "conditions = ['rain']", "conditions = ['rain']: expected a list of no_data, "),
        ("system", "after = 5", "after = 5: expected a duration such as 250ms, 10s, 5m, 1h or 30d, in quotes: \"60s\""),
        ("weather", "", "kind = 'weather': expected one of cross, volume, level, move, extreme, threshold, system"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_any_other_kind_is_one_sentence(kind: str, line: str, sentence: str) -> None:
    said = refusal(f"[mine]\nkind = '{kind}'\n{line}\n")
    assert re.fullmatch(r"alerts\.toml, line [1-4]: \[mine\] .*", said), said
    assert said.partition("[mine] ")[2].startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[golden_cros]", "alerts.toml, line 1: [golden_cros] kind is missing: expected one of cross, volume, level, "
         "move, extreme, threshold, system (did you mean [golden_cross]?)"),
        ("[mine]", "alerts.toml, line 1: [mine] kind is missing: expected one of cross, volume, "),
        ("golden_cross = 5", "alerts.toml, line 1: [golden_cross] is no table; expected [golden_cross], "),
        ("[Mine]\nkind = 'cross'", "alerts.toml, line 1: [Mine] is no name of a rule; expected a to z, 0 to 9 and _, "),
        ("[golden_cross", "alerts.toml: not readable as TOML: "),
        ("[golden_cross]\n[golden_cross]", "alerts.toml: not readable as TOML: "),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_one_sentence(text: str, sentence: str) -> None:
    said = refusal(text)
    assert said.startswith(sentence)
    assert "\n" not in said


def test_every_wrong_value_is_told_at_once() -> None:
    text = "[golden_cross]\nband_bps = -1\ncolour = 'red'\n\n[mine]\n# a level\nkind = 'level'\nlevel = 'high'\n"
    assert [line.partition(":")[0] for line in refusal(text).splitlines()] == [
        "alerts.toml, line 2",
        "alerts.toml, line 3",
        "alerts.toml, line 8",
    ]


def test_there_is_a_limit_to_all_rules_together() -> None:
    many = "".join(f"[r{i}]\nkind = 'level'\nlevel = 1\nsymbols = ['S{i}']\n" for i in range(RULES_MAX - 3))
    assert "1,001 rules; expected at most 1,000" in refusal(many)
    names = ", ".join(f"'NAME{i:06d}'" for i in range(1_000))
    long = "".join(f"[r{i}]\nkind = 'level'\nlevel = 1\nsymbols = [{names}]\n" for i in range(16))
    assert "bytes; expected at most 200,000" in refusal(long)


def test_there_is_a_limit_to_the_rules_of_one_symbol() -> None:
    def rules(count: int) -> str:
        return "".join(f"[r{i}]\nkind='level'\nlevel={i + 1}\nsymbols=['aapl','X{i}']\n" for i in range(count))

    room = COVERING_MAX - len(machines_of(Rules(), slide_ms=60_000))
    assert len(parse_rules(rules(room))) == room + 4
    assert f"{COVERING_MAX + 1} rules look at AAPL" in refusal(rules(room + 1))
    off = rules(room + 1) + "[wide]\nkind='extreme'\nenabled=false\n[high_volume]\nenabled=false\n"
    assert len(parse_rules(off)) == room + 6


def test_the_limits_themselves_are_allowed() -> None:
    rules = parse_rules(
        '[golden_cross]\nband_bps = 0\ncooldown = "1d"\n[death_cross]\nband_bps = 1000\ncooldown = "0ms"\n'
        "[high_volume]\nmultiple = 1\npanes = 100\npanes_min = 100\nabsolute = 0\n"
    )
    assert rules.golden_cross.cooldown_ms == 86_400_000
    assert rules.high_volume.panes_min == 100


# --- versions -----------------------------------------------------------------------------------------------------


def test_versions_change_with_all_that_decides_and_with_nothing_else() -> None:
    crossings = (
        'right = "ema(20)"', 'left = "ema(9)"', "band_bps = 6", 'cooldown = "6m"', "enabled = false", "rearm_bps = 9",
        'direction = "either"', "confirm_bars = 2", "volume_multiple = 2", 'symbols = ["AAPL"]', 'session = "regular"',
        "expires = 2026-12-31",
    )  # fmt: skip
    volumes = (
        "multiple = 4", "panes = 21", "panes_min = 6", "absolute = 7", 'cooldown = "1m"', 'days = 9\nsymbols = ["A"]',
        "enabled = false", "days_min = 4",
    )  # fmt: skip
    changes = {"golden_cross": crossings, "death_cross": crossings, "high_volume": volumes}
    for name, lines in changes.items():
        variants = [Rules(), *(parse_rules(f"[{name}]\n{line}\n") for line in lines)]
        assert all(a != b for a, b in combinations([rules.version(name) for rules in variants], 2))
        for other in set(changes) - {name}:
            assert {rules.version(other) for rules in variants} == {Rules().version(other)}
        told = 'notify = "never"\nchannels = ["log"]\nquiet = "22:00-07:00"\ntext = "x"\n'
        assert parse_rules(f"[{name}]\n{told}").version(name) == Rules().version(name)


def test_a_version_is_the_same_in_every_process() -> None:
    """Alerts are named by it, in the database too: a change here makes every old alert another rule's."""
    assert [Rules().version(name) for name in OLD] == ["c6abd647", "c6abd647", "8c4a6b79"]
    assert Rules(mine=LevelRule(level=200.0, symbols=("AAPL",))).version("mine") == "b56852fe"


# --- there and back -----------------------------------------------------------------------------------------------

_lines = st.sampled_from(
    ["price", "average", "sma(50)", "vwap", "vwap(30)", "close(10)", "high(20d)", "low", "upper(20, 2)"]
)
_texts = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=200).filter(
    lambda t: not t or t.isprintable()
)
_ms = st.integers(0, 86_400).map(lambda s: s * 1_000)
_common = {
    "enabled": st.booleans(),
    "symbols": st.lists(st.sampled_from(["AAPL", "B*", "!BTC", "X?", "BRK.B"]), unique=True).map(tuple),
    "session": st.sampled_from(get_args(Session)),
    "cooldown_ms": _ms,
    "expires_ms": st.none() | st.integers(10**9, 4 * 10**9).map(lambda s: s * 1_000),
    "notify": st.none() | st.sampled_from(get_args(Notify)),
    "channels": st.none() | st.just(("log", "phone")),
    "quiet": st.sampled_from(["", "22:00-07:00 America/New_York", "00:00-06:30 Europe/Berlin"]),
    "text": _texts,
}
_crossing = _common | {
    "direction": st.sampled_from(get_args(Direction)),
    "band_bps": st.floats(0, 1_000),
    "rearm_bps": st.floats(0, 1_000),
    "confirm_bars": st.integers(1, 20),
    "volume_multiple": st.none() | st.floats(0.01, 1_000),
}
_rules = st.one_of(
    st.builds(CrossRule, **_crossing, left=st.just("ema(9)"), right=_lines | st.just("190.5")),
    st.builds(VolumeRule, **_common, multiple=st.floats(1, 1_000), panes=st.integers(5, 100), absolute=st.just(1e15)),
    st.builds(LevelRule, **(_crossing | {"symbols": st.just(("AAPL",))}), level=st.floats(1e-8, 1e15)),
    st.builds(MoveRule, **_crossing, percent=st.floats(0.01, 1_000), within_ms=st.integers(1_000, 86_400_000)),
    st.builds(ExtremeRule, **_crossing, of=st.sampled_from(["session", "60", "20d"])),
    st.builds(ThresholdRule, **_crossing, indicator=st.just("stochastic(14)"), value=st.floats(1, 99)),
    st.builds(SystemRule, **_common, conditions=st.just(CONDITIONS[:2]), after_ms=st.integers(1_000, 10**6)),
)  # fmt: skip


@given(_rules)
def test_a_rule_comes_back_from_toml_json_and_the_log(rule: Rule) -> None:
    check_rule(rule)
    assert parse_rules(as_toml("mine", rule))["mine"] == rule
    assert read_rule("mine", json.loads(json.dumps(as_table("mine", rule)))) == rule
    rules = Rules(mine=rule)
    assert Rules.decode(rules.encode()) == rules
    assert RuleChange.decode(RuleChange(rules, "api").encode()) == RuleChange(rules, "api")
    assert len(words_of(rule)) == 2


@given(st.floats(0, 1_000), _texts, st.booleans())
def test_a_default_rule_says_only_what_is_changed(band_bps: float, text: str, enabled: bool) -> None:
    rule = CrossRule(direction="below", band_bps=band_bps, text=text, enabled=enabled)
    table = as_table("death_cross", rule)
    assert not {"kind", "direction", "cooldown"} & set(table)
    assert parse_rules(as_toml("death_cross", rule)).death_cross == rule


def test_a_version_of_a_rule_that_was_never_written_says_so() -> None:
    assert as_toml("golden_cross", CrossRule()) == "[golden_cross]\n"
    assert as_toml("mine", LevelRule(level=200.0, symbols=("AAPL",), rearm_bps=None)) == (
        '[mine]\nkind = "level"\nsymbols = ["AAPL"]\nrearm_bps = 0\nlevel = 200\n'
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"Mine":{"kind":"volume"}}',
        '{"high_volume":{"kind":"cross"}}',
        '{"x":{"kind":"level"}}',
        "[" * 9_999,
    ],
)
def test_what_are_no_rules_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="rule"):
        Rules.decode(text)


def test_rules_are_equal_by_what_they_hold() -> None:
    one = Rules(golden_cross=CrossRule(band_bps=7.0))
    assert one == Rules().changed(golden_cross=CrossRule(band_bps=7.0)) != Rules()
    assert hash(one) == hash(Rules(golden_cross=CrossRule(band_bps=7.0)))
    assert one.without("golden_cross") == Rules()
    assert "mine" not in Rules(mine=VolumeRule()).without("mine")
    assert repr(one).startswith("Rules(golden_cross=CrossRule(enabled=True, ")


# --- lines, machines, scopes --------------------------------------------------------------------------------------


def test_every_line_has_its_words() -> None:
    forms = {form.kind for forms in LINES.values() for form in forms}
    assert forms == set(LineKind) - {LineKind.CONST, LineKind.VOLUME, LineKind.VOLUME_MEAN, LineKind.VOLUME_SAME_TIME}
    assert line_of(" macd(12,26) ") == Line(LineKind.MACD, 12, 26)
    assert line_of("upper(20, 2.5)") == Line(LineKind.UPPER, 20, factor=2.5)
    assert line_of("-1.50").value == -1.5
    assert [line_words(text) for text in ("vwap(30)", "low(20d)", "macd(12, 26)")] == [
        "VWAP 30",
        "low of 20 days",
        "MACD 12, 26",
    ]
    assert set(INDICATORS) <= set(LINES)


@given(st.text(max_size=20) | st.from_regex(r"[a-z]{3,5}\(\d{1,3}d?\)", fullmatch=True))
def test_any_text_is_a_line_or_refused(text: str) -> None:
    try:
        line = line_of(text)
    except ValueError:
        pass
    else:
        assert line_of(line_text(text)) == line
        assert line_text(line_text(text)) == line_text(text)
        assert line_words(line_text(text))


def test_rules_become_machines_of_one_side_each() -> None:
    rules = Rules(fast=MoveRule(percent=2.0, within_ms=600_000), days=ExtremeRule(of="20d", direction="below"))
    machines = {(machine.rule, machine.direction): machine for machine in machines_of(rules, slide_ms=60_000)}
    assert list(machines) == [
        ("golden_cross", 1), ("death_cross", -1), ("high_volume", 0), ("days", -1), ("fast", 1), ("fast", -1),
    ]  # fmt: skip
    assert machines["golden_cross", 1].band == machines["golden_cross", 1].rearm == 5e-4
    assert machines["fast", -1].right == Line(LineKind.CLOSE, 10, factor=0.98)
    assert machines["days", -1].right == Line(LineKind.DAYS_LOW, 20)
    assert machines["high_volume", 0].right == Line(LineKind.VOLUME_MEAN, 20, 5, 3.0)
    with pytest.raises(SettingsError, match=r'\[fast\] within = "10m": expected a whole number of SLIDE_DURATION=7m'):
        machines_of(rules, slide_ms=420_000)


def test_a_scope_is_names_patterns_and_exceptions() -> None:
    assert [covers(("B*", "aapl", "!BTC"), name) for name in ("BA", "BTC", "AAPL", "MSFT", "B")] == [
        True, False, True, False, True,
    ]  # fmt: skip
    assert covers(("!X*",), "AAPL")
    assert not covers(("!X*",), "XOM")
    assert covers(("BRK.B",), "BRK.B")
    assert not covers(("BRK.B",), "BRKXB")
    assert covers((), "ANY")


def test_every_field_of_a_rule_is_a_key() -> None:
    assert set(KEYS) == {key_of(field) for kind in KINDS.values() for field in kind.__struct_fields__}
    for kind in KINDS.values():
        for field in msgspec.structs.fields(kind):
            assert field.encode_name == field.name


def numbers(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def test_numbers_are_written_as_toml_reads_them() -> None:
    for value in (5.0, 0.1, 1e15, 1e-8, 123456.789):
        rule = LevelRule(level=value, symbols=("A",))
        assert numbers(as_toml("mine", rule))["mine"]["level"] == value


# --- docs/rules.md --------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parent.parent / "docs" / "rules.md").read_text(encoding="utf-8")


def keys_of(kind: type[Rule]) -> set[str]:
    return {key_of(field) for field in kind.__struct_fields__}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_page_names_every_kind_key_and_line() -> None:
    first = [cells(line)[0] for line in PAGE.splitlines() if line.startswith("| `")]
    written = {name for cell in first for name in re.findall(r"`([^`]+)`", cell)}
    assert set(KINDS) <= written
    assert set(DEFAULTS) <= written
    common = set.intersection(*(keys_of(kind) for kind in KINDS.values()))
    crossings = set.intersection(*map(keys_of, (CrossRule, LevelRule, MoveRule, ExtremeRule, ThresholdRule)))
    assert common | crossings <= written
    for kind, rule in KINDS.items():
        own = keys_of(rule) - crossings - common
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{kind}` | ") and len(cells(line)) == 3)
        assert {key for key in own if f"`{key}`" not in row} == set(), kind
    for name in LINES:
        for form in re.findall(r"[a-z]+(?:\([^)]*\))?", line_help((name,))):
            assert f"`{form}`" in PAGE, form
    for text in written & {t for t in written if "(" in t}:
        assert line_of(text)


def test_the_page_says_the_defaults() -> None:
    rows = {cells(line)[0].strip("`"): cells(line)[1] for line in PAGE.splitlines() if line.startswith("| `")}
    assert (MoveRule(percent=1.0, within_ms=1).cooldown_ms, CrossRule().cooldown_ms) == (900_000, 300_000)
    assert rows["cooldown"] == '"15m"; 5m for crosses and levels, 0ms for volume'
    said = rows["rearm_bps"]
    for kind, bps in (("level", 10), ("extreme", 10), ("move", 25), ("threshold", 200)):
        assert next(f for f in msgspec.structs.fields(KINDS[kind]) if f.name == "rearm_bps").default == bps
        assert f"{bps} for" in said or f"{bps} for `{kind}`" in said
    assert (
        f"At most {RULES_MAX:,} rules, {RULES_BYTES_MAX:,} bytes of them in all, and {COVERING_MAX} that are on" in PAGE
    )
    assert f"Lengths go from 1 to {LENGTH_MAX} bars, or {DAYS_MAX} days" in PAGE
    assert f"every {REPEAT_MS // 60_000} minutes" in PAGE
