"""The search that spoils caches: how it does that, and that it would notice what breaks."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from storage import memory_folder

from seawall.broker.errors import LogDamaged, StateDamaged
from seawall.broker.opening import Opening
from seawall.broker.state import State
from seawall.broker.torture import caches
from seawall.broker.torture.caches import CASES, ENDINGS, INDEX_STATES, RUN_STATES, Caches
from seawall.wal.ends import Ends
from seawall.wal.files import Files
from seawall.wal.kv_view import WriteTransaction, seal
from seawall.wal.torture.search import Broken, Case, Setting


@pytest.fixture(scope="module")
def search() -> Iterator[Caches]:
    with memory_folder() as path:
        search = Caches(Setting(scratch=path, memory=path, seed=1))
        search.prepare()
        yield search
        search.close()
        assert os.listdir(path) == []


def spoilt(**changed: int | str) -> Case:
    return {"ending": "killed", "index": "intact", "run": "intact", "boots": 0, "seed": 1} | changed


def flipped(environment: str, value: int, **changed: int | str) -> Case:
    case = {"ending": "closed", "environment": environment, "value": value, "bit": 9, "boots": 0}
    return case | {"seed": 1} | changed


# -- which cases -------------------------------------------------------------------------


def test_a_quick_search_is_half_combinations_half_flips(search: Caches) -> None:
    cases = list(search.cases())
    assert len(cases) == CASES[False]
    assert Counter("environment" in case for case in cases) == {True: 25, False: 25}
    assert list(search.cases()) == cases


def test_a_full_search_has_all_combinations_and_all_values(search: Caches) -> None:
    quick, search.setting = search.setting, Setting(scratch="", memory="", full=True)
    try:
        cases = list(search.cases())
    finally:
        search.setting = quick
    assert len(cases) >= CASES[True]
    combinations = {
        (case["ending"], case["index"], case["run"], case["boots"])
        for case in cases
        if "index" in case
    }
    assert len(combinations) == len(ENDINGS) * len(INDEX_STATES) * len(RUN_STATES) * 2
    flips = {
        (case["ending"], case["environment"], case["value"])
        for case in cases
        if "environment" in case
    }
    assert len(flips) == sum(
        len(values) for ending in ENDINGS for values in search._directories[ending].values.values()
    )


def test_smaller_cases(search: Caches) -> None:
    case = spoilt(index="old", run="absent")
    assert list(search.smaller(case)) == [{**case, "index": "intact"}, {**case, "run": "intact"}]
    assert list(search.smaller(flipped("state.lmdb", 0))) == []


# -- how things are spoilt ---------------------------------------------------------------


def test_a_directory_is_laid_out_with_the_very_file_that_says_where_logs_end(
    search: Caches,
) -> None:
    for ending in ENDINGS:
        directory = search._directories[ending]
        for _ in range(2):
            directory.lay_out()
            path = os.path.join(directory.path, "run", "ends")
            ends = Ends.open(Files(), path, Files().boot_id())
            assert ends is not None
            assert ends.read(1) is not None
            Path(path).write_bytes(b"spoilt")


def test_flipping_changes_one_bit_of_a_value_wherever_it_stands(tmp_path: Path) -> None:
    value = seal(b"k", b"value")
    path = tmp_path / "data.mdb"
    path.write_bytes(b"x" + value + b"y" + value)
    caches._flip(str(path), value, 11)
    changed = path.read_bytes()
    assert changed[1 : 1 + len(value)] == changed[-len(value) :]
    assert changed[0:1] + changed[1 + len(value) : 2 + len(value)] == b"xy"
    difference = [a ^ b for a, b in zip(changed[1:], value, strict=False)]
    assert difference == [0, 8] + [0] * (len(value) - 2)
    with pytest.raises(Broken, match="does not hold"):
        caches._flip(str(path), b"something else", 0)


def test_a_file_is_spoilt_in_place(tmp_path: Path) -> None:
    path = tmp_path / "ends"
    for state in ("garbage", "truncated"):
        path.write_bytes(bytes(1000))
        before = path.stat().st_ino
        caches._spoil_file(str(path), state, random.Random(1))
        assert path.stat().st_ino == before
        assert path.read_bytes() != bytes(1000)
        assert (path.stat().st_size == 1000) == (state == "garbage")


# -- cases -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"index": "absent", "run": "absent"},
        {"index": "foreign", "run": "old", "ending": "closed"},
        {"index": "truncated", "run": "put back", "boots": 1},
        {"index": "garbage", "run": "garbage", "boots": 1},
        {"index": "old", "run": "truncated", "boots": 1, "ending": "closed"},
        {"run": "foreign"},
    ],
    ids=lambda changed: "-".join(map(str, changed.values())) or "intact",
)
def test_caches_may_be_spoilt(search: Caches, changed: dict[str, int | str]) -> None:
    search.run(spoilt(**changed))


@pytest.mark.parametrize("boots", [0, 1])
@pytest.mark.parametrize("environment", caches.ENVIRONMENTS)
def test_bits_may_be_flipped(search: Caches, environment: str, boots: int) -> None:
    search.run(flipped(environment, 3, boots=boots))


# -- it would notice ---------------------------------------------------------------------


def test_another_directorys_index_that_is_trusted_is_caught(
    search: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Opening, "_is_index_ours", lambda _: True)
    with pytest.raises(LogDamaged):
        search.run(spoilt(index="foreign", run="absent"))


def test_rows_that_are_trusted_without_a_look_are_caught(
    search: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Opening, "_catch_up", lambda *_: True)
    with pytest.raises(Broken, match="starts at"):
        search.run(spoilt(run="put back"))


def test_values_without_a_checksum_are_caught(
    search: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seawall.wal.kv_view.unseal", lambda path, key, stored: stored[:-4])
    with pytest.raises(Broken, match="verify names"):
        search.run(flipped("state.lmdb", 3))


def test_an_acknowledgement_that_moves_back_is_caught(
    search: Caches, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = State.highest_committed

    def forgetful(self: State, partition_id: int) -> int | None:
        with self._environment.write() as transaction:
            assert isinstance(transaction, WriteTransaction)
            transaction.delete_range(b"O", b"P")
        return original(self, partition_id)

    monkeypatch.setattr(State, "highest_committed", forgetful)
    with pytest.raises(StateDamaged):
        search.run(spoilt(run="absent"))
