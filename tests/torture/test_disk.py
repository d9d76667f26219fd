"""Short traces, and all states that each of them may leave: no more and no fewer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from recorded import Folder, states_of
from storage import memory_folder

from seawall.wal.files import READ_WRITE
from seawall.wal.torture.disk import Disk
from seawall.wal.torture.materialise import image
from seawall.wal.torture.states import everything


@pytest.fixture
def folder() -> Iterator[Folder]:
    with memory_folder() as root:
        yield Folder(root)


# -- bytes ---------------------------------------------------------------------------


def test_each_write_is_there_or_not(folder: Folder) -> None:
    folder.durable("a", b"....")
    folder.write("a", b"1", 0)
    folder.write("a", b"2", 3)
    folder.check({"a": b"...."}, {"a": b"1..."}, {"a": b"...2"}, {"a": b"1..2"})


def test_the_later_of_two_writes_lies_above(folder: Folder) -> None:
    folder.durable("a", b"....")
    folder.write("a", b"11", 0)
    folder.write("a", b"22", 1)
    folder.check({"a": b"...."}, {"a": b"11.."}, {"a": b".22."}, {"a": b"122."})


def test_a_sync_settles_what_came_before_it(folder: Folder) -> None:
    folder.durable("a", b"....")
    folder.write("a", b"1", 0)
    folder.sync("a")
    folder.check({"a": b"1..."})
    folder.write("a", b"2", 1)
    folder.check({"a": b"1..."}, {"a": b"12.."})


def test_a_sync_settles_one_file(folder: Folder) -> None:
    folder.durable("a")
    folder.durable("b")
    folder.write("a", b"1")
    folder.write("b", b"2")
    folder.sync("b")
    folder.check({"a": b"", "b": b"2"}, {"a": b"1", "b": b"2"})


def test_a_gap_reads_as_zeros(folder: Folder) -> None:
    folder.durable("a")
    folder.write("a", b"1", 0)
    folder.write("a", b"2", 2)
    folder.check({"a": b""}, {"a": b"1"}, {"a": b"\0\0002"}, {"a": b"1\0002"})


def test_sizes_are_changes_too(folder: Folder) -> None:
    folder.durable("a", b"12345678")
    folder.truncate("a", 2)
    folder.allocate("a", 0, 4)
    folder.check({"a": b"12345678"}, {"a": b"12"}, {"a": b"12\0\0"})
    folder.sync("a")
    folder.check({"a": b"12\0\0"})
    folder.truncate("a", 5)
    folder.check({"a": b"12\0\0"}, {"a": b"12\0\0\0"})
    folder.sync("a")
    folder.empty("a")
    folder.check({"a": b"12\0\0\0"}, {"a": b""})


def test_an_empty_write_extends_nothing(folder: Folder) -> None:
    folder.durable("a")
    folder.write("a", b"", 5)
    folder.check({"a": b""})


# -- failed syncs --------------------------------------------------------------------


def test_after_a_failed_sync_a_good_one_settles_nothing_of_before(folder: Folder) -> None:
    folder.durable("a", b"....")
    folder.write("a", b"1", 0)
    folder.fail_sync("a")
    folder.write("a", b"2", 2)
    folder.sync("a")
    folder.check({"a": b"..2."}, {"a": b"1.2."})
    folder.sync("a")
    folder.check({"a": b"..2."}, {"a": b"1.2."})


def test_what_is_written_again_is_settled(folder: Folder) -> None:
    folder.durable("a", b"....")
    folder.write("a", b"12", 0)
    folder.fail_sync("a")
    folder.write("a", b"3", 0)
    folder.sync("a")
    folder.check({"a": b"3..."}, {"a": b"32.."})
    folder.write("a", b"2", 1)
    folder.sync("a")
    folder.check({"a": b"32.."})
    assert folder.disk().pending == ()


def test_a_settled_write_above_a_doomed_one_stays_above(folder: Folder) -> None:
    folder.durable("a", b"....")
    folder.write("a", b"123", 0)
    folder.fail_sync("a")
    folder.write("a", b"x", 1)
    folder.sync("a")
    folder.check({"a": b".x.."}, {"a": b"1x3."})


def test_cut_off_is_as_good_as_written_again(folder: Folder) -> None:
    folder.durable("a", b"..")
    folder.write("a", b"12", 2)
    folder.allocate("a", 0, 100)
    folder.fail_sync("a")
    folder.truncate("a", 2)
    folder.sync("a")
    folder.check({"a": b".."})
    folder.truncate("a", 1)
    folder.fail_sync("a")
    folder.truncate("a", 3)
    folder.sync("a")
    folder.check({"a": b"..\0"}, {"a": b".\0\0"})
    folder.truncate("a", 0)
    folder.sync("a")
    folder.check({"a": b""})


# -- names ---------------------------------------------------------------------------


def test_a_new_name_may_be_missing_with_all_that_was_synced(folder: Folder) -> None:
    folder.write("a", b"data")
    folder.sync("a")
    folder.check({}, {"a": b"data"})
    folder.sync_names()
    folder.check({"a": b"data"})


def test_a_name_may_be_there_without_what_was_written(folder: Folder) -> None:
    folder.write("a", b"data")
    folder.sync_names()
    folder.check({"a": b""}, {"a": b"data"})


def test_a_removed_name_may_be_back(folder: Folder) -> None:
    folder.durable("a", b"data")
    folder.unlink("a")
    folder.check({"a": b"data"}, {})
    folder.sync_names()
    folder.check({})


def test_a_rename_leaves_the_old_or_the_new(folder: Folder) -> None:
    folder.durable("a", b"old")
    folder.durable("b", b"new")
    folder.rename("b", "a")
    folder.check({"a": b"old", "b": b"new"}, {"a": b"new"})
    folder.sync_names()
    folder.check({"a": b"new"})


def test_a_file_put_in_place_has_one_name_at_a_time(folder: Folder) -> None:
    folder.durable("a", b"old")
    folder.write("a.new", b"new")
    folder.sync("a.new")
    folder.rename("a.new", "a")
    folder.check({"a": b"old"}, {"a": b"old", "a.new": b"new"}, {"a": b"new"})


def test_a_file_put_in_place_without_a_sync_may_be_empty(folder: Folder) -> None:
    folder.durable("a", b"old")
    folder.write("a.new", b"new")
    folder.rename("a.new", "a")
    folder.sync_names()
    folder.check({"a": b""}, {"a": b"new"})


def test_a_rename_to_another_folder_is_durable_once_both_are_synced(folder: Folder) -> None:
    folder.mkdir("x")
    folder.mkdir("y")
    folder.sync_names()
    folder.durable("x/a", b"data")
    folder.rename("x/a", "y/a")
    before = {"x": None, "y": None, "x/a": b"data"}
    after = {"x": None, "y": None, "y/a": b"data"}
    folder.check(before, after)
    folder.sync_names("y")
    folder.check(before, after)
    folder.sync_names("x")
    folder.check(after)


def test_a_folder_that_is_gone_hides_what_is_in_it(folder: Folder) -> None:
    folder.mkdir("x")
    folder.durable("x/a", b"data")
    folder.check({}, {"x": None, "x/a": b"data"})
    folder.write("x/b", b"more")
    folder.sync("x/b")
    folder.sync_names("")
    folder.check({"x": None, "x/a": b"data"}, {"x": None, "x/a": b"data", "x/b": b"more"})


def test_a_folder_is_removed_with_what_was_in_it(folder: Folder) -> None:
    folder.mkdir("x")
    folder.sync_names()
    folder.durable("x/a", b"data")
    folder.unlink("x/a")
    folder.files.rmdir(folder.path("x"))
    folder.check({"x": None, "x/a": b"data"}, {"x": None}, {})
    folder.sync_names()
    folder.check({})


def test_a_folder_takes_along_what_is_in_it(folder: Folder) -> None:
    folder.mkdir("x")
    folder.sync_names()
    folder.durable("x/a", b"data")
    folder.rename("x", "z")
    folder.write("z/a", b"D")
    folder.sync("z/a")
    folder.check({"x": None, "x/a": b"Data"}, {"z": None, "z/a": b"Data"})


def test_a_name_used_again_is_another_file(folder: Folder) -> None:
    folder.durable("a", b"first")
    folder.unlink("a")
    folder.write("a", b"second")
    folder.sync("a")
    folder.check({"a": b"first"}, {"a": b"second"}, {})


def test_what_is_written_to_a_file_without_a_name_is_nothing_to_choose(folder: Folder) -> None:
    folder.durable("a", b"data")
    descriptor = folder.files.open(folder.path("a"), READ_WRITE)
    folder.unlink("a")
    folder.files.pwrite(descriptor, b"D", 0)
    assert len(folder.disk().pending) == 1  # the name may still be there
    folder.sync_names()
    assert folder.disk().pending == ()
    folder.files.pwrite(descriptor, b"D", 0)
    folder.files.sync(descriptor)
    folder.files.close(descriptor)
    folder.check({})


def test_a_failed_sync_of_a_folder_dooms_its_names(folder: Folder) -> None:
    folder.write("a", b"data")
    folder.sync("a")
    folder.fail_sync("")
    folder.sync_names()
    folder.check({}, {"a": b"data"})
    folder.unlink("a")
    folder.sync_names()
    folder.check({})


# -- the rest ------------------------------------------------------------------------


def test_a_lock_file_is_always_there(folder: Folder) -> None:
    folder.write("LOCK", b"pid")
    folder.write("BLOCK", b"")
    folder.check({"LOCK": b"pid"}, {"LOCK": b"pid", "BLOCK": b""})


def test_what_is_ignored_is_neither_there_nor_pending(folder: Folder) -> None:
    folder.mkdir("run")
    folder.write("run/ends", b"row")
    folder.durable("a", b"data")
    folder.mkdir("a.new")
    folder.write("a.new/x", b"")
    folder.rename("a.new", "run/x")

    def ignore(path: str) -> bool:
        return path in ("run", "a.new")

    disk = folder.disk(ignore)
    assert (disk.pending, disk.pending_names) == ((), ())
    assert states_of(disk) == {frozenset({("a", b"data")})}


def test_what_was_there_at_first_is_on_disk() -> None:
    with memory_folder() as root:
        folder = Folder(root)
        folder.mkdir("x")
        folder.write("x/a", b"data")
        again = Folder(root)
        again.check({"x": None, "x/a": b"data"})
        again.write("x/a", b"D")
        again.check({"x": None, "x/a": b"data"}, {"x": None, "x/a": b"Data"})
        again.unlink("x/a")
        again.sync_names("x")
        again.check({"x": None})


def test_what_others_made_is_on_disk(folder: Folder) -> None:
    with open(folder.path("a"), "wb") as file:
        file.write(b"theirs")
    folder.sync("a")
    folder.check({"a": b"theirs"})


def test_going_step_by_step_or_at_once_is_the_same(folder: Folder) -> None:
    folder.mkdir("x")
    folder.write("x/a", b"123", 5)
    folder.sync_names()
    folder.files.snapshot("catalog", {"catalog.db": b"1"})
    folder.write("x/a", b"45")
    folder.files.mark({"id": 1})
    folder.sync("x/a")
    folder.rename("x/a", "b")
    folder.files.snapshot("catalog", {"catalog.db": b"2"})
    folder.sync_names("", "x")
    end = len(folder.trace.events)
    stepwise = Disk(folder.trace)
    for point in range(end + 1):
        stepwise.advance(point)
        at_once = Disk(folder.trace)
        at_once.advance(point)
        assert states_of(stepwise) == states_of(at_once)
        assert stepwise.marks == at_once.marks
        assert stepwise.snapshots == at_once.snapshots
    assert stepwise.marks == [{"id": 1}]
    assert stepwise.snapshots == {"catalog": {"catalog.db": b"2"}}
    stepwise.advance(0)
    assert (stepwise.marks, stepwise.snapshots, states_of(stepwise)) == ([], {}, {frozenset()})
    for point in (-1, end + 1):
        with pytest.raises(ValueError, match="no point"):
            stepwise.advance(point)


def test_pending_operations_are_listed_in_order(folder: Folder) -> None:
    folder.write("b", b"1")
    folder.write("a", b"2")
    folder.write("b", b"3")
    disk = folder.disk()
    assert [op.data for op in disk.pending] == [b"1", b"2", b"3"]
    assert [op.path for op in disk.pending_names] == ["b", "a"]
    assert image(disk, everything(disk)) == {"a": b"2", "b": b"3"}
