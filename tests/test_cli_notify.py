"""`tapewatch notify`: a test message, the list, dead letters and their second chance."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from notify_parts import Request, answer, endpoint, message
from tapewatch.cli import execute
from tapewatch.notify.downs import Down
from tapewatch.notify.notices import Notices
from tapewatch.store.connect import Dsn

SECRET = "s3cr3t-of-the-channel"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "var"))


class Hook:
    """A receiver in a thread of its own."""

    def __init__(self, status: int) -> None:
        self.port = 0
        self.requests: list[Request] = []
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(status),))

    async def _serve(self, status: int) -> None:
        async with endpoint(answer(status, **({"Retry_After": "7"} if status == 429 else {}))) as (port, requests):
            self.port, self.requests = port, requests
            self._ready.set()
            await self._end.wait()

    def __enter__(self) -> Hook:
        self._thread.start()
        assert self._ready.wait(120)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()


def alerts(port: int, more: str = "") -> None:
    text = f'[channels.desk]\nkind = "webhook"\nurl = "env:DESK_URL"\nprivate = true\nlimit = "30/m"\n{more}'
    Path("alerts.toml").write_text(text)
    Path(".env").write_text(f"DESK_URL=http://127.0.0.1:{port}/{SECRET}\n")


def test_a_test_message_gets_there(capsys: pytest.CaptureFixture[str]) -> None:
    with Hook(200) as hook:
        alerts(hook.port)
        assert execute(["notify", "test", "desk"]) == 0
    (request,) = hook.requests
    assert b"A test of the channel desk." in request.body
    told = capsys.readouterr()
    assert told.out.startswith("desk: accepted after ")
    assert SECRET not in told.out + told.err


def test_a_test_message_that_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with Hook(429) as hook:
        alerts(hook.port)
        assert execute(["notify", "test", "desk"]) == 1
    told = capsys.readouterr()
    assert told.out == "desk: not delivered: 127.0.0.1 answered 429\ndesk: it asks to be left alone for 7 s\n"
    assert SECRET not in told.out + told.err


def test_a_channel_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    alerts(9)
    assert execute(["notify", "test", "nobody"]) == 2
    assert "there is no channel nobody; expected one of desk, log" in capsys.readouterr().err


def test_a_channel_that_is_turned_off(capsys: pytest.CaptureFixture[str]) -> None:
    alerts(9, "enabled = false\n")
    assert execute(["notify", "test", "desk"]) == 2
    assert "the channel desk is turned off: its table says enabled = false" in capsys.readouterr().err


def test_a_secret_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    alerts(9)
    Path(".env").write_text("")
    assert execute(["notify", "test", "desk"]) == 2
    told = "alerts.toml: [channels.desk] url: the variable DESK_URL is not set, neither in the environment nor in .env"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "x", "9" * 30])
def test_a_limit_that_is_none(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["notify", "dead", "--limit", limit]) == 2
    assert f"tapewatch: --limit {limit}: expected a whole number from 1 to 1000\n" == capsys.readouterr().err


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["notify"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("Usage: tapewatch notify")
    assert "--help)" not in told


def test_a_wrong_channel_is_told_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    alerts(9, "colour = 1\n")
    assert execute(["notify", "test", "desk"]) == 2
    assert "alerts.toml, line 6: [channels.desk] colour: no such key" in capsys.readouterr().err


def test_the_log_is_a_channel_too() -> None:
    assert execute(["notify", "test", "log"]) == 0


def test_what_to_send_again_must_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["notify", "resend"]) == 2
    assert execute(["notify", "resend", "one", "--all"]) == 2
    assert execute(["notify", "resend", "one", "--channel", "desk"]) == 2
    told = capsys.readouterr().err
    assert told == 3 * "tapewatch: expected the ids of dead letters, or --channel CHANNEL, or --all\n"


@pytest.fixture
def database(postgres: Dsn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dsn:
    values = {"HOST": postgres.host, "PORT": postgres.port, "NAME": postgres.dbname, "USER": postgres.user}
    for name, value in (values | {"PASSWORD": postgres.password}).items():
        monkeypatch.setenv(f"DB_{name}", str(value))
    log = tmp_path / "var" / "simulated" / "log"
    log.mkdir(parents=True)
    (log / "log.db").touch()
    return postgres


INSERT = """
    INSERT INTO notifications (id, alert_id, channel, event, payload, state, attempts, last_error)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"""


def add(dsn: Dsn, alert_id: str, state: str, attempts: int = 0, error: str | None = None) -> str:
    n = message(alert_id, channel="desk")
    with psycopg.connect(dsn.conninfo) as connection:
        values = (n.id, n.alert_id, n.channel, n.event, Jsonb(n.payload), state, attempts, error)
        connection.execute(INSERT, values)
    return n.id


@pytest.mark.slow
def test_dead_letters_are_listed_and_sent_again(database: Dsn, capsys: pytest.CaptureFixture[str]) -> None:
    more = (
        '[channels.phone]\nkind = "ntfy"\ntopic = "tape"\n[channels.old]\nkind = "ntfy"\ntopic = "t"\nenabled = false\n'
    )
    alerts(9, more)
    dead = add(database, "a1", "dead", 8, "127.0.0.1 answered 500 (attempt 8, the last)")
    waiting = add(database, "a2", "waiting")
    assert execute(["notify", "dead"]) == 0
    told = capsys.readouterr().out
    assert dead in told
    assert message("a1").payload["text"] in told
    assert "8 attempts: 127.0.0.1 answered 500 (attempt 8, the last)" in told
    assert waiting not in told
    assert execute(["notify", "list"]) == 0
    told_lines = capsys.readouterr().out.splitlines()
    lines = {line.split()[0]: line.split()[1:6] for line in told_lines}
    assert lines["desk"] == ["webhook", "30/m", "1", "1", "0"]
    assert lines["log"][0] == "log"
    assert lines["phone"] == ["ntfy", "12/m", "0", "0", "0"]
    assert "turned off" in next(line for line in told_lines if line.startswith("old "))
    assert execute(["notify", "resend", dead, waiting]) == 1
    assert f"1 notification will be sent again.\n{waiting}: is no dead letter\n" in capsys.readouterr().out
    assert execute(["notify", "dead"]) == 0
    assert capsys.readouterr().out == "No notification was given up.\n"
    assert execute(["notify", "resend", "--all"]) == 0
    add(database, "a3", "dead")
    assert execute(["notify", "resend", "--channel", "desl"]) == 2
    told = "tapewatch: --channel desl: there is no such channel; expected one of desk, log, old, phone\n"
    assert told in capsys.readouterr().err
    assert execute(["notify", "resend", "--channel", "desk"]) == 0
    assert capsys.readouterr().out == "1 notification will be sent again.\n"


@pytest.mark.slow
def test_what_is_told_of_the_system_is_listed_and_sent_again_too(
    database: Dsn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alerts(9)
    notices = Notices(tmp_path / "var" / "simulated" / "notices.db")
    n, now = message("system_down-store-1", channel="desk"), datetime.now(UTC)
    down = Down(
        system_id="system_down-store-1", rule="system_down", room="store", state="down", began=1.7e9, detail="Away."
    )  # fmt: skip
    notices.put(down, [n], now)
    asyncio.run(notices.dead(n.id, 8, "127.0.0.1 answered 500 (attempt 8, the last)"))
    ours = add(database, "a1", "dead", 8, "refused")
    assert execute(["notify", "dead"]) == 0
    told = capsys.readouterr().out
    assert f"{n.id}\n    {n.payload['text']}\n    8 attempts: 127.0.0.1 answered 500" in told
    assert ours in told
    assert execute(["notify", "resend", n.id, ours]) == 0
    assert capsys.readouterr().out == "2 notifications will be sent again.\n"
    assert [waiting.notification.id for waiting in asyncio.run(notices.claim("desk", 10, datetime.now(UTC)))] == [n.id]
    assert execute(["notify", "dead"]) == 0
    assert capsys.readouterr().out == "No notification was given up.\n"
    asyncio.run(notices.close())
