"""Fewer collections while records flow, and as many as before behind it."""

from __future__ import annotations

import gc

from seawall.cli.collector import NEW_OBJECTS, few_collections


def test_the_collector_is_as_before() -> None:
    before = gc.get_threshold()
    with few_collections():
        assert gc.isenabled()
        assert gc.get_threshold()[0] == NEW_OBJECTS
        assert gc.get_freeze_count() > 0
    assert (gc.get_threshold(), gc.get_freeze_count()) == (before, 0)
