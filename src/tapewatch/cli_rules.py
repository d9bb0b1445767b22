"""The commands that check, show and change the alert rules: `tapewatch rules`.

They read and write `alerts.toml` alone; a running pipeline follows the file within two seconds.
"""

from __future__ import annotations

import os
import tomllib
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any

import typer

from tapewatch.errors import InputError
from tapewatch.settings import Settings, load_settings

__all__ = ["add_commands"]

Name = Annotated[str, typer.Argument(metavar="RULE", help="its name: the table of alerts.toml")]


def add_commands(app: typer.Typer) -> None:
    """Add them to the program."""
    rules = typer.Typer(help="Check, list and change the alert rules.", no_args_is_help=True)
    rules.command(short_help="Check alerts.toml, or another file.")(check)
    rules.command("list", short_help="List the rules.")(list_rules)
    rules.command(short_help="Add a rule, or change some keys of one.")(add)
    rules.command(short_help="Switch a rule on.")(on)
    rules.command(short_help="Switch a rule off.")(off)
    rules.command(short_help="Take a rule out.")(remove)
    app.add_typer(rules, name="rules", short_help="Check, list and change the alert rules.")


def check(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="default: ALERTS_FILE, alerts.toml")] = None,
) -> None:
    """Check the file: each mistake is one line that names the line, the key, its value and what is allowed."""
    from tapewatch.notify.targets import channels_of
    from tapewatch.profiles.alertsfile import read_alerts_file

    settings = load_settings()
    if file is not None:
        settings = settings.model_copy(update={"alerts_file": _called_from(file)})
        if not settings.alerts_file.exists():
            raise InputError(f"{file}: there is no such file")
    found = read_alerts_file(settings)
    on_count = sum(rule.enabled for rule in found.rules.values())
    channels = channels_of(settings, found.channels)
    path = settings.alerts_file
    where = path if path.exists() else f"no {path}, so the defaults hold"
    print(f"{where}: {len(found.rules)} rules, {on_count} of them on; channels {', '.join(channels)}. All is in order.")


def list_rules() -> None:
    """The rules as alerts.toml says them, the defaults first: name, kind, version, whether it is on, and its keys."""
    from tapewatch.profiles.alertsfile import read_alerts_file
    from tapewatch.rules.model import kind_of
    from tapewatch.rules.parse import as_table, toml_value

    rules = read_alerts_file(load_settings()).rules
    width = max(map(len, rules))
    for name, rule in rules.items():
        keys = {key: value for key, value in as_table(name, rule).items() if key not in ("kind", "enabled")}
        said = "  ".join(f"{key}={toml_value(value)}" for key, value in keys.items())
        state = "on " if rule.enabled else "off"
        print(f"{name:<{width}}  {kind_of(rule):<9}  {rules.version(name)}  {state}  {said}".rstrip())


def add(
    rule: Name,
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE...", help="""such as kind=level level=200 'symbols=["AAPL"]'"""),
    ] = None,
) -> None:
    """Add a rule, or change some keys of one: tapewatch rules add apple_200 kind=level level=200 symbols=AAPL

    A value is written as in alerts.toml; what is no number, list or other value of TOML is a text. A key without a
    value (cooldown=) has its default again.
    """
    _write(rule, dict(_key(written) for written in keys or []))


def on(rule: Name) -> None:
    """Switch a rule on."""
    _write(rule, {"enabled": True})


def off(rule: Name) -> None:
    """Switch a rule off: it makes no alerts; those it has made are confirmed or retracted no more."""
    _write(rule, {"enabled": False})


def remove(rule: Name) -> None:
    """Take a rule out of alerts.toml; one of the defaults is then as if nothing were written of it."""
    from tapewatch.profiles.rulebook import change_rules
    from tapewatch.rules.edit import without_rule

    settings = load_settings()
    change_rules(settings, lambda text, where: without_rule(text, rule, where), "command")
    print(f"{rule} is taken out of {settings.alerts_file}.{_follows(settings)}")


def _write(name: str, keys: dict[str, Any]) -> None:
    from tapewatch.profiles.rulebook import change_rules
    from tapewatch.rules.edit import with_rule
    from tapewatch.rules.parse import as_toml

    settings = load_settings()

    def edit(text: str, where: str) -> str:
        return with_rule(text, name, keys, where)

    if "enabled" in keys and len(keys) == 1:
        _expect_rule(settings, name)
    found = change_rules(settings, edit, "command")
    print(f"{settings.alerts_file}, version {found.rules.version(name)}:{_follows(settings)}")
    print(as_toml(name, found.rules[name]), end="")


def _expect_rule(settings: Settings, name: str) -> None:
    from tapewatch.profiles.alertsfile import read_alerts_file

    if name not in (rules := read_alerts_file(settings).rules):
        raise InputError(f"{settings.alerts_file}: there is no rule {name[:60]}; expected one of {', '.join(rules)}")


def _follows(settings: Settings) -> str:
    from tapewatch.profiles.instance import Role, running

    runs = running(settings.data_dir, Role.RUN, Role.FEED)
    return " The running pipeline follows within two seconds." if runs else ""


def _key(written: str) -> tuple[str, Any]:
    """``level=200``: a value as TOML writes it, or else a text; of a list's key, names separated by commas."""
    key, equals, value = written.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{written}: expected KEY=VALUE, such as level=200")
    key, value = key.strip(), value.strip()
    if not value:
        return key, None
    try:
        read = tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        read = value
    if isinstance(read, date | time):
        read = value
    if key in ("symbols", "channels", "conditions") and isinstance(read, str):
        read = [name.strip() for name in read.split(",")]
    return key, read


def _called_from(path: Path) -> Path:
    return Path(os.environ.get("TAPEWATCH_CALLED_FROM", ".")) / path
