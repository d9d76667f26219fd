from __future__ import annotations

import pytest
from wire import Wire
from wire_groups import WireMember

from seawall.broker import Broker


@pytest.mark.parametrize("version", range(3))
def test_one_leaves(wire: Wire, broker: Broker, version: int) -> None:
    member = WireMember(wire).enter(("orders", 0))
    leave = {"group_id": "g", "member_id": member.member_id}
    assert wire.ask(13, version, **leave).error_code == 0
    assert broker.group("g").members == (), "it is on disk when it is answered"
    assert wire.ask(13, version, **leave).error_code == 25


@pytest.mark.parametrize("version", range(3, 6))
def test_several_leave(wire: Wire, version: int) -> None:
    member = WireMember(wire, instance_id="i")
    member.join()
    leaving = [
        {"member_id": "nobody", "group_instance_id": None, "reason": "why"},
        {"member_id": "", "group_instance_id": "i", "reason": None},
    ]
    answer = wire.ask(13, version, group_id="g", members=leaving)
    assert answer.error_code == 0
    assert [(each.member_id, each.error_code) for each in answer.members] == [
        ("nobody", 25),
        ("", 0),
    ]
