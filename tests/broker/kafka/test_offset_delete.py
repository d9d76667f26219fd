from __future__ import annotations

from typing import Any

from wire import Wire
from wire_groups import WireMember

from seawall.broker import Broker


def delete(wire: Wire, *places: tuple[str, int], group: str = "g") -> tuple[int, list[int]]:
    topics = [{"name": topic, "partitions": [{"partition_index": n}]} for topic, n in places]
    answer: Any = wire.ask(47, 0, group_id=group, topics=topics)
    codes = [int(each.error_code) for topic in answer.topics for each in topic.partitions]
    return int(answer.error_code), codes


def test_offsets_of_topics_that_nobody_reads_go(wire: Wire, broker: Broker) -> None:
    broker.create_topic("bills")
    assert delete(wire, ("orders", 0)) == (69, [])
    member = WireMember(wire).enter(("orders", 0))
    member.commit({("orders", 0): 0, ("bills", 0): 0})
    places = ("orders", 0), ("bills", 0), ("bills", 9), ("none", 0)
    assert delete(wire, *places) == (0, [86, 0, 3, 3])
    assert [each.topic for each in broker.group("g").offsets] == ["orders"]
    member.leave()
    assert delete(wire, ("orders", 0)) == (0, [0])
    assert broker.group("g").offsets == ()
    assert delete(wire, ("orders", 0), group="") == (24, [])


def test_members_that_are_no_consumers_keep_everything(wire: Wire) -> None:
    member = WireMember(wire)
    member.join(protocol_type="connect")
    assert delete(wire, ("orders", 0)) == (68, [])
