"""An alert, with its evidence, from what the kernel has noted of it.

Pure: no I/O, no clock, no random number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tapewatch.engine.state import Params
from tapewatch.records import E8, Alert, AlertStatus, Batch, Gap, Kind, Tables
from tapewatch.rules.lines import LineKind
from tapewatch.rules.machines import Machine
from tapewatch.rules.model import Rules, SystemRule, VolumeRule, alert_key, words_of

STATUSES: Final = (AlertStatus.PROVISIONAL, AlertStatus.CONFIRMED, AlertStatus.RETRACTED)
OWN_KINDS: Final = ("golden_cross", "death_cross", "high_volume")
"""Rules whose alerts are of a kind of their own: their id."""
_PLAIN: Final = ((LineKind.PRICE, LineKind.AVERAGE), (LineKind.VOLUME, LineKind.VOLUME_MEAN))
"""Lines that need not be told: those of `OWN_KINDS`."""


def kind_of(machine: Machine) -> str:
    """What `Alert.kind` says of the machine's alerts.

    >>> kind_of(Machine("a", "1", "level", 1, True, None, None, 0, 0, 1, None, 0, "any", None, ()))
    'level'
    """
    return machine.rule if machine.rule in OWN_KINDS else machine.kind


def alert_of(
    event: Any, machine: Machine, rules: Rules, params: Params, batch: Batch, tables: Tables, gaps: Sequence[Gap],
    asked: Sequence[Gap], news_age_ms: int,
) -> Alert:  # fmt: skip
    """The alert of a `state.EVENT`; ``gaps`` and ``asked`` are those the engine remembers."""
    row = int(event["row"])
    symbol = str(tables.symbols.values[event["symbol"]])
    pane_ms = int(event["pane_ms"])
    status = STATUSES[event["status"]]
    triggered_ms = int(event["triggered_ms"])
    fetched = any(
        asking.market == batch.market[row]
        and asking.from_ms <= triggered_ms < asking.to_ms
        and (not asking.symbols or symbol in asking.symbols)
        for asking in asked
    )
    evidence = _evidence(event, machine, rules, params, batch, tables, gaps)
    if fetched:
        evidence["backfilled"] = True
    return Alert(
        alert_id=alert_key(machine.rule, machine.version, symbol, pane_ms, machine.direction),
        rule=machine.rule,
        rule_version=machine.version,
        kind=kind_of(machine),
        symbol=symbol,
        direction=machine.direction,
        status=status,
        pane_start_ms=pane_ms,
        triggered_ms=triggered_ms,
        decided_ms=int(event["decided_ms"]),
        price=float(event["price"]),
        line=float(event["line"]),
        late=fetched or int(batch.received_ns[row]) // 1_000_000 - triggered_ms > news_age_ms,
        offset=batch.offset + row if batch.offset >= 0 else -1,
        evidence={str(status): evidence},
    )


def _evidence(
    event: Any, machine: Machine, rules: Rules, params: Params, batch: Batch, tables: Tables, gaps: Sequence[Gap]
) -> dict[str, Any]:
    row = int(event["row"])
    start = int(event["pane_ms"]) - (params.window_panes - 1) * params.slide_ms
    end = int(event["pane_ms"]) + params.slide_ms
    gap_ms = sum(max(0, min(g.to_ms, end) - max(g.from_ms, start)) for g in gaps if g.market == batch.market[row])
    evidence: dict[str, Any] = {
        "price_before": _number(event["price_before"]),
        "line_before": _number(event["line_before"]),
        "price": _number(event["price_now"]),
        "line": _number(event["line_now"]),
        "window": {
            "from_ms": start,
            "to_ms": end,
            "trades": int(event["window_trades"]),
            "excluded": int(event["window_excluded"]),
            "gap_ms": gap_ms,
        },
        "passport": {
            "event_ms": int(batch.time_ms[row]),
            "received_ns": int(batch.received_ns[row]),
            "logged_ns": batch.logged_ns,
        },
    }
    rule = rules[machine.rule]
    if not isinstance(rule, VolumeRule | SystemRule):
        evidence["band_bps"] = rule.band_bps
    if (machine.left.kind, machine.right.kind) not in _PLAIN:
        evidence["lines"] = list(words_of(rule))
    if batch.kind[row] == Kind.RULES:
        evidence["withdrawn"] = True  # the rule was changed, or taken away
    if batch.kind[row] == Kind.TRADE:
        evidence["trade"] = {
            "id": batch.ids[row],
            "price": float(batch.price[row]),
            "size": int(batch.size_e8[row]) / E8,
            "time_ms": int(batch.time_ms[row]),
            "exchange": int(batch.exchange[row]),
            "conditions": list(tables.conditions.values[batch.conditions[row]]),
        }
    return evidence


def _number(value: Any) -> float | None:
    return None if value != value else float(value)
