"""A real Prometheus (Debian's package) for tests: on a free port, in a folder of its own, scraping what it is told.

with Prometheus(tmp_path, {"tapewatch": ["127.0.0.1:8787"]}) as prometheus:
    prometheus.wait_scraped()
    prometheus.ask("up")                     # [{"metric": {...}, "value": [time, "1"]}]
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Self

import httpx

from pipeline_runs import ANSWER_S, until
from tapewatch.ports import free_port

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
BEGIN_S = 180.0
SCRAPE_S = 5
"""A scrape that takes longer on a busy machine would make all values vanish until the next."""


class Prometheus:
    """Runs while the block does; the project's rules are loaded."""

    def __init__(self, folder: Path, targets: dict[str, list[str]]) -> None:
        self.folder = folder
        self.targets = targets
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        jobs = [{"job_name": n, "static_configs": [{"targets": t}]} for n, t in self.targets.items()]
        intervals = dict.fromkeys(("scrape_interval", "scrape_timeout"), f"{SCRAPE_S}s")
        intervals["evaluation_interval"] = "1s"
        config = {"global": intervals, "rule_files": [str(RULES)], "scrape_configs": jobs}
        (self.folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        with (self.folder / "said.txt").open("wb") as said:
            self._process = subprocess.Popen(
                ["prometheus", f"--config.file={self.folder / 'prometheus.yml'}",
                 f"--storage.tsdb.path={self.folder / 'data'}", f"--web.listen-address={self.url[7:]}"],
                stdout=said, stderr=said,
            )  # fmt: skip
        until(self._is_ready, "Prometheus is ready", BEGIN_S)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "said.txt").read_text()[-2_000:]
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=ANSWER_S, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def wait_scraped(self) -> None:
        """Until every target was scraped once."""
        until(lambda: (found := self.ask("up")) and all(one["value"][1] == "1" for one in found), "all is scraped")

    def wait_rates(self) -> None:
        """Until every target was scraped often enough for a rate."""
        until(lambda: not self.ask("count_over_time(up[1m]) < 3") and self.ask("up"), "each is scraped three times")

    def ask(self, query: str) -> list[dict[str, Any]]:
        """An instant query; fails with what Prometheus says when it does not understand."""
        return self._get("query", query=query)

    def ask_range(self, query: str, start_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """The same over a time."""
        return self._get("query_range", query=query, start=start_s, end=end_s, step=step_s)

    def value(self, query: str) -> float:
        """The one number that the query gives, as soon as it gives one."""
        (one,) = until(lambda: self.ask(query), f"there is a value of {query}")
        return float(one["value"][1])

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with its health."""
        answer = httpx.get(f"{self.url}/api/v1/rules", timeout=ANSWER_S, trust_env=False).json()
        return [rule for group in answer["data"]["groups"] for rule in group["rules"]]

    def _get(self, what: str, **values: Any) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=values, timeout=ANSWER_S, trust_env=False).json()
        assert answer["status"] == "success", (values, answer)
        return list(answer["data"]["result"])
