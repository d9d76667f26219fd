"""run/ends: rows that are whole or not there, and a file that is of this boot or nothing."""

from __future__ import annotations

import os
import shutil
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from storage import FaultyFiles, content, flip, memory_folder

from seawall.wal.ends import SLOT_BYTES, Ends, EndsRow
from seawall.wal.errors import ForkedHandle, HandleClosed
from seawall.wal.files import Buffer, Files

BOOT = b"0123456789abcdef"
OTHER_BOOT = b"fedcba9876543210"
ROW = EndsRow(1, 2, 3, 4, 5, 6, 7, 0)


def existing(ends: Ends | None) -> Ends:
    assert ends is not None
    return ends


@pytest.fixture
def path(folder: str) -> str:
    return os.path.join(folder, "ends")


@given(
    st.dictionaries(
        st.integers(1, 300), st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 7), max_size=8
    )
)
def test_rows_read_as_they_were_written(rows: dict[int, tuple[int, ...]]) -> None:
    with memory_folder() as folder:
        path = os.path.join(folder, "ends")
        ends = Ends.create(Files(), path, BOOT)
        for partition_id, row in rows.items():
            ends.write(partition_id, EndsRow(*row, flags=partition_id % 4))
        ends.close()
        again = Ends.open(Files(), path, BOOT)
        assert again is not None
        for partition_id in range(1, 301):
            expected = rows.get(partition_id)
            assert again.read(partition_id) == (
                EndsRow(*expected, flags=partition_id % 4) if expected else None
            )
        again.close()


def test_a_file_that_was_moved_in_from_elsewhere_is_none(folder: str) -> None:
    """It is the very file of this boot, but it says where another directory's logs end."""
    for name in ("ours", "theirs"):
        os.makedirs(os.path.join(folder, name, "run"))
    ours, theirs = (os.path.join(folder, name, "run", "ends") for name in ("ours", "theirs"))
    Ends.create(Files(), theirs, BOOT).close()
    existing(Ends.open(Files(), theirs, BOOT)).close()
    os.rename(theirs, ours)
    assert Ends.open(Files(), ours, BOOT) is None
    assert not Ends.written_in_another_boot(Files(), ours, OTHER_BOOT)
    # The whole directory may be moved.
    os.rename(ours, theirs)
    os.rename(os.path.join(folder, "theirs"), os.path.join(folder, "moved"))
    existing(Ends.open(Files(), os.path.join(folder, "moved", "run", "ends"), BOOT)).close()


def test_a_file_of_another_boot_is_none(path: str) -> None:
    Ends.create(Files(), path, BOOT).close()
    assert Ends.open(Files(), path, OTHER_BOOT) is None
    assert Ends.written_in_another_boot(Files(), path, OTHER_BOOT)
    assert not Ends.written_in_another_boot(Files(), path, BOOT)


def test_a_copied_file_is_none_and_tells_nothing_about_a_boot(path: str) -> None:
    Ends.create(Files(), path, BOOT).close()
    shutil.copy(path, path + ".copy")
    os.replace(path + ".copy", path)
    assert Ends.open(Files(), path, BOOT) is None
    assert not Ends.written_in_another_boot(Files(), path, OTHER_BOOT)


def test_a_missing_file_is_none(path: str) -> None:
    assert Ends.open(Files(), path, BOOT) is None
    assert not Ends.written_in_another_boot(Files(), path, BOOT)


@pytest.mark.parametrize("size", range(0, 45, 4))
def test_a_short_file_is_none(path: str, size: int) -> None:
    Ends.create(Files(), path, BOOT).close()
    os.truncate(path, min(size, 43))
    assert Ends.open(Files(), path, BOOT) is None
    assert not Ends.written_in_another_boot(Files(), path, OTHER_BOOT)


def test_each_flipped_bit_of_header_and_row_is_noticed(path: str) -> None:
    ends = Ends.create(Files(), path, BOOT)
    ends.write(1, ROW)
    for position in range(44):
        flip(path, position)
        assert Ends.open(Files(), path, BOOT) is None
        flip(path, position)
    for position in range(SLOT_BYTES, SLOT_BYTES + 72, 7):
        flip(path, position, 0x10)
        assert ends.read(1) is None
        flip(path, position, 0x10)
    assert ends.read(1) == ROW
    ends.close()


def test_a_row_in_the_wrong_slot_is_none(path: str) -> None:
    ends = Ends.create(Files(), path, BOOT)
    ends.write(1, ROW)
    with open(path, "r+b") as file:
        file.seek(SLOT_BYTES)
        slot = file.read(SLOT_BYTES)
        file.seek(5 * SLOT_BYTES)
        file.write(slot.ljust(SLOT_BYTES, b"\0"))
    assert ends.read(5) is None
    ends.close()


def test_cleared_rows_are_gone_and_their_neighbours_are_not(path: str) -> None:
    ends = Ends.create(Files(), path, BOOT)
    for partition_id in (1, 2, 3):
        ends.write(partition_id, ROW)
    ends.clear(2)
    assert [ends.read(n) for n in (1, 2, 3)] == [ROW, None, ROW]
    ends.close()


def test_readers_see_whole_rows_while_a_writer_is_at_work(path: str) -> None:
    ends = Ends.create(Files(), path, BOOT)
    ends.write(1, EndsRow(*[0] * 8))
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            ends.write(1, EndsRow(*[number] * 8))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(2000):
            row = ends.read(1)
            assert row is not None
            assert len(set(row)) == 1
    finally:
        stop.set()
        writer.join()
    ends.close()


def test_opening_that_fails_leaves_no_descriptor(path: str) -> None:
    files = FaultyFiles()
    for kind in ("pwrite", "rename"):
        files.fail(kind)
        with pytest.raises(OSError):
            Ends.create(files, path, BOOT)
    Ends.create(files, path, BOOT).close()
    files.fail("pread")
    with pytest.raises(OSError):
        Ends.open(files, path, BOOT)


def test_closed_and_abandoned_files_say_so(path: str) -> None:
    ends = Ends.create(Files(), path, BOOT)
    ends.write(1, ROW)
    ends.close()
    ends.close()
    for call in (lambda: ends.read(1), lambda: ends.write(1, ROW), lambda: ends.clear(1)):
        with pytest.raises(HandleClosed):
            call()
    ends.abandon(42)
    with pytest.raises(ForkedHandle) as caught:
        ends.read(1)
    assert caught.value.opened_by_pid == 42


def test_closing_under_a_writer_writes_to_no_other_file(path: str) -> None:
    """The number of a closed descriptor may be another file's a moment later."""

    class Closing(FaultyFiles):
        def pwrite(self, descriptor: int, data: Buffer, position: int) -> int:
            for ends in opened:
                ends.close()
            with open(other, "r+b"):
                return super().pwrite(descriptor, data, position)

    other = path + ".other"
    with open(other, "wb") as file:
        file.write(b"x" * 4096)
    Ends.create(Files(), path, BOOT).close()
    opened: list[Ends] = []
    opened.append(existing(Ends.open(Closing(), path, BOOT)))
    opened[0].write(1, ROW)
    assert content(other) == b"x" * 4096
    again = existing(Ends.open(Files(), path, BOOT))
    assert again.read(1) == ROW
    again.close()
