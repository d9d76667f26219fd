from __future__ import annotations

import select
from collections.abc import Callable

import pytest
from wire import TIMEOUT_S, Wire
from wire_groups import WireMember

from seawall.broker.kafka.consumer_protocol import assigned_partitions

Connect = Callable[[], Wire]


def joined_together(one: WireMember, two: WireMember) -> tuple[WireMember, WireMember]:
    """Two in the same generation, the leader first."""
    for each in (one, two):
        each.begin_join(3)
    waiting = {each.wire.socket: each for each in (one, two)}
    while waiting:
        answered, _, _ = select.select([*waiting], (), (), TIMEOUT_S)
        assert answered, "nobody is told anything"
        for each_socket in answered:
            member = waiting[each_socket]
            assert member.end_join().error_code == 0
            if len(member.joined.members) == 1:
                member.begin_join(3)  # the other came too late for the first generation
            else:
                del waiting[each_socket]
    return (one, two) if one.joined.members else (two, one)


@pytest.mark.parametrize("version", range(6))
def test_members_learn_what_the_leader_said(connect: Connect, version: int) -> None:
    leader, other = joined_together(WireMember(connect()), WireMember(connect()))
    other.begin_sync(version)
    shares = {leader.member_id: [("orders", 1)], other.member_id: [("orders", 0)]}
    for answer, number in ((leader.sync(version, shares), 1), (other.wire.receive(), 0)):
        assert answer.error_code == 0
        assert assigned_partitions(answer.assignment) == [("orders", number)]
        if version >= 5:
            assert (answer.protocol_type, answer.protocol_name) == ("consumer", "range")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"generation_id": 7}, 22),
        ({"member_id": "nobody"}, 25),
        ({"protocol_name": "other"}, 23),
        ({"group_id": "\n"}, 24),
    ],
)
def test_refusals(wire: Wire, changes: dict[str, object], code: int) -> None:
    member = WireMember(wire)
    member.join()
    answer = member.sync(**changes)  # type: ignore[arg-type]
    assert (answer.error_code, answer.assignment) == (code, b"")


def test_an_assignment_that_is_too_large(wire: Wire) -> None:
    member = WireMember(wire)
    member.join()
    large = [{"member_id": member.member_id, "assignment": bytes((1 << 20) + 1)}]
    assert member.sync(assignments=large).error_code == 42
