"""The choices that are tried: all that must be among them."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator

import pytest
from recorded import Folder
from storage import memory_folder

from seawall.wal.torture.disk import Disk
from seawall.wal.torture.materialise import image
from seawall.wal.torture.states import (
    NOTHING,
    Choice,
    Fill,
    Tear,
    enumerate_choices,
    everything,
    random_choices,
    simpler_choices,
)


@pytest.fixture
def folder() -> Iterator[Folder]:
    with memory_folder() as root:
        yield Folder(root)


def written(folder: Folder, *writes: tuple[int, bytes], durable: bytes = b"") -> Disk:
    """A durable file ``a``, and writes to it that are not synced."""
    folder.durable("a", durable)
    for position, data in writes:
        folder.write("a", data, position)
    return folder.disk()


def contents(disk: Disk, choices: Iterator[Choice]) -> set[bytes | None]:
    return {image(disk, choice).get("a") for choice in choices}


def test_a_synced_disk_has_one_state(folder: Folder) -> None:
    disk = written(folder, durable=b"data")
    assert list(enumerate_choices(disk)) == [NOTHING]
    assert everything(disk) == NOTHING
    found = itertools.islice(random_choices(disk, random.Random(1)), 20)
    assert set(found) == {NOTHING}


def test_writes_are_lost_and_kept_alone_and_together(folder: Folder) -> None:
    disk = written(folder, (0, b"1"), (1, b"2"), (2, b"3"), durable=b"...")
    kept = {choice.kept for choice in enumerate_choices(disk) if not choice.torn}
    assert kept == set(range(8))
    assert len(set(enumerate_choices(disk))) == len(list(enumerate_choices(disk)))


def test_a_write_is_torn_at_sector_edges_and_at_thirds(folder: Folder) -> None:
    disk = written(folder, (500, b"x" * 1200))
    cuts = {t.cut_bytes for choice in enumerate_choices(disk) for t in choice.torn}
    assert cuts == {0, 12, 524, 1036, 400, 800}
    by_cut = {t for choice in enumerate_choices(disk) for t in choice.torn if t.cut_bytes == 524}
    assert {tear.fill for tear in by_cut} == set(Fill)


def test_a_long_write_is_torn_at_some_edges(folder: Folder) -> None:
    disk = written(folder, (0, b"x" * 51_200))
    cuts = sorted({t.cut_bytes for choice in enumerate_choices(disk) for t in choice.torn})
    assert cuts == [0, 512, 1024, 51_200 // 3, 25_600, 26_112, 2 * 51_200 // 3, 50_176, 50_688]


def test_tears_come_alone_and_among_others(folder: Folder) -> None:
    disk = written(folder, (0, b"111"), (3, b"222"))
    found = contents(disk, enumerate_choices(disk))
    assert {b"1", b"1\0\x00222", b"1112", b"\0\0\x002"} <= found


def test_zeros_are_torn_into_garbage_only(folder: Folder) -> None:
    disk = written(folder, (0, bytes(2000)))
    fills = {tear.fill for choice in enumerate_choices(disk) for tear in choice.torn}
    assert fills == {Fill.GARBAGE}


def test_names_are_all_there_or_none_or_one_flipped(folder: Folder) -> None:
    for name in "abc":
        folder.write(name, b"")
    disk = folder.disk()
    names = {frozenset(image(disk, choice)) for choice in enumerate_choices(disk)}
    every = {"a", "b", "c"}
    wanted = [every, set(), *({n} for n in every), *(every - {n} for n in every)]
    assert names == {frozenset(each) for each in wanted}


def test_random_choices_follow_from_the_seed(folder: Folder) -> None:
    disk = written(folder, *((at * 700, b"%d" % at * 700) for at in range(8)))

    def some(seed: int) -> list[Choice]:
        return list(itertools.islice(random_choices(disk, random.Random(seed)), 200))

    assert some(1) == some(1)
    assert some(1) != some(2)
    assert len(set(some(1))) > 100
    torn = {len(choice.torn) for choice in some(1)}
    assert torn == {0, 1, 2}
    for choice in some(3):
        assert choice.kept < 1 << 8
        for tear in choice.torn:
            assert choice.kept >> tear.index & 1
            assert 0 <= tear.cut_bytes < 700


def test_a_choice_goes_through_json(folder: Folder) -> None:
    disk = written(folder, (0, b"1" * 2000), (2000, b"2" * 2000))
    choices = list(enumerate_choices(disk))
    choices += itertools.islice(random_choices(disk, random.Random(1)), 100)
    for choice in choices:
        case = choice.as_case()
        assert all(isinstance(value, int | str) for value in case.values())
        assert Choice.from_case(json.loads(json.dumps(case))) == choice
    torn = Choice(names=10).tear(Tear(3, 9, Fill.TAIL), Tear(0, 512, Fill.SHORT))
    assert torn.as_case() == {"kept": "9", "names": "a", "torn": "0:512:short 3:9:tail"}


@pytest.mark.parametrize(
    "torn", ["x", "0:1", "0:1:burnt", "-1:1:short", "0:-1:short", "0:1:short 0:2:tail"]
)
def test_no_choice(torn: str) -> None:
    with pytest.raises(ValueError):
        Choice.from_case({"kept": "0", "names": "0", "torn": torn})


def test_simpler_choices_lose_less(folder: Folder) -> None:
    disk = written(folder, *((at, b"x") for at in range(6)))
    whole = everything(disk)
    choice = Choice(kept=0b000100).tear(Tear(1, 0, Fill.ZEROS), Tear(5, 0, Fill.GARBAGE))
    found = list(simpler_choices(disk, choice))
    assert found[0] == whole
    assert choice not in found
    assert len(set(found)) == len(found)
    assert choice.tear() in found
    assert Choice(kept=0b111110) in found
    assert list(simpler_choices(disk, whole)) == []
