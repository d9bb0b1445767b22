"""`tapewatch cluster`: what it starts, finds, heals and ends; with real Kafka, PostgreSQL and Spark."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

from pipeline_runs import until
from tapewatch.errors import MachineError, SettingsError
from tapewatch.log.kafka import KafkaPlace, ensure_topic
from tapewatch.ports import free_port
from tapewatch.profiles import broker, jars
from tapewatch.profiles.broker import Broker
from tapewatch.profiles.cluster import Cluster, Part
from tapewatch.profiles.jars import ensure_jars
from tapewatch.profiles.processes import end, find, spawn
from tapewatch.settings import Settings, load_settings

WITHIN_S = 180.0


def settings_of(folder: Path, **changed: object) -> Settings:
    return load_settings(data_dir=folder, _env_file=None, **changed)


@dataclass
class Own:
    """A cluster of a test's own."""

    folder: Path

    def cluster(self, **changed: object) -> Cluster:
        return Cluster(settings_of(self.folder, **changed))

    def parts(self, **changed: object) -> dict[str, Part]:
        return {part.name: part for part in self.cluster(**changed).status()}

    def sourced(self) -> dict[str, str]:
        """cluster.env, as a shell reads it."""
        script = f"set -eu; source {self.folder}/cluster/cluster.env; env -0"
        done = subprocess.run(["bash", "-c", script], env={"PATH": os.environ["PATH"]}, capture_output=True, check=True)
        return dict(pair.split("=", 1) for pair in done.stdout.decode().split("\0") if pair)

    def started(self) -> list[psutil.Process | None]:
        """Broker and keeper, as they are written down."""
        return [find(self.folder / "cluster" / name) for name in ("kafka/process.json", "keeper.json")]

    def processes(self) -> list[psutil.Process]:
        """Whatever runs in the folder, or was started from it."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.folder) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, FileNotFoundError):
                continue
        return found


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    own = Own(tmp_path / "var")
    yield own
    own.cluster().down()
    until(lambda: not own.processes(), "nothing of it is left")


def is_java(process: psutil.Process) -> bool:
    try:
        return process.name() == "java"
    except psutil.NoSuchProcess:
        return False


def kill(entry: Path) -> None:
    process = find(entry)
    assert process is not None
    process.kill()
    assert psutil.wait_procs([process], WITHIN_S)[1] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_up_starts_what_does_not_run_and_down_leaves_nothing(own: Own) -> None:
    assert own.cluster().down() == []
    assert not own.cluster().runs
    said = list(own.cluster().up(spark=False))
    assert said[0].startswith("Kafka answers at 127.0.0.1:")
    assert own.cluster().runs
    until(lambda: all(part.is_well for part in own.parts().values()), "all is well")
    path = own.cluster().environment_file
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    values = own.sourced()
    place = KafkaPlace(values["KAFKA_BOOTSTRAP_SERVERS"], "raw-trades", 3, deadline_ms=60_000)
    log_id = ensure_topic(place).log_id
    sourced = {"kafka_servers": place.servers, "db_host": values["DB_HOST"], "db_port": int(values["DB_PORT"])}
    assert values["DB_PASSWORD"] not in " ".join(said)

    before = own.started()
    assert None not in before
    assert list(own.cluster(**sourced).up(spark=False))[:2] == said[:2]
    assert own.started() == before, "what runs is left as it is"

    kill(own.folder / "cluster" / "kafka" / "process.json")
    assert not own.parts()["kafka"].is_well
    until(lambda: own.parts()["database"].is_well, "the database answers")
    list(own.cluster(**sourced).up(spark=False))
    until(lambda: all(part.is_well for part in own.parts(**sourced).values()), "all is well again")
    assert own.sourced() == values, "the addresses are the same"
    assert ensure_topic(place).log_id == log_id, "and so are the topics"

    kill(own.folder / "cluster" / "keeper.json")
    list(own.cluster().up(spark=False))
    until(lambda: own.parts()["database"].is_well, "the database has a keeper again, and answers")

    assert own.cluster().down() == ["Stopped PostgreSQL.", "Stopped Kafka."]
    assert own.processes() == []
    assert not own.cluster().runs


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_database_comes_back_by_itself(own: Own) -> None:
    list(own.cluster().up(spark=False))
    pid_file = own.folder / "cluster" / "postgres" / "postgres" / "postmaster.pid"
    pid = int(pid_file.read_text().split("\n")[0])
    process = psutil.Process(pid)
    process.kill()
    assert psutil.wait_procs([process], WITHIN_S)[1] == []
    until(lambda: own.parts()["database"].is_well, "it has come back")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_spark_starts_with_the_clusters_addresses_and_its_end_is_told(own: Own) -> None:
    said = list(own.cluster().up())
    assert any(line.startswith("Spark is starting") for line in said)
    assert own.parts()["spark"].is_well
    job = find(own.folder / "cluster" / "spark.json")
    assert job is not None
    assert job.environ()["KAFKA_BOOTSTRAP_SERVERS"] == own.sourced()["KAFKA_BOOTSTRAP_SERVERS"]
    assert any(line.startswith("Spark runs already") for line in own.cluster().up())
    until(lambda: any(map(is_java, job.children(recursive=True))), "Java was started")
    family = job.children(recursive=True)
    kill(own.folder / "cluster" / "spark.json")
    assert psutil.wait_procs(family, WITHIN_S)[1] == [], "Java ends with the job, however that ends"
    ended = own.parts()["spark"]
    assert (ended.is_well, "has ENDED" in ended.says) == (False, True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_database_elsewhere_is_used_and_not_stopped(own: Own, postgres: object) -> None:
    from tapewatch.store.connect import Dsn

    assert isinstance(postgres, Dsn)
    named = {
        "db_host": postgres.host, "db_port": postgres.port, "db_user": postgres.user, "db_name": postgres.dbname,
        "db_password": postgres.password,
    }  # fmt: skip
    said = list(own.cluster(**named).up(spark=False))
    assert f"PostgreSQL answers at {postgres.host}:{postgres.port}." in said
    assert own.sourced()["DB_PASSWORD"] == postgres.password
    until(lambda: own.parts(**named)["database"].is_well, "it answers")
    assert own.cluster(**named).down() == ["Stopped Kafka."]
    psycopg.connect(postgres.conninfo).close()


def test_a_database_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    cluster = Cluster(settings_of(tmp_path, db_host="127.0.0.1", db_port=1))
    with pytest.raises(MachineError, match=r"The database at DB_HOST=127.0.0.1, DB_PORT=1 does not answer: .*refused"):
        cluster._start_database()


def test_a_broker_elsewhere_is_not_this_commands(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="names a broker elsewhere"):
        Cluster(settings_of(tmp_path, kafka_servers="kafka-1:9092"))
    Cluster(settings_of(tmp_path, kafka_servers="127.0.0.1:9092"))


# --- the broker's own ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path, kafka: Broker) -> None:
    taken = int(kafka.servers.rpartition(":")[2])
    with pytest.raises(MachineError, match=f"Port {taken}, which Kafka's broker is to listen on, is taken"):
        Broker(tmp_path / "kafka", taken).start()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_port_that_is_taken_in_the_last_moment_is_exchanged(
    tmp_path: Path, kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even by another broker, which answers there too."""
    theirs = int(kafka.servers.rpartition(":")[2])
    first = [theirs]
    monkeypatch.setattr(broker, "free_port", lambda wanted=0: first.pop() if first else free_port())
    mine = Broker(tmp_path / "kafka")
    try:
        assert mine.start() != kafka.servers
        assert mine.answers(WITHIN_S)
    finally:
        mine.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_start_that_was_interrupted_is_begun_anew(tmp_path: Path) -> None:
    folder = tmp_path / "kafka"
    (folder / "data" / "half").mkdir(parents=True)
    (folder / "data" / "meta.properties").write_text("version=1\nnonsense")
    mine = Broker(folder)
    try:
        mine.start()
        assert not (folder / "data" / "half").exists()
    finally:
        mine.stop()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    mine = Broker(tmp_path / "kafka")
    mine.start()
    mine.stop()
    (tmp_path / "kafka" / "data" / "meta.properties").write_text("version=1\ncluster.id=another\nnode.id=7\n")
    with pytest.raises(MachineError, match=r"Kafka's broker has ended: .*(node|cluster).id"):
        mine.start()


# --- jars ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for jars with one kind, `kafka`, of two small ones; a Maven that brings what the test says."""
    folder = tmp_path / "deploy" / "kafka"
    folder.mkdir(parents=True)
    sums = {  # of "one" and "two"
        "a.jar": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
        "b.jar": "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3",
    }
    (folder / "jars.sha256").write_text("".join(f"{checksum}  {name}\n" for name, checksum in sums.items()))
    monkeypatch.setattr(jars, "_POMS", tmp_path / "deploy")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def maven(folder: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    program = folder / "bin" / "mvn"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/bash\nout="${{@: -1}}"; out="${{out#-DoutputDirectory=}}"; mkdir -p "$out"\n{does}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def test_jars_are_fetched_once_and_compared_each_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maven(cache, monkeypatch, 'echo x >> "$out/../../times"; printf one > "$out/a.jar"; printf two > "$out/b.jar"')
    found = ensure_jars("kafka")
    assert [path.read_text() for path in found] == ["one", "two"]
    assert ensure_jars("kafka") == found
    assert (cache / "cache" / "tapewatch" / "times").read_text() == "x\n"
    found[1].write_text("twO")
    with pytest.raises(MachineError, match=r"b.jar is missing, additional or not what .* \(1 of 2 differ\)"):
        ensure_jars("kafka")


@pytest.mark.parametrize(
    ("does", "sentence"),
    [
        ('printf one > "$out/a.jar"; printf other > "$out/b.jar"', "b.jar is missing, additional or not what"),
        ('printf one > "$out/a.jar"', "b.jar is missing"),
        ('printf one > "$out/a.jar"; printf two > "$out/b.jar"; touch "$out/c.jar"', "c.jar is missing, additional"),
        ("echo $'\\e[0m[ERROR] no network'; exit 1", "Maven cannot fetch the kafka jars: no network"),
        ("exit 3", "Maven cannot fetch the kafka jars: it ended with exit code 3"),
    ],
)
def test_jars_that_are_not_what_they_should_be_are_not_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch, does: str, sentence: str
) -> None:
    maven(cache, monkeypatch, does)
    with pytest.raises(MachineError, match=sentence):
        ensure_jars("kafka")
    maven(cache, monkeypatch, 'printf one > "$out/a.jar"; printf two > "$out/b.jar"')
    assert len(ensure_jars("kafka")) == 2


def test_without_a_checkout_the_jars_are_one_sentence(cache: Path) -> None:
    with pytest.raises(MachineError, match="runs from a checkout of Tapewatch's source"):
        ensure_jars("spark")


# --- processes -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_is_found_and_ended_with_all_that_it_started(tmp_path: Path) -> None:
    entry, says = tmp_path / "entry.json", tmp_path / "says"
    assert find(entry) is None
    assert not end(entry)
    script = "trap '' TERM; tail -f /dev/null & echo started; wait; wait"
    spawn(["bash", "-c", script], entry, says, outlives=True, environment=os.environ)
    process = find(entry)
    assert process is not None
    while "started" not in says.read_text():
        psutil.wait_procs([process], 0.02)
    children = process.children()
    assert end(entry, signal.SIGTERM, 0.2)
    assert not entry.exists()
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in [process, *children])


def test_another_process_with_the_same_number_is_left_alone(tmp_path: Path) -> None:
    entry = tmp_path / "entry.json"
    entry.write_text(f'{{"pid":{os.getpid()},"started":1.0}}')
    assert find(entry) is None
    assert not end(entry)
