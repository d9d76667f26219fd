"""What a disk may hold if the power is cut at some point of a trace.

The assumptions are A1 to A5 of docs/durability.md, taken at their worst:

* What was written to a file since its last good sync is *pending*: each change is on the
  disk or not, whatever came before or behind it, and a write may be there in part. Changes
  that are there lie over one another in the order in which they were made.
* A name that was made, moved or removed since its folder was last synced is pending as
  well. A rename is one step; one that leads to another folder is pending until both are
  synced. A file that no name leads to is gone, whatever of it was synced; so is all that
  is in a folder that is gone.
* A sync that failed dooms the changes that were pending then. No later sync settles them:
  they are on the disk or not for ever, unless the same bytes are written again.

`Disk` goes through a trace and keeps what is certain and what is pending. What is to
become of the pending changes is for `seawall.wal.torture.states` to choose.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from seawall.wal.torture.trace import ROOT, Kind, Mark, Operation, Snapshot, Trace

# Files of this name carry locks and no data that anyone needs after a crash.
LOCK_NAME = "LOCK"
# What was worked out for a point is kept for so many choices.
MOST_CACHED = 256

NameKey = tuple[int, str]
Names = tuple[tuple[str, int | None], ...]
"""Path -> node of the file, None for a folder; folders before what is in them."""


class Change:
    """An operation on a file's bytes that is not part of its durable content.

    ``index`` is its place among the pending ones, -1 if it is settled: then it is on the disk
    for certain, and only waits for a doomed one that lies below it.
    """

    __slots__ = ("index", "is_doomed", "is_settled", "operation")

    def __init__(self, operation: Operation, is_settled: bool) -> None:
        self.operation = operation
        self.is_settled = is_settled
        self.is_doomed = False
        self.index = -1


class DiskFile:
    """A file: what is certain, and the changes on top of it in their order.

    ``mask``: the bits of the pending changes that are its own. ``contents``: for others to
    keep there what they made of it; emptied whenever it changes.
    """

    __slots__ = ("changes", "contents", "durable", "mask")

    def __init__(self, durable: bytes) -> None:
        self.durable = durable
        self.changes: list[Change] = []
        self.mask = 0
        self.contents: dict[object, bytes] = {}

    def add(self, operation: Operation, is_settled: bool) -> None:
        self.changes.append(Change(operation, is_settled))
        self.fold()

    def doom(self) -> None:
        """A sync failed."""
        for change in self.changes:
            change.is_doomed = change.is_doomed or not change.is_settled

    def settle(self) -> None:
        """A sync succeeded."""
        for change in self.changes:
            change.is_settled = change.is_settled or not change.is_doomed
        self.fold()

    def fold(self) -> None:
        """Make durable what nothing uncertain lies below."""
        changes = self.changes
        if any(change.is_doomed for change in changes):
            changes = [c for at, c in enumerate(changes) if not _is_undone(changes, at)]
        count = 0
        while count < len(changes) and changes[count].is_settled:
            count += 1
        if count:
            content = bytearray(self.durable)
            for change in changes[:count]:
                apply(content, change.operation)
            self.durable = bytes(content)
        self.changes = changes[count:]
        self.contents.clear()


def apply(content: bytearray, operation: Operation) -> None:
    """Do to `content` what an operation does to a file."""
    match operation.kind:
        case Kind.WRITE:
            write(content, operation.data or b"", operation.position)
        case Kind.TRUNCATE:
            del content[operation.size_bytes :]
            _extend(content, operation.size_bytes)
        case Kind.ALLOCATE:
            _extend(content, operation.end)


def write(content: bytearray, data: bytes, position: int) -> None:
    """Put `data` at a position; a gap before it reads as zeros."""
    if data:
        _extend(content, position)
        content[position : position + len(data)] = data


def _extend(content: bytearray, size_bytes: int) -> None:
    if len(content) < size_bytes:
        content.extend(bytes(size_bytes - len(content)))


def _is_undone(changes: list[Change], at: int) -> bool:
    """Whether a doomed change no longer matters, for the settled ones above it."""
    if not changes[at].is_doomed:
        return False
    operation = changes[at].operation
    above = [change.operation for change in changes[at + 1 :] if change.is_settled]
    truncated = [each.size_bytes for each in above if each.kind is Kind.TRUNCATE]
    if operation.kind is Kind.TRUNCATE:
        return any(size <= operation.size_bytes for size in truncated)
    if operation.kind is Kind.ALLOCATE:
        return bool(truncated) or any(each.end >= operation.end for each in above)
    left = [(operation.position, operation.end)]
    for each in above:
        if each.kind is not Kind.ALLOCATE:
            is_cut = each.kind is Kind.TRUNCATE
            start = each.size_bytes if is_cut else each.position
            end = operation.end if is_cut else each.end
            left = [
                (low, high)
                for first, last in left
                for low, high in ((first, min(last, start)), (max(first, end), last))
                if low < high
            ]
    return not left


class NameChange:
    """A name that leads elsewhere from now on, or nowhere, once its folders are synced."""

    __slots__ = ("folders", "is_doomed", "is_settled", "key", "node", "operation", "unsynced")

    def __init__(self, operation: Operation, is_settled: bool) -> None:
        self.operation = operation
        self.is_settled = is_settled
        self.is_doomed = False
        self.folders = {operation.folder}
        self.key: NameKey = operation.folder, os.path.basename(operation.path)
        self.node: int | None = operation.node
        if operation.kind is Kind.RENAME:
            self.folders.add(operation.target_folder)
            self.key = operation.target_folder, os.path.basename(operation.target)
        elif operation.kind in (Kind.UNLINK, Kind.RMDIR):
            self.node = None
        self.unsynced = set(self.folders)

    def touches(self) -> set[NameKey | int]:
        """The names and the nodes that this is about."""
        operation = self.operation
        source = operation.folder, os.path.basename(operation.path)
        return {self.key, source, operation.node}

    def apply(self, table: dict[NameKey, int]) -> None:
        if self.node is None:
            table.pop(self.key, None)
            return
        # Nothing has two names here: a new one replaces the one before.
        for key in [key for key, node in table.items() if node == self.node]:
            del table[key]
        table[self.key] = self.node


class Disk:
    """What is certain and what is pending after the first `point` events of a trace.

    ``ignore`` tells which relative paths are left out, with all that is in them; what is
    done to them is never pending.

    ``pending`` are the operations on bytes, and ``pending_names`` those on names, whose fate
    is open; a mask's bit n stands for the n-th. ``marks`` are those so far, and ``snapshots``
    the newest of each name.
    """

    def __init__(self, trace: Trace, ignore: Callable[[str], bool] = lambda path: False) -> None:
        self.trace = trace
        self._ignore = ignore
        self._ignored: dict[str, bool] = {"": False}
        self._begin()

    def _begin(self) -> None:
        self.point = 0
        self.pending: tuple[Operation, ...] = ()
        self.pending_names: tuple[Operation, ...] = ()
        self.marks: list[Mapping[str, Any]] = []
        self.snapshots: dict[str, Mapping[str, bytes]] = {}
        self._table: dict[NameKey, int] = {}
        self._changes: list[NameChange] = []
        self._folders = {ROOT}
        self._files: dict[int, DiskFile] = {}
        self._changed: dict[int, DiskFile] = {}
        self._names: dict[int, Names] = {}
        nodes = {"": ROOT}
        for node, (path, content) in enumerate(self.trace.initial.items(), ROOT + 1):
            nodes[path] = node
            self._table[nodes[os.path.dirname(path)], os.path.basename(path)] = node
            self._add_node(node, content)

    def advance(self, point: int) -> None:
        """Go to a point of the trace; back means from its beginning."""
        if not 0 <= point <= len(self.trace.events):
            raise ValueError(f"no point {point} in a trace of {len(self.trace.events)} events")
        if point < self.point:
            self._begin()
        for event in self.trace.events[self.point : point]:
            if isinstance(event, Operation):
                self._happen(event)
            elif isinstance(event, Mark):
                self.marks.append(event.mark)
            elif isinstance(event, Snapshot):
                self.snapshots[event.name] = event.files
        self.point = point
        self._number()

    def file(self, node: int) -> DiskFile:
        """A file that `names` told of."""
        return self._files[node]

    def names(self, mask: int) -> Names:
        """The names there are if those pending changes reached the disk that `mask` tells."""
        found = self._names.get(mask)
        if found is None:
            if len(self._names) >= MOST_CACHED:
                self._names.clear()
            found = self._names[mask] = tuple(self._walk(mask))
        return found

    def _walk(self, mask: int) -> list[tuple[str, int | None]]:
        table = dict(self._table)
        index = 0
        for change in self._changes:
            if not change.is_settled:
                index += 1
            if change.is_settled or mask >> (index - 1) & 1:
                change.apply(table)
        inside: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), node in sorted(table.items()):
            inside.setdefault(folder, []).append((name, node))
        found: list[tuple[str, int | None]] = []
        folders = [("", ROOT)]
        while folders:
            prefix, folder = folders.pop()
            for name, node in inside.get(folder, ()):
                path = prefix + name
                if self._is_ignored(path):
                    continue
                is_folder = node in self._folders
                found.append((path, None if is_folder else node))
                if is_folder:
                    folders.append((path + "/", node))
        return found

    # -- what an operation does ------------------------------------------------------

    def _happen(self, operation: Operation) -> None:
        match operation.kind:
            case Kind.WRITE | Kind.TRUNCATE | Kind.ALLOCATE:
                file = self._file_to_change(operation.node)
                if file is not None:
                    file.add(operation, self._is_certain(operation.path))
            case Kind.SYNC | Kind.FAILED_SYNC:
                file = self._file_to_change(operation.node)
                if file is not None and operation.kind is Kind.SYNC:
                    file.settle()
                elif file is not None:
                    file.doom()
            case Kind.SYNC_DIRECTORY | Kind.FAILED_SYNC_DIRECTORY:
                self._sync_names(operation.node, operation.kind is Kind.SYNC_DIRECTORY)
            case Kind.FOUND:
                self._add_node(operation.node, operation.data)
                self._change_name(operation, is_settled=True)
            case _:
                if operation.kind is Kind.CREATE:
                    self._add_node(operation.node, b"")
                elif operation.kind is Kind.MKDIR:
                    self._add_node(operation.node, None)
                is_settled = self._is_certain(operation.path)
                if operation.kind is Kind.RENAME:
                    is_settled = is_settled and self._is_certain(operation.target)
                self._change_name(operation, is_settled=is_settled)

    def _add_node(self, node: int, content: bytes | None) -> None:
        if content is None:
            self._folders.add(node)
        else:
            self._files[node] = DiskFile(content)

    def _file_to_change(self, node: int) -> DiskFile | None:
        file = self._files.get(node)
        if file is not None:
            self._changed[node] = file
        return file

    def _change_name(self, operation: Operation, *, is_settled: bool) -> None:
        self._changes.append(NameChange(operation, is_settled))
        self._fold_names()

    def _sync_names(self, folder: int, is_good: bool) -> None:
        for change in self._changes:
            if folder not in change.unsynced or change.is_settled:
                continue
            if not is_good:
                change.is_doomed = True
            elif not change.is_doomed:
                change.unsynced.discard(folder)
                change.is_settled = not change.unsynced
        self._fold_names()

    def _fold_names(self) -> None:
        """Make durable the names that are about nothing uncertain, and forget what is gone."""
        left: list[NameChange] = []
        uncertain: set[NameKey | int] = set()
        for change in self._changes:
            touched = change.touches()
            if change.is_settled and uncertain.isdisjoint(touched):
                change.apply(self._table)
            else:
                left.append(change)
                uncertain |= touched
        self._names.clear()
        named = set(self._table.items())
        named |= {(change.key, change.node) for change in left if change.node is not None}
        reached, count = {ROOT}, 0
        while len(reached) > count:
            count = len(reached)
            reached |= {node for (folder, _), node in named if folder in reached}
        for node in [node for node in self._files if node not in reached]:
            del self._files[node]
            self._changed.pop(node, None)
        for key in [key for key in self._table if key[0] not in reached]:
            del self._table[key]
        self._changes = [each for each in left if not reached.isdisjoint(each.folders)]

    def _number(self) -> None:
        """Give each pending change its place."""
        changes = [c for file in self._changed.values() for c in file.changes if not c.is_settled]
        changes.sort(key=lambda change: change.operation.number)
        for index, change in enumerate(changes):
            change.index = index
        for node, file in list(self._changed.items()):
            file.mask = sum(1 << c.index for c in file.changes if not c.is_settled)
            file.contents.clear()
            if not file.changes:
                del self._changed[node]
        self.pending = tuple(change.operation for change in changes)
        self.pending_names = tuple(c.operation for c in self._changes if not c.is_settled)

    # -- paths -----------------------------------------------------------------------

    def _is_certain(self, path: str) -> bool:
        return os.path.basename(path) == LOCK_NAME or self._is_ignored(path)

    def _is_ignored(self, path: str) -> bool:
        ignored = self._ignored.get(path)
        if ignored is None:
            ignored = self._is_ignored(os.path.dirname(path)) or self._ignore(path)
            self._ignored[path] = ignored
        return ignored
