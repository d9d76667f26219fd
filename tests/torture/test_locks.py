"""The search for what users break who copy, prune or open a directory that others have open."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from storage import memory_folder

from seawall.broker.torture import scenes
from seawall.broker.torture.locks import CASES, Locks
from seawall.broker.torture.marks import Ledger
from seawall.wal.torture.search import Broken, Search, Setting


@pytest.fixture
def search() -> Iterator[Search]:
    with memory_folder() as path:
        search = Locks(Setting(scratch=path, memory=path))
        search.prepare()
        yield search
        search.close()
        assert os.listdir(path) == []


def test_each_way_is_tried_once_and_in_full_with_several_seeds() -> None:
    quick = list(Locks(Setting(scratch="", memory="")).cases())
    assert [case["what"] for case in quick] == list(CASES)
    full = list(Locks(Setting(scratch="", memory="", full=True)).cases())
    assert len({str(case) for case in full}) == len(full) == 5 * len(quick)
    shares = [
        case
        for share in range(3)
        for case in Locks(Setting(scratch="", memory="", share=share, shares=3)).cases()
    ]
    assert sorted(map(str, shares)) == sorted(map(str, quick))


@pytest.mark.parametrize(
    ("what", "figure"),
    [
        ("copied", "copies opened"),
        ("sole-opener", "ways"),
        ("run-copy", "newcomers refused"),
        ("index-old", "newcomers let in"),
    ],
)
def test_one_way(search: Search, what: str, figure: str) -> None:
    search.run({"what": what, "seed": 1})
    assert search.figures[figure] >= 1


def test_an_offset_given_twice_is_broken(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by two processes that append under no common lock."""
    take = Ledger.take

    def at_zero(self: Ledger, mark: dict[str, object]) -> None:
        take(self, {**mark, "offset": 0} if mark["is"] == "done" and "offset" in mark else mark)

    monkeypatch.setattr(Ledger, "take", at_zero)
    with pytest.raises(Broken, match="offset 0 was"):
        search.run({"what": "run-delete", "seed": 1})


def test_a_foreigner_who_is_let_in_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seawall.wal.directory._refuse_foreign_namespace", lambda *_: None)
    with memory_folder() as path:
        search = Locks(Setting(scratch=path, memory=path))
        search.prepare()
        try:
            with pytest.raises(Broken, match="another PID namespace was not refused"):
                search.run({"what": "namespaces", "seed": 1})
        finally:
            search.close()


def test_a_lost_record_of_a_copy_is_broken(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that was made before what it is held against."""
    copy_tree = scenes.copy_tree

    def empty_logs(source: str, target: str) -> None:
        copy_tree(source, target)
        for folder in os.scandir(os.path.join(target, "logs")):
            for name in os.listdir(folder.path):
                if name.endswith(".log"):
                    os.truncate(os.path.join(folder.path, name), 0)

    monkeypatch.setattr("seawall.broker.torture.copies.copy_tree", empty_logs)
    with pytest.raises(Broken, match="and in the copy None"):
        search.run({"what": "copied", "seed": 1})
