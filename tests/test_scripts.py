"""The scripts a newcomer runs, in clones of their own: set-up, start, monitor, stop, and what is said when it fails.

The clone's folder has spaces in its name and no `.venv`; the packages are really installed, so this needs a network
or a full pip cache.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipeline_runs import ANSWER_S, END_S, clean_environment, until

ROOT = Path(__file__).parent.parent
TOOLS = ("bash", "cat", "cksum", "dirname", "env", "find", "flock", "id", "readlink", "rm")
"""All that the scripts ask of a machine, beside Python."""
SETUP_S = 1_500
DAY = """\
ticker,conditions,correction,exchange,id,participant_timestamp,price,sequence_number,sip_timestamp,size,tape,trf_id,trf_timestamp
"""

Ran = subprocess.CompletedProcess[str]


class Clone:
    """A copy of the tracked files, and scripts run in it as ``user`` (a numeric id)."""

    def __init__(self, folder: Path, user: int) -> None:
        self.folder = folder
        self.user = user
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        # Bytecode is made as it is needed: of all that is installed it would take as long as the rest.
        self.environment = clean_environment(
            HTTP_PORT="0", HOME=str(folder.parent), PIP_NO_INPUT="1", PIP_NO_COMPILE="1", PIP_DEFAULT_TIMEOUT="60"
        )
        self.environment.pop("TAPEWATCH_PYTHON", None)
        if user != os.getuid():
            subprocess.run(["chown", "-R", f"{user}:{user}", folder.parent], check=True)
            self.environment["TAPEWATCH_PYTHON"] = "/usr/bin/python3"  # ours may be out of their reach

    def command(self, script: str, *arguments: str) -> list[str]:
        line = [str(self.folder / script), *arguments]
        if self.user == os.getuid():
            return line
        return ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", *line]

    def run(self, script: str, *arguments: str, cwd: Path | None = None, **environment: str) -> Ran:
        return subprocess.run(
            self.command(script, *arguments), cwd=cwd or self.folder.parent, env=self.environment | environment,
            capture_output=True, text=True, timeout=SETUP_S,
        )  # fmt: skip

    def processes(self) -> list[psutil.Process]:
        """Everything that runs out of this folder, and what that has started."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, FileNotFoundError):
                if any(str(self.folder) in part for part in process.cmdline()):
                    found += [process, *process.children(recursive=True)]
        return [process for process in found if lives(process)]

    def kill_all(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait(END_S)


def lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


only_me = pytest.mark.parametrize("clone", ["me"], indirect=True)
"""What has nothing to do with whose the files are."""


@pytest.fixture(scope="module", params=["me", "an ordinary user"])
def clone(request: pytest.FixtureRequest) -> Iterator[Clone]:
    """A fresh clone; for an ordinary user too, where the tests run as root."""
    user = os.getuid()
    if request.param != "me":
        if user != 0:
            pytest.skip("the tests run as an ordinary user already")
        python = shutil.which("python3", path="/usr/bin")
        if python is None or subprocess.run([python, "-c", "import ensurepip, sys; assert sys.version_info >= (3, 11)"],
                                            capture_output=True).returncode:  # fmt: skip
            pytest.skip("no Python of the system's own that an ordinary user could run")
        user = pwd.getpwnam("nobody").pw_uid
    with tempfile.TemporaryDirectory(prefix="a newcomer ") as folder:  # pytest's own folders are closed to others
        made = Clone(Path(folder, "tape watch"), user)
        try:
            yield made
        finally:
            made.kill_all()


@pytest.fixture(scope="module")
def downloaded() -> Iterator[Path]:
    """What pip has fetched for the one clone, and need not fetch for the other."""
    with tempfile.TemporaryDirectory(prefix="pip-") as folder:
        yield Path(folder) / "pip"


@pytest.fixture(scope="module")
def started(clone: Clone, downloaded: Path) -> Ran:
    """What the very first start printed; before it, one without a network failed half-way."""
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1",
               "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}  # fmt: skip
    failed = clone.run("start_pipeline.sh", **offline)
    assert failed.returncode == 6, failed
    assert failed.stderr.splitlines()[-1].startswith("The packages could not be installed, for the reason above")
    assert (clone.folder / ".venv").exists()
    cache = clone.folder.parent / ".cache" / "pip"
    if downloaded.exists():
        shutil.copytree(downloaded, cache, dirs_exist_ok=True)
        subprocess.run(["chown", "-R", f"{clone.user}:{clone.user}", cache.parent], check=True)
    ran = clone.run("start_pipeline.sh")
    if cache.exists() and not downloaded.exists():
        shutil.copytree(cache, downloaded)
    return ran


def url_of(ran: Ran) -> str:
    assert ran.returncode == 0, ran
    found = re.search(r"^Tapewatch is (already )?running: (http://127\.0\.0\.1:\d+/)$", ran.stdout, re.MULTILINE)
    assert found, ran
    return found[2]


def get(url: str) -> httpx.Response:
    return httpx.get(url, trust_env=False, timeout=ANSWER_S).raise_for_status()


def stocks(url: str) -> list[dict[str, Any]]:
    """The newest of every symbol; none while a busy machine's database is too slow for the server (503)."""
    answer = httpx.get(f"{url}api/v1/stocks", trust_env=False, timeout=ANSWER_S)
    assert answer.status_code in (200, 503), answer.text
    return list(answer.json()) if answer.status_code == 200 else []


pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * SETUP_S)]


def test_the_first_start_sets_up_and_gives_the_page(clone: Clone, started: Ran) -> None:
    assert "Data is SIMULATED: set MASSIVE_API_KEY in .env for the real market.\n" in started.stdout
    assert started.stderr.startswith("Setting up .venv (once")
    url = url_of(started)
    assert "<title>Tapewatch" in get(url).text
    found = until(lambda: stocks(url), "prices")
    assert {stock["symbol"] for stock in found} <= {"AAPL", "TSLA", "GOOGL", "MSFT", "BTC"}


def test_a_second_start_finds_the_first(clone: Clone, started: Ran) -> None:
    again = clone.run("start_pipeline.sh", cwd=Path("/"))
    assert (url_of(again), again.stderr) == (url_of(started), "")
    assert "already running" in again.stdout


def test_the_monitor_shows_every_room(clone: Clone, started: Ran) -> None:
    url = url_of(started)
    until(lambda: get(url + "api/v1/status").json()["store"]["state"] == "ok", "a database that is well")
    words = ("SIMULATED", "feed stocks", "feed crypto", "log", "engine", "store", "Alerts", "Gaps")

    def shown() -> str:
        """The screen, if it has all of them: it has little patience with a busy machine, and then says that instead."""
        ran = clone.run("monitor_pipeline.sh", cwd=Path("/"))
        assert ran.returncode in (0, 1), ran
        return ran.stdout if all(word in ran.stdout for word in words) else ""

    screen = until(shown, f"a screen with {words}")
    assert max(map(len, screen.splitlines())) <= 80


def test_after_kill_9_of_everything_it_starts_again(clone: Clone, started: Ran) -> None:
    url_of(started)
    assert len(clone.processes()) >= 3
    clone.kill_all()
    assert clone.run("monitor_pipeline.sh").returncode == 3
    again = clone.run("start_pipeline.sh")
    assert "already" not in again.stdout
    assert get(url_of(again) + "healthz").json() == {"status": "ok"}


def test_stop_leaves_nothing_and_may_be_said_twice(clone: Clone, started: Ran) -> None:
    url_of(started)
    stopped = clone.run("stop_pipeline.sh", cwd=Path("/"))
    assert re.fullmatch(r"Stopped the SIMULATED pipeline \(process \d+\)\.\n", stopped.stdout), stopped
    assert clone.processes() == []
    again = clone.run("stop_pipeline.sh")
    assert (again.returncode, again.stdout, again.stderr) == (0, "Nothing was running.\n", "")


@only_me
def test_two_starts_at_once_give_one_pipeline(clone: Clone, started: Ran) -> None:
    url_of(started)
    (clone.folder / ".venv" / "tapewatch.stamp").unlink()  # and both think that they must set up first
    processes = [
        subprocess.Popen(clone.command("start_pipeline.sh"), env=clone.environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=SETUP_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    urls = [url_of(subprocess.CompletedProcess([], 0, text, "")) for text in said]
    assert urls[0] == urls[1]
    assert sorted("already" in text for text in said) == [False, True]
    assert clone.run("stop_pipeline.sh").returncode == 0
    assert clone.processes() == []


@only_me
def test_a_recording_is_named_from_where_the_caller_is(clone: Clone, started: Ran) -> None:
    url_of(started)
    rows = [f"SPY,,0,11,{i},{t},167.{i % 90:02},{i},{t},100,1,0,0\n" for i in range(500)
            for t in (1_381_152_600_000_000_000 + i * 1_000_000_000,)]  # fmt: skip
    folder = clone.folder.parent / "recordings"
    folder.mkdir()
    (folder / "day.csv.gz").write_bytes(gzip.compress((DAY + "".join(rows)).encode()))
    run = clone.run("start_pipeline.sh", "--replay", "day.csv.gz", "--speed", "max", cwd=folder)
    assert "Data is REPLAYED from a recording.\n" in run.stdout
    url = url_of(run)
    until(lambda: [stock["trades"] for stock in stocks(url)] == [500], "all trades of the file", 240)
    other = clone.run("start_pipeline.sh", "--replay", "day.csv.gz", cwd=folder)
    assert other.returncode == 2
    assert other.stderr == f"tapewatch: a replay is running already at {url}; stop it first with ./stop_pipeline.sh\n"
    assert "Stopped the REPLAYED pipeline" in clone.run("stop_pipeline.sh").stdout


@only_me
def test_a_busy_port_is_one_sentence(clone: Clone, started: Ran) -> None:
    url = url_of(clone.run("start_pipeline.sh"))
    port = url.rstrip("/").rpartition(":")[2]
    ran = clone.run("start_pipeline.sh", HTTP_PORT=port, DATA_DIR="var2")
    assert ran.returncode == 6
    assert re.fullmatch(r"tapewatch: [^\n]+\n", ran.stderr), ran
    assert port in ran.stderr
    assert "HTTP_PORT" in ran.stderr
    assert clone.run("stop_pipeline.sh").returncode == 0
    assert clone.processes() == []


@only_me
def test_what_the_tests_need_is_enough_to_start(clone: Clone, started: Ran) -> None:
    """After ./run_tests.sh, ./start_pipeline.sh does not install again; but for the tests, more must be installed."""
    url_of(started)
    kinds = {}
    for kind in ("runtime", "spark", "dev"):
        line = f'source scripts/environment.sh; fingerprint {kind} > .venv/tapewatch.stamp; is_installed "$1"'
        for asked in ("runtime", "spark", "dev"):
            shell = ["bash", "-c", line, "bash", asked]
            kinds[kind, asked] = subprocess.run(shell, cwd=clone.folder, env=clone.environment).returncode == 0
    wanting = [("runtime", "spark"), ("runtime", "dev"), ("spark", "dev")]
    assert [pair for pair, enough in kinds.items() if not enough] == wanting


# --- machines that will not do; these need no environment ---------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path) -> Clone:
    """A clone, on a machine that has a few tools and no Python."""
    made = Clone(tmp_path / "tape watch", os.getuid())
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found, name
        (tools / name).symlink_to(found)
    made.environment["PATH"] = str(tools)
    return made


def give_python(clone: Clone, name: str, script: str) -> Path:
    path = Path(clone.environment["PATH"]) / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_no_python(bare: Clone) -> None:
    give_python(bare, "python3", "exit 1")  # too old: it fails the question for its version
    ran = bare.run("start_pipeline.sh")
    assert ran.returncode == 6
    assert ran.stderr.splitlines()[-1].startswith("Tapewatch needs Python 3.11 or newer, and none was found on PATH.")


def test_a_python_that_is_named_but_will_not_do(bare: Clone) -> None:
    ran = bare.run("start_pipeline.sh", TAPEWATCH_PYTHON="/nowhere/python3")
    assert ran.returncode == 6
    said = "TAPEWATCH_PYTHON=/nowhere/python3 is not a Python of version 3.11 or newer."
    assert ran.stderr.splitlines()[-1] == said


def test_python_without_venv(bare: Clone) -> None:
    """As Debian ships it."""
    script = f'case "$*" in "-m venv"*) echo "ensurepip is not available"; exit 1;; esac; exec "{sys.executable}" "$@"'
    give_python(bare, "python3", script)
    ran = bare.run("start_pipeline.sh")
    assert ran.returncode == 6
    assert ran.stderr.splitlines()[-2:] == [
        "ensurepip is not available",
        ".venv could not be made, for the reason above; where ensurepip is missing: apt-get install python3-venv",
    ]
    assert not (bare.folder / ".venv").exists()


@pytest.mark.parametrize("script", ["stop_pipeline.sh", "monitor_pipeline.sh"])
def test_nothing_to_stop_or_to_show(bare: Clone, script: str) -> None:
    ran = bare.run(script)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert ran.stderr == (
        f"Tapewatch is not set up in {bare.folder}, so nothing runs here; "
        "./start_pipeline.sh sets it up and starts it.\n"
    )


def test_wrong_argument_of_the_tests(bare: Clone) -> None:
    ran = bare.run("run_tests.sh", "quick")
    assert (ran.returncode, ran.stderr) == (2, "usage: ./run_tests.sh [fast|all] [arguments of pytest]\n")
