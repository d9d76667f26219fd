"""`pip install .` into an empty environment outside the checkout, and what it puts there.

Needs a package index for the dependencies.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOT_COPIED = shutil.ignore_patterns(
    ".git",
    ".venv",
    ".*_cache",
    ".hypothesis",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    "*.so",
    "*.c",
)

# a user's own modules of the same names, beside their script
SHADOWS = {"broker.py": "mine = 1\n", "cli.py": "mine = 2\n", "wal.py": "mine = 3\n"}
SCRIPT = """
import json
import broker, cli, wal
import seawall.broker, seawall.cli, seawall.wal
from importlib.resources import files

ours = [seawall.broker, seawall.cli, seawall.wal]
print(json.dumps({
    "mine": [broker.mine, cli.mine, wal.mine],
    "files": [m.__file__ for m in ours],
    "typed": [(files(m) / "py.typed").is_file() for m in ours],
}))
"""
RECORDED = """
import importlib.metadata, json
print(json.dumps([str(f) for f in importlib.metadata.files("seawall")]))
"""


def clean_environment(**more: str) -> dict[str, str]:
    """Without what leads Python back into the checkout, or away from the compiled core."""
    dropped = ("PYTHONPATH", "VIRTUAL_ENV", "SEAWALL_PURE_PYTHON")
    return {k: v for k, v in os.environ.items() if k not in dropped} | more


def run(*command: str | Path, cwd: Path, **more: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment(**more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout."""
    copied = tmp_path_factory.mktemp("copy") / "source"
    shutil.copytree(ROOT, copied, symlinks=True, ignore=NOT_COPIED)
    return copied


@pytest.fixture(scope="module")
def installed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment that seawall was installed into."""
    base = tmp_path_factory.mktemp("install")
    environment = base / "environment"
    venv.create(environment, symlinks=True)  # without pip: ours installs into it
    python = environment / "bin" / "python"
    done = pip(
        *("--python", python, "install", "--no-compile", source),
        cwd=base,
        CFLAGS="-O0",  # whether it compiles is the question, and optimising takes 6 s
    )
    if done.returncode != 0:
        probe = pip("download", "--no-deps", "--no-cache-dir", "setuptools", cwd=base)
        if probe.returncode != 0:
            pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stdout
    return python.parent


@pytest.fixture
def beside_shadows(tmp_path: Path) -> Path:
    """A user's folder whose modules have the names of our folders."""
    for name, source in SHADOWS.items():
        (tmp_path / name).write_text(source)
    (tmp_path / "app.py").write_text(SCRIPT)
    return tmp_path


pytestmark = pytest.mark.timeout(900)


def test_users_modules_and_ours_do_not_meet(installed: Path, beside_shadows: Path) -> None:
    found = json.loads(run(installed / "python", "app.py", cwd=beside_shadows))
    assert found["mine"] == [1, 2, 3]
    assert found["typed"] == [True, True, True]
    assert all(str(installed.parent) in file for file in found["files"])


def test_command_answers_beside_users_modules(installed: Path, beside_shadows: Path) -> None:
    version = importlib.metadata.version("seawall")
    assert run(installed / "seawall", "--version", cwd=beside_shadows).strip() == (
        f"seawall {version}"
    )
    assert "Usage" in run(installed / "seawall", "--help", cwd=beside_shadows)


def test_only_our_own_names_are_installed(installed: Path, tmp_path: Path) -> None:
    recorded = json.loads(run(installed / "python", "-c", RECORDED, cwd=tmp_path))
    tops = {Path(name).parts[0] for name in recorded if not name.startswith("..")}
    assert {top for top in tops if top != "seawall" and not top.endswith(".dist-info")} == set()
    assert [name for name in recorded if name.startswith("..")] == ["../../../bin/seawall"]
    modules = {
        p.relative_to(ROOT) for d in ("wal", "broker", "cli") for p in (ROOT / d).rglob("*.py")
    }
    assert {f"seawall/{module}" for module in modules} <= set(recorded)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_core_is_compiled_where_there_is_a_compiler(installed: Path, tmp_path: Path) -> None:
    code = "from seawall.wal import records; print(records.IS_COMPILED)"
    assert run(installed / "python", "-c", code, cwd=tmp_path) == "True\n"


def test_core_is_optional(installed: Path, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    shutil.rmtree(source / "build")  # what was compiled there
    done = pip(
        *("install", "--no-deps", "--no-build-isolation", "--no-compile", "--target", target),
        source,
        cwd=tmp_path,
        CC="/bin/false",
    )
    assert done.returncode == 0, done.stdout
    code = "from seawall.wal import records; print(records.IS_COMPILED, records.__file__)"
    printed = run(installed / "python", "-c", code, cwd=tmp_path, PYTHONPATH=str(target))
    assert printed == f"False {target / 'seawall' / 'wal' / 'records.py'}\n"
