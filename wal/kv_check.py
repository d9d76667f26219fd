"""Whether an LMDB environment may be opened at all.

LMDB trusts its file: one that is too short, or whose pages are not what they should
be, can end the process with SIGBUS, SIGSEGV or an abort. So before the sole opener of
a directory opens an environment, it asks here. Nobody else may have it open.

`check` reads the two meta pages, each at the start of a page of the file::

    page number   8     \
    pad           2      | header of every page
    flags         2      | 8 = meta page
    lower, upper  4     /
    magic         4     0xBEEFC0DE
    version       4     1 (LMDB 0.9)
    address       8
    map size      8
    free list    48     a B-tree: page size (only in this one) 4, flags 2, depth 2, …,
    main tree    48     … root page 8
    last page     8
    transaction   8     even on page 0, odd on page 1; the greater one is in force

in the byte order of the machine. A file that is shorter than the last page may be
whole, because a free page need not have been written (m: it happens), so it takes
`check_in_child` to tell.

`check_in_child` reads everything in a child process, which may die of it: py-lmdb's
offline verifier walks every page, without LMDB, and then LMDB itself is asked for
every entry, and the checksum of each is compared. ``python -m seawall.wal.kv_check
FOLDER`` is that child. It prints `READY` when it begins and `FINE`, or what is wrong,
when it is done.
"""

from __future__ import annotations

import enum
import importlib
import os
import signal
import struct
import subprocess
import sys
from dataclasses import dataclass

import lmdb

from seawall.wal.errors import ValueDamaged
from seawall.wal.files import READ, Files
from seawall.wal.kv_view import DATA_NAME, unseal

CHECK_TIMEOUT_MS = 60_000

READY = "ready"
FINE = "fine"

_MAGIC = 0xBEEFC0DE
_VERSION = 1
_META_FLAG = 8
_PAGE_BYTES = frozenset(1 << bits for bits in range(9, 16))  # what LMDB 0.9 can have
_NO_PAGE = (1 << 64) - 1

# The header of a page and the meta data behind it; "=" is this machine's byte order.
_META = struct.Struct("=QHHI II QQ IHH5Q IHH5Q QQ".replace(" ", ""))


class Kind(enum.Enum):
    ABSENT = "absent"
    """There is no such folder."""
    FINE = "fine"
    DAMAGED = "damaged"
    UNCHECKED = "unchecked"
    """The child could not be started, or was not done in time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found, and if it is not `Kind.FINE`, why, in a few words for people."""

    kind: Kind
    reason: str = ""


class _Meta:
    """One meta page."""

    def __init__(self, data: bytes) -> None:
        fields = _META.unpack(data)
        self.page_flags = fields[2]
        self.magic, self.version = fields[4:6]
        self.page_bytes = fields[8]
        self.free_root = fields[15]
        self.main_root = fields[23]
        self.last_page, self.transaction = fields[24:26]

    def problem(self) -> str:
        """What is wrong with it as such, empty if nothing is."""
        if self.magic != _MAGIC or not self.page_flags & _META_FLAG:
            return "it is not an LMDB file of this machine's byte order"
        if self.version != _VERSION:
            return f"it has LMDB's data format {self.version}, not {_VERSION}"
        if self.page_bytes not in _PAGE_BYTES:
            return f"its page size is {self.page_bytes} bytes"
        for root in (self.free_root, self.main_root):
            if root != _NO_PAGE and not 2 <= root <= self.last_page:
                return f"the root of a tree is page {root} of {self.last_page + 1}"
        return ""


def check(files: Files, path: str, *, timeout_ms: int = CHECK_TIMEOUT_MS) -> Verdict:
    """Compare an environment's meta pages with its size. Quick, and nearly always enough.

    Only if the file is shorter than its last page is `check_in_child` asked, for at
    most ``timeout_ms``. Raises `OSError` if the file cannot be read.
    """
    if not files.is_directory(path):
        return Verdict(Kind.ABSENT, "there is no such folder")
    data_path = os.path.join(path, DATA_NAME)
    size_bytes = files.path_size(data_path)
    if size_bytes is None:
        return Verdict(Kind.DAMAGED, f"{DATA_NAME} is missing")
    descriptor = files.open(data_path, READ)
    try:
        metas = []
        page_bytes = 0
        for number in (0, 1):
            data = files.pread(descriptor, _META.size, number * page_bytes)
            if len(data) < _META.size:
                return Verdict(
                    Kind.DAMAGED, f"{DATA_NAME} has {size_bytes} bytes, too few for meta pages"
                )
            meta = _Meta(data)
            problem = meta.problem()
            if not problem and page_bytes not in (0, meta.page_bytes):
                problem = "its meta pages differ in page size"
            if problem:
                return Verdict(Kind.DAMAGED, f"meta page {number} of {DATA_NAME}: {problem}")
            page_bytes = meta.page_bytes
            metas.append(meta)
    finally:
        files.close(descriptor)
    for number, meta in enumerate(metas):
        if meta.transaction and meta.transaction % 2 != number:
            return Verdict(
                Kind.DAMAGED,
                f"meta page {number} of {DATA_NAME} has transaction {meta.transaction}",
            )
    latest = max(metas, key=lambda meta: meta.transaction)
    if size_bytes < (latest.last_page + 1) * page_bytes:
        verdict = check_in_child(path, timeout_ms=timeout_ms)
        if verdict.kind is Kind.DAMAGED:
            return Verdict(
                Kind.DAMAGED,
                f"{DATA_NAME} has {size_bytes} bytes of "
                f"{(latest.last_page + 1) * page_bytes}; {verdict.reason}",
            )
        return verdict
    return Verdict(Kind.FINE)


def check_in_child(path: str, *, timeout_ms: int = CHECK_TIMEOUT_MS) -> Verdict:
    """Read a whole environment in a child process, for at most ``timeout_ms``."""
    if not sys.executable:
        return Verdict(Kind.UNCHECKED, "this Python does not know its own executable")
    # The child finds the same modules as we do, and none beside the user's script.
    search = ":".join(entry for entry in sys.path if entry)
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "seawall.wal.kv_check", path],
            env={**os.environ, "PYTHONPATH": search},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_ms / 1000,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Verdict(Kind.UNCHECKED, f"reading it took more than {timeout_ms} ms")
    except OSError as error:
        return Verdict(Kind.UNCHECKED, f"no process to read it: {error}")
    lines = child.stdout.decode("utf-8", "replace").splitlines()
    if not lines or lines[0] != READY:
        return Verdict(Kind.UNCHECKED, f"the process to read it ended with {child.returncode}")
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        if -child.returncode in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            return Verdict(Kind.UNCHECKED, f"the process that read it got {name}")
        return Verdict(Kind.DAMAGED, f"a process that read it died of {name}")
    if child.returncode == 0 and lines[-1] == FINE:
        return Verdict(Kind.FINE)
    if child.returncode == 1 and len(lines) > 1:
        return Verdict(Kind.DAMAGED, lines[1])
    return Verdict(Kind.UNCHECKED, f"the process that read it ended with {child.returncode}")


def find_damage(path: str) -> str:
    """Read everything, in this process, and name the first damage; empty if none.

    Damage may end the process. Nobody may have the environment open.
    """
    try:
        verifier = importlib.import_module("lmdb.verify")
    except ImportError:  # py-lmdb before 3.0
        verifier = None
    if verifier is not None:
        try:
            problems: list[str] = verifier.verify(path)
        except verifier.VerifyError as error:
            return str(error)
        if problems:
            return problems[0]
    count = 0
    try:
        with (
            lmdb.open(path, readonly=True, lock=False, create=False) as environment,
            environment.begin() as transaction,
            transaction.cursor() as cursor,
        ):
            for key, stored in cursor:
                unseal(path, key, stored)
                count += 1
            if count != environment.stat()["entries"]:
                return f"it has {count} of {environment.stat()['entries']} entries"
    except (lmdb.Error, ValueDamaged) as error:
        return str(error)
    return ""


def _main(path: str) -> int:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    damage = find_damage(path)
    sys.stdout.write(f"{damage or FINE}\n".encode("ascii", "backslashreplace").decode())
    return 1 if damage else 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
