from __future__ import annotations

import pytest
from wire import Wire
from wire_groups import WireMember

from seawall.broker import Broker


@pytest.mark.parametrize("version", range(3))
def test_groups_that_nobody_is_in_go(wire: Wire, broker: Broker, version: int) -> None:
    member = WireMember(wire).enter(("orders", 0))
    member.commit({("orders", 0): 0})
    WireMember(wire, "h").enter(("orders", 0)).leave()
    with broker.consumer("orders", group="e"):
        names = ("g", "h", "none", "", "e")
        results = wire.ask(42, version, groups_names=names).results
    assert [each.group_id for each in results] == list(names)
    assert [each.error_code for each in results] == [68, 0, 69, 24, 68]
    assert broker.groups() == ["e", "g"]
    member.leave()
    assert wire.ask(42, version, groups_names=("g",)).results[0].error_code == 0
    assert wire.ask(42, version, groups_names=("g",)).results[0].error_code == 69
