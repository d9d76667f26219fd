"""What happened to a folder, event by event: the values that a recording consists of.

A `Trace` is a list of events, numbered from 0 in the order in which they were completed:

    Operation   a change to a file or a name, or a sync
    Mark        what somebody outside was told at this point: "record 17 is acknowledged"
    Snapshot    files that were written by other means (LMDB and SQLite write from C), as
                they were at this point

Files and folders are told apart by *nodes*, which are to a trace what inodes are to a file
system: numbers that are never used again, whatever the name. Node 0 is the root; those of
the names in `Trace.initial` are their places in it, counted from 1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

ROOT = 0
Tree = dict[str, bytes | None]
"""Relative path -> content, None for a folder; folders come before what is in them."""


class Kind(StrEnum):
    """What an operation did."""

    CREATE = "create"
    WRITE = "write"
    TRUNCATE = "truncate"
    ALLOCATE = "allocate"
    SYNC = "sync"
    FAILED_SYNC = "failed sync"
    RENAME = "rename"
    UNLINK = "unlink"
    MKDIR = "mkdir"
    RMDIR = "rmdir"
    SYNC_DIRECTORY = "sync directory"
    FAILED_SYNC_DIRECTORY = "failed sync directory"
    # A name that somebody else had made, seen for the first time; it counts as synced.
    FOUND = "found"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One completed call. What a kind has no use for is empty or 0.

    ``path``: relative to the root; for a descriptor, the name that it was opened by.
    ``folder``: the node of the folder that the path is in. ``target``, ``target_folder``:
    where a rename leads to. ``data``: the bytes that were really written, at ``position``;
    or the content of a file that was found, None for a folder. ``size_bytes``: what a file
    was truncated to, or how much was allocated from ``position`` on.
    """

    number: int
    kind: Kind
    path: str
    node: int
    folder: int = ROOT
    target: str = ""
    target_folder: int = ROOT
    position: int = 0
    data: bytes | None = b""
    size_bytes: int = 0

    @property
    def end(self) -> int:
        """The position behind the last byte that a write or an allocation touches."""
        return self.position + (self.size_bytes or len(self.data or b""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something was promised to somebody at this point."""

    number: int
    mark: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Files that the recorder cannot see being written, by relative path."""

    number: int
    name: str
    files: Mapping[str, bytes]


Event = Operation | Mark | Snapshot


@dataclass(slots=True)
class Trace:
    """What was there at first, all of it on disk, and what happened then."""

    initial: Tree = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    @property
    def operations(self) -> list[Operation]:
        return [event for event in self.events if isinstance(event, Operation)]


def read_tree(root: str) -> Tree:
    """Everything below a folder; nothing if there is no such folder."""
    tree: Tree = {}
    for folder, folders, names in os.walk(root):
        folders.sort()
        inside = os.path.relpath(folder, root)
        prefix = "" if inside == "." else inside + "/"
        if prefix:
            tree[inside] = None
        for name in sorted(names):
            tree[prefix + name] = content(os.path.join(folder, name))
    return tree


def content(path: str) -> bytes:
    """All bytes of a file."""
    with open(path, "rb") as file:
        return file.read()
