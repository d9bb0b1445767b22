"""Changes of `alerts.toml` as text: a rule is written, changed or taken out, and every other line stays as it is.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tapewatch.errors import SettingsError
from tapewatch.rules.model import DEFAULTS, Rules
from tapewatch.rules.parse import as_table, parse_rules, read_rule, toml_value
from tapewatch.tomllines import key_lines, table_lines

__all__ = ["with_rule", "without_rule"]


def with_rule(text: str, name: str, changes: Mapping[str, Any], where: str) -> str:
    """The text with these keys of one rule changed; of a rule that is new, the others have their defaults.

    A value of None takes the key out, so that its default holds again. Another ``kind`` makes it another rule.

    Raises:
        RuleErrors: the changed rule is none.
        SettingsError: the text is wrong, before or after the change.
    """
    before = parse_rules(text, where)
    table = as_table(name, before[name]) if name in before else {}
    if table.get("kind", changes.get("kind")) != changes.get("kind", table.get("kind")):
        text, table = without_rule(text, name, where), {}
    table = {key: value for key, value in (table | dict(changes)).items() if value is not None}
    rule = read_rule(name, table)
    if not (block := table_lines(text, name)):
        block_text = "\n".join([f"[{name}]", *(f"{key} = {toml_value(value)}" for key, value in table.items())])
        after = f"{text.rstrip()}\n\n{block_text}\n" if text.strip() else f"{block_text}\n"
    else:
        after = _with_keys(text, block, name, changes)
    return _expected(after, before.changed(**{name: rule}), name, where)


def without_rule(text: str, name: str, where: str) -> str:
    """The text without the rule; one of the defaults is then as if nothing were written of it.

    Raises SettingsError when there is no such rule, or the text is wrong.
    """
    before = parse_rules(text, where)
    if name not in before:
        raise SettingsError(f"{where}: there is no rule {name[:60]}; expected one of {', '.join(before)}")
    block = table_lines(text, name)
    if block is None:
        return _expected(text, before.without(name), name, where)
    lines = text.splitlines()
    start, stop = block
    while stop < len(lines) and not lines[stop].strip():
        stop += 1
    while name not in DEFAULTS and start > 0 and lines[start - 1].startswith("#") and stop - start > 0:
        start -= 1  # the comment above it was its own
    after = "\n".join([*lines[:start], *lines[stop:]]).rstrip() + "\n"
    return _expected(after, before.without(name), name, where)


def _expected(text: str, rules: Rules, name: str, where: str) -> str:
    """The text, if it says these rules; it does not when the rule is written in a way that is not looked for."""
    try:
        if parse_rules(text, where) == rules:
            return text
    except SettingsError:
        pass
    raise SettingsError(f"{where}: [{name}] is not written as a table of its own, so change it with an editor")


def _with_keys(text: str, block: tuple[int, int], name: str, keys: Mapping[str, Any]) -> str:
    lines = text.splitlines()
    start, stop = block
    end = stop
    while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    added = [f"{key} = {toml_value(value)}" for key, value in keys.items() if value is not None]
    replaced: list[tuple[int, int, list[str]]] = []
    for key, value in keys.items():
        if (place := key_lines(text, name, key)) is not None:
            line = f"{key} = {toml_value(value)}" if value is not None else None
            replaced.append((*place, [] if line is None else [line]))
            added = [one for one in added if one != line]
    replaced.append((end, end, added))
    for at, until, new in sorted(replaced, reverse=True):
        lines[at:until] = new
    return "\n".join(lines) + "\n"
