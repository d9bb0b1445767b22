"""The official JavaScript client, unchanged, against the simulator: through two drops, and then REST for the rest.

It is fetched by npm from `tests/js/package-lock.json`, which pins every package by its hash. Without node or the
packages the test is skipped, and says so.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tapewatch.records import Market
from tapewatch.simulator.chaos import Fault, Script, read_act
from tapewatch.simulator.market import SeededMarket
from tapewatch.simulator.sent import SentTrade
from tapewatch.simulator.server import Options, Simulator
from tapewatch.simulator.trouble import Trouble

FOLDER = Path(__file__).parent.parent / "js"
START_NS = 1_763_658_000_000_000_000  # 2025-11-20 12:00 in New York
SPEED = 10
"""Times its own pace that the market goes here."""
FAULTS = ("cut@10", "going-away@60", "close@120")
"""So far apart that the client is back, and hears trades, before the next one on a busy machine too."""
GOES_ON_NS = 600 * 1_000_000_000
"""Without a listener the market goes on, and REST with it, until the client asks."""
INSTALL_S = 300
RUN_S = 300

pytestmark = [pytest.mark.slow, pytest.mark.timeout(INSTALL_S + RUN_S)]


@pytest.fixture(scope="module")
def node() -> str:
    """The path of node, with the client's packages beside the script."""
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        pytest.skip("node and npm are needed for the official JavaScript client: ./run_tests.sh installs them")
    installed = FOLDER / "node_modules" / ".package-lock.json"
    if not installed.exists():
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        said = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        if said.returncode != 0:
            pytest.skip(f"the official JavaScript client cannot be fetched: {said.stderr.strip()[-300:]}")
    return found


async def converse(node: str) -> tuple[list[Any], list[SentTrade], SeededMarket, int]:
    """What the client says, what was sent, the market, and the last moment sent."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    market, sent = SeededMarket(11, 4), list[SentTrade]()
    trouble = Trouble(Script(None, [read_act(text) for text in FAULTS]), Random(1), repeats=False)
    async with Simulator(
        market,
        Options(frame_events_max=20),
        clock=lambda: START_NS + int((loop.time() - begun_s) * SPEED * 1e9),
        trouble=trouble,
        witness=sent.extend,
    ) as simulator:
        address = f"127.0.0.1:{simulator.port}"
        arguments = [f"ws://{address}", f"http://{address}", "T.AAPL,T.TSLA", str(len(FAULTS)), str(START_NS)]
        process = await asyncio.create_subprocess_exec(
            node, "client.mjs", *arguments, cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.PIPE, limit=1 << 24
        )
        try:
            async with asyncio.timeout(RUN_S):
                out, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()[-2_000:]
        assert [fault for _, fault, _ in trouble.done] == [Fault.CUT, Fault.GOING_AWAY, Fault.CLOSE]
        return [json.loads(line) for line in out.splitlines()], sent, market, simulator.sent_ns


def test_it_comes_through_drops_and_stream_and_rest_are_one_market(node: str) -> None:
    said, sent, market, end_ns = asyncio.run(converse(node))
    assert [one["closed"] for one in said if "closed" in one] == [1006, 1001, 1000]
    statuses = [(one["status"], one["message"]) for one in said if one.get("ev") == "status"]
    assert statuses == 3 * [
        ("connected", "Connected Successfully"),
        ("auth_success", "authenticated"),
        ("success", "subscribed to: T.AAPL"),
        ("success", "subscribed to: T.TSLA"),
    ]
    # The stream: what was sent, once and in order, on all three connections.
    ids = [(one["sym"], one["i"]) for one in said if one.get("ev") == "T"]
    assert ids == [(one.symbol, one.id) for one in sent]
    assert len(set(ids)) == len(ids) > 200
    cuts = [n for n, one in enumerate(said) if "closed" in one]
    assert all(any(one.get("ev") == "T" for one in said[a:b]) for a, b in zip([0, *cuts], cuts, strict=False))
    # REST: the same market, and what fell between the connections too.
    (rest,) = [one["rest"] for one in said if "rest" in one]
    prints = market.trades(Market.STOCKS, "AAPL", START_NS, end_ns + GOES_ON_NS)
    assert len(rest) == len(set(rest)) < len(prints)
    assert set(rest) == set(prints.ids[: len(rest)])
    aapl = {i for symbol, i in ids if symbol == "AAPL"}
    assert aapl < set(rest)
