"""What each choice stands for; and that a whole recording is what is really there."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import given
from recorded import Folder
from storage import memory_folder

from seawall.wal.files import CREATE, READ_WRITE, TRUNCATE
from seawall.wal.torture.disk import Disk
from seawall.wal.torture.materialise import digest, garbage, image, materialise
from seawall.wal.torture.recording import RecordingFiles
from seawall.wal.torture.states import (
    NOTHING,
    Choice,
    Fill,
    Tear,
    enumerate_choices,
    everything,
    random_choices,
)
from seawall.wal.torture.trace import Kind, Tree, read_tree


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


def test_what_a_torn_write_leaves(folder: Folder) -> None:
    disk = written(folder, (1, b"abcd"), durable=b".....!!")
    whole = everything(disk)
    found = {fill: image(disk, whole.tear(Tear(0, 3, fill)))["a"] for fill in (Fill.SHORT, *Fill)}
    assert found == {
        Fill.SHORT: b".abc.!!",
        Fill.ZEROS: b".abc\0!!",
        Fill.GARBAGE: b".abc" + garbage(4, 1) + b"!!",
        Fill.TAIL: b"....d!!",
    }


def test_a_torn_write_behind_the_end(folder: Folder) -> None:
    disk = written(folder, (2, b"abcd"), durable=b".")
    found = [image(disk, Choice().tear(Tear(0, 2, fill)))["a"] for fill in Fill]
    assert found == [b".\0ab", b".\0ab\0\0", b".\0ab" + garbage(4, 2), b".\0\0\0cd"]
    cut_at_0 = [image(disk, Choice().tear(Tear(0, 0, fill)))["a"] for fill in Fill]
    assert cut_at_0 == [b".", b"." + bytes(5), b".\0" + garbage(2, 4), b".\0abcd"]


def test_a_choice_for_another_point_is_refused(folder: Folder) -> None:
    disk = written(folder, (0, b"1"))
    for choice in (Choice(kept=2), Choice(names=1), Choice().tear(Tear(1, 0, Fill.ZEROS))):
        with pytest.raises(ValueError, match="another point"):
            image(disk, choice)


def test_the_digest_tells_states_apart() -> None:
    states = [
        {},
        {"a": b""},
        {"b": b""},
        {"a": None},
        {"a": b"folder"},
        {"a": b"1"},
        {"a": b"1", "b": b""},
        {"a": b"", "b": b"1"},
        {"a": None, "a/b": b"1"},
    ]
    assert len({digest(state) for state in states}) == len(states)
    assert digest({"a": b"1", "b": b"2"}) == digest({"b": b"2", "a": b"1"})


def test_garbage_is_always_the_same_and_never_zero(folder: Folder) -> None:
    assert garbage(10, 100) == garbage(0, 200)[10:110]
    assert len(garbage(65_000, 200_000)) == 200_000
    assert not {0, 2} & set(garbage(0, 200_000))
    assert garbage(5, 0) == garbage(5, -1) == b""
    disk = written(folder, (0, b"1" * 100), (50, b"2" * 50))
    first = Choice(kept=1).tear(Tear(1, 0, Fill.GARBAGE))
    second = Choice(kept=1).tear(Tear(0, 50, Fill.GARBAGE))
    assert digest(image(disk, first)) == digest(image(disk, second))


def test_states_become_files() -> None:
    state = {"x": None, "x/y": None, "x/y/a": b"data" * 5000, "b": b""}
    with memory_folder() as root:
        materialise(state, root)
        assert read_tree(root) == state
        with pytest.raises(FileExistsError):
            materialise({"b": b"1"}, root)


# -- against a real file system ------------------------------------------------------

NAMES = ("a", "b", "x/a", "x/b", "y/a", "x", "y", "LOCK")
VERBS = (
    *("open", "open", "write", "write", "write", "truncate", "allocate", "empty", "sync"),
    *("close", "rename", "unlink", "mkdir", "rmdir", "sync_directory"),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(VERBS),
        st.sampled_from(NAMES),
        st.sampled_from(NAMES),
        st.integers(0, 2000),
        st.integers(1, 2000),
    ),
    max_size=40,
)
Step = tuple[str, str, str, int, int]


def perform(files: RecordingFiles, steps: list[Step], opened: list[int]) -> None:
    """Do what can be done, through descriptors that may outlive their names."""
    for number, (verb, name, other, position, size) in enumerate(steps):
        path = f"{files.root}/{name}"
        try:
            match verb:
                case "open":
                    opened.append(files.open(path, READ_WRITE | CREATE))
                case "close" if opened:
                    files.close(opened.pop(size % len(opened)))
                case "write" if opened:
                    data = bytes([number % 256]) * size
                    files.pwrite(opened[position % len(opened)], data, position)
                case "truncate" if opened:
                    files.truncate(opened[size % len(opened)], position)
                case "allocate" if opened:
                    files.allocate(opened[size % len(opened)], position, size)
                case "empty":
                    opened.append(files.open(path, READ_WRITE | CREATE | TRUNCATE))
                case "sync" if opened:
                    files.sync(opened[size % len(opened)])
                case "rename":
                    files.rename(path, f"{files.root}/{other}")
                case "unlink" | "mkdir" | "rmdir" | "sync_directory":
                    getattr(files, verb)(path)
        except OSError:
            pass


@given(steps=STEPS)
def test_with_everything_kept_the_state_is_what_is_really_there(steps: list[Step]) -> None:
    opened: list[int] = []
    with memory_folder() as root:
        files = RecordingFiles(root)
        files.mkdir(f"{root}/x")
        stepwise = Disk(files.trace)
        state: Tree = {}
        try:
            for step in steps:
                perform(files, [step], opened)
                stepwise.advance(len(files.trace.events))
                state = image(stepwise, everything(stepwise))
                assert state == read_tree(root)
            for choice in itertools.islice(random_choices(stepwise, random.Random(1)), 5):
                digest(image(stepwise, choice))
            for path in (root, *(f"{root}/{n}" for n, c in state.items() if c is None)):
                files.sync_directory(path)
            for descriptor in opened:
                files.sync(descriptor)
            for name, content in read_tree(root).items():
                if content is not None:
                    descriptor = files.open(f"{root}/{name}")
                    files.sync(descriptor)
                    files.close(descriptor)
        finally:
            for descriptor in opened:
                files.close(descriptor)
        stepwise.advance(len(files.trace.events))
        assert (stepwise.pending, stepwise.pending_names) == ((), ())
        assert list(enumerate_choices(stepwise)) == [NOTHING]
        assert image(stepwise, NOTHING) == read_tree(root)


@given(steps=STEPS, seed=st.integers(0, 1000))
def test_no_state_is_a_mixture_that_no_order_explains(steps: list[Step], seed: int) -> None:
    """Each byte of each file is zero, or what some write put there."""
    opened: list[int] = []
    with memory_folder() as root:
        files = RecordingFiles(root)
        try:
            perform(files, steps, opened)
        finally:
            for descriptor in opened:
                files.close(descriptor)
        disk = Disk(files.trace)
        disk.advance(len(files.trace.events))
        writes = [op for op in files.trace.operations if op.kind is Kind.WRITE]
        for choice in itertools.islice(random_choices(disk, random.Random(seed)), 10):
            for content in image(disk, choice.tear()).values():
                for position, byte in enumerate(content or b""):
                    assert not byte or any(
                        op.position <= position < op.end and (op.data or b"")[0] == byte
                        for op in writes
                    )
