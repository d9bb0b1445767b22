"""docs/simulator.md says what the program says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from tapewatch.simulator.__main__ import main
from tapewatch.simulator.arguments import parser
from tapewatch.simulator.chaos import FAULTS
from tapewatch.simulator.plans import PLANS

PAGE = (Path(__file__).parent.parent / "docs" / "simulator.md").read_text(encoding="utf-8")


def test_the_page_has_every_fault_in_the_programs_words() -> None:
    assert dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", PAGE.partition("<!-- faults")[2], re.MULTILINE)) == {
        fault.value: words for fault, words in FAULTS.items()
    }


def test_every_option_of_the_page_exists_and_every_plan_is_there() -> None:
    known = {name for action in parser()._actions for name in action.option_strings}
    assert set(re.findall(r"--[a-z-]+[a-z]", PAGE)) - {"--help"} <= known
    assert all(f"| `{name}` |" in PAGE for name in PLANS)


def test_the_help_explains_itself() -> None:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert all(fault.value in text.getvalue() for fault in FAULTS)
    assert "examples:" in text.getvalue()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--fault", "cutt@1"], "'cutt' is no fault; expected one of"),
        (["--only", "cut,late,x"], "x: no fault; expected some of"),
        (["--corrections", "2"], "2: expected a number from 0 to 1"),
        (["--plan", "gold"], "invalid choice: 'gold'"),
        (["--every", "0"], "0: expected a number above 0"),
    ],
)
def test_a_wrong_option_is_refused_with_a_sentence(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert part in capsys.readouterr().err
