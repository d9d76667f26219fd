"""Building the client programs, as far as the toolchains are here."""

from __future__ import annotations

from pathlib import Path

import pytest
from clients import build


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(build, "BUILT", tmp_path / "built")
    return tmp_path / "built"


def test_a_missing_toolchain_is_named(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = ("no-such-tool", "nor-this")
    monkeypatch.setitem(build.PROGRAMS, "go", (tools, lambda target: None))
    assert "no no-such-tool and no nor-this here" in build.build("go")
    assert not built.exists()


def test_what_is_built_stays(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setitem(build.PROGRAMS, "go", ((), made.append))
    assert build.build("go") == "built"
    assert build.build("go") == "built before"
    assert made == [built / "go"]
    monkeypatch.setattr(build, "fingerprint", lambda name: "other sources")
    assert build.build("go") == "built"


def test_what_cannot_be_built_leaves_nothing(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(target: Path) -> None:
        build.run("sh", "-c", "echo no such package >&2; exit 3", cwd=target)

    monkeypatch.setitem(build.PROGRAMS, "go", (("sh",), fail))
    assert build.build("go") == ("not built, its tests are skipped: `sh` failed: no such package")
    assert list(built.iterdir()) == []


@pytest.mark.parametrize("name", build.PROGRAMS)
def test_every_program_has_its_sources(name: str) -> None:
    assert any(path.is_file() for path in (build.SOURCES / name).rglob("*"))
    assert len(build.fingerprint(name)) == 64
