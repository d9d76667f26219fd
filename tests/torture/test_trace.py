"""Traces as values: what they begin with, and that they can be handed on."""

from __future__ import annotations

import pickle

from recorded import Folder
from storage import memory_folder

from seawall.wal.torture.trace import read_tree


def test_a_trace_begins_with_all_that_is_there() -> None:
    with memory_folder() as root:
        folder = Folder(root)
        folder.mkdir("b")
        folder.write("b/file", b"content")
        folder.write("a", b"")
        tree = read_tree(root)
        assert tree == {"a": b"", "b": None, "b/file": b"content"}
        assert Folder(root).trace.initial == tree
        assert read_tree(f"{root}/nothing") == {}


def test_a_trace_goes_to_another_process() -> None:
    with memory_folder() as root:
        folder = Folder(root)
        folder.durable("a", b"data")
        folder.files.mark({"id": 1})
        folder.files.snapshot("catalog", {"catalog.db": b"1"})
        assert pickle.loads(pickle.dumps(folder.trace)) == folder.trace


def test_where_an_operation_ends() -> None:
    with memory_folder() as root:
        folder = Folder(root)
        folder.write("a", b"data", 3)
        folder.allocate("a", 5, 100)
        assert [operation.end for operation in folder.trace.operations[1:]] == [7, 105]
