"""Fewer collections while records flow, and as many as before behind it."""

from __future__ import annotations

import gc

import pytest

from seawall.cli import main
from seawall.cli.collector import NEW_OBJECTS, few_collections


def test_the_collector_is_as_before() -> None:
    before = gc.get_threshold()
    with few_collections():
        assert gc.isenabled()
        assert gc.get_threshold()[0] == NEW_OBJECTS
        assert gc.get_freeze_count() > 0
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)


def test_a_command_is_not_looked_through_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gc.get_threshold()
    seen: list[int] = []

    def run_none(arguments: list[str]) -> int:
        seen.append(gc.get_threshold()[0])
        return 3

    monkeypatch.setattr(main, "main", run_none)
    try:
        with pytest.raises(SystemExit) as ended:
            main.run()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
    assert seen == [NEW_OBJECTS]
    assert ended.value.code == 3
