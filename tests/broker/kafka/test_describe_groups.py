from __future__ import annotations

from typing import Any

import pytest
from wire import Wire
from wire_groups import WireMember

from seawall.broker import Broker
from seawall.broker.kafka.consumer_protocol import assigned_partitions, subscribed_topics


def describe(wire: Wire, version: int, *groups: str, **fields: Any) -> Any:
    asked = {"groups": groups, "include_authorized_operations": False, **fields}
    return wire.ask(15, version, **asked).groups


@pytest.mark.parametrize("version", range(7))
def test_groups_in_every_version(wire: Wire, version: int) -> None:
    member = WireMember(wire, instance_id="i").enter(("orders", 0))
    found, missing = describe(wire, version, "g", "none")
    assert (found.error_code, found.group_id, found.group_state) == (0, "g", "Stable")
    assert (found.protocol_type, found.protocol_data) == ("consumer", "range")
    [one] = found.members
    assert (one.member_id, one.client_id, one.client_host) == (
        member.member_id,
        "wire",
        "/127.0.0.1",
    )
    assert subscribed_topics(one.member_metadata) == ("orders",)
    assert assigned_partitions(one.member_assignment) == [("orders", 0)]
    if version >= 4:
        assert one.group_instance_id == "i"
    assert (missing.group_state, missing.members) == ("Dead", ())
    assert missing.error_code == (69 if version >= 6 else 0)


def test_while_it_rebalances(wire: Wire) -> None:
    member = WireMember(wire)
    member.join()
    [found] = describe(wire, 5, "g")
    assert (found.group_state, found.protocol_data) == ("CompletingRebalance", "")
    assert [each.member_assignment for each in found.members] == [b""]
    member.leave()
    [found] = describe(wire, 5, "g")
    assert (found.group_state, found.protocol_type) == ("Empty", "consumer")


def test_operations_only_when_asked_for(wire: Wire) -> None:
    WireMember(wire).enter()
    assert describe(wire, 3, "g")[0].authorized_operations == -(2**31)
    found = describe(wire, 3, "g", include_authorized_operations=True)
    assert found[0].authorized_operations & (1 << 3)  # READ


def test_a_bad_name(wire: Wire) -> None:
    [found] = describe(wire, 6, "")
    assert (found.error_code, found.group_state) == (24, "Dead")


def test_a_group_of_embedded_members(wire: Wire, broker: Broker) -> None:
    with broker.consumer("orders", group="e", client_id="inside"):
        [found] = describe(wire, 5, "e")
        assert (found.group_state, found.protocol_data) == ("Stable", "cooperative-sticky")
        [one] = found.members
        assert one.client_id == "inside"
        assert assigned_partitions(one.member_assignment) == [("orders", 0)]


def test_each_group_is_described_once(wire: Wire) -> None:
    """However often it is named: no answer is larger than all groups together."""
    WireMember(wire).enter(("orders", 0))
    assert [each.group_id for each in describe(wire, 6, *["g", "none"] * 50)] == ["g", "none"]
