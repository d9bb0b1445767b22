"""The simulator's command line: what may be asked for, and how it is explained."""

from __future__ import annotations

import argparse
from pathlib import Path

from tapewatch.simulator.chaos import EVERY_S, FAULTS, Act, Fault, read_act
from tapewatch.simulator.plans import PLANS

__all__ = ["parser"]

_DESCRIPTION = """\
A local server that speaks Massive's (formerly Polygon.io's) WebSocket and REST protocol: a seeded market that never
ends, or recordings; well behaved, or as bad as you ask for. It needs no key and no internet. When it is ready it prints
one line of JSON with its addresses: {"ws": "ws://...", "delayed": "ws://.../delayed", "rest": "http://...", "pid": N}.

    stream    ws://HOST:PORT/stocks, /crypto, /options, /futures, /forex, /indices     real time
              ws://HOST:PORT/delayed/stocks ...                                        15 minutes late
    REST      /v3/trades, /v3/quotes, /futures/v1/trades, /v2/aggs, /v2/last/trade, /v3/reference, /v1/marketstatus

Both sides show one market: REST never knows of a trade that the stream has not come to."""

_EXAMPLES = """\
examples:
  tapewatch simulate --port 8765                                          a market; any key is good
  tapewatch simulate --port 8765 --plan starter                           for a key without trades: bars, 15 min late
  tapewatch simulate --port 8765 --chaos 7 --sent sent.jsonl              everything goes wrong; what was sent is listed
  tapewatch simulate --port 8765 --fault silence@30+60 --fault cut@120    two faults, at their times
  tapewatch simulate --port 8765 --replay 2026-01-22.csv.gz --speed 10    a recorded day, ten times as fast

faults, for --fault and --only:
"""


def parser() -> argparse.ArgumentParser:
    """Of all options. What is wrong ends the program with a sentence."""
    found = argparse.ArgumentParser(
        prog="tapewatch simulate",
        description=_DESCRIPTION,
        epilog=_EXAMPLES + "\n".join(f"  {fault.value:<17} {words}" for fault, words in FAULTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    found.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one (default)")
    found.add_argument("--parent", type=int, metavar="PID", help="end when this process is gone")
    _add_tape_options(found)
    _add_service_options(found)
    _add_plan_options(found)
    _add_chaos_options(found)
    return found


def _add_tape_options(parser: argparse.ArgumentParser) -> None:
    market = parser.add_argument_group("seeded market")
    market.add_argument("--seed", type=int, default=1, help="another number is another market (default: %(default)s)")
    market.add_argument(
        "--rate", type=_positive, default=4.0, help="trades per second and symbol at midday (default: %(default)s)"
    )
    market.add_argument(
        "--sessions",
        choices=["always", "real"],
        default="always",
        help="real: silent while the stock market is closed; always: trades then as at midday (default)",
    )

    replay = parser.add_argument_group("replay")
    replay.add_argument(
        "--replay",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="play these trades flat files instead, or raw captures (tapewatch record) frame by frame",
    )
    replay.add_argument(
        "--speed", type=_speed, default=1.0, help="times the recording's pace, or max (default: %(default)s)"
    )


def _add_service_options(parser: argparse.ArgumentParser) -> None:
    service = parser.add_argument_group("behaviour of the service")
    service.add_argument(
        "--acks",
        choices=["batched", "single"],
        default="batched",
        help="acknowledgements a frame (default: %(default)s)",
    )
    service.add_argument(
        "--connections",
        type=int,
        default=1,
        metavar="N",
        help="connections per key and cluster; 0: any number (default: 1)",
    )
    service.add_argument(
        "--evict",
        choices=["oldest", "newest", "random"],
        default="oldest",
        help="which connection goes when there are more (default: %(default)s)",
    )
    service.add_argument(
        "--auth-deadline",
        type=_positive,
        default=10.0,
        metavar="S",
        help="seconds to authenticate (default: %(default)s)",
    )
    service.add_argument(
        "--frame-events", type=int, default=500, metavar="N", help="most events in a frame (default: %(default)s)"
    )
    service.add_argument(
        "--buffer-mb",
        type=_positive,
        default=16.0,
        metavar="MB",
        help="unread data a client may have (default: %(default)s)",
    )
    service.add_argument("--compression", action="store_true", help="offer permessage-deflate")
    service.add_argument(
        "--pings",
        type=_seconds_or_none,
        default=20.0,
        metavar="S",
        help="ping the client every S seconds; 0: never (default: %(default)s)",
    )
    service.add_argument("--swallow-pongs", action="store_true", help="never answer the client's pings")
    service.add_argument(
        "--corrections",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="this share of the stocks' trades is cancelled or corrected by REST 5 minutes later, and the stream never "
        "says so (default: 0)",
    )


def _add_plan_options(found: argparse.ArgumentParser) -> None:
    plan = found.add_argument_group("plan")
    plan.add_argument(
        "--plan",
        choices=list(PLANS),
        default="advanced",
        help="free: no stream, 5 REST calls a minute, no trades; starter: bars, 15 minutes late; developer: trades "
        "too, 15 minutes late; advanced: everything (default)",
    )
    plan.add_argument("--keys", type=_names, help="the good keys, separated by commas (default: any)")
    plan.add_argument("--no-plan-keys", type=_names, default=frozenset(), help="keys of a plan without streams")
    plan.add_argument("--channels", type=_names, help="channels the plan has, such as T,AM (default: the plan's)")


def _add_chaos_options(found: argparse.ArgumentParser) -> None:
    chaos = found.add_argument_group("what goes wrong (default: nothing)")
    chaos.add_argument("--chaos", type=int, metavar="SEED", help="all faults in turn, by a script made from SEED")
    chaos.add_argument(
        "--every",
        type=_positive,
        default=EVERY_S,
        metavar="S",
        help="seconds between two, about (default: %(default)s)",
    )
    chaos.add_argument("--only", type=_faults, metavar="NAMES", help="draw only these, separated by commas")
    chaos.add_argument(
        "--fault",
        type=_act,
        action="append",
        default=[],
        metavar="NAME@S[+S]",
        help="this fault, S seconds after the first subscription, for so long; may be given again",
    )
    chaos.add_argument(
        "--sent", type=Path, metavar="FILE", help="append a line of JSON for every trade written to a socket"
    )


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return value


def _speed(text: str) -> float | None:
    return None if text == "max" else _positive(text)


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _seconds_or_none(text: str) -> float | None:
    return None if text == "0" else _positive(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to 1")
    return value


def _act(text: str) -> Act:
    try:
        return read_act(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _faults(text: str) -> frozenset[Fault]:
    names = _names(text)
    if not names or (unknown := sorted(names - set(Fault))):
        wrong = ", ".join(unknown) if names else repr(text)
        raise argparse.ArgumentTypeError(f"{wrong}: no fault; expected some of {', '.join(Fault)}")
    return frozenset(map(Fault, names))
