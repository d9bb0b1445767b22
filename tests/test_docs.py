"""The documents say what the code does: settings, defaults, limits, tests and files that they name."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from tapewatch import __version__
from tapewatch.settings import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.fixture(scope="module")
def writer() -> dict[str, Any]:
    """The names of scripts/configuration.py."""
    return runpy.run_path(str(ROOT / "scripts" / "configuration.py"))


def test_the_example_explains_every_setting(writer: dict[str, Any]) -> None:
    explained = {name: meaning for _, names in writer["sections"]() for name, meaning in names.items()}
    assert sorted(explained) == sorted(str(field.alias) for field in Settings.model_fields.values())
    assert [name for name, meaning in explained.items() if not meaning.endswith((".", ")"))] == []


def test_the_example_holds_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.alias), raising=False)
    assert Settings(_env_file=ROOT / ".env.example") == Settings(_env_file=None)


def test_every_setting_and_default_is_in_the_table(writer: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for field in Settings.model_fields.values():
        default = writer["default_text"](field)
        assert f"| `{field.alias}` | {f'`{default}`' if default else 'not set'} |" in page
    assert page == writer["page"](), "run: .venv/bin/python scripts/configuration.py"


def test_every_limit_is_explained(writer: dict[str, Any]) -> None:
    lines = writer["page"]().split("## Limits", 1)[1].splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    assert len(rows) > 20
    assert [row for row in rows if row.endswith("|  |")] == []


def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for file, _, function in re.findall(r"`(tests/[\w/]+\.py)(::(\w+))?`", text):
        assert (ROOT / file).is_file(), f"{document.name} names {file}, which does not exist"
        if function:
            assert function in _functions(ROOT / file), f"{document.name} names {file}::{function}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}, which does not exist"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_name_in_capitals_that_looks_like_a_setting_is_one(document: Path) -> None:
    known = {str(field.alias) for field in Settings.model_fields.values()}
    assigned = re.findall(r"(?m)^(?:\s*|.*\bexport )([A-Z][A-Z_]{3,})=", document.read_text(encoding="utf-8"))
    assert [name for name in assigned if name not in known and not name.startswith("TAPEWATCH_")] == []


def test_the_changelog_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text or f"## [{__version__}]" in text
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
