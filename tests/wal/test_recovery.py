"""Recovery: each verdict of its table, crashes at each of its steps, and power cuts."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable

import pytest
from storage import Crash, FaultyFiles, LossyDisk, Store, batch, content, flip

from seawall.wal.errors import LogDamaged, LogFenced, SyncFailed, WalError
from seawall.wal.records import HEADER_BYTES, stamp
from seawall.wal.recovery import Verdict, caught_up

MakeStore = Callable[..., Store]


def sizes(*values: bytes) -> list[int]:
    """Where batches of one record each begin, and where the last ends."""
    positions = [0]
    for value in values:
        positions.append(positions[-1] + len(batch(value)))
    return positions


def quarantined(store: Store) -> list[bytes]:
    folder = os.path.join(store.root, "quarantine")
    return [content(os.path.join(folder, name)) for name in sorted(os.listdir(folder))]


def filled(make_store: MakeStore, *values: bytes, checkpoint_at: int = 0) -> Store:
    """A log of one-record batches, of which the first `checkpoint_at` are in a checkpoint."""
    store = make_store()
    for number, value in enumerate(values):
        if number == checkpoint_at and number:
            store.log.checkpoint()
        store.put(value)
    if checkpoint_at == len(values):
        store.log.checkpoint()
    return store


VALUES = (b"a" * 50, b"b" * 50, b"c" * 50, b"d" * 50)


# -- the table ---------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint_at", range(5))
@pytest.mark.parametrize("lose_index", [False, True])
def test_valid_batches_are_kept(
    make_store: MakeStore, checkpoint_at: int, lose_index: bool
) -> None:
    store = filled(make_store, *VALUES, checkpoint_at=checkpoint_at)
    store.reopen(reboot=True, lose_index=lose_index)
    assert store.findings == []
    assert quarantined(store) == []
    store.assert_works(*VALUES)


@pytest.mark.parametrize("damaged", range(4))
@pytest.mark.parametrize("at", [0, 8, 16, 17, 30, HEADER_BYTES + 20])
def test_above_the_floor_a_gap_before_valid_batches_becomes_a_hole(
    make_store: MakeStore, damaged: int, at: int
) -> None:
    store = filled(make_store, *VALUES)
    positions = sizes(*VALUES)
    store.crash()
    with open(store.path(), "r+b") as file:
        file.seek(positions[damaged] + at)
        file.write(b"\xaa\x00\xab")
        file.seek(positions[damaged])
        gap = file.read(positions[damaged + 1] - positions[damaged])
    store.reopen(reboot=True)
    kept = [value for number, value in enumerate(VALUES) if number != damaged]
    if damaged == 3:
        (finding,) = store.findings
        assert finding.verdict is Verdict.TORN
        assert (finding.offset, finding.next_offset) == (3, 3)
        assert os.path.getsize(store.path()) == positions[3]
    elif at in (0, 8):  # base offset or length: its extent is not known, or known wrongly
        assert {finding.verdict for finding in store.findings} <= {Verdict.HOLE, Verdict.TORN}
    else:
        (finding,) = store.findings
        assert finding.verdict is Verdict.HOLE
        assert (finding.offset, finding.next_offset) == (damaged, damaged + 1)
        assert finding.position == positions[damaged]
        assert store.values() == kept
        offsets = [record.offset for record in store.read_all()]
        assert offsets == [number for number in range(4) if number != damaged]
    assert any(gap.rstrip(b"\0") in each for each in quarantined(store))
    values = store.values()
    assert [value for value in VALUES if value in values] == values
    store.assert_works(*values)
    store.reopen(reboot=True, lose_index=True)
    assert store.findings == []


@pytest.mark.parametrize("damaged", range(4))
def test_below_the_floor_it_is_damage_and_left_as_it_is(
    make_store: MakeStore, damaged: int
) -> None:
    store = filled(make_store, *VALUES, checkpoint_at=4)
    position = sizes(*VALUES)[damaged] + HEADER_BYTES + 20
    store.crash()
    flip(store.path(), position)
    before = content(store.path())
    store.reopen(reboot=True, floor=2)
    findings = [finding.verdict for finding in store.findings]
    # What lies before a checkpoint whose neighbourhood is sound is not looked at again.
    assert findings in ([Verdict.DAMAGE], [])
    assert quarantined(store) == []
    assert content(store.path())[: len(before)].rstrip(b"\0") == before.rstrip(b"\0")
    assert store.put(b"e") == 5  # appends go on, behind all that was acknowledged
    with pytest.raises(LogDamaged) as caught:
        store.values(damaged)
    assert caught.value.offset == damaged
    assert caught.value.path == store.path()
    assert caught.value.next_offset == damaged + 1
    for offset in range(damaged + 1, 5):
        assert store.values(offset)[0] == (*VALUES, b"e")[offset]
    (found,) = store.log.verify()
    assert (found.path, found.offset, found.next_offset) == (store.path(), damaged, damaged + 1)


def test_a_file_that_is_too_short_is_damage_and_appends_go_on_behind_the_floor(
    make_store: MakeStore,
) -> None:
    store = filled(make_store, *VALUES, checkpoint_at=4)
    store.crash()
    os.truncate(store.path(), sizes(*VALUES)[2])
    store.reopen(reboot=True)
    (finding,) = store.findings
    assert finding.verdict is Verdict.DAMAGE
    assert (finding.offset, finding.next_offset) == (2, 4)
    assert store.append(b"e") == 4
    store.log.sync()
    assert store.values(4) == [b"e"]
    with pytest.raises(LogDamaged) as caught:
        store.values(2)
    assert (caught.value.offset, caught.value.next_offset) == (2, 4)
    (found,) = store.log.verify()
    assert (found.offset, found.next_offset) == (2, 4)


@pytest.mark.parametrize("lose_folder", [False, True])
def test_a_missing_newest_segment_is_damage(make_store: MakeStore, lose_folder: bool) -> None:
    store = make_store()
    store.put(b"a")
    store.log.roll()
    store.put(b"b")
    store.log.checkpoint()
    store.crash()
    os.unlink(store.path(1))
    if lose_folder:
        os.unlink(store.path(0))
    store.reopen(reboot=True)
    assert [finding.verdict for finding in store.findings] == [Verdict.MISSING]
    assert store.append(b"c") == 2
    store.log.sync()
    assert store.values(2) == [b"c"]
    with pytest.raises(LogDamaged) as caught:
        store.values(1)
    assert caught.value.next_offset == 2
    assert [damage.next_offset for damage in store.log.verify()] == [2]


def test_every_torn_tail_is_cut_off_and_kept_aside(make_store: MakeStore, folder: str) -> None:
    whole = batch(b"torn" * 10)
    stamp(whole, 1)
    assert whole[-1] == 0  # so without it, it is still whole
    for length in range(len(whole) - 1):
        store = make_store(os.path.join(folder, f"{length}"))
        store.put(b"a")
        store.crash()
        with open(store.path(), "r+b") as file:
            file.seek(len(batch(b"a")))
            file.write(whole[:length])
        store.reopen(reboot=True)
        tail = whole[:length].rstrip(b"\0")
        assert [finding.verdict for finding in store.findings] == [Verdict.TORN] * bool(tail), (
            length
        )
        assert quarantined(store) == ([tail] if tail else [])
        store.assert_works(b"a")
        store.crash()


def test_a_value_that_is_a_batch_never_becomes_visible(make_store: MakeStore, folder: str) -> None:
    """Whatever is cut off or flipped of the batch around it, its length field excepted."""
    inner = batch(b"never to be seen")
    stamp(inner, 3)
    for number, (damage, has_follower) in enumerate(
        (damage, follower)
        for damage in [*range(8), *range(12, HEADER_BYTES + 4), -1, -20, -len(inner) // 2]
        for follower in (False, True)
    ):
        store = make_store(os.path.join(folder, f"{number}"))
        store.put(b"a")
        store.put(b"b" + bytes(inner) + b"b")
        if has_follower:
            store.put(b"c")
        store.crash()
        position, size = len(batch(b"a")), len(batch(b"b" + bytes(inner) + b"b"))
        if damage < 0:
            with open(store.path(), "r+b") as file:
                file.seek(position + size + damage)
                file.write(b"\0" * -damage)
        else:
            flip(store.path(), position + damage, 0x41)
        for lose_index in (False, True):
            store.reopen(reboot=True, lose_index=lose_index)
            assert b"never to be seen" not in store.values(), damage
        values = store.values()
        assert values[0] == b"a"
        store.assert_works(*values)
        store.crash()


def test_a_gap_at_the_very_beginning(make_store: MakeStore) -> None:
    store = filled(make_store, *VALUES)
    store.crash()
    with open(store.path(), "r+b") as file:
        file.write(bytes(sizes(*VALUES)[2]))
    store.reopen(reboot=True)
    (finding,) = store.findings
    assert (finding.verdict, finding.offset, finding.next_offset) == (Verdict.HOLE, 0, 2)
    assert store.values() == list(VALUES[2:])
    store.assert_works(*VALUES[2:])


def test_a_batch_that_could_not_have_followed_is_not_kept(make_store: MakeStore) -> None:
    store = filled(make_store, *VALUES)
    store.crash()
    far = batch(b"far away")
    stamp(far, 10_000_000)
    with open(store.path(), "r+b") as file:
        file.seek(sizes(*VALUES)[4])
        file.write(b"\xff" * 40 + far)
    store.reopen(reboot=True)
    assert [finding.verdict for finding in store.findings] == [Verdict.TORN]
    store.assert_works(*VALUES)


def test_the_log_start_and_the_floor_are_never_used_again(make_store: MakeStore) -> None:
    store = filled(make_store, *VALUES)
    store.log_start = 7
    store.reopen(reboot=True, lose_index=True, floor=9)
    assert store.append(b"e") == 9
    store.log.sync()
    assert store.values(9) == [b"e"]


def test_a_new_log_begins_at_its_log_start(make_store: MakeStore) -> None:
    store = make_store(log_start=5)
    assert store.findings == []
    assert store.append(b"a") == 5


def test_leftovers_of_an_interrupted_rewrite_are_removed(make_store: MakeStore) -> None:
    store = filled(make_store, *VALUES)
    with open(store.path() + ".rewrite", "wb") as file:
        file.write(b"half")
    store.reopen(reboot=True)
    assert os.listdir(store.folder).count(os.path.basename(store.path()) + ".rewrite") == 0
    store.assert_works(*VALUES)


def test_an_uncertain_cache_is_written_anew(make_store: MakeStore) -> None:
    """A run/ends that is gone does not tell whether the machine was booted since."""
    store = filled(make_store, *VALUES)
    inode = os.stat(store.path()).st_ino
    store.crash()
    os.unlink(store.ends_path)
    store.open()
    assert os.stat(store.path()).st_ino != inode
    store.assert_works(*VALUES)


def test_damaged_index_values_only_cost_time(make_store: MakeStore) -> None:
    store = filled(make_store, *VALUES, checkpoint_at=3)
    with store.environment.write() as transaction:
        transaction._transaction.put(b"C" + (1).to_bytes(8, "big"), b"rubbish")
    store.reopen(reboot=True)
    assert store.findings == []
    assert store.values() == list(VALUES)


@pytest.mark.parametrize("segment_at", [0, 2])
def test_only_the_newest_segment_is_judged(make_store: MakeStore, segment_at: int) -> None:
    store = make_store()
    for number, value in enumerate(VALUES):
        if number == 2:
            store.log.roll()
        store.put(value)
    store.crash()
    flip(store.path(segment_at), HEADER_BYTES + 10)
    store.reopen(reboot=True)
    assert bool(store.findings) == (segment_at == 2)


# -- crashes and failures in the middle of it --------------------------------------------


def damaged_store(make_store: MakeStore, root: str) -> Store:
    """Holes in the middle, and a torn tail."""
    store = make_store(root)
    for number in range(8):
        store.put(b"%d" % number * 40)
    store.append(b"the tail" * 10)
    size = len(batch(b"0" * 40))
    flip(store.path(), 2 * size + HEADER_BYTES + 3)
    flip(store.path(), 5 * size + HEADER_BYTES + 3)
    with open(store.path(), "r+b") as file:
        file.seek(8 * size + HEADER_BYTES + 3)
        file.write(bytes(50))
    return store


EXPECTED = [b"%d" % number * 40 for number in (0, 1, 3, 4, 6, 7)]


@pytest.mark.parametrize("error", [Crash, errno.EIO, errno.ENOSPC])
def test_recovery_may_fail_anywhere_and_be_done_again(
    make_store: MakeStore, folder: str, error: int | type[BaseException]
) -> None:
    store = damaged_store(make_store, os.path.join(folder, "count"))
    files = store.files
    assert isinstance(files, FaultyFiles)
    files.calls.clear()
    store.reopen(reboot=True)
    count = len(files.calls)
    assert store.values() == EXPECTED
    for nth in range(1, count + 1):
        store = damaged_store(make_store, os.path.join(folder, f"{nth}"))
        files = store.files
        assert isinstance(files, FaultyFiles)
        files.fail(nth=nth, error=error)
        try:
            store.reopen(reboot=True)
        except (Crash, OSError, WalError):
            pass
        files.heal()
        store.reopen()
        assert store.values() == EXPECTED, nth
        store.assert_works(*EXPECTED)
        store.crash()


@pytest.mark.parametrize("where", ["quarantine", ".rewrite"])
def test_a_full_disk_at_recovery_changes_nothing_and_opens(
    make_store: MakeStore, folder: str, where: str
) -> None:
    store = damaged_store(make_store, os.path.join(folder, "full"))
    before = content(store.path())
    files = store.files
    assert isinstance(files, FaultyFiles)
    files.fail("pwrite", where=where, error=errno.ENOSPC, times=1_000_000)
    for lost_row in (False, False, True):
        if lost_row:
            store.crash()
            os.unlink(store.ends_path)
        store.reopen(reboot=not lost_row)
        (finding,) = store.findings
        assert (finding.verdict, finding.path) == (Verdict.NO_ROOM, store.path())
        assert content(store.path()) == before
        # Nothing half made is left that would take room.
        assert not [name for name in os.listdir(store.folder) if name.endswith(".rewrite")]
        assert quarantined(store) == []
        assert store.values() == ([] if lost_row else EXPECTED[:2])
        with pytest.raises(LogFenced):
            store.append(b"e")
    files.heal()
    store.reopen()
    assert store.values() == EXPECTED
    store.assert_works(*EXPECTED)


def test_a_full_disk_shows_only_what_was_durable_if_the_cache_may_lie(
    make_store: MakeStore,
) -> None:
    store = filled(make_store, *VALUES, checkpoint_at=2)
    files = store.files
    assert isinstance(files, FaultyFiles)
    store.crash()
    os.unlink(store.ends_path)
    files.fail("pwrite", where=".rewrite", error=errno.ENOSPC, times=1_000_000)
    store.open()
    assert store.values() == list(VALUES[:2])
    with pytest.raises(LogFenced):
        store.append(b"e")
    files.heal()
    store.reopen()
    store.assert_works(*VALUES)


def test_a_full_disk_after_the_swap_is_no_reason_to_believe_the_old_file(
    make_store: MakeStore, folder: str
) -> None:
    store = damaged_store(make_store, os.path.join(folder, "full"))
    files = store.files
    assert isinstance(files, FaultyFiles)
    files.fail("sync_directory", where="logs", error=errno.ENOSPC)
    with pytest.raises(OSError):
        store.reopen(reboot=True)
    files.heal()
    store.reopen()
    assert store.values() == EXPECTED
    store.assert_works(*EXPECTED)


# -- rows that are older than the log ----------------------------------------------------


def test_a_row_agrees_with_the_log_that_it_was_written_for(make_store: MakeStore) -> None:
    store = make_store()

    def row_agrees() -> bool:
        row = store.ends.read(1)
        assert row is not None
        return caught_up(store.context, row) == row

    assert row_agrees()
    for step in (
        lambda: store.append(b"a"),
        lambda: store.log.sync(),
        lambda: store.log.roll(),
        lambda: store.reopen(),
        lambda: store.append(b"b"),
        lambda: store.log.roll(),
        lambda: store.log.drop_segments(1),
        lambda: store.reopen(clean=True),
    ):
        step()
        assert row_agrees()


def test_a_row_that_is_older_than_the_log_does_not_agree(make_store: MakeStore) -> None:
    """As after a forced unmount, which loses what was not synced, without a boot."""
    store = make_store()
    rows = [store.ends.read(1)]
    for value in (b"a", b"b", b"c"):
        store.put(value)
        rows.append(store.ends.read(1))
        if value == b"b":
            store.log.roll()
    for old in rows[:-1]:
        assert old is not None
        store.ends.write(1, old)
        true_row = caught_up(store.context, old)
        if true_row is None:  # the newest segment is not the row's
            store.recover(floor=old.durable_offset, cache_is_certain=False)
        else:
            store.ends.write(1, true_row)
            assert store.log.sync() == 3
        assert store.log.ends() == (0, 3, 3)
    store.reopen()
    store.assert_works(b"a", b"b", b"c")


def test_a_row_that_is_newer_than_the_log_does_not_agree(make_store: MakeStore) -> None:
    store = make_store()
    store.put(b"a" * 100)
    row = store.ends.read(1)
    assert row is not None
    os.truncate(store.path(), row.position - 1)
    assert caught_up(store.context, row) is None
    os.unlink(store.path())
    assert caught_up(store.context, row) is None


def test_half_a_batch_behind_the_end_is_no_disagreement(make_store: MakeStore) -> None:
    """Its writer died; the next append cuts it off."""
    store = make_store()
    store.put(b"a")
    row = store.ends.read(1)
    assert row is not None
    half = batch(b"b" * 100)
    stamp(half, 1)
    with open(store.path(), "r+b") as file:
        file.seek(row.position)
        file.write(half[:90])
    assert caught_up(store.context, row) == row
    store.assert_works(b"a")


def test_a_whole_batch_behind_the_end_is_kept_without_a_scan_of_the_log(
    make_store: MakeStore,
) -> None:
    """Its writer died before its row; nothing below the row's end is read for it."""
    store = make_store()
    store.put(b"a" * 1000)
    row = store.ends.read(1)
    assert row is not None
    whole = batch(b"b")
    stamp(whole, 1)
    with open(store.path(), "r+b") as file:
        file.seek(row.position)
        file.write(whole)
        file.seek(0)
        file.write(b"\xff" * 8)  # would stop any scan that begins further ahead
    true_row = caught_up(store.context, row)
    assert true_row == row._replace(next_offset=2, position=row.position + len(whole))
    with open(store.path(), "r+b") as file:
        file.write(bytes(8))
    store.ends.write(1, true_row)
    assert store.log.sync() == 2
    store.assert_works(b"a" * 1000, b"b")


# -- power cuts --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(int(os.environ.get("SEAWALL_POWER_CUTS", "60"))))
def test_power_cuts_lose_nothing_that_was_acknowledged(folder: str, seed: int) -> None:
    """Un-synced sectors reach the disk in any choice; recovery itself may be cut, too."""
    randomness = random.Random(seed)
    disk = LossyDisk(os.path.join(folder, "logs", "1-orders-0"), randomness)
    store = Store(folder, files=disk, segment_bytes=4000, allocate_bytes=1000)
    acknowledged: dict[int, bytes] = {}
    appended: dict[int, list[bytes]] = {}
    seen: dict[int, bytes] = {}
    try:
        for _ in range(6):
            for _ in range(randomness.randrange(1, 25)):
                step = randomness.random()
                if step < 0.6:
                    values = [
                        randomness.randbytes(randomness.choice([1, 30, 300, 1500]))
                        for _ in range(randomness.randrange(1, 4))
                    ]
                    base = store.append(*values)
                    for number, value in enumerate(values):
                        appended.setdefault(base + number, []).append(value)
                elif step < 0.85:
                    end = store.log.sync()
                    for record in store.records():
                        acknowledged[record.offset] = record.value or b""
                    assert len(acknowledged) <= end
                elif step < 0.9:
                    store.log.roll()
                elif step < 0.95:
                    store.log.checkpoint()
                else:
                    seen.update((r.offset, r.value or b"") for r in store.records())
            store.crash()
            for _ in range(randomness.choice([1, 1, 2, 3])):
                disk.power_cut()
                if randomness.random() < 0.5:
                    disk.fail(nth=randomness.randrange(1, 40), error=Crash)
                try:
                    store.reopen()
                except Crash:
                    continue
                finally:
                    disk.heal()
                    store.crash()
            store.open()
            found = {record.offset: record.value for record in store.records()}
            for offset, value in (acknowledged | seen).items():
                assert found.get(offset) == value, offset
            for offset, value in found.items():
                assert value in appended[offset], offset
            assert list(store.log.verify()) == []
            acknowledged = {offset: value or b"" for offset, value in found.items()}
    finally:
        store.crash()


def test_a_failed_sync_and_then_a_power_cut(folder: str) -> None:
    """What the cache still shows after a failed sync is written anew before it is shown."""
    disk = LossyDisk(os.path.join(folder, "logs", "1-orders-0"), random.Random(1))
    store = Store(folder, files=disk)
    store.put(b"a")
    store.append(b"b")
    disk.fail("sync")
    with pytest.raises(SyncFailed):
        store.log.sync()
    disk.heal()
    store.crash()
    store.open()
    assert store.values() == [b"a", b"b"]
    store.crash()
    disk.power_cut()
    store.open()
    assert store.values() == [b"a", b"b"]
    store.crash()


# -- damage that the index leads over ------------------------------------------------------


def lengthen(store: Store, position: int, length: int = 1 << 27) -> None:
    """Give the batch at a position a length that reaches over all that follows."""
    with open(store.path(), "r+b") as file:
        file.seek(position + 8)
        file.write(length.to_bytes(4, "big"))


@pytest.mark.parametrize("damaged", [0, 1])
def test_a_flipped_length_below_the_checkpoint_hides_nothing_above_it(
    make_store: MakeStore, damaged: int
) -> None:
    """What was acknowledged behind the checkpoint is neither lost nor given again."""
    store = filled(make_store, *VALUES, checkpoint_at=2)
    store.crash()
    lengthen(store, sizes(*VALUES)[damaged])
    store.reopen(reboot=True)
    (finding,) = store.findings
    assert (finding.verdict, finding.offset, finding.next_offset) == (Verdict.DAMAGE, damaged, 2)
    assert store.log.ends() == (0, 4, 4)
    assert store.values(2) == list(VALUES[2:])
    assert store.append(b"e") == 4


@pytest.mark.parametrize("length", [(256 << 20) + 1, 2**31 - 1, 0, 48])
def test_a_length_that_cannot_be_is_no_torn_tail(make_store: MakeStore, length: int) -> None:
    store = filled(make_store, *VALUES)
    store.crash()
    lengthen(store, sizes(*VALUES)[1], length)
    store.reopen(reboot=True)
    assert [finding.verdict for finding in store.findings] == [Verdict.HOLE]
    store.assert_works(VALUES[0], *VALUES[2:])


# -- sectors that cannot be read -----------------------------------------------------------


class BadSector(FaultyFiles):
    """A disk that does not give back what is around one byte of one file."""

    inode = -1
    position = 0

    def spoil(self, path: str, position: int) -> None:
        self.inode, self.position = os.stat(path).st_ino, position

    def pread(self, descriptor: int, size_bytes: int, position: int) -> bytes:
        is_around = position <= self.position < position + size_bytes
        if is_around and os.fstat(descriptor).st_ino == self.inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().pread(descriptor, size_bytes, position)


LARGE = tuple(b"%d" % number * 12_000 for number in range(4))


def spoiled(make_store: MakeStore, offset: int, checkpoint_at: int = 0) -> tuple[Store, BadSector]:
    """A log of four batches; a page in the middle of one cannot be read; crashed."""
    files = BadSector()
    store = make_store(files=files, segment_bytes=1 << 20)
    for number, value in enumerate(LARGE):
        if number == checkpoint_at and number:
            store.log.checkpoint()
        store.put(value)
    store.crash()
    files.spoil(store.path(), sizes(*LARGE)[offset] + 6000)
    return store, files


@pytest.mark.parametrize("lose_row", [False, True])
@pytest.mark.parametrize("offset", range(4))
def test_above_the_floor_an_unreadable_sector_stops_appending_and_nothing_else(
    make_store: MakeStore, offset: int, lose_row: bool
) -> None:
    store, files = spoiled(make_store, offset)
    before = content(store.path())
    if lose_row:
        os.unlink(store.ends_path)
    for _ in range(2):
        store.reopen(reboot=not lose_row)
        (finding,) = store.findings
        assert finding.verdict is Verdict.UNREADABLE
        assert (finding.path, finding.position) == (store.path(), sizes(*LARGE)[offset])
        assert "cannot be read" in finding.reason
        assert store.values() == list(LARGE[:offset])
        with pytest.raises(LogFenced):
            store.append(b"e")
        (found,) = store.log.verify()
        assert (found.verdict, found.position) == (Verdict.UNREADABLE, sizes(*LARGE)[offset])
        assert content(store.path()) == before
        assert quarantined(store) == []
    # A copy of the file, or a disk that changed its mind.
    files.inode = -1
    store.reopen()
    assert store.findings == []
    store.assert_works(*LARGE)


@pytest.mark.parametrize("offset", [0, 1])
def test_below_the_floor_an_unreadable_sector_is_damage(make_store: MakeStore, offset: int) -> None:
    store, _ = spoiled(make_store, offset, checkpoint_at=2)
    store.reopen(reboot=True)
    # What lies further below the checkpoint is not looked at.
    assert [each.verdict for each in store.findings] == [Verdict.DAMAGE] * offset
    (found,) = store.log.verify()
    assert (found.verdict, found.offset, found.next_offset) == (
        Verdict.UNREADABLE,
        offset,
        offset + 1,
    )
    assert store.append(b"e") == 4
    store.log.sync()
    assert store.values(2) == [*LARGE[2:], b"e"]


@pytest.mark.parametrize("offset", [0, 1])
def test_what_must_be_written_anew_must_be_readable(make_store: MakeStore, offset: int) -> None:
    store, files = spoiled(make_store, offset, checkpoint_at=2)
    os.unlink(store.ends_path)  # so nobody knows what is only in the cache
    store.reopen()
    assert [finding.verdict for finding in store.findings] == [Verdict.UNREADABLE]
    assert store.values(2) == list(LARGE[2:])
    with pytest.raises(LogDamaged):
        store.values(offset)
    with pytest.raises(LogFenced):
        store.append(b"e")
    files.inode = -1
    store.reopen()
    store.assert_works(*LARGE)


@pytest.mark.parametrize("checkpoint_at", [0, 2, 3])
@pytest.mark.parametrize("offset", range(4))
def test_what_cannot_be_read_can_be_given_up(
    make_store: MakeStore, offset: int, checkpoint_at: int
) -> None:
    store, files = spoiled(make_store, offset, checkpoint_at)
    store.reopen(reboot=True)
    store.recover(floor=checkpoint_at, cache_is_certain=False, gives_up_unreadable=True)
    (kept,) = quarantined(store)
    whole = batch(LARGE[offset])
    stamp(whole, offset)
    if offset == 3:
        assert [finding.verdict for finding in store.findings] == [Verdict.TORN]
    else:
        assert [finding.verdict for finding in store.findings] == [Verdict.HOLE]
    # All that could be read of it is there.
    padded = kept.ljust(len(whole), b"\0")
    same = sum(a == b for a, b in zip(padded, whole, strict=True))
    assert same == len(whole) - 4096
    assert files.inode != os.stat(store.path()).st_ino or offset == 3
    files.inode = -1
    store.assert_works(*LARGE[:offset], *LARGE[offset + 1 :])


def test_an_unreadable_sector_at_the_end_of_the_log_in_the_same_boot(
    make_store: MakeStore,
) -> None:
    """The few bytes that every opener looks at: the log is judged then."""
    files = BadSector()
    store = make_store(files=files)
    store.put(b"a")
    store.close()
    files.spoil(store.path(), len(batch(b"a")) + 1)
    store.open()
    row = store.ends.read(1)
    assert row is not None
    assert caught_up(store.context, row) is None
    store.recover(floor=1, cache_is_certain=False)
    assert [finding.verdict for finding in store.findings] == [Verdict.UNREADABLE]
