"""`tapewatch backtest` and `tapewatch replay` as a person sees them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from tapes import write_tape
from tapewatch.cli import execute
from tapewatch.settings import Settings
from trading_days import give_days

ROOT = Path(__file__).parent.parent
SHARED_DAY = ROOT.parent / "shared" / "data" / "us-equities-trades-2013-10-07.csv.gz"
EXAMPLE = str(ROOT / "alerts.toml.example")


@pytest.fixture(autouse=True)
def _nobodys_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)
    monkeypatch.chdir(tmp_path)
    give_days(tmp_path / "var")


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(path) for path in write_tape(tmp_path_factory.mktemp("tape"), minutes=90)]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = execute(list(arguments))
    out, err = capsys.readouterr()
    assert err == ""
    return code, out


def test_it_says_what_the_rules_would_have_told(tape: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out = printed(capsys, "backtest", EXAMPLE, *tape)
    assert code == 0
    assert re.match(
        r"stocks\.csv\.gz, crypto\.csv: [\d,]+ trades of 4 symbols on 1 day, 2026-01-22\nskipped \d+ rows: ", out
    )
    for rule in ("golden_cross", "death_cross", "high_volume", "all"):
        assert re.search(rf"^{rule} +\d+ +\d+ +\d+ +(-|[\d.]+%) +\d+ +[\d.]+ +\d+$", out, re.MULTILINE), rule
    assert re.search(r"^golden_cross +5m +\d+ +[+-][\d.]+ +[\d.]+ +[+-][\d.]+ +\d+% ", out, re.MULTILINE)
    assert re.search(r"^high_volume +5m +\d+ +[+-][\d.]+ +[\d.]+ +[+-][\d.]+ +- ", out, re.MULTILINE)
    _, replayed = printed(capsys, "replay", *tape, "--out", "rows")
    hashes = [re.findall(r"^alerts sha256 ([0-9a-f]{64})$", text, re.MULTILINE) for text in (out, replayed)]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 1


def test_a_budget_is_met_and_what_it_costs_is_said(tape: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--noise-budget", "4/day", "--out", "alerts.csv", "--limit", "2"]
    code, out = printed(capsys, "backtest", EXAMPLE, *tape, *options)
    assert code == 0
    assert re.search(r"^Budget 4 alerts a day: these rules tell \d+\.\d\.$", out, re.MULTILINE)
    proposal = out.partition("1. Greater moves and longer cooldowns, in turn:")[2].partition("\n2. ")[0]
    assert re.match(r" [0-4]\.0 a day \(busiest day [0-4]\)", proposal)
    told = re.search(r"Of those told before: (\d+) as before, (\d+) later.*, (\d+) lost", proposal)
    assert told is not None
    assert len(re.findall(r"what would be (?:told|lost) +(?:5|30|60)m", proposal)) == 6
    assert len(re.findall(r"^     2026-01-22 \d\d:\d\d:\d\d  \S+ +\w+", proposal, re.MULTILINE)) == 2
    with Path("alerts.csv").open(newline="") as file:
        fates = [row["both"] for row in csv.DictReader(file)]
    assert [fates.count(word) for word in ("kept", "later", "lost")] == [int(n) for n in told.groups()]
    # The lines that are proposed are rules, and keep to the budget by themselves.
    lines = re.findall(r"^   (\[\w+\]|\w+ = .+)$", proposal, re.MULTILINE)
    Path("quieter.toml").write_text("\n".join(lines), encoding="utf-8")
    code, again = printed(capsys, "backtest", "quieter.toml", *tape, "--noise-budget", "4/day")
    assert code == 0
    assert re.search(r"^Budget 4 alerts a day: these rules tell [0-4]\.0\.$\n\Z", again, re.MULTILINE)


def test_a_budget_that_no_settings_keep_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tape = [str(path) for path in write_tape(tmp_path, minutes=24, trades=600)]
    rules = Path("level.toml")
    rules.write_text("[high_volume]\nabsolute = 1\n[golden_cross]\nenabled = false\n[death_cross]\nenabled = false\n")
    code, out = printed(capsys, "backtest", str(rules), *tape, "--noise-budget", "0.1/day")
    assert code == 1
    assert out.count("cannot keep to it. The fewest are ") == 3


def test_symbols_can_be_chosen(tape: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    _, out = printed(capsys, "backtest", EXAMPLE, *tape, "--symbol", "aapl", "--symbol", "BTC")
    assert " trades of 2 symbols on 1 day" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.toml", "x.csv"], "none.toml: there is no such file of rules; expected one such as alerts.toml.example"),
        ([EXAMPLE, "x.csv"], "x.csv"),
        ([EXAMPLE, "x.csv", "--noise-budget", "5"], "--noise-budget 5: expected alerts a day, such as 5/day"),
        (["wrong.toml", "x.csv"], "[golden_cross] has no bans_bps"),
        (
            [EXAMPLE, "x.csv", "--out", "none/alerts.csv"],
            "--out none/alerts.csv: cannot be written: there is no folder",
        ),
    ],
)
def test_what_cannot_be_tried(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.toml").write_text("[golden_cross]\nbans_bps = 3\n")
    assert execute(["backtest", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tapewatch: ")
    assert said in err


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_DAY.exists(), reason=f"{SHARED_DAY.name} is not beside the repository")
def test_a_real_day(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = printed(capsys, "backtest", EXAMPLE, str(SHARED_DAY), "--noise-budget", "5/day")
    assert code == 0
    assert ": 388,417 trades of 4 symbols on 1 day, 2013-10-07\n" in out
    assert re.search(r"^1\. Greater moves and longer cooldowns, in turn: [345]\.0 a day", out, re.MULTILINE)
    assert "3. Longer cooldowns alone: cannot keep to it. The fewest are 12.0 a day." in out
