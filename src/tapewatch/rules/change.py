"""A change of the rules, as the log holds it: a RULES record, in every lane, says all rules that hold from there on.

    ids      {"rules":{"golden_cross":{…}, …},"who":"file"}

A record that says what holds already changes nothing. The recording says the rules anew at its start and now and then,
so that they are known wherever one begins to read.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from tapewatch.rules.check import RuleError, check_rule, check_rules
from tapewatch.rules.model import Rules, kind_of

__all__ = ["RuleChange", "RuleVersion", "Who"]

Who = Literal["start", "file", "api", "command", "repeat"]
"""Whose change it is; ``start`` and ``repeat`` say what holds anyway."""


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    rules: msgspec.Raw
    who: Who


class RuleVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a rule that came to be in force: a row of `alert_rules`."""

    rule: str
    version: str
    kind: str
    definition: str
    """All that it says, as JSON."""
    since_ms: int
    """Event time of its record."""
    changed_by: Who
    offset: int


class RuleChange(NamedTuple):
    """All rules from here on, and who wanted them. Time (event time, Unix ms) and offset are those of its record."""

    rules: Rules
    who: Who = "file"
    time_ms: int = 0
    offset: int = -1

    def encode(self) -> str:
        """As kept in ``Batch.ids``; time and offset are not in it."""
        return f'{{"rules":{self.rules.encode()},"who":"{self.who}"}}'

    @staticmethod
    def decode(text: str | bytes, time_ms: int = 0, offset: int = -1) -> RuleChange:
        """Inverse of `encode`. Raises ValueError when it is no such text."""
        try:
            wire = msgspec.json.decode(text, type=_Wire)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise ValueError(f"this is no change of rules: {str(error)[:200]}") from None
        rules = Rules.decode(bytes(wire.rules))
        for name, rule in rules.items():
            try:
                check_rule(rule)
            except RuleError as error:
                raise ValueError(f"{name}: {error.key}: {error}") from None
        check_rules(rules)
        return RuleChange(rules, wire.who, time_ms, offset)

    def versions(self) -> list[RuleVersion]:
        """Every rule with its version."""
        return [
            RuleVersion(
                rule=name, version=self.rules.version(name), kind=kind_of(rule), since_ms=self.time_ms,
                definition=msgspec.json.encode(rule, order="sorted").decode(), changed_by=self.who, offset=self.offset,
            )
            for name, rule in self.rules.items()
        ]  # fmt: skip

    def row(self, kind: int, received_ns: int) -> tuple[Any, ...]:
        """Its record as `Batch.of` takes it; ``kind`` is `Kind.RULES`. It is of no market."""
        return (kind, 0, -1, self.time_ms, received_ns, 0.0, 0, 0, 0, 0, self.encode())
