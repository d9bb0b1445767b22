"""The tables `[channels.NAME]`: what they may say, what is told of a wrong one, and that no secret is ever shown."""

from __future__ import annotations

import re
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapewatch.errors import SettingsError
from tapewatch.notify.channels import Channel, ChannelError, filled, parse_channels
from tapewatch.notify.kinds import KINDS, limit_text, parse_limit
from tapewatch.notify.options import notify_options, system_options
from tapewatch.notify.targets import channel_names, channels_of, confirmed_only, environment, target_of
from tapewatch.rules.channels import NotifyOptions, Rate, SystemOptions
from tapewatch.settings import Settings

pytestmark = pytest.mark.anyio

SECRET = "s3cr3t-v4lue-that-nobody-may-see"
ALL = """
[log]
kind = "log"
limit = "100/s"

[hook]
kind = "webhook"
url = "https://receiver.example.org/hook"
secret = "env:HOOK_SECRET"
max_age = "5m"

[desk]
kind = "slack"
token = "env:SLACK_TOKEN"
channel = "#desk"
provisional = true

[desk2]
kind = "slack"
url = "env:SLACK_URL"

[duty]
kind = "pagerduty"
routing_key = "env:PD_KEY"
region = "eu"
resolve_after = "4h"
limit = "60/m"

[mail]
kind = "email"
host = "mail.example.org"
port = 587
security = "starttls"
user = "tapewatch"
password = "env:MAIL_PASSWORD"
from = "tapewatch@example.org"
to = ["a@example.org", "b@example.org"]
provisional = false

[chat]
kind = "telegram"
token = "env:TELEGRAM_TOKEN"
chats = ["-100123", "@desk_chat"]

[phone]
kind = "ntfy"
server = "https://ntfy.example.org"
topic = "tape"
token = "env:NTFY_TOKEN"

[phone2]
kind = "pushover"
user = "env:PUSHOVER_USER"
token = "env:PUSHOVER_TOKEN"
devices = "iphone"

[guild]
kind = "discord"
url = "env:DISCORD_URL"

[office]
kind = "teams"
url = "env:TEAMS_URL"
enabled = false

[other]
kind = "apprise"
url = "env:OTHER_URL"
"""
ENVIRONMENT = {
    "HOOK_SECRET": SECRET,
    "SLACK_TOKEN": f"xoxb-{SECRET}",
    "SLACK_URL": f"https://hooks.slack.com/services/{SECRET}",
    "PD_KEY": SECRET,
    "MAIL_PASSWORD": SECRET,
    "TELEGRAM_TOKEN": "123456789:" + SECRET.replace("-", "_"),
    "NTFY_TOKEN": f"tk_{SECRET}",
    "PUSHOVER_USER": SECRET.replace("-", "")[:30],
    "PUSHOVER_TOKEN": SECRET.replace("-", "")[:30],
    "DISCORD_URL": f"https://discord.com/api/webhooks/123/{SECRET}",
    "TEAMS_URL": f"https://prod-1.logic.azure.com/workflows/abc/triggers/manual/paths/invoke?sig={SECRET}",
    "OTHER_URL": f"prowl://{SECRET}",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def read(text: str) -> dict[str, Channel]:
    return parse_channels(tomllib.loads(text))


def test_every_kind() -> None:
    channels = read(ALL)
    assert {channel.kind for channel in channels.values()} == set(KINDS)
    assert channels["duty"].limit == Rate(60, 60_000)
    assert channels["desk"].limit == Rate(1, 1_000), "what Slack allows, if nothing is said"
    assert channels["hook"].max_age_ms == 300_000
    assert channels["duty"].values["resolve_after"] == 4 * 3_600_000
    assert channels["phone2"].values["devices"] == ["iphone"]
    assert confirmed_only(channels) == {"mail"}
    assert "office" not in channel_names(Settings(_env_file=None), channels)


def test_the_example_says_the_defaults_of_the_other_tables_and_shows_every_key_of_them() -> None:
    text = (Path(__file__).parent.parent / "alerts.toml.example").read_text(encoding="utf-8")
    found = tomllib.loads(text)
    assert notify_options(found["notify"]) == NotifyOptions()
    assert system_options(found["system"]) == SystemOptions()
    tables = tomllib.loads(
        re.sub(r"(?m)^# (?=\w+ = )", "", text.partition("[notify]")[2].partition("# --- channels")[0])
    )
    assert {*tables, *tables["system"]} - {"system"} == {
        "limit", "digest", "burst", "hold_grade_d", "link", "ping_url", "ping_every", "test_at_open", "test_channels",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_limit_of_a_kind_is_told_as_it_could_be_written(name: str) -> None:
    limit = KINDS[name].limit
    assert limit is None or parse_limit(limit_text(limit)) == limit
    page = (Path(__file__).parent.parent / "docs" / "notifications.md").read_text(encoding="utf-8")
    (row,) = [line.split(" | ") for line in page.splitlines() if line.startswith(f"| `{name}` | ")] or [None]
    assert limit is None or (row is not None and row[-2] == limit_text(limit)), (row, limit)


def test_the_example_shows_every_kind_and_key() -> None:
    text = (Path(__file__).parent.parent / "alerts.toml.example").read_text(encoding="utf-8")
    uncommented = "\n".join(re.sub(r"^# (?=\[|\w+ = )", "", line) for line in text.splitlines())
    channels = parse_channels(tomllib.loads(uncommented)["channels"])
    assert {channel.kind for channel in channels.values()} == set(KINDS) - {"log"}
    explained = text + (Path(__file__).parent.parent / "docs" / "notifications.md").read_text(encoding="utf-8")
    for name, kind in KINDS.items():
        for key in [*kind.keys, "limit", "max_age", "enabled", "provisional", "private"]:
            assert f"\n# {key} = " in explained or f"`{key}`" in explained, (name, key)


async def test_every_kind_becomes_a_target_and_shows_no_secret() -> None:
    settings = Settings(_env_file=None, WEBHOOK_URL=f"https://user:{SECRET}@host/{SECRET}", WEBHOOK_SECRET=SECRET)
    written = read(ALL)
    del written["log"]
    channels = channels_of(settings, written, ENVIRONMENT)
    assert set(channels) == {"log", "webhook"} | set(written) - {"office"}
    assert SECRET not in repr(channels)
    assert SECRET[:20] not in repr(channels)
    for channel in channels.values():
        await target_of(channel).close()


@pytest.mark.parametrize("name", sorted(set(ENVIRONMENT) - {"TEAMS_URL"}))
def test_a_secret_that_is_missing_or_wrong_is_told_without_it(name: str) -> None:
    settings = Settings(_env_file=None)
    written = read(ALL)
    with pytest.raises(SettingsError, match=rf"alerts\.toml: \[channels\.\w+\] \w+: the variable {name} is not set"):
        channels_of(settings, written, {key: value for key, value in ENVIRONMENT.items() if key != name})
    with pytest.raises(SettingsError, match=name) as caught:
        channels_of(settings, written, ENVIRONMENT | {name: f"{SECRET}\n{SECRET}"})
    assert SECRET not in str(caught.value)


WRONG = [
    ("x = 1", "[channels.x]: expected a table with a kind, one of log, webhook, slack"),
    ("[x]", "[channels.x] kind: expected one of webhook, slack, pagerduty"),
    ('[x]\nkind = "fax"', "telegram, ntfy, pushover, discord, teams, apprise, got 'fax'"),
    ('[x]\nkind = "log"', "[channels.x] kind: expected one of webhook"),
    ('[log]\nkind = "slack"', "[channels.log] kind: expected one of log"),
    ('["X y"]\nkind = "log"', "expected a name of small letters"),
    ('[x]\nkind = "webhook"', "[channels.x] url: is missing"),
    ('[x]\nkind = "webhook"\nurl = "https://a.b/"\ncolour = 1', "[channels.x] colour: no such key; expected one of"),
    ('[x]\nkind = "webhook"\nurl = "ftp://a.b/"', "[channels.x] url: expected an address starting with http:// or https://"),
    ('[x]\nkind = "webhook"\nurl = "https://a.b/"\nsecret = "plain"', 'such as secret = "env:MY_SECRET"'),
    ('[x]\nkind = "webhook"\nurl = "https://a.b/"\nsecret = "env:1 2"', "the name of a variable of the environment"),
    ('[x]\nkind = "webhook"\nurl = "https://a.b/"\nlimit = "fast"', 'such as "1/s", "30/m" or "100/h"'),
    ('[x]\nkind = "webhook"\nurl = "https://a.b/"\nlimit = "0/s"', 'such as "1/s", "30/m" or "100/h"'),
    ('[x]\nkind = "webhook"\nurl = "https://a.b/"\nmax_age = 5', '[channels.x] max_age: expected a duration such as'),
    ('[x]\nkind = "webhook"\nurl = "https://a.b/"\nmax_age = "31d"', "max_age: expected 1s to 30d, got '31d'"),
    ('[x]\nkind = "webhook"\nurl = "https://a.b/"\nprivate = "yes"', "[channels.x] private: expected true or false"),
    ('[x]\nkind = "slack"\ntoken = "env:A"', "[channels.x] channel: is missing"),
    ('[x]\nkind = "slack"\ntoken = "env:A"\nurl = "env:B"', "[channels.x] token: expected one of token and url"),
    ('[x]\nkind = "slack"\ntoken = "xoxb-1"', "this is a secret, so it may not stand in the file"),
    ('[x]\nkind = "pagerduty"\nrouting_key = "env:A"\nregion = "cn"', "[channels.x] region: expected one of us, eu"),
    ('[x]\nkind = "email"\nhost = "h"\nfrom = "a@b.c"\nto = "nobody"', "[channels.x] to: expected a mail address"),
    ('[x]\nkind = "email"\nhost = "h"\nfrom = "a@b.c\\r\\nBcc: d@e.f"\nto = "a@b.c"', "[channels.x] from: expected"),
    ('[x]\nkind = "email"\nhost = "h/../"\nfrom = "a@b.c"\nto = "a@b.c"', "[channels.x] host: expected a host name"),
    ('[x]\nkind = "email"\nhost = "h"\nport = 0\nfrom = "a@b.c"\nto = "a@b.c"', "[channels.x] port: expected a port"),
    ('[x]\nkind = "email"\nhost = "h"\nfrom = "a@b.c"\nto = "a@b.c"\npassword = "env:A"', "x] user: is missing"),
    ('[x]\nkind = "email"\nhost = "h"\nfrom = "a@b.c"\nto = []', "or a list of at most 50"),
    ('[x]\nkind = "telegram"\ntoken = "env:A"\nchats = "x y"', "[channels.x] chats: expected a chat such as"),
    ('[x]\nkind = "ntfy"\ntopic = ""', "[channels.x] topic: expected a text of at most 500 printable characters"),
    ('[x]\nkind = "discord"\nurl = "https://discord.com/api/webhooks/1/x"', "this is a secret"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_a_wrong_table_is_told_with_what_is_allowed(text: str, told: str) -> None:
    with pytest.raises(ChannelError) as caught:
        read(text)
    assert told in str(caught.value)


@pytest.mark.parametrize("key", ["secret", "url"])
def test_a_wrong_value_that_may_be_a_secret_is_not_shown(key: str) -> None:
    with pytest.raises(ChannelError) as caught:
        parse_channels({"x": {"kind": "webhook", "url": "https://a.b/", key: f"{SECRET}\n"}})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "url", "told"),
    [
        ("discord", "https://discord.com/api/webhooks/x/y", "does not look like https://discord.com/api/webhooks/NUMBER/TOKEN"),
        ("teams", "https://prod.logic.azure.com/workflows/a/triggers/manual/paths/invoke", "&sig=SIGNATURE"),
        ("teams", "http://h.example/workflows/a/triggers/manual/paths/invoke?sig=x", "&sig=SIGNATURE"),
        ("teams", "https://h.example/evil/workflows/a/triggers/manual/paths/invoke?sig=x", "https://HOST/powerautomate"),
        ("apprise", "syslog://localhost", "syslog:// is not allowed; expected one of bark"),
        ("apprise", "dbus://", "dbus:// is not allowed"),
        ("apprise", "json://127.0.0.1/", "json:// is not allowed"),
        ("apprise", "file:///etc/passwd", "file:// is not allowed"),
        ("apprise", "mailto://a:b@c.d", "mailto:// is not allowed"),
        ("apprise", "prowl://key?rto=9999", "options after ? are not allowed"),
        ("apprise", "matrixs://host/room?verify=no", "options after ? are not allowed"),
        ("apprise", "nothing", "this is not allowed"),
    ],
)  # fmt: skip
def test_values_that_make_no_channel(kind: str, url: str, told: str) -> None:
    written = parse_channels({"x": {"kind": kind, "url": "env:U"}})
    with pytest.raises(SettingsError) as caught:
        channels_of(Settings(_env_file=None), written, {"U": url})
    assert told in str(caught.value)


def test_a_name_of_an_address_that_cannot_be_meant_is_told_at_once_whatever_it_comes_from() -> None:
    with pytest.raises(ChannelError, match="nothing is sent to this address: it is link-local"):
        parse_channels({"x": {"kind": "ntfy", "topic": "t", "server": "http://169.254.169.254", "private": True}})
    channel = parse_channels({"x": {"kind": "slack", "url": "env:U"}})["x"]
    with pytest.raises(ChannelError, match="it is this machine"):
        filled(channel, {"U": "http://localhost/x"})


def test_the_webhook_of_the_settings_and_of_the_file_cannot_both_be() -> None:
    settings = Settings(_env_file=None, WEBHOOK_URL="https://host/")
    written = read('[webhook]\nkind = "webhook"\nurl = "https://other/"')
    with pytest.raises(SettingsError, match="both set: leave one out"):
        channels_of(settings, written, {})


@pytest.mark.parametrize(
    "url", ["http://0251.0376.0251.0376/s3cret", "http://[fe80::1%25eth0]/s3cret", "http://h:0/s3cret"]
)
def test_a_wrong_webhook_of_the_settings_is_told_without_it(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^WEBHOOK_URL=\(not shown\): ") as caught:
        channels_of(Settings(_env_file=None, WEBHOOK_URL=url), {}, {})
    assert "s3cret" not in str(caught.value)


def test_secrets_are_looked_up_in_the_environment_and_then_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.write_text("TAPE_A=file\nTAPE_B=file\n")
    monkeypatch.setenv("TAPE_A", "environment")
    found = environment(file)
    assert (found["TAPE_A"], found["TAPE_B"]) == ("environment", "file")


def test_a_short_secret_of_the_settings_is_refused_without_showing_it() -> None:
    settings = Settings(_env_file=None, WEBHOOK_URL="https://host/", WEBHOOK_SECRET="s3cret")
    with pytest.raises(SettingsError, match=r"^WEBHOOK_SECRET=\(not shown\): expected 24 characters or more$"):
        channels_of(settings, {}, {})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(sorted({key for kind in KINDS.values() for key in kind.keys} | {"limit", "max_age", "private"}))


@given(st.sampled_from(sorted(KINDS)), st.dictionaries(KEYS, JSON, max_size=4))
def test_whatever_is_written_is_a_channel_or_a_sentence(kind: str, values: dict[str, Any]) -> None:
    with suppress(ChannelError):
        parse_channels({"x": {"kind": kind, **values}})
