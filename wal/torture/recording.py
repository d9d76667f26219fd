"""Files that write down what is done to them, so that a power cut can be tried at any point.

`RecordingFiles` does every call for real and notes, in a `Trace`, those that change
something below its root. `seawall.wal.torture.disk` says what a disk may hold after a part
of a trace.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seawall.wal.files import CREATE, READ, TRUNCATE, Buffer, Files
from seawall.wal.torture.trace import (
    ROOT,
    Kind,
    Mark,
    Operation,
    Snapshot,
    Trace,
    content,
    read_tree,
)


class RecordingFiles(Files):
    """Real files below `root`, and a `trace` of what changes them. Safe to use from any thread.

    A call and its note are one step, so calls that change something wait for one another. A
    call that fails is not noted, but for a sync: nothing is known of the pages then.

    ``before_operation`` is called, with all others held up, before each call that will be
    noted and before each mark; there `snapshot` may be called. ``boot``, if set, is what
    `boot_id` says; other bytes are another boot.

    Every method goes on to ``super()``, so that a class of faulty files can come behind this
    one in the bases of another. What is outside of the root is done and not noted.
    """

    def __init__(
        self,
        root: str,
        *,
        before_operation: Callable[[], None] | None = None,
        boot: bytes | None = None,
    ) -> None:
        super().__init__()
        self.root = os.path.abspath(root)
        self.before_operation = before_operation
        self.boot = boot
        self.trace = Trace(initial=read_tree(self.root))
        self._lock = threading.RLock()
        self._nodes = {path: node for node, path in enumerate(self.trace.initial, ROOT + 1)}
        self._next_node = ROOT + 1 + len(self._nodes)
        self._nodes[""] = ROOT
        self._descriptors: dict[int, tuple[int, str]] = {}
        self._last_snapshots: dict[str, dict[str, bytes]] = {}

    # -- what is not an operation ----------------------------------------------------

    def mark(self, mark: Mapping[str, Any]) -> None:
        """Note that something was promised now."""
        with self._lock:
            self._before()
            self.trace.events.append(Mark(number=len(self.trace.events), mark=dict(mark)))

    def snapshot(self, name: str, files: Mapping[str, bytes]) -> None:
        """Note what `files` hold now, unless they are as at the last snapshot of that name."""
        with self._lock:
            last = self._last_snapshots.get(name)
            if last == files:
                return
            # What did not change is kept once only.
            known = {data: data for data in (last or {}).values()}
            kept = {path: known.get(data, data) for path, data in files.items()}
            self._last_snapshots[name] = kept
            number = len(self.trace.events)
            self.trace.events.append(Snapshot(number=number, name=name, files=kept))

    def boot_id(self) -> bytes:
        return super().boot_id() if self.boot is None else self.boot

    # -- descriptors -----------------------------------------------------------------

    def open(self, path: str, flags: int = READ, mode: int = 0o644) -> int:
        name = self._name(path)
        if name is None:
            return super().open(path, flags, mode)
        with self._lock:
            existed = os.path.lexists(path)
            if existed:
                self._find(name)
            if flags & TRUNCATE or (flags & CREATE and not existed):
                self._before()
            descriptor = super().open(path, flags, mode)
            if not existed:
                node = self._new_node(name)
                self._note(Kind.CREATE, name, node, folder=self._folder(name))
            elif flags & TRUNCATE:
                self._note(Kind.TRUNCATE, name, self._nodes[name])
            self._descriptors[descriptor] = self._nodes[name], name
            return descriptor

    def close(self, descriptor: int) -> None:
        # Forgotten first: once it is closed, its number may be another file's at once.
        self._descriptors.pop(descriptor, None)
        super().close(descriptor)

    def pwrite(self, descriptor: int, data: Buffer, position: int) -> int:
        with self._lock:
            known = self._begin(descriptor)
            count = super().pwrite(descriptor, data, position)
            if known:
                written = bytes(data[:count])
                self._note(Kind.WRITE, known[1], known[0], position=position, data=written)
            return count

    def pwritev(self, descriptor: int, buffers: Sequence[Buffer], position: int) -> int:
        with self._lock:
            known = self._begin(descriptor)
            count = super().pwritev(descriptor, buffers, position)
            if known:
                written = b"".join(buffers)[:count]
                self._note(Kind.WRITE, known[1], known[0], position=position, data=written)
            return count

    def allocate(self, descriptor: int, position: int, size_bytes: int) -> None:
        with self._lock:
            known = self._begin(descriptor)
            super().allocate(descriptor, position, size_bytes)
            # Where allocating is unsupported, nothing happened.
            if known and os.fstat(descriptor).st_size >= position + size_bytes:
                self._note(
                    Kind.ALLOCATE, known[1], known[0], position=position, size_bytes=size_bytes
                )

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        with self._lock:
            known = self._begin(descriptor)
            super().truncate(descriptor, size_bytes)
            if known:
                self._note(Kind.TRUNCATE, known[1], known[0], size_bytes=size_bytes)

    def sync(self, descriptor: int) -> None:
        with self._lock:
            known = self._begin(descriptor)
            kind = Kind.FAILED_SYNC
            try:
                super().sync(descriptor)
                kind = Kind.SYNC
            finally:
                if known:
                    self._note(kind, known[1], known[0])

    # -- names -----------------------------------------------------------------------

    def rename(self, source: str, target: str) -> None:
        name, new_name = self._name(source), self._name(target)
        if name is None and new_name is None:
            super().rename(source, target)
            return
        if not name or not new_name:
            raise ValueError(f"a rename across the edge of what is recorded: {source!r}")
        with self._lock:
            self._find(name)
            self._find(new_name)
            self._before()
            super().rename(source, target)
            self._note(
                Kind.RENAME,
                name,
                self._nodes[name],
                folder=self._folder(name),
                target=new_name,
                target_folder=self._folder(new_name),
            )
            self._move(name, new_name)

    def unlink(self, path: str) -> None:
        self._remove(Kind.UNLINK, path, super().unlink)

    def rmdir(self, path: str) -> None:
        self._remove(Kind.RMDIR, path, super().rmdir)

    def mkdir(self, path: str) -> None:
        name = self._name(path)
        if not name:
            super().mkdir(path)
            return
        with self._lock:
            self._before()
            super().mkdir(path)
            self._note(Kind.MKDIR, name, self._new_node(name), folder=self._folder(name))

    def sync_directory(self, path: str) -> None:
        name = self._name(path)
        if name is None:
            super().sync_directory(path)
            return
        with self._lock:
            self._find(name)
            self._before()
            node = self._nodes.get(name)
            kind = Kind.FAILED_SYNC_DIRECTORY
            try:
                super().sync_directory(path)
                kind = Kind.SYNC_DIRECTORY
            finally:
                if node is not None:
                    self._note(kind, name, node)

    # -- taking notes ----------------------------------------------------------------

    def _remove(self, kind: Kind, path: str, remove: Callable[[str], None]) -> None:
        name = self._name(path)
        if not name:
            remove(path)
            return
        with self._lock:
            self._find(name)
            self._before()
            remove(path)
            self._note(kind, name, self._nodes.pop(name), folder=self._folder(name))

    def _before(self) -> None:
        if self.before_operation is not None:
            self.before_operation()

    def _begin(self, descriptor: int) -> tuple[int, str] | None:
        """The node and the name of a descriptor that is ours."""
        known = self._descriptors.get(descriptor)
        if known is not None:
            self._before()
        return known

    def _note(
        self,
        kind: Kind,
        path: str,
        node: int,
        *,
        folder: int = ROOT,
        target: str = "",
        target_folder: int = ROOT,
        position: int = 0,
        data: bytes | None = b"",
        size_bytes: int = 0,
    ) -> None:
        self.trace.events.append(
            Operation(
                number=len(self.trace.events),
                kind=kind,
                path=path,
                node=node,
                folder=folder,
                target=target,
                target_folder=target_folder,
                position=position,
                data=data,
                size_bytes=size_bytes,
            )
        )

    def _name(self, path: str) -> str | None:
        """A path relative to the root, empty for the root; None outside."""
        path = os.path.abspath(path)
        if path == self.root:
            return ""
        inside = path.startswith(self.root + os.sep)
        return path[len(self.root) + 1 :] if inside else None

    def _folder(self, name: str) -> int:
        return self._nodes[os.path.dirname(name)]

    def _new_node(self, name: str) -> int:
        """A node for a name that is new to us; its folder gets one too if it has none."""
        folder = os.path.dirname(name)
        if folder:
            self._find(folder)
        node = self._nodes[name] = self._next_node
        self._next_node += 1
        return node

    def _find(self, name: str) -> None:
        """See that a name that is there, but was not made through us, has a node."""
        path = os.path.join(self.root, name)
        if name in self._nodes or not os.path.lexists(path):
            return
        node = self._new_node(name)
        data = None if os.path.isdir(path) else content(path)
        self._note(Kind.FOUND, name, node, folder=self._folder(name), data=data)

    def _move(self, name: str, new_name: str) -> None:
        """Follow a rename, with all that is inside if it is a folder."""
        for path in [path for path in self._nodes if path.startswith(name + "/")]:
            self._nodes[new_name + path[len(name) :]] = self._nodes.pop(path)
        self._nodes[new_name] = self._nodes.pop(name)
