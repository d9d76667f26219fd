"""Verdicts on LMDB files: whole, cut, garbage, with flipped bits."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from seawall.wal import kv_check
from seawall.wal.files import Files
from seawall.wal.kv import Environment
from seawall.wal.kv_check import Kind, check, check_in_child, find_damage
from seawall.wal.kv_view import seal

PAGE_BYTES = 4096


def make(path: Path, entries: int = 400) -> dict[bytes, bytes]:
    """An environment with pages of every kind: branches, leaves, free ones."""
    environment = Environment(str(path), files=Files(), map_size_bytes=1 << 26)
    for part in range(4):
        with environment.write() as transaction:
            for number in range(part, entries, 4):
                transaction.put(b"key-%06d" % number, b"%d-" % number * 8)
    with environment.read() as view:
        content = dict(view.iterate())
    environment.close()
    return content


def read_all(path: Path) -> dict[bytes, bytes]:
    environment = Environment(str(path), files=Files(), map_size_bytes=1 << 26)
    try:
        with environment.read() as view:
            return dict(view.iterate())
    finally:
        environment.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kv.lmdb"


def kind(path: Path) -> Kind:
    return check(Files(), str(path)).kind


def test_absent_and_whole(path: Path) -> None:
    assert kind(path) is Kind.ABSENT
    make(path, 0)
    assert kind(path) is Kind.FINE
    assert check_in_child(str(path)).kind is Kind.FINE


def test_a_whole_one_is_read_to_its_end(path: Path) -> None:
    make(path)
    before = sorted(os.listdir(path))
    assert kind(path) is Kind.FINE
    assert check_in_child(str(path)) == kv_check.Verdict(Kind.FINE)
    assert sorted(os.listdir(path)) == before


def test_missing_data_is_damage(path: Path) -> None:
    make(path)
    (path / "data.mdb").unlink()
    assert kind(path) is Kind.DAMAGED


def test_every_cut_is_damage_or_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = make(path)
    data = (path / "data.mdb").read_bytes()
    # The child is tried below; a process for each length would take too long.
    monkeypatch.setattr(
        kv_check,
        "check_in_child",
        lambda path, timeout_ms: kv_check.Verdict(Kind.DAMAGED if find_damage(path) else Kind.FINE),
    )
    lengths = {0, 1, 15, 16, 151, 152, 153, 4095, 4096, 4097, 4096 + 151, 4096 + 152, 8191, 8192}
    lengths |= {page + d for page in range(0, len(data), PAGE_BYTES) for d in (-1, 0, 1, 2048)}
    fine = 0
    for length in sorted(length for length in lengths if 0 <= length < len(data)):
        (path / "data.mdb").write_bytes(data[:length])
        if kind(path) is Kind.FINE:
            fine += 1
            assert read_all(path) == content
    assert fine < 5
    (path / "data.mdb").write_bytes(data)
    assert kind(path) is Kind.FINE


@pytest.mark.parametrize("length", [3 * PAGE_BYTES, 6 * PAGE_BYTES, 10 * PAGE_BYTES])
def test_a_cut_file_is_judged_in_a_child(path: Path, length: int) -> None:
    make(path)
    os.truncate(path / "data.mdb", length)
    verdict = check(Files(), str(path))
    assert verdict.kind is Kind.DAMAGED
    assert str(length) in verdict.reason


def test_garbage_is_damage(path: Path) -> None:
    make(path)
    data = path / "data.mdb"
    random_source = random.Random(5)
    for size in (0, 10, 4096, 8192, 20_000):
        for content in (bytes(size), b"\xff" * size, random_source.randbytes(size)):
            data.write_bytes(content)
            assert kind(path) is Kind.DAMAGED


@pytest.mark.parametrize(
    ("position", "content", "why"),
    [
        (16, b"\0\0\0\0", "not an LMDB file"),
        (20, b"\3", "data format 3"),
        (40, b"\1", "page size is 4097"),
        (10, b"\0", "not an LMDB file"),
        (80 + 1, b"\1", "root of a tree"),
        (128 + 1, b"\1", "root of a tree"),
        (PAGE_BYTES + 16, b"\0\0\0\0", "not an LMDB file"),
        (PAGE_BYTES + 40, b"\0\x20", "differ in page size"),
        (144, b"\x65", "transaction"),
    ],
)
def test_meta_pages_are_understood(path: Path, position: int, content: bytes, why: str) -> None:
    make(path)
    with open(path / "data.mdb", "r+b") as file:
        file.seek(position)
        file.write(content)
    verdict = check(Files(), str(path))
    assert verdict.kind is Kind.DAMAGED
    assert why in verdict.reason


def test_a_flipped_bit_is_found_or_means_nothing(path: Path) -> None:
    content = make(path, 120)
    data = (path / "data.mdb").read_bytes()
    random_source = random.Random(1)
    found = 0
    for _ in range(150):
        flipped = bytearray(data)
        position = random_source.randrange(len(data))
        flipped[position] ^= 1 << random_source.randrange(8)
        (path / "data.mdb").write_bytes(flipped)
        if kind(path) is Kind.DAMAGED or find_damage(str(path)):
            found += 1
        else:
            assert read_all(path) == content, position
    assert found > 10


def test_a_wrong_value_is_found_in_the_child(path: Path) -> None:
    make(path)
    with lmdb.open(str(path)) as raw, raw.begin(write=True) as transaction:
        transaction.put(b"key-000007", seal(b"key-000008", b"value"))
    verdict = check_in_child(str(path))
    assert verdict.kind is Kind.DAMAGED
    assert "key-000007" in verdict.reason


def child_that(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    run = subprocess.run

    def instead(command: list[str], **options: object) -> object:
        return run([sys.executable, "-c", source], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", instead)


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("print('ready', flush=True); import os; os.kill(os.getpid(), 7)", Kind.DAMAGED),
        ("print('ready', flush=True); import os; os.abort()", Kind.DAMAGED),
        ("print('ready', flush=True); import os; os.kill(os.getpid(), 9)", Kind.UNCHECKED),
        ("print('ready'); print('fine')", Kind.FINE),
        ("print('ready')", Kind.UNCHECKED),
        ("print('ready'); print('bad'); raise SystemExit(1)", Kind.DAMAGED),
        ("print('fine')", Kind.UNCHECKED),
        ("raise SystemExit('no module')", Kind.UNCHECKED),
        ("import time; time.sleep(60)", Kind.UNCHECKED),
    ],
)
def test_how_a_child_can_end(
    path: Path, monkeypatch: pytest.MonkeyPatch, source: str, want: Kind
) -> None:
    child_that(monkeypatch, "import resource; resource.setrlimit(4, (0, 0))\n" + source)
    timeout_ms = 500 if "sleep" in source else 60_000
    assert check_in_child(str(path), timeout_ms=timeout_ms).kind is want


def test_no_child_to_be_had(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert check_in_child(str(path)).kind is Kind.UNCHECKED
    monkeypatch.setattr(sys, "executable", "")
    assert check_in_child(str(path)).kind is Kind.UNCHECKED


def test_a_short_file_can_be_whole(path: Path) -> None:
    """LMDB never writes pages that a transaction took and gave back, even the last ones."""
    content = make(path)
    random_source = random.Random(1)
    data = path / "data.mdb"
    with lmdb.open(str(path), map_size=1 << 26, sync=False) as raw:
        for _ in range(1000):
            with raw.begin(write=True) as transaction:
                keys = [b"%08d" % random_source.randrange(10**8) for _ in range(400)]
                for key in keys:
                    transaction.put(key, seal(key, bytes(random_source.randrange(100))))
                for key in keys:
                    transaction.delete(key)
            if data.stat().st_size < (raw.info()["last_pgno"] + 1) * PAGE_BYTES:
                break
        else:
            pytest.skip("this LMDB writes every page")
    assert kind(path) is Kind.FINE
    assert read_all(path) == content
