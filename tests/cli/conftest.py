"""A command line to call in this process, over a broker of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Cli, Ended

from seawall.cli.main import main


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the broker will be; the commands know it as their default."""
    path = tmp_path / "broker"
    monkeypatch.setenv("SEAWALL_BROKER", str(path))
    return path


@pytest.fixture
def cli(data: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    """Run one command in this process: much faster than a new one."""

    def run(*arguments: object) -> Ended:
        capfdbinary.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfdbinary.readouterr()
        return Ended(code, out, err.decode())

    return run


@pytest.fixture
def orders(cli: Cli) -> str:
    """A topic of one partition."""
    ended = cli("topic", "create", "orders", "-q")
    assert ended == Ended(0, b"", "")
    return "orders"
