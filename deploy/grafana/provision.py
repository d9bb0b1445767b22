"""Renders Grafana's folder and starts Grafana with it: what scripts/start_grafana.sh runs (docs/grafana.md).

    DATA_DIR/grafana/grafana.ini          rendered anew at each start, as is provisioning/ and dashboards/
    DATA_DIR/grafana/admin.password       made at the first start, as is secret.key and, for the embedded database,
                                          database.password; readable by their owner alone
    DATA_DIR/grafana/data, logs           Grafana's own

No secret is written into a rendered file or put on a command line: those files name variables of the environment, which
Grafana fills in itself, or the files above.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import psycopg
from dotenv import dotenv_values
from psycopg import sql

from tapewatch.errors import MachineError, SettingsError, StoreError, StoreUnavailable, TapewatchError
from tapewatch.profiles.instance import running
from tapewatch.settings import STATEMENT_TIMEOUT_MS, Settings, load_settings
from tapewatch.store.cluster import write_private
from tapewatch.store.connect import Dsn
from tapewatch.store.embedded import saved_dsn

HERE: Final = Path(__file__).parent
USER: Final = "tapewatch_grafana_user"
"""Who Grafana is in the embedded database: a member of tapewatch_grafana."""
CONTACT: Final = "Tapewatch"
CHANNELS: Final = {
    "email": "TAPEWATCH_ALERT_EMAIL",
    "slack": "TAPEWATCH_ALERT_SLACK_URL",
    "pagerduty": "TAPEWATCH_ALERT_PAGERDUTY_KEY",
    "webhook": "TAPEWATCH_ALERT_WEBHOOK_URL",
}
"""Where alerts go: the kind of receiver, and the variable that switches it on."""
MISSING: Final = (
    "Grafana is not installed here: no program `grafana` is on PATH, and GRAFANA_HOME names no folder that has "
    "bin/grafana. No package of Python or Debian brings it: get version 11 or newer (open source edition) as a .deb, "
    ".rpm or .tar.gz from grafana.com/grafana/download or from Grafana Labs' own apt and rpm repositories, then run "
    "this again, or set GRAFANA_HOME to the unpacked folder. Nothing was started."
)


@dataclass(frozen=True)
class Plan:
    """All that is rendered from; ``environment`` is what Grafana will run with, secrets included."""

    folder: Path
    port: int
    page: str
    lead_s: int
    environment: Mapping[str, str]


def contact_points(environment: Mapping[str, str]) -> dict[str, Any]:
    """The contact point with a receiver for each channel that is set, and the policy that sends everything there.

    Channels that are not set are deleted, since an earlier start may have made them.
    """
    chosen = {channel: name for channel, name in CHANNELS.items() if environment.get(name)}
    receivers = [_receiver(channel, f"${{{name}}}") for channel, name in chosen.items()]
    gone = [{"orgId": 1, "uid": f"tapewatch-{channel}"} for channel in CHANNELS if channel not in chosen]
    made: dict[str, Any] = {"apiVersion": 1}
    if receivers:
        made["contactPoints"] = [{"orgId": 1, "name": CONTACT, "receivers": receivers}]
        made["policies"] = [
            {
                "orgId": 1,
                "receiver": CONTACT,
                "group_by": ["alertname"],
                "group_wait": "10s",
                "group_interval": "1m",
                "repeat_interval": "4h",
            }
        ]
    else:
        made["resetPolicies"] = [1]
    if gone:
        made["deleteContactPoints"] = gone
    return made


def _receiver(channel: str, value: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "email": {"addresses": value, "singleEmail": True},
        "slack": {"url": value},
        "pagerduty": {
            "integrationKey": value,
            # what moves in the market is no reason to wake anybody up
            "severity": '{{ if eq .CommonLabels.severity "critical" }}critical{{ else }}info{{ end }}',
        },
        "webhook": {"url": value, "httpMethod": "POST"},
    }[channel]
    return {"uid": f"tapewatch-{channel}", "type": channel, "settings": settings, "disableResolveMessage": False}


def configuration(plan: Plan) -> str:
    """grafana.ini: loopback only, nobody without a password, nothing told to anybody outside."""
    folder = plan.folder
    sections: dict[str, dict[str, Any]] = {
        "paths": {"data": folder / "data", "logs": folder / "logs", "plugins": folder / "plugins"}
        | {"provisioning": folder / "provisioning"},
        "server": {"http_addr": "127.0.0.1", "http_port": plan.port},
        "security": {
            "admin_user": "admin",
            "admin_password": f"$__file{{{folder / 'admin.password'}}}",
            "secret_key": f"$__file{{{folder / 'secret.key'}}}",
            "disable_gravatar": "true",
        },
        "users": {"allow_sign_up": "false"},
        "auth.anonymous": {"enabled": "false"},
        "analytics": {
            "reporting_enabled": "false",
            "check_for_updates": "false",
            "check_for_plugin_updates": "false",
            "feedback_links_enabled": "false",
        },
        "news": {"news_feed_enabled": "false"},
        "snapshots": {"external_enabled": "false"},
        "plugins": {"preinstall_disabled": "true"},
        "dashboards": {
            "min_refresh_interval": "30s",
            "default_home_dashboard_path": folder / "dashboards" / "tapewatch-overview.json",
        },
        "smtp": {"enabled": "true" if plan.environment.get(CHANNELS["email"]) else "false"},
    }
    lines = ["; Rendered at each start by deploy/grafana/provision.py: changes made here are lost."]
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{name} = {value}" for name, value in values.items()), ""]
    return "\n".join(lines)


def placed(board: dict[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """A dashboard whose constants have this machine's values."""
    for variable in board["templating"]["list"]:
        if variable["type"] == "constant" and variable["name"] in values:
            value = values[variable["name"]]
            option = {"text": value, "value": value, "selected": True}
            variable |= {"query": value, "current": option, "options": [option]}
    return board


def render(plan: Plan) -> None:
    """Write all that Grafana reads, anew; make the passwords if there are none."""
    folder = plan.folder
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("admin.password", "secret.key"):
        password_of(folder / name)
    for name in ("provisioning", "dashboards"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.copytree(HERE / "provisioning", folder / "provisioning")
    for name in ("plugins", "notifiers"):  # Grafana complains of folders that are not there
        (folder / "provisioning" / name).mkdir(exist_ok=True)
    points = json.dumps(contact_points(plan.environment), indent=2)  # JSON is YAML
    (folder / "provisioning" / "alerting" / "contact_points.yaml").write_text(points + "\n", encoding="utf-8")
    (folder / "dashboards").mkdir()
    constants = {"page": plan.page, "lead": f"{plan.lead_s}s"}
    for path in HERE.glob("dashboards/*.json"):
        board = placed(json.loads(path.read_text(encoding="utf-8")), constants)
        (folder / "dashboards" / path.name).write_text(json.dumps(board, indent=1), encoding="utf-8")
    (folder / "grafana.ini").write_text(configuration(plan), encoding="utf-8")


def password_of(path: Path) -> str:
    """The password in a file, made at the first time; only its owner may read it."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24).encode())
    return path.read_text(encoding="utf-8").strip()


def data_source(settings: Settings, given: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The variables that the data source is filled with.

    Raises:
        SettingsError: there is a database of one's own, and no user of it for Grafana.
        StoreError: the embedded database cannot be reached, or has no tables yet.
    """
    if settings.db_host is None:
        dsn = let_in(running_folder(settings.data_dir), password_of(folder / "database.password"))
        address, name, user, password = f"{dsn.host}:{dsn.port}", dsn.dbname, dsn.user, dsn.password
    else:
        user, password = (given.get(f"TAPEWATCH_GRAFANA_DB_{word}", "") for word in ("USER", "PASSWORD"))
        if not user or not password:
            raise SettingsError(
                f"DB_HOST={settings.db_host} is a database of your own: make a user for Grafana in it, a member of "
                "tapewatch_grafana (docs/grafana.md), and set TAPEWATCH_GRAFANA_DB_USER and "
                "TAPEWATCH_GRAFANA_DB_PASSWORD. Nothing was started."
            )
        address, name = f"{settings.db_host}:{settings.db_port}", settings.db_name
    here = address.startswith(("127.0.0.1:", "localhost:", "::1:"))
    return {
        "TAPEWATCH_GRAFANA_DB_ADDRESS": address,
        "TAPEWATCH_GRAFANA_DB_NAME": name,
        "TAPEWATCH_GRAFANA_DB_USER": user,
        "TAPEWATCH_GRAFANA_DB_PASSWORD": password,
        "TAPEWATCH_GRAFANA_DB_SSLMODE": given.get("TAPEWATCH_GRAFANA_DB_SSLMODE") or ("disable" if here else "require"),
    }


def running_folder(data_dir: Path) -> Path:
    """Where the pipeline that runs here keeps its database.

    Raises:
        StoreError: none runs, or several do.
    """
    folders = [folder for folder, _ in running(data_dir)]
    if len(folders) != 1:
        what = "No pipeline runs" if not folders else "More than one pipeline runs"
        raise StoreError(
            f"{what} with DATA_DIR={data_dir}, and Grafana shows the database of one: "
            + ("start it with ./start_pipeline.sh" if not folders else "stop the others")
            + ". Nothing was started."
        )
    return folders[0]


def let_in(folder: Path, password: str) -> Dsn:
    """Make Grafana's user in the embedded database of that folder, or give it this password again; its access.

    Raises:
        StoreUnavailable: the database does not run.
        StoreError: it has no tables yet.
    """
    owner = saved_dsn(folder)
    if owner is None:
        raise StoreError(f"There is no database in {folder} yet: run ./start_pipeline.sh first. Nothing was started.")
    name = sql.Identifier(USER)
    try:
        with psycopg.connect(owner.conninfo, autocommit=True, connect_timeout=5) as connection:
            if connection.execute("SELECT to_regrole('tapewatch_grafana')").fetchone() == (None,):
                raise StoreError(f"The database in {folder} has no role tapewatch_grafana yet: wait for the start.")
            if connection.execute("SELECT to_regrole(%s)", (USER,)).fetchone() == (None,):
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE tapewatch_grafana").format(name))
            connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, sql.Literal(password)))
            connection.execute(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(name))
            connection.execute(
                sql.SQL("ALTER ROLE {} SET statement_timeout = {}").format(name, sql.Literal(STATEMENT_TIMEOUT_MS))
            )
    except psycopg.OperationalError as error:
        raise StoreUnavailable(
            f"The database in {folder} does not answer ({str(error).strip().splitlines()[-1]}): "
            "start the pipeline first, with ./start_pipeline.sh. Nothing was started."
        ) from None
    return Dsn(owner.host, owner.port, USER, password, owner.dbname)


def find_grafana(environment: Mapping[str, str]) -> tuple[Path, Path]:
    """The program, and its home: the folder with Grafana's own conf/defaults.ini.

    Raises:
        MachineError: there is none.
    """
    named = environment.get("GRAFANA_HOME")
    found = shutil.which("grafana", path=environment.get("PATH"))
    program = Path(named) / "bin" / "grafana" if named else Path(found) if found else None
    if program is None or not program.is_file():
        raise MachineError(MISSING)
    homes = [Path(named)] if named else [program.resolve().parent.parent, Path("/usr/share/grafana")]
    for home in homes:
        if (home / "conf" / "defaults.ini").is_file():
            return program, home
    raise MachineError(
        f"{program} is there, but not its conf/defaults.ini (looked in {', '.join(map(str, homes))}): "
        "set GRAFANA_HOME to the folder that holds bin and conf. Nothing was started."
    )


def prepared(settings: Settings, given: Mapping[str, str], port: int) -> Plan:
    """Look at everything and render; afterwards only Grafana itself is to be started.

    Raises:
        SettingsError: a variable is missing that another one needs.
        StoreError: the embedded database cannot be prepared.
    """
    if given.get(CHANNELS["email"]) and not given.get("GF_SMTP_HOST"):
        raise SettingsError(
            "TAPEWATCH_ALERT_EMAIL is set, but no mail server: set GF_SMTP_HOST (name:port), and GF_SMTP_USER, "
            "GF_SMTP_PASSWORD and GF_SMTP_FROM_ADDRESS as it demands. Nothing was started."
        )
    folder = settings.data_dir.resolve() / "grafana"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ours = {
        "TAPEWATCH_PROMETHEUS_URL": given.get("TAPEWATCH_PROMETHEUS_URL") or "http://127.0.0.1:9090",
        "TAPEWATCH_GRAFANA_DASHBOARDS": str(folder / "dashboards"),
    }
    environment = {**given, **ours, **data_source(settings, given, folder)}
    page = given.get("TAPEWATCH_PAGE_URL") or f"http://{settings.http_host}:{settings.http_port}"
    plan = Plan(folder, port, page.rstrip("/"), (settings.window_ms - settings.slide_ms) // 1000, environment)
    render(plan)
    return plan


def main() -> int:
    """Render, say where the page and the password are, and become Grafana."""
    parser = argparse.ArgumentParser(description="Start Grafana with Tapewatch's dashboards, on this machine alone.")
    parser.add_argument("--port", type=int, default=3000, help="where Grafana listens (127.0.0.1 only)")
    parser.add_argument("--render", action="store_true", help="only write the files, start nothing")
    options = parser.parse_args()
    lines = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    ours = {name: value for name, value in lines.items() if name.startswith(("TAPEWATCH_", "GF_", "GRAFANA_"))}
    given = ours | dict(os.environ)
    try:
        if not 1 <= options.port <= 65_535:
            raise SettingsError(f"--port {options.port}: expected a port from 1 to 65535")
        program, home = (None, None) if options.render else find_grafana(given)
        plan = prepared(load_settings(), given, options.port)
    except TapewatchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    secret = plan.folder / "admin.password"
    print(f"Grafana: http://127.0.0.1:{plan.port}/ (user admin, password in {secret})", flush=True)
    if program is None:
        print(f"Rendered into {plan.folder}; nothing was started.")
        return 0
    arguments = ["server", f"--homepath={home}", f"--config={plan.folder / 'grafana.ini'}"]
    return become(program, arguments, plan.environment)


def become(program: Path, arguments: list[str], environment: Mapping[str, str]) -> NoReturn:
    """This process goes on as ``program``, with its terminal and its process id."""
    os.execve(program, [str(program), *arguments], dict(environment))


if __name__ == "__main__":
    sys.exit(main())
