from __future__ import annotations

import pytest
from wire import Wire
from wire_groups import WireMember


@pytest.mark.parametrize("version", range(5))
def test_heartbeats_in_every_version(wire: Wire, version: int) -> None:
    member = WireMember(wire).enter(("orders", 0))
    assert member.heartbeat(version) == 0
    assert member.heartbeat(version, generation_id=0) == 22
    assert member.heartbeat(version, member_id="nobody") == 25
    assert member.heartbeat(version, group_id="other") == 25
    assert member.heartbeat(version, group_id="") == 24
