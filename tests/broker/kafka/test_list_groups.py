from __future__ import annotations

from typing import Any

import pytest
from wire import Wire
from wire_groups import WireMember

from seawall.broker import Broker


def listed(wire: Wire, version: int = 5, **filters: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"states_filter": (), "types_filter": (), **filters}
    answer = wire.ask(16, version, **asked)
    assert answer.error_code == 0
    return {each.group_id: each for each in answer.groups}


@pytest.mark.parametrize("version", range(6))
def test_groups_of_both_kinds(wire: Wire, broker: Broker, version: int) -> None:
    WireMember(wire).enter(("orders", 0))
    alone = {"generation_id_or_member_epoch": -1, "member_id": "", "group_id": "simple"}
    WireMember(wire).commit({("orders", 0): 0}, **alone)
    with broker.consumer("orders", group="e"):
        found = listed(wire, version)
    assert {name: each.protocol_type for name, each in found.items()} == {
        "e": "consumer",
        "g": "consumer",
        "simple": "",
    }
    if version >= 4:
        states = {name: each.group_state for name, each in found.items()}
        assert states == {"e": "Stable", "g": "Stable", "simple": "Empty"}
    if version >= 5:
        assert {each.group_type for each in found.values()} == {"classic"}


def test_filters(wire: Wire) -> None:
    WireMember(wire).enter()
    WireMember(wire, "h").join()
    assert set(listed(wire, states_filter=("stable",))) == {"g"}
    assert set(listed(wire, states_filter=("CompletingRebalance", "Empty"))) == {"h"}
    assert set(listed(wire, types_filter=("Classic",))) == {"g", "h"}
    assert listed(wire, types_filter=("consumer",)) == {}
