"""Blocks ahead of the end: allocated for all, written with zeros for small appends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from seawall.wal.active import SMALL_APPEND_BYTES, ZEROS_AHEAD, Active
from seawall.wal.context import LogConfig
from seawall.wal.files import CREATE, READ_WRITE, Descriptor, Files


class Context:
    """What `Active` uses of a `LogContext`."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.config = LogConfig(segment_bytes=4 << 20, allocate_bytes=1 << 20)


class CountingFiles(Files):
    def __init__(self) -> None:
        self.written: list[tuple[int, int]] = []
        self.fails = False

    def pwrite(self, descriptor: int, data: bytes, position: int) -> int:  # type: ignore[override]
        if self.fails:
            raise OSError(5, "no")
        self.written.append((position, len(data)))
        return super().pwrite(descriptor, data, position)


@pytest.fixture
def files() -> CountingFiles:
    return CountingFiles()


@pytest.fixture
def active(tmp_path: Path, files: CountingFiles) -> Iterator[Active]:
    descriptor = Descriptor(files, str(tmp_path / "segment"), READ_WRITE | CREATE)
    yield Active(Context(files), descriptor, 0, 0)  # type: ignore[arg-type]
    descriptor.abandon()


def test_small_appends_find_written_blocks(active: Active, files: CountingFiles) -> None:
    active.allocate(100)
    active.write_ahead(100, 100)
    assert files.written == [(100, len(ZEROS_AHEAD))]
    active.write_ahead(200, 100)
    assert len(files.written) == 1
    behind = 100 + len(ZEROS_AHEAD) + 1
    active.write_ahead(behind, 100)
    assert files.written[1:] == [(behind, len(ZEROS_AHEAD))]
    assert os.fstat(active.descriptor.number).st_size == 1 << 20


def test_large_appends_do_not(active: Active, files: CountingFiles) -> None:
    active.allocate(SMALL_APPEND_BYTES + 1)
    active.write_ahead(SMALL_APPEND_BYTES + 1, SMALL_APPEND_BYTES + 1)
    assert files.written == []


def test_never_beyond_what_is_allocated(active: Active, files: CountingFiles) -> None:
    active.allocate(100)
    end = active.allocated_bytes - 10
    active.write_ahead(end, 10)
    active.write_ahead(active.allocated_bytes, 10)
    assert files.written == [(end, 10)]


def test_a_failure_does_not_matter(active: Active, files: CountingFiles) -> None:
    active.allocate(100)
    files.fails = True
    active.write_ahead(100, 100)
