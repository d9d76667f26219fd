from __future__ import annotations

from collections.abc import Callable

import pytest
from wire import Wire
from wire_groups import WireMember

Connect = Callable[[], Wire]


@pytest.mark.parametrize("version", range(10))
def test_joining_in_every_version(wire: Wire, version: int) -> None:
    member = WireMember(wire)
    answer = member.join(version)
    assert (answer.error_code, answer.generation_id) == (0, 1)
    assert (answer.protocol_name, answer.leader) == ("range", member.member_id)
    assert [each.member_id for each in answer.members] == [member.member_id]
    if version >= 7:
        assert answer.protocol_type == "consumer"
    assert member.member_id.startswith("wire-")


@pytest.mark.parametrize("version", range(10))
def test_refusals_in_every_version(wire: Wire, version: int) -> None:
    member = WireMember(wire)
    assert member.join(version, group_id="").error_code == 24
    assert member.join(version, session_timeout=1).error_code == 26
    assert member.join(version, protocols=()).error_code == 23
    answer = member.join(version, member_id="nobody")
    assert (answer.error_code, answer.member_id, answer.generation_id) == (25, "nobody", -1)


def test_a_member_that_says_too_much(wire: Wire) -> None:
    answer = WireMember(wire).join(protocols=[{"name": "range", "metadata": bytes(1 << 20)}])
    assert answer.error_code == 42


def test_client_ids_that_cannot_be_part_of_a_key(connect: Connect) -> None:
    for instance_id in ("x" * 10_000, "nul\0and\nnewline", "\N{SNOWMAN}" * 300):
        member = WireMember(connect(), instance_id=instance_id)
        assert member.join().error_code == 0
        assert len(member.member_id.encode()) < 200
        assert member.member_id.isprintable()
        members = [{"member_id": "", "group_instance_id": instance_id, "reason": None}]
        member.wire.ask(13, 5, group_id="g", members=members)


def test_static_members(connect: Connect) -> None:
    first = WireMember(connect(), instance_id="i").enter(("orders", 0))
    second = WireMember(connect(), instance_id="i")
    answer = second.join()
    assert (answer.error_code, answer.generation_id, answer.skip_assignment) == (0, 1, True)
    assert first.heartbeat() == 82
    assert first.commit({("orders", 0): 0}) == {("orders", 0): 82}
    assert second.sync().assignment
    assert second.commit({("orders", 0): 0}) == {("orders", 0): 0}


def test_a_group_that_is_full(serving: Callable[..., object]) -> None:
    server = serving(group_max_size=1)
    wires = [Wire(server.address) for _ in range(2)]  # type: ignore[attr-defined]
    try:
        WireMember(wires[0]).enter()
        assert WireMember(wires[1]).join().error_code == 81
    finally:
        for each in wires:
            each.close()
