"""The shape of the source, held by reading it: who imports whom, what is pure, how long things are, what is banned."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "tapewatch"
MODULES = sorted(PACKAGE.rglob("*.py"))

ROOMS = {"feed", "log", "engine", "store", "serve", "notify", "simulator"}
JOINERS = {
    "profiles",
    "cli",
    "cli_alerts",
    "cli_backtest",
    "cli_capture",
    "cli_cluster",
    "cli_distributed",
    "cli_explain",
    "cli_notify",
    "cli_reconcile",
    "cli_report",
    "cli_rules",
    "cli_spark",
    "__main__",
    "doctor",
    "warm",
}
"""What may import several rooms, and be imported by none."""
SHARED = {"rules"}
"""Folders of words that every room knows: they import no room."""

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
FILE_BYTES_MAX = 300_000
LARGE_FILES: set[str] = set()

BROAD_EXCEPT = {
    "cli.py",  # the top of the process: a bug ends it with exit code 70
    "profiles/feeds.py",  # the top of a feed's task: stop the process, recovery does its work
    "serve/headers.py",  # the top of a request's task: log, answer 500, go on with the next request
}
"""Modules that catch everything, at the top of a task."""

IMPURE_MODULES = {
    *("aiohttp", "asyncio", "confluent_kafka", "fcntl", "http", "httpx", "mmap", "multiprocessing", "os", "psycopg"),
    *("requests", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl"),
    *("structlog", "subprocess", "sys", "tempfile", "threading", "time", "urllib.request", "uvicorn", "websockets"),
}
IMPURE_CALLS = {
    *("datetime.now", "datetime.utcnow", "datetime.today", "date.today", "open", "print", "input"),
    *(
        "Random",
        "random",
        "np.random",
        "numpy.random",
        "Path.cwd",
        "Path.home",
        "uuid.uuid4",
        "uuid.uuid1",
        "uuid4",
        "uuid1",
    ),
}
IMPURE_METHODS = {"read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "unlink", "exists", "stat"}


def parsed(source: str) -> ast.Module:
    return ast.parse(source)


@cache
def read(path: Path) -> ast.Module:
    return parsed(path.read_text(encoding="utf-8"))


@cache
def nodes(tree: ast.Module) -> list[ast.AST]:
    """All of a file: to go through it once takes longer than any rule."""
    return list(ast.walk(tree))


@pytest.fixture(scope="module", autouse=True)
def _forgotten() -> Iterator[None]:
    """A million nodes, through which the garbage collector would go in all later tests of this process."""
    yield
    read.cache_clear()
    nodes.cache_clear()


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def part_of(path: Path) -> str:
    """The room, or the module beside the rooms, that a file belongs to."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module imported anywhere in a file, also inside its functions; relative imports count as wrong."""
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(tree: ast.Module) -> set[str]:
    names = [name.split(".") for name in imports(tree)]
    return {parts[1] for parts in names if parts[0] == "tapewatch" and len(parts) > 1}


def dotted(node: ast.expr) -> str:
    """``np.random.default_rng`` of such an expression; empty for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (start := dotted(node.value)):
        return f"{start}.{node.attr}"
    return ""


def impurities(tree: ast.Module) -> list[str]:
    """What a pure file must not contain. A `random.Random` that the caller gives may be named, but not made.

    A lock is allowed: it changes who goes first, and never what comes out.
    """
    names = set(imports(tree))
    if {name for name in names if name.startswith("threading")} == {"threading", "threading.Lock"}:
        names -= {"threading", "threading.Lock"}
    found = [name for name in names if name in IMPURE_MODULES or name.split(".")[0] in IMPURE_MODULES]
    for node in nodes(tree):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        if called in IMPURE_CALLS or any(called.startswith(f"{start}.") for start in IMPURE_CALLS):
            found.append(f"{called}()")
        elif isinstance(node.func, ast.Attribute) and node.func.attr in IMPURE_METHODS:
            found.append(f".{node.func.attr}()")
    return found


def is_pure(tree: ast.Module) -> bool:
    return any(line.startswith("Pure:") for line in (ast.get_docstring(tree) or "").splitlines())


def built_statements(tree: ast.Module) -> list[int]:
    """Lines that execute SQL put together at run time from anything but constants of the program."""
    found = []
    for function in [
        tree,
        *(node for node in nodes(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)),
    ]:
        literal = _literal_arguments(function)
        for node in _own_nodes(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                runs = node.func.attr in ("execute", "executemany", "executescript", "copy")
                if runs and not _is_constant(node.args[0], literal):
                    found.append(node.lineno)
    return found


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, without those of the functions in it."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _own_nodes(child)


def _literal_arguments(function: ast.AST) -> set[str]:
    """The arguments of a function that its signature promises to be text of the program: ``where: LiteralString``."""
    arguments = getattr(getattr(function, "args", None), "args", [])
    return {a.arg for a in arguments if a.annotation is not None and dotted(a.annotation).endswith("LiteralString")}


def _is_constant(sql: ast.expr, literal: set[str]) -> bool:
    """A whole statement under any name, or one put together from constants; psycopg's own composition quotes."""
    match sql:
        case ast.JoinedStr() | ast.BinOp():
            return _is_piece(sql, literal)
        case ast.Call(func=ast.Attribute(attr="format", value=start)):
            return isinstance(start, ast.Call) and dotted(start.func) in ("sql.SQL", "SQL")
    return True


def _is_piece(sql: ast.expr, literal: set[str]) -> bool:
    """Text of the program, a CONSTANT, an argument that is one of these, or several of them."""
    match sql:
        case ast.Constant():
            return True
        case ast.JoinedStr(values=parts):
            return all(_is_piece(part, literal) for part in parts)
        case ast.FormattedValue(value=value):
            return _is_piece(value, literal)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _is_piece(left, literal) and _is_piece(right, literal)
    return dotted(sql) in literal or dotted(sql).split(".")[-1].isupper()


def broad_excepts(tree: ast.Module) -> list[int]:
    """Lines that catch everything."""
    found = []
    for node in nodes(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            reraises = bool(node.body) and isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            names = {"everything" if kind is None else dotted(kind) for kind in caught}
            if names & {"everything", "Exception", "BaseException"} and not reraises:
                found.append(node.lineno)
    return found


# --- the rules -------------------------------------------------------------------------------------------------


def broken_in(rule: Callable[[Path], object]) -> dict[str, object]:
    """What the rule finds wrong, by module."""
    return {name_of(path): found for path in MODULES if (found := rule(path))}


def test_a_room_imports_no_other_room() -> None:
    def foreign(path: Path) -> set[str]:
        part = part_of(path)
        return set() if part in JOINERS else parts_imported(read(path)) & ((ROOMS | JOINERS) - {part})

    assert broken_in(foreign) == {}, "may not be imported there"


def test_what_is_beside_the_rooms_is_known() -> None:
    """A folder that is no room, and a joiner that nobody knows of, would escape the rule above."""
    assert {part_of(path) for path in MODULES if len(path.relative_to(PACKAGE).parts) > 1} <= ROOMS | JOINERS | SHARED


def test_a_pure_file_has_no_input_output_clock_or_chance() -> None:
    assert broken_in(lambda path: impurities(read(path)) if is_pure(read(path)) else []) == {}


def test_the_core_is_marked_pure() -> None:
    pure = {name_of(path).removeprefix("src/tapewatch/") for path in MODULES if is_pure(read(path))}
    assert {"records.py", "sessions.py", "notify/outbox.py", "engine/engine.py", "engine/kernel.py"} <= pure


def test_every_module_says_what_it_is() -> None:
    assert broken_in(lambda path: len((ast.get_docstring(read(path)) or "").partition("\n")[0]) <= 10) == {}


def test_modules_are_short() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > MODULE_LINES_MAX} == {}


def test_functions_are_short() -> None:
    def long(path: Path) -> dict[str, int]:
        return {
            node.name: lines
            for node in nodes(read(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
            if (lines := node.end_lineno - node.lineno + 1) > FUNCTION_LINES_MAX
        }

    assert broken_in(long) == {}


def test_nothing_catches_everything() -> None:
    found = broken_in(lambda path: broad_excepts(read(path)))
    assert {
        name: lines for name, lines in found.items() if name.removeprefix("src/tapewatch/") not in BROAD_EXCEPT
    } == {}


def test_sql_has_parameters() -> None:
    assert broken_in(lambda path: built_statements(read(path))) == {}, "builds SQL from text at these lines"


def test_every_test_of_the_system_is_slow() -> None:
    """Without the slow tests that folder is not read at all: `tests/system/conftest.py`."""
    files = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "system").glob("test_*.py")}
    assert len(files) > 20
    assert [
        name_of(path) for path, text in files.items() if not re.search(r"(?m)^pytestmark = .*mark\.slow", text)
    ] == []


def tracked() -> list[Path]:
    printed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in printed.split("\0") if name and (path := ROOT / name).is_file()]


def _banned() -> re.Pattern[bytes]:
    # Written in parts, or this file would be the first to be found.
    hosts = [
        rb"files\.python" + rb"hosted\.org",
        rb"py" + rb"pi\.org",
        rb"registry\.npm" + rb"js\.org",
        rb"index-" + rb"url\s*=",
    ]
    return re.compile(rb"|".join([*hosts, rb"(?<![\w./-])/wo" + rb"rk/", rb"(?<![\w./-])/ro" + rb"ot/\w"]))


def test_no_file_names_a_package_registry_or_a_path_of_one_machine() -> None:
    pattern = _banned()
    found = {name_of(path): match[0] for path in tracked() if (match := pattern.search(path.read_bytes()))}
    assert found == {}


def test_no_file_is_large() -> None:
    sizes = {name_of(path): path.stat().st_size for path in tracked()}
    assert {name: n for name, n in sizes.items() if n > FILE_BYTES_MAX and name not in LARGE_FILES} == {}


# --- canaries: each rule finds what it looks for ----------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import os.path",
        "from time import time_ns",
        "from random import Random\nx = Random()",
        "from threading import Lock, Timer",
        "import random\nx = random.random()",
        "import random\nx = random.Random(1)",
        "def f():\n    import socket",
        "from datetime import datetime\nx = datetime.now()",
        "x = open('file')",
        "import numpy as np\nx = np.random.default_rng()",
        "def f(path):\n    return path.read_text()",
        "from urllib.request import urlopen",
    ],
)
def test_canary_an_impure_file_is_noticed(source: str) -> None:
    assert impurities(parsed(source)) != []


def test_canary_a_pure_file_is_left_alone() -> None:
    source = """if True:
        import random
        from datetime import UTC, datetime
        import numpy as np
        x = datetime.fromtimestamp(0, UTC), np.sum([1])
        def delays(chance: random.Random) -> float:
            return chance.random()
    """
    assert impurities(parsed(source)) == []


@pytest.mark.parametrize(
    ("source", "imported"),
    [
        ("import tapewatch.store.writer", {"store"}),
        ("from tapewatch.store.writer import StoreWriter", {"store"}),
        ("from tapewatch import store", {"store"}),
        ("def f():\n    from tapewatch.log import local", {"log"}),
        ("import numpy", set()),
    ],
)
def test_canary_an_import_is_noticed_however_it_is_written(source: str, imported: set[str]) -> None:
    assert parts_imported(parsed(source)) == imported


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        ("execute(f'SELECT {x}')", True),
        ("execute('SELECT ' + x)", True),
        ("execute('SELECT %s' % x)", True),
        ("execute('SELECT {}'.format(x))", True),
        ("executemany(f'{x}', rows)", True),
        ("execute(SELECT + where)", True),
        ("execute(f'{x.y}')", True),
        ("execute('SELECT %s', (x,))", False),
        ("execute(SELECT + 'WHERE a = %s' + LIMIT, (x,))", False),
        ("execute(f'PRAGMA page_size = {PAGE_BYTES}')", False),
        ("execute(SELECT, {'x': x})", False),
        ("execute(sql.SQL('DROP DATABASE {}').format(sql.Identifier(x)))", False),
    ],
)
def test_canary_built_sql_is_noticed(call: str, wrong: bool) -> None:
    assert bool(built_statements(parsed(f"cursor.{call}"))) is wrong


def test_canary_an_argument_that_is_text_of_the_program_may_be_part_of_a_statement() -> None:
    source = "def f(cursor, where: {}):\n    cursor.execute(SELECT + where)"
    assert built_statements(parsed(source.format("LiteralString"))) == []
    assert built_statements(parsed(source.format("str"))) == [2]


@pytest.mark.parametrize(
    ("handler", "wrong"),
    [
        ("except Exception:\n    pass", True),
        ("except (ValueError, BaseException):\n    pass", True),
        ("except:\n    pass", True),
        ("except BaseException:\n    clean()\n    raise", False),
        ("except ValueError:\n    pass", False),
    ],
)
def test_canary_catching_everything_is_noticed(handler: str, wrong: bool) -> None:
    assert bool(broad_excepts(parsed(f"try:\n    f()\n{handler}"))) is wrong


def test_canary_what_is_banned_is_noticed() -> None:
    for text in (b"https://py" + b"pi.org/simple", b"open('/wo" + b"rk/main/x')", b"--index-" + b"url = x"):
        assert _banned().search(text)
    for text in (b"https://host/work/x", b"docs/work/x", b"./work/", b"--no-emit-index-url", b"$PWD/work/x"):
        assert not _banned().search(text)
