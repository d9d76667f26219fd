"""The storage engine in a temporary directory, on disks that fail as they are told.

`Store` puts the parts of `seawall.wal` together for one log, as a broker's sole opener
does. `FaultyFiles` makes any call to the operating system fail; `LossyDisk` forgets at a
power cut what was not synced, as far as a disk may.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, Self

from seawall.wal import forks
from seawall.wal.context import LogConfig, LogContext
from seawall.wal.ends import FENCED, Ends, EndsRow
from seawall.wal.files import READ, Buffer, Files
from seawall.wal.index import Index
from seawall.wal.kv import Environment
from seawall.wal.log import Log
from seawall.wal.quarantine import Quarantine
from seawall.wal.records import Record, decode_batch, encode_batch
from seawall.wal.recovery import Finding, recover

PARTITION = 1
SECTOR_BYTES = 512
# Syncs cost nothing on a file system in memory; what is tested there needs no disk.
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None


class Crash(BaseException):
    """The process ends here; nothing but `finally` and `with` is allowed to notice."""


@dataclass
class Fault:
    kind: str
    where: str
    skip: int
    times: int
    error: int | type[BaseException]
    short: Callable[[int], int] | None


class FaultyFiles(Files):
    """`Files` that counts its calls, and fails those that it is told to fail."""

    def __init__(self, boot: bytes = b"this boot's id..") -> None:
        self.boot = boot
        self.calls: list[str] = []
        self.counts: Counter[str] = Counter()
        self.hits = 0
        self._faults: list[Fault] = []
        self._paths: dict[int, str] = {}

    def fail(
        self,
        kind: str = "",
        *,
        nth: int = 1,
        times: int = 1,
        where: str = "",
        error: int | type[BaseException] = errno.EIO,
        short: Callable[[int], int] | None = None,
    ) -> None:
        """Fail the `nth` call from now on of that kind, and `times` - 1 more.

        Without a kind that is any call but `try_lock`, which fails for no disk's sake.

        `where` is a part of the path. With `short`, a write writes only so many of its bytes;
        every other call then works.
        """
        self._faults.append(Fault(kind, where, nth - 1, times, error, short))

    def heal(self) -> None:
        self._faults.clear()

    def _call(self, kind: str, path: str, size_bytes: int = -1) -> int | None:
        """Count a call; raise if it must fail, or return the bytes that it may write."""
        self.calls.append(kind)
        self.counts[kind] += 1
        for fault in self._faults:
            if (fault.kind and fault.kind != kind) or fault.where not in path:
                continue
            if fault.short is not None and size_bytes < 0:
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            if not fault.times:
                continue
            fault.times -= 1
            self.hits += 1
            if fault.short is not None:
                return fault.short(size_bytes)
            if isinstance(fault.error, int):
                raise OSError(fault.error, os.strerror(fault.error), path)
            raise fault.error
        return None

    def path_of(self, descriptor: int) -> str:
        return self._paths.get(descriptor, "")

    def open(self, path: str, flags: int = READ, mode: int = 0o644) -> int:
        self._call("open", path)
        descriptor = super().open(path, flags, mode)
        self._paths[descriptor] = path
        return descriptor

    def close(self, descriptor: int) -> None:
        self._paths.pop(descriptor, None)
        super().close(descriptor)

    def pread(self, descriptor: int, size_bytes: int, position: int) -> bytes:
        self._call("pread", self.path_of(descriptor))
        return super().pread(descriptor, size_bytes, position)

    def pwrite(self, descriptor: int, data: Buffer, position: int) -> int:
        count = self._call("pwrite", self.path_of(descriptor), len(data))
        return super().pwrite(descriptor, data if count is None else data[:count], position)

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], position: int) -> int:
        data = b"".join(buffers)
        count = self._call("pwritev", self.path_of(descriptor), len(data))
        return super().pwritev(descriptor, [data if count is None else data[:count]], position)

    def allocate(self, descriptor: int, position: int, size_bytes: int) -> None:
        self._call("allocate", self.path_of(descriptor))
        super().allocate(descriptor, position, size_bytes)

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        self._call("truncate", self.path_of(descriptor))
        super().truncate(descriptor, size_bytes)

    def sync(self, descriptor: int) -> None:
        self._call("sync", self.path_of(descriptor))
        super().sync(descriptor)

    def size(self, descriptor: int) -> int:
        self._call("size", self.path_of(descriptor))
        return super().size(descriptor)

    def rename(self, source: str, target: str) -> None:
        self._call("rename", target)
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        self._call("unlink", path)
        super().unlink(path)

    def mkdir(self, path: str) -> None:
        self._call("mkdir", path)
        super().mkdir(path)

    def sync_directory(self, path: str) -> None:
        self._call("sync_directory", path)
        super().sync_directory(path)

    def list(self, path: str) -> list[str]:
        self._call("list", path)
        return super().list(path)

    def path_size(self, path: str) -> int | None:
        self._call("path_size", path)
        return super().path_size(path)

    def try_lock(self, descriptor: int, *, exclusive: bool = True) -> bool:
        if any(fault.kind == "try_lock" for fault in self._faults):
            self._call("try_lock", self.path_of(descriptor))
        return super().try_lock(descriptor, exclusive=exclusive)

    def boot_id(self) -> bytes:
        return self.boot


class LossyDisk(FaultyFiles):
    """Keeps what was synced, and of the rest whichever sectors it likes.

    Each file has a durable image, which a sync brings up to date. `power_cut` puts the
    images back, with a random choice of the sectors that were written since, and with the
    file's old or new length; names that their folder's sync did not cover may be gone.
    Only the log's own folder is lossy.
    """

    def __init__(self, folder: str, randomness: random.Random) -> None:
        super().__init__()
        self.folder = folder
        self.randomness = randomness
        self.images: dict[int, bytes] = {}  # inode -> what is on disk
        self.names: dict[str, int] = {}  # path -> inode, as the folder's last sync left it

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        self.images[os.fstat(descriptor).st_ino] = content(f"/proc/self/fd/{descriptor}")

    def sync_directory(self, path: str) -> None:
        super().sync_directory(path)
        if path == self.folder:
            self.names = self._names_now()

    def _names_now(self) -> dict[str, int]:
        if not os.path.isdir(self.folder):
            return {}
        paths = (os.path.join(self.folder, name) for name in os.listdir(self.folder))
        return {path: os.stat(path).st_ino for path in paths}

    def power_cut(self) -> None:
        """Lose what was not synced; everything must be closed."""
        now = self._names_now()
        contents = {path: content(path) for path in now}
        for path, inode in now.items():
            if path.endswith("LOCK"):
                continue
            image = self.images.get(inode, b"")
            torn = self._torn(image, contents[path])
            if self.names.get(path) != inode and self.randomness.random() < 0.5:
                os.unlink(path)
            else:
                with open(path, "r+b") as file:
                    file.truncate(0)
                    file.write(torn)
        self.images = {os.stat(path).st_ino: content(path) for path in self._names_now()}
        self.names = self._names_now()
        self.boot = self.randomness.randbytes(16)

    def _torn(self, image: bytes, cached: bytes) -> bytes:
        size = self.randomness.choice([len(image), len(cached)])
        favour_new = self.randomness.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        torn = bytearray()
        for at in range(0, size, SECTOR_BYTES):
            old = image[at : at + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0")
            new = cached[at : at + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0")
            torn += new if self.randomness.random() < favour_new else old
        return bytes(torn[:size])


class Clock:
    """A wall clock that goes when it is told to."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


class Store:
    """One log in a directory, opened as a sole opener does it (or as one who joins)."""

    def __init__(
        self,
        root: str,
        *,
        files: Files | None = None,
        clock: Callable[[], int] | None = None,
        timeout_ms: int = 60_000,
        join: bool = False,
        log_start: int = 0,
        floor: int = 0,
        on_change: Callable[[], None] = lambda: None,
        **config: int,
    ) -> None:
        self.root = root
        self.files = files or FaultyFiles()
        self.clock = clock or Clock()
        self.config = LogConfig(
            **{"segment_bytes": 1 << 20, "allocate_bytes": 1 << 16, **config}  # type: ignore[arg-type]
        )
        self.timeout_ms = timeout_ms
        self.log_start = log_start
        self.on_change = on_change
        self.findings: list[Finding] = []
        self.is_open = False
        self.open(join=join, floor=floor)

    @property
    def folder(self) -> str:
        return os.path.join(self.root, "logs", "1-orders-0")

    @property
    def ends_path(self) -> str:
        return os.path.join(self.root, "run", "ends")

    def open(self, *, join: bool = False, floor: int = 0) -> Log:
        for name in ("logs", "run", "quarantine"):
            os.makedirs(os.path.join(self.root, name), exist_ok=True)
        with contextlib.ExitStack() as stack:
            self.environment = Environment(
                os.path.join(self.root, "index.lmdb"), files=Files(), map_size_bytes=1 << 26
            )
            stack.callback(self.environment.close)
            boot, files = self.files.boot_id(), self.files
            cache_is_certain = Ends.written_in_another_boot(files, self.ends_path, boot)
            ends = Ends.open(files, self.ends_path, boot)
            row = ends.read(PARTITION) if ends else None
            if ends is None:
                ends = Ends.create(files, self.ends_path, boot)
            stack.callback(ends.close)
            self.ends = ends
            self.index = Index(self.environment)
            self.context = LogContext(
                files=files,
                folder=self.folder,
                partition_id=PARTITION,
                ends=ends,
                index=self.index,
                config=self.config,
                append_lock_timeout_ms=self.timeout_ms,
                now_ms=self.clock,
            )
            if not join and (row is None or row.flags & FENCED):
                self.recover(
                    floor=max(floor, row.durable_offset if row else 0),
                    cache_is_certain=cache_is_certain and row is None,
                )
            self.log = Log(self.context, on_change=self.on_change)
            stack.pop_all()
        self.is_open = True
        forks.register(self)
        return self.log

    def recover(
        self,
        *,
        floor: int = 0,
        cache_is_certain: bool = True,
        gives_up_unreadable: bool = False,
    ) -> EndsRow:
        recovered = recover(
            self.context,
            Quarantine(self.files, os.path.join(self.root, "quarantine")),
            log_start=self.log_start,
            floor=floor,
            cache_is_certain=cache_is_certain,
            gives_up_unreadable=gives_up_unreadable,
        )
        self.findings = recovered.findings
        self.ends.write(PARTITION, recovered.row)
        return recovered.row

    def crash(self) -> None:
        """Let go of everything, as the kernel does when a process dies."""
        if self.is_open:
            self.is_open = False
            self.log.close()
            self.environment.close()
            self.ends.close()

    def close(self) -> None:
        """Close in good order."""
        if self.is_open:
            self.log.sync()
            self.log.checkpoint()
            self.crash()

    def abandon(self) -> None:
        self.is_open = False
        self.log.abandon()
        self.ends.abandon(os.getppid())

    def reopen(
        self, *, clean: bool = False, reboot: bool = False, lose_index: bool = False, floor: int = 0
    ) -> Log:
        """Close or crash, and open again; `reboot` gives the machine another boot id."""
        if clean:
            self.close()
        else:
            self.crash()
        if reboot:
            assert isinstance(self.files, FaultyFiles)
            self.files.boot = bytes([(self.files.boot[0] + 1) % 256]) + self.files.boot[1:]
        if lose_index:
            shutil.rmtree(os.path.join(self.root, "index.lmdb"))
        return self.open(floor=floor)

    def peer(self, files: Files | None = None, *, timeout_ms: int | None = None) -> Peer:
        """The log as another process has it: with descriptors and locks of its own."""
        return Peer(self, files or self.files, timeout_ms or self.timeout_ms)

    # -- short words for what tests do all the time ----------------------------------

    def append(self, *values: bytes, timestamp: int = 1000) -> int:
        """One batch; returns its base offset."""
        return self.log.append([batch(*values, timestamp=timestamp)]).base_offset

    def put(self, *values: bytes, timestamp: int = 1000) -> int:
        """One batch, committed; returns the offset behind it."""
        appended = self.log.append([batch(*values, timestamp=timestamp)])
        assert self.log.commit(appended.next_offset) >= appended.next_offset
        return appended.next_offset

    def segments(self) -> list[str]:
        return sorted(name for name in os.listdir(self.folder) if name.endswith(".log"))

    def path(self, segment: int = 0) -> str:
        return self.context.segment_path(segment)

    def read_all(self, offset: int | None = None, max_bytes: int = 1 << 20) -> list[Record]:
        return list(self.records(offset, max_bytes))

    def records(self, offset: int | None = None, max_bytes: int = 1 << 20) -> Iterator[Record]:
        reader = self.log.reader(self.log.ends().log_start if offset is None else offset)
        try:
            while True:
                wanted = reader.offset
                chunk = reader.read(max_bytes)
                if not chunk.batches:
                    return
                for position, _ in chunk.batches:
                    yield from decode_batch(chunk.data, position, "orders", 0, min_offset=wanted)
        finally:
            reader.close()

    def values(self, offset: int | None = None, max_bytes: int = 1 << 20) -> list[Any]:
        return [record.value for record in self.records(offset, max_bytes)]

    def assert_works(self, *expected: bytes) -> None:
        """Append again, and read everything back: what was expected, and the new record."""
        self.put(b"afterwards")
        assert self.values() == [*expected, b"afterwards"]
        assert list(self.log.verify()) == []


def batch(*values: bytes, timestamp: int = 1000, **options: Any) -> bytearray:
    """A batch of records without keys."""
    return encode_batch([(timestamp, None, value, ()) for value in values], **options)


class Peer:
    """A second opener of a store's log, in this process for convenience."""

    def __init__(self, store: Store, files: Files, timeout_ms: int) -> None:
        ends = Ends.open(files, store.ends_path, store.files.boot_id())
        assert ends is not None
        self.ends = ends
        self.context = dataclasses.replace(
            store.context, files=files, ends=ends, append_lock_timeout_ms=timeout_ms
        )
        self.log = Log(self.context)

    def __enter__(self) -> Log:
        return self.log

    def __exit__(self, *exc: object) -> None:
        self.log.close()
        self.ends.close()


@contextlib.contextmanager
def memory_folder() -> Iterator[str]:
    """A folder on a file system in memory, if there is one."""
    path = tempfile.mkdtemp(prefix="seawall-test-", dir=MEMORY)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def content(path: str) -> bytes:
    """All bytes of a file."""
    with open(path, "rb") as file:
        return file.read()


def flip(path: str, position: int, mask: int = 1) -> None:
    """Flip bits of one byte in a file."""
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ mask]))


Say = Callable[[str], None]


class Child:
    """A function in a forked process. It says a line, and is waited for or killed."""

    def __init__(self, work: Callable[[Say], None]) -> None:
        self._reader, writer = os.pipe()
        self._buffer = b""
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self._reader)
                work(lambda line: void(os.write(writer, line.encode() + b"\n")))
                status = 0
            except BaseException as error:  # noqa: BLE001 - told to the parent
                os.write(writer, f"{type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(status)
        os.close(writer)

    def line(self) -> str:
        """The next line that it says; empty when it has ended."""
        while b"\n" not in self._buffer:
            data = os.read(self._reader, 65536)
            if not data:
                break
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def said(self) -> list[str]:
        """The lines that it has said by now and nobody has asked for."""
        os.set_blocking(self._reader, False)
        try:
            while data := os.read(self._reader, 65536):
                self._buffer += data
        except BlockingIOError:
            pass
        finally:
            os.set_blocking(self._reader, True)
        *lines, self._buffer = self._buffer.split(b"\n")
        return [line.decode() for line in lines]

    def kill(self, signal_number: int) -> None:
        os.kill(self.pid, signal_number)

    def wait(self) -> list[str]:
        """What else it says; it must have ended well or been killed."""
        lines = []
        while line := self.line():
            lines.append(line)
        os.close(self._reader)
        _, status = os.waitpid(self.pid, 0)
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, lines
        return lines


@contextlib.contextmanager
def child(work: Callable[[Say], None]) -> Iterator[Child]:
    """A `Child` that is killed at the end if it has not ended."""
    process = Child(work)
    try:
        yield process
    finally:
        with contextlib.suppress(OSError):
            process.kill(signal.SIGKILL)
            process.wait()


def void(_: object) -> None:
    """Nothing."""


NO_ROOM = errno.ENOSPC


class InterruptAt:
    """Raises KeyboardInterrupt at the n-th place in some modules where Python may deliver a
    signal: after a call, and at the beginning of a function. A ``with`` statement and the
    lock that it takes by itself are one step.
    """

    def __init__(self, at: int, *modules: str) -> None:
        self.at = at
        self.places = 0
        self._modules = modules

    def __enter__(self) -> Self:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.setprofile(None)

    def is_inside(self, code: CodeType) -> bool:
        return code.co_filename.endswith(self._modules)

    def _profile(self, frame: FrameType, event: str, argument: object) -> None:
        if event in ("call", "c_return") and self.is_inside(frame.f_code):
            self.places += 1
            if self.places == self.at:
                sys.setprofile(None)
                raise KeyboardInterrupt
