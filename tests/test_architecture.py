"""The rules of the house as tests: who imports what, who touches the disk, how long a room is."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("wal", "broker", "cli")  # each may import itself and those before it
MAX_LINES = 400
MODULES = sorted(p for layer in LAYERS for p in (ROOT / layer).rglob("*.py"))

# What breaks things on purpose. It stands outside: it may use whatever it likes, and only
# the command (and the tests) may import it.
TORTURE = {"wal/torture", "broker/torture"}

# Who alone may import what. A folder stands for every module in it.
ONLY_IN = {
    "fcntl": {"wal/files.py"},
    "lmdb": {"wal/kv.py", "wal/kv_view.py", "wal/kv_check.py", "wal/kv_folder.py"},
    "sqlalchemy": {"broker/catalog_writes.py"},
    "sqlite3": {"broker/catalog.py", "broker/catalog_connection.py", "broker/catalog_writes.py"},
    "inotify_simple": {"wal/watch.py"},
    "asyncio": {
        *("broker/aio.py", "broker/aio_events.py", "broker/aio_line.py", "broker/aio_runner.py"),
        *("broker/kafka", "cli"),
    },
    "confluent_kafka": {"broker/remote"},
    "typer": {"cli"},
    "click": {"cli"},
    "rich": {"cli"},
    # never: they are what the tests compare with
    "aiokafka": set(),
    "kafka": set(),
    # these do file I/O behind one's back; the command line opens its user's own files
    **{
        name: {"wal/files.py", "cli"}
        for name in ("pathlib", "shutil", "tempfile", "glob", "fileinput", "mmap")
    },
}

# What wal/ and broker/ may use of `os`; everything else goes through wal/files.py, where a
# test can break it.
OS_ALLOWED = {
    *("fspath", "PathLike", "fsencode", "fsdecode", "strerror", "sep", "pathsep"),
    *("environ", "getenv", "getpid", "getppid", "register_at_fork", "cpu_count", "urandom"),
    *("major", "minor"),
    *("path.join", "path.basename", "path.dirname", "path.split", "path.splitext"),
    *("path.normpath", "path.abspath", "path.isabs", "path.commonpath"),
}
OS_ALLOWED_IN = {
    # the pipe that wakes its thread is not a file
    "wal/watch.py": {"pipe", "pipe2", "read", "write", "close", "set_blocking"},
}


def assert_none(found: Iterable[str]) -> None:
    """Fail with all that was found, a line each."""
    lines = sorted(found)
    if lines:
        pytest.fail("\n".join(lines), pytrace=False)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), filename=str(path))


def within(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(place + "/") for place in places)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each imported name, in full: `from a.b import c` gives a.b.c. Relative ones begin with dots.

    A string that is wholly a seawall module's name counts: that is how lazy imports look.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, "." * node.level + f"{node.module or ''}.{alias.name}"
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.fullmatch(rf"seawall\.({'|'.join(LAYERS)})(\.\w+)*", node.value)
        ):
            yield node.lineno, node.value


def os_uses(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each attribute of `os` that is used or imported, such as `pwrite` or `path.join`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts = [node.attr]
            inner = node.value
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name) and inner.id == "os":
                used = ".".join(reversed(parts))
                if used != "path":  # its own attributes are looked at one by one
                    yield node.lineno, ".".join(used.split(".")[: 2 if used[:5] == "path." else 1])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in ("os", "os.path", "posix") and alias.asname is not None:
                    yield node.lineno, f"(under the name {alias.asname})"
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "os.path", "posix"):
            for alias in node.names:
                yield node.lineno, f"{'path.' if node.module == 'os.path' else ''}{alias.name}"


def broken_imports(name: str, tree: ast.AST) -> Iterator[str]:
    layer = name.split("/")[0]
    for line, imported in imports(tree):
        parts = imported.split(".")
        where = f"{name}:{line}: imports {imported}"
        if imported.startswith("."):
            yield f"{where}: relative; write `from seawall.{layer}.x import …`"
        elif parts[0] in LAYERS:
            yield f"{where}: the installed name begins with `seawall.`"
        elif parts[0] in ("tests", "benchmarks"):
            yield f"{where}: not installed"
        elif parts[0] == "seawall" and layer in LAYERS:
            allowed = LAYERS[: LAYERS.index(layer) + 1]
            if not set(parts[1:2]) <= set(allowed):
                yield f"{where}: {layer} may import only from {allowed}"
            elif parts[1:3] == ["broker", "kafka"] and not within(
                name, {"broker/kafka", "cli"} | TORTURE
            ):
                yield f"{where}: the facade does not know the wire protocol"
            elif "/".join(parts[1:3]) in TORTURE and not within(name, TORTURE | {"cli/torture.py"}):
                yield f"{where}: only `seawall torture` breaks things on purpose"
        elif (
            layer in LAYERS
            and parts[0] in ONLY_IN
            and not within(name, ONLY_IN[parts[0]] | TORTURE)
        ):
            yield f"{where}: that is for {sorted(ONLY_IN[parts[0]]) or 'nobody'}"


def broken_file_calls(name: str, tree: ast.AST) -> Iterator[str]:
    if name == "wal/files.py" or name.startswith("cli/") or within(name, TORTURE):
        return
    for line, used in os_uses(tree):
        if used not in OS_ALLOWED | OS_ALLOWED_IN.get(name, set()):
            yield f"{name}:{line}: os.{used}: only wal/files.py touches the disk"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("open", "io.open", "io.FileIO", "builtins.open"):
                yield f"{name}:{node.lineno}: {called}(): only wal/files.py touches the disk"


def broken_comments(name: str, source: bytes) -> Iterator[str]:
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        where = f"{name}:{token.start[0]}: {token.string}"
        if re.search(r"\b(FIXME|XXX|HACK)\b", token.string):
            yield f"{where}: say what is wrong, as `TODO: reason`"
        if re.search(r"\bTODO\b", token.string) and not re.search(
            r"\bTODO: \S+( \S+){2,}", token.string
        ):
            yield f"{where}: a TODO gives its reason: `TODO: what, and why not now`"


def test_imports_point_one_way() -> None:
    assert_none(b for path in MODULES for b in broken_imports(name_of(path), tree_of(path)))


def test_tests_and_benchmarks_use_the_installed_names() -> None:
    others = [p for folder in ("tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    broken = [b for path in others for b in broken_imports(name_of(path), tree_of(path))]
    assert_none(b for b in broken if "installed name" in b)


def test_only_wal_files_touches_the_disk() -> None:
    assert_none(b for path in MODULES for b in broken_file_calls(name_of(path), tree_of(path)))


def test_every_module_says_what_it_is_for() -> None:
    assert_none(name_of(path) for path in MODULES if not ast.get_docstring(tree_of(path)))


def test_no_module_has_two_jobs() -> None:
    rooms = MODULES + [p for layer in LAYERS for p in (ROOT / layer).rglob("*.py[xd]")]
    lengths = {name_of(path): len(path.read_bytes().splitlines()) for path in rooms}
    assert_none(f"{name}: {lines} lines" for name, lines in lengths.items() if lines > MAX_LINES)


def test_no_asserts() -> None:
    """`python -O` drops them, and bytes from disk or network deserve exceptions."""
    assert_none(
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Assert)
    )


def test_every_todo_gives_its_reason() -> None:
    assert_none(b for path in MODULES for b in broken_comments(name_of(path), path.read_bytes()))


def test_every_package_is_installed_and_typed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    in_tree = {name_of(path.parent) for path in MODULES if path.name == "__init__.py"}
    assert {name_of(path.parent) for path in MODULES} == in_tree, "a folder lacks its __init__.py"
    listed = project["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted("seawall." + name.replace("/", ".") for name in in_tree)
    assert [layer for layer in LAYERS if not (ROOT / layer / "py.typed").is_file()] == []


def project_files() -> list[Path]:
    """What git holds or would add."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard"]
    try:
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def test_top_level_is_fixed() -> None:
    folders = {"wal", "broker", "cli", "tests", "data", "docs", "benchmarks", ".ci", ".typing"}
    files = {"pyproject.toml", "README.md", "LICENSE", "Makefile", ".gitignore"}
    present = {path.relative_to(ROOT).parts[0] for path in project_files()}
    assert present - folders - files == set()
    in_data = [name_of(p) for p in project_files() if p.is_relative_to(ROOT / "data")]
    assert in_data == ["data/.gitkeep"]


def test_the_project_names_no_machine() -> None:
    """No path of the machine it was written on, and no package index, in any file."""
    words = [b"/" + b"work/", b"/" + b"root/", b"pythonhosted" + b".org", b"pypi" + b".org"]
    assert_none(
        f"{name_of(path)}: {word.decode()}"
        for path in project_files()
        for word in words
        if word in path.read_bytes()
    )


# The rules themselves, held against code that breaks them.


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("wal/x.py", "from seawall.broker import Broker"),
        ("wal/x.py", "from seawall import broker"),
        ("wal/x.py", "import_module('seawall.cli.main')"),
        ("wal/x.py", "import asyncio"),
        ("broker/x.py", "def f():\n    from seawall.cli import main"),
        ("broker/x.py", "from seawall.broker.kafka import server"),
        ("broker/x.py", "from seawall.wal.torture import search"),
        ("broker/x.py", "from .errors import BrokerError"),
        ("broker/x.py", "import lmdb"),
        ("broker/x.py", "from sqlalchemy.engine import Engine"),
        ("broker/x.py", "from pathlib import Path"),
        ("cli/x.py", "import broker"),
        ("cli/x.py", "from wal.errors import WalError"),
        ("cli/x.py", "import tests.leaks"),
        ("cli/x.py", "from kafka import KafkaConsumer"),
    ],
)
def test_rule_finds_imports(name: str, source: str) -> None:
    assert len(list(broken_imports(name, ast.parse(source)))) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("wal/kv.py", "import lmdb, os"),
        ("broker/catalog_writes.py", "import sqlalchemy as sa"),
        ("broker/kafka/server.py", "import asyncio\nfrom seawall.broker.kafka import frames"),
        ("broker/x.py", "from seawall.wal.errors import WalError"),
        ("broker/torture/x.py", "import shutil\nfrom seawall.wal.torture import search"),
        ("cli/x.py", "from pathlib import Path\nfrom seawall.broker import Broker"),
        ("tests/x.py", "import lmdb\nfrom seawall.wal import log"),
    ],
)
def test_rule_allows_imports(name: str, source: str) -> None:
    assert list(broken_imports(name, ast.parse(source))) == []


@pytest.mark.parametrize(
    "source",
    [
        "os.pwrite(1, b'', 0)",
        "os.path.exists('x')",
        "f = os.unlink",
        "from os import replace",
        "from os.path import exists",
        "import os as system",
        "os.stat('x').st_size",
        "with open('x') as f: pass",
        "io.open('x')",
    ],
)
def test_rule_finds_file_calls(source: str) -> None:
    assert len(list(broken_file_calls("broker/x.py", ast.parse(source)))) == 1
    assert list(broken_file_calls("wal/files.py", ast.parse(source))) == []


@pytest.mark.parametrize(
    "source",
    ["os.getpid()", "os.path.join('a', 'b')", "Broker.open('x')", "os.environ.get('X')"],
)
def test_rule_allows_what_is_no_file_call(source: str) -> None:
    assert list(broken_file_calls("wal/x.py", ast.parse(source))) == []


@pytest.mark.parametrize(
    "comment", ["# TODO", "# TODO: later", "# TODO fix this now", "# FIXME: x"]
)
def test_rule_finds_comments(comment: str) -> None:
    assert list(broken_comments("wal/x.py", f"x = 1  {comment}\n".encode()))


def test_rule_allows_comments() -> None:
    source = b"x = '# TODO'  # TODO: reuse the buffer once readers are pooled\n"
    assert list(broken_comments("wal/x.py", source)) == []
