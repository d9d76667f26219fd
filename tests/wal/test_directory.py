"""Directories: whose they are, who may open them, and that the others touch nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from storage import Child, FaultyFiles, content

from seawall.wal.directory import Directory, read_format
from seawall.wal.errors import (
    DirectoryUnusable,
    ForeignDirectory,
    ForeignNamespace,
    LockTimeout,
    UnsupportedFormat,
    UnsupportedPlatform,
    WalError,
)
from seawall.wal.files import Files


def open_directory(
    path: str, *, create: bool = True, timeout_ms: int = 60_000, files: Files | None = None
) -> Directory:
    return Directory.open(files or Files(), path, create=create, timeout_ms=timeout_ms)


def make_directory(path: str) -> str:
    """A finished directory; returns its cluster id."""
    directory = open_directory(path)
    directory.make_folders()
    directory.finish_making()
    directory.close()
    return directory.cluster_id


def tree(path: str) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for folder, names, files in os.walk(path):
        found.update((os.path.join(folder, name), None) for name in names)
        found.update((name, content(name)) for name in (os.path.join(folder, f) for f in files))
    return found


@pytest.fixture
def path(folder: str) -> str:
    return os.path.join(folder, "data")


# -- making and opening ------------------------------------------------------------------


@pytest.mark.parametrize("existing", [None, [], [".gitkeep"], [".gitignore", "lost+found"]])
def test_an_empty_or_missing_directory_becomes_one(path: str, existing: list[str] | None) -> None:
    if existing is not None:
        os.mkdir(path)
        for name in existing:
            open(os.path.join(path, name), "w").close()
    directory = open_directory(path)
    assert (directory.is_sole, directory.is_new) == (True, True)
    directory.make_folders()
    directory.finish_making()
    assert not directory.is_new
    assert len(directory.cluster_id) == 22
    directory.close()
    directory.close()
    again = open_directory(path, create=False)
    assert (again.is_sole, again.is_new) == (True, False)
    assert again.cluster_id == directory.cluster_id
    again.close()


def test_missing_parents_are_made(path: str) -> None:
    make_directory(os.path.join(path, "a", "b"))
    open_directory(os.path.join(path, "a", "b"), create=False).close()


def test_others_join_once_the_sole_opener_shares(path: str) -> None:
    make_directory(path)
    sole = open_directory(path)
    with pytest.raises(LockTimeout) as caught:
        open_directory(path, timeout_ms=20)
    assert caught.value.holder_pid == os.getpid()
    sole.share()
    sole.share()
    others = [open_directory(path) for _ in range(3)]
    assert [other.is_sole for other in others] == [False] * 3
    sole.close()
    late = open_directory(path)
    assert not late.is_sole
    for each in (*others, late):
        each.close()
    alone = open_directory(path)
    assert alone.is_sole
    alone.close()


def test_a_half_made_directory_is_made_again(path: str) -> None:
    directory = open_directory(path)
    directory.make_folders()
    for name in ("catalog.db", "catalog.db-wal", "FORMAT.77.new"):
        open(directory.join(name), "w").close()
    os.mkdir(directory.join("state.lmdb"))
    directory.close()
    again = open_directory(path)
    assert again.is_new
    again.finish_making()
    again.close()


def test_a_crash_at_any_step_of_the_making_leaves_a_way(folder: str) -> None:
    nth = 0
    while True:
        nth += 1
        path = os.path.join(folder, f"{nth}")
        files = FaultyFiles()
        files.fail(nth=nth)
        try:
            directory = open_directory(path, files=files)
            try:
                directory.make_folders()
                directory.finish_making()
            finally:
                directory.close()
        except (OSError, WalError):
            pass
        make_directory(path)
        if not files.hits:
            break
    assert nth > 10


def test_many_processes_make_the_same_directory_at_once(path: str) -> None:
    def work(say: Callable[[str], None]) -> None:
        for _ in range(3):
            directory = open_directory(path)
            if directory.is_new:
                directory.make_folders()
                os.makedirs(directory.join("logs", "1-a-0"), exist_ok=True)
                directory.finish_making()
                say("made")
            if directory.is_sole:
                directory.share()
            say(directory.cluster_id)
            directory.close()

    lines = [line for child in [Child(work) for _ in range(6)] for line in child.wait()]
    assert lines.count("made") == 1
    assert len(set(lines)) == 2


def test_one_that_becomes_ours_between_two_looks_is_not_foreign(path: str) -> None:
    os.mkdir(path)

    class Late(FaultyFiles):
        done = False

        def list(self, path: str) -> list[str]:
            if not self.done:
                self.done = True
                make_directory(path)
                os.mkdir(os.path.join(path, "logs", "1-a-0"))
            return super().list(path)

    directory = open_directory(path, files=Late())
    assert not directory.is_new
    directory.close()


# -- refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("name", ["a.txt", "FORMATS", "catalog", "Logs", ".hidden"])
def test_a_foreign_directory_is_refused_and_not_touched(path: str, name: str, create: bool) -> None:
    os.makedirs(os.path.join(path, "sub"))
    with open(os.path.join(path, name), "w") as file:
        file.write("mine")
    before = tree(path)
    with pytest.raises(ForeignDirectory) as caught:
        open_directory(path, create=create)
    assert caught.value.path == path
    assert caught.value.found in (name, "sub")
    assert tree(path) == before


def test_logs_without_a_format_are_refused(path: str) -> None:
    make_directory(path)
    os.mkdir(os.path.join(path, "logs", "1-a-0"))
    os.unlink(os.path.join(path, "FORMAT"))
    before = tree(path)
    with pytest.raises(UnsupportedFormat):
        open_directory(path)
    assert tree(path) == before


@pytest.mark.parametrize(
    "text", ["", "seawall 2\ncluster-id x\n", "seawall 1", "seawall 1\ncluster-id \n", "\xff\0"]
)
def test_an_unknown_format_is_refused_and_not_touched(path: str, text: str) -> None:
    make_directory(path)
    with open(os.path.join(path, "FORMAT"), "w", encoding="latin-1") as file:
        file.write(text)
    before = tree(path)
    with pytest.raises(UnsupportedFormat) as caught:
        open_directory(path)
    assert caught.value.supported == "seawall 1"
    assert tree(path) == before


def test_a_later_line_of_the_format_is_allowed(path: str) -> None:
    cluster_id = make_directory(path)
    with open(os.path.join(path, "FORMAT"), "a") as file:
        file.write("something new\n")
    assert read_format(Files(), path) == cluster_id


@pytest.mark.parametrize("below", ["", "sub", "sub/sub"])
def test_a_file_where_a_directory_is_wanted(folder: str, below: str) -> None:
    path = os.path.join(folder, "file")
    with open(path, "w") as file:
        file.write("x")
    with pytest.raises(DirectoryUnusable):
        open_directory(os.path.join(path, below) if below else path)
    assert content(path) == b"x"


def test_without_create_nothing_is_made(path: str) -> None:
    with pytest.raises(DirectoryUnusable, match="no such directory"):
        open_directory(path, create=False)
    assert not os.path.exists(path)
    os.mkdir(path)
    with pytest.raises(DirectoryUnusable, match="not a seawall directory"):
        open_directory(path, create=False)
    assert os.listdir(path) == []


def test_a_dangling_link(folder: str, path: str) -> None:
    os.symlink(os.path.join(folder, "nowhere"), path)
    with pytest.raises(DirectoryUnusable):
        open_directory(path)


@pytest.mark.parametrize("mode", [0o000, 0o500, 0o300])
def test_a_directory_that_may_not_be_used(path: str, mode: int) -> None:
    """In a child without root's powers, because to root everything is permitted."""
    make_directory(path)
    os.chmod(os.path.dirname(path), 0o755)
    os.chmod(path, mode)

    def work(say: Callable[[str], None]) -> None:
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            open_directory(path).close()
        except DirectoryUnusable as error:
            say(f"refused: {error.reason}")

    assert Child(work).wait() == ["refused: Permission denied"]
    os.chmod(path, 0o755)


def test_another_pid_namespace_is_refused(path: str) -> None:
    class Elsewhere(Files):
        def pid_namespace(self) -> str:
            return "pid:[1]"

    make_directory(path)
    here = open_directory(path)
    here.share()
    with pytest.raises(ForeignNamespace) as caught:
        open_directory(path, files=Elsewhere())
    assert caught.value.namespace == Files().pid_namespace()
    assert caught.value.own_namespace == "pid:[1]"
    here.close()
    elsewhere = open_directory(path, files=Elsewhere())  # nobody else is in there
    elsewhere.share()
    with pytest.raises(ForeignNamespace):
        open_directory(path)
    elsewhere.close()


def test_a_real_pid_namespace_is_refused(path: str) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "--pid", "--fork", "true"]).returncode:
        pytest.skip("making a PID namespace is not permitted here")
    make_directory(path)
    here = open_directory(path)
    here.share()
    program = (
        "import sys; from seawall.wal.directory import Directory; "
        "from seawall.wal.files import Files\n"
        "try: Directory.open(Files(), sys.argv[1], create=False, timeout_ms=100)\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run(
        [unshare, "--pid", "--fork", "--mount-proc", sys.executable, "-c", program, path],
        capture_output=True,
        text=True,
    )
    here.close()
    assert done.stdout == "ForeignNamespace\n", done.stderr


def test_a_stranger_that_comes_in_while_sharing_is_noticed(path: str) -> None:
    """Turning an exclusive flock into a shared one lets go of it for a moment."""

    class Interrupted(FaultyFiles):
        strangers = 0

        def try_lock(self, descriptor: int, *, exclusive: bool = True) -> bool:
            if not exclusive and not self.strangers:
                self.strangers += 1
                os.pwrite(descriptor, b"pid:[1]\n".ljust(64), 0)
            return super().try_lock(descriptor, exclusive=exclusive)

    make_directory(path)
    directory = open_directory(path, files=Interrupted())
    with pytest.raises(ForeignNamespace):
        directory.share()
    directory.close()


def test_sharing_waits_no_longer_than_opening(path: str) -> None:
    class Refused(FaultyFiles):
        def try_lock(self, descriptor: int, *, exclusive: bool = True) -> bool:
            return exclusive and super().try_lock(descriptor)

    make_directory(path)
    directory = open_directory(path, files=Refused(), timeout_ms=30)
    with pytest.raises(LockTimeout):
        directory.share()
    directory.close()


def test_a_network_file_system_is_refused(path: str) -> None:
    class Remote(Files):
        def pread(self, descriptor: int, size_bytes: int, position: int) -> bytes:
            data = super().pread(descriptor, size_bytes, position)
            device = os.stat(path).st_dev
            wanted = b" %d:%d " % (os.major(device), os.minor(device))
            return b"".join(
                line.split(b" - ")[0] + b" - nfs4 server:/ rw\n"
                if wanted in line and b" - " in line
                else line
                for line in data.splitlines(keepends=True)
            )

    os.mkdir(path)
    with pytest.raises(UnsupportedPlatform, match="nfs4"):
        open_directory(path, files=Remote())
    assert os.listdir(path) == []


# -- processes ---------------------------------------------------------------------------


def test_a_stopped_sole_opener_is_named_and_its_death_lets_others_in(path: str) -> None:
    make_directory(path)

    def work(say: Callable[[str], None]) -> None:
        directory = open_directory(path)
        say(f"{directory.is_sole}")
        time.sleep(60)

    child = Child(work)
    assert child.line() == "True"
    child.kill(signal.SIGSTOP)
    with pytest.raises(LockTimeout) as caught:
        open_directory(path, timeout_ms=50)
    assert caught.value.holder_pid == child.pid
    child.kill(signal.SIGKILL)
    child.wait()
    directory = open_directory(path)
    assert directory.is_sole
    directory.close()


def test_a_child_does_not_keep_its_parents_directory(path: str) -> None:
    make_directory(path)

    def parent(say: Callable[[str], None]) -> None:
        directory = open_directory(path)

        def grandchild(_: Callable[[str], None]) -> None:
            directory.abandon()
            say("abandoned")
            time.sleep(60)

        child = Child(grandchild)
        say(f"{child.pid}")
        time.sleep(60)

    child = Child(parent)
    grandchild = int(next(line for line in (child.line(), child.line()) if line != "abandoned"))
    with pytest.raises(LockTimeout):
        open_directory(path, timeout_ms=20)
    child.kill(signal.SIGKILL)
    os.waitpid(child.pid, 0)
    directory = open_directory(path)
    assert directory.is_sole
    directory.close()
    os.kill(grandchild, signal.SIGKILL)
    os.close(child._reader)
