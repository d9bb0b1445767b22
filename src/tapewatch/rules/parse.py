"""`alerts.toml` to rules, and rules to TOML. What is wrong is one sentence: file, line, key, value and what is allowed.

    [apple_200]             a table is a rule, but for `channels`, `notify` and `system`, which others read
    kind = "level"          demanded of every rule that is not one of the defaults
    level = 200

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, NamedTuple

import msgspec

from tapewatch.errors import SettingsError
from tapewatch.rules.check import KEYS, RuleError, check_rule, check_rules, expires_text, key_of, read_key, shown
from tapewatch.rules.model import DEFAULTS, ID, KINDS, Rule, Rules, kind_of
from tapewatch.settings import duration_text
from tapewatch.tomllines import line_in

__all__ = [
    "OTHERS",
    "AlertsText",
    "RuleErrors",
    "as_table",
    "as_toml",
    "parse_alerts",
    "parse_rules",
    "place",
    "read_rule",
    "toml_value",
]

OTHERS: Final = ("channels", "notify", "system")
"""Tables that are no rules."""


class AlertsText(NamedTuple):
    """What a text of `alerts.toml` says: the rules, and the other tables as they were read."""

    rules: Rules
    others: dict[str, Any]
    text: str
    where: str


def parse_rules(text: str, where: str = "alerts.toml") -> Rules:
    """The rules that a text says; what it does not name keeps its default.

    Raises:
        SettingsError: names the file and line, the table and key, the value and what is allowed, for every wrong one.
    """
    return parse_alerts(text, where).rules


def parse_alerts(text: str, where: str = "alerts.toml") -> AlertsText:
    """The rules, and the tables `OTHERS` unread. Raises: as `parse_rules`."""
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{where}: not readable as TOML: {error}") from None
    rules: dict[str, Rule] = {}
    wrong: list[str] = []
    others = {name: tables.pop(name, {}) for name in OTHERS}
    for name, table in tables.items():
        try:
            rules[name] = read_rule(name, table)
        except RuleErrors as errors:
            wrong += [f"{place(text, where, name, e.key)}: [{name}] {e}" for e in errors.errors]
    if wrong:
        raise SettingsError("\n".join(wrong))
    found = Rules(**rules)
    try:
        check_rules(found)
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None
    return AlertsText(found, others, text, where)


def place(text: str, where: str, table: str, key: str | None = None) -> str:
    """File and line of a key, for the beginning of a message: ``alerts.toml, line 12``."""
    line = line_in(text, table, key)
    return where if line is None else f"{where}, line {line}"


class RuleErrors(ValueError):
    """What is wrong with one rule: each a `RuleError`, whose text says key, value and what is allowed."""

    def __init__(self, errors: list[RuleError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = errors


def read_rule(name: str, table: Any) -> Rule:
    """The rule that a table of `alerts.toml`, or the same as JSON, says. Raises `RuleErrors`."""
    if not ID.fullmatch(name) or name in OTHERS:
        raise RuleErrors(
            [RuleError("", "is no name of a rule; expected a to z, 0 to 9 and _, at most 40, a letter first")]
        )
    if not isinstance(table, Mapping):
        some = ", ".join(f"[{default}]" for default in DEFAULTS)
        raise RuleErrors([RuleError("", f"is no table; expected {some} or a rule of your own with its kind")])
    usual = DEFAULTS.get(name)
    kind = table.get("kind", None if usual is None else kind_of(usual))
    if kind is None or not isinstance(kind, str) or kind not in KINDS:
        got = "kind is missing" if kind is None else f"kind = {shown(kind)}"
        meant = get_close_matches(name, DEFAULTS, 1)
        hint = f" (did you mean [{meant[0]}]?)" if kind is None and meant else ""
        raise RuleErrors([RuleError("kind", f"{got}: expected one of {', '.join(KINDS)}{hint}")])
    if usual is not None and kind != kind_of(usual):
        raise RuleErrors([RuleError("kind", f'kind = "{kind}": this rule is always a {kind_of(usual)} rule')])
    values = dict(_values(KINDS[kind], {key: value for key, value in table.items() if key != "kind"}))
    rule = KINDS[kind](**values) if usual is None else msgspec.structs.replace(usual, **values)
    try:
        check_rule(rule)
    except RuleError as error:
        value = getattr(rule, error.key)
        got = f"{error.key} is missing" if value in (None, ()) else f"{error.key} = {shown(value)}"
        raise RuleErrors([RuleError(error.key, f"{got}: {error}")]) from None
    return rule


def _values(kind: type[Rule], table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    fields = {key_of(field.name): field for field in msgspec.structs.fields(kind)}
    errors: list[RuleError] = []
    for key, value in table.items():
        if key not in fields:
            errors.append(RuleError(key, f"has no {key}; expected one of {', '.join(sorted(fields))}"))
            continue
        try:
            yield fields[key].name, read_key(key, value)
        except ValueError as error:
            errors.append(RuleError(key, f"{key} = {shown(value)}: {error}"))
    for key, field in fields.items():
        if field.required and key not in table:
            errors.append(RuleError(key, f"{key} is missing: a rule of kind {kind.__struct_config__.tag} needs it"))
    if errors:
        raise RuleErrors(errors)


def as_table(name: str, rule: Rule) -> dict[str, Any]:
    """What `alerts.toml` must say for this rule: the kind where it is no default, and what is not the usual.

    `read_rule` reads it back, from TOML or JSON.
    """
    usual = DEFAULTS.get(name)
    table: dict[str, Any] = {} if usual is not None else {"kind": kind_of(rule)}
    for field in msgspec.structs.fields(type(rule)):
        value = getattr(rule, field.name)
        if not field.required and value == (field.default if usual is None else getattr(usual, field.name)):
            continue
        if value is None:  # TOML has no word for it, and only here is it not the usual
            value = getattr(rule, "band_bps", None)
            if field.name != "rearm_bps":
                continue
        if field.name == "expires_ms":
            value = expires_text(value)
        elif field.name.endswith("_ms"):
            value = duration_text(value)
        table[key_of(field.name)] = list(value) if isinstance(value, tuple) else value
    return table


def as_toml(name: str, rule: Rule) -> str:
    """The rule as a table of `alerts.toml`."""
    lines = [f"{key} = {toml_value(value)}" for key, value in as_table(name, rule).items()]
    return "\n".join([f"[{name}]", *lines]) + "\n"


def toml_value(value: Any) -> str:
    """A value as TOML writes it; texts as JSON, which is TOML's way too."""
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, float):
        return f"{value:.17g}" if value == int(value) and abs(value) < 1e15 else repr(value)
    return json.dumps(value, ensure_ascii=False)


assert set(KEYS) == {key_of(f) for kind in KINDS.values() for f in kind.__struct_fields__}
