"""Write docs/configuration.md from `.env.example` (what each setting means) and settings.py (what it may be).

    .venv/bin/python scripts/configuration.py

A test compares the page with what this would write, and `.env.example` with the defaults, so neither goes stale.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import NoneType
from typing import Final, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from tapewatch import settings
from tapewatch.settings import Settings, duration_text

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "configuration.md"
EXAMPLE: Final = ROOT / ".env.example"

_INTRODUCTION: Final = """\
# Configuration

Settings come from environment variables or from a file `.env` in the folder Tapewatch is started in; the environment
wins. [`.env.example`](../.env.example) holds all of them with their defaults. An empty value means "not set".
A wrong value stops the start with one sentence that names the setting, the value and what is allowed (exit code 2).
Durations are written `250ms`, `10s`, `5m`, `1h` or `30d`. Secrets are never shown, neither in messages nor in logs.

Alert rules and channels have a file of their own, `alerts.toml`, which a running pipeline follows:
[rules](rules.md), [channels](notifications.md). The settings of the engine, below, decide what rows mean. After a
change of those the rows are computed anew: `./stop_pipeline.sh && .venv/bin/tapewatch rebuild && ./start_pipeline.sh`.
`tapewatch doctor` checks the machine and the settings together.

<!-- Below: written by scripts/configuration.py. Change .env.example or settings.py, and run it. -->
"""
_LIMITS: Final = """
## Limits

Constants of `src/tapewatch/settings.py` that keep memory, time and answers bounded. The end of a name is its unit.

| limit | value | meaning |
|---|---|---|
"""


def page() -> str:
    """The whole of docs/configuration.md."""
    return _INTRODUCTION + "".join(_section(title, names) for title, names in sections()) + _LIMITS + _limits()


def default_text(field: FieldInfo) -> str:
    """A field's default as it would be written in `.env`."""
    value = field.default
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(value)
    return duration_text(value) if _is_duration(field) else str(value)


def sections() -> list[tuple[str, dict[str, str]]]:
    """From `.env.example`: each section's title, and the meaning of each setting in it."""
    found: list[tuple[str, dict[str, str]]] = []
    meaning: list[str] = []
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if title := re.fullmatch(r"# --- (.+?) -+", line):
            found.append((title[1], {}))
        elif line.startswith("# "):
            meaning.append(line[2:])
            continue
        elif "=" in line:
            found[-1][1][line.partition("=")[0]] = " ".join(meaning)
        meaning = []
    return found


def _section(title: str, meanings: dict[str, str]) -> str:
    fields = {field.alias: field for field in Settings.model_fields.values()}
    rows = [
        f"| `{name}` | {_code(default_text(fields[name]))} | {_allowed(fields[name])} | {_cell(meaning)} |"
        for name, meaning in meanings.items()
    ]
    head = f"\n## {title[0].upper()}{title[1:]}\n\n| setting | default | allowed | meaning |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _allowed(field: FieldInfo) -> str:
    kinds = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not NoneType]
    if get_origin(field.annotation) is Literal:
        return " or ".join(f"`{value}`" for value in kinds)
    bounds = {name: getattr(m, name) for m in field.metadata for name in ("ge", "gt", "le") if hasattr(m, name)}
    if bounds:
        low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le")
        written = [None if b is None else duration_text(b) if _is_duration(field) else str(b) for b in (low, high)]
        start = f"more than {written[0]}" if "gt" in bounds else f"{written[0]}"
        return f"{start} to {written[1]}" if written[1] else f"{start} or more"
    if SecretStr in kinds:
        return "secret"
    if get_origin(field.annotation) is tuple:
        return "list"
    return "path" if Path in kinds else "text"


def _limits() -> str:
    """Each constant of settings.py with its value and the text below it."""
    body = ast.parse(inspect.getsource(settings)).body
    rows = []
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        name = statement.target.id
        value = getattr(settings, name)
        if name.startswith("_") or not isinstance(value, int | float):
            continue
        rows.append(f"| `{name}` | {_number(name, value)} | {_cell(_text(following))} |")
    return "\n".join(rows) + "\n"


def _text(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return str(statement.value.value)
    return ""


def _number(name: str, value: float) -> str:
    if "BYTES" in name and isinstance(value, int) and value % 1024 == 0:
        return f"{value // 1024**2} MiB" if value % 1024**2 == 0 else f"{value // 1024} KiB"
    return f"{value:,}"


def _is_duration(field: FieldInfo) -> bool:
    return any("duration" in str(getattr(m, "func", "")) for m in field.metadata)


def _code(text: str) -> str:
    return f"`{text}`" if text else "not set"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
