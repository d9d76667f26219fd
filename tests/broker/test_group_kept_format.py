"""The bytes of what a server goes on from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.group_kept_format import (
    KeptGroup,
    KeptMember,
    pack_kept,
    pack_kept_member,
    unpack_kept,
)
from seawall.broker.state_format import Malformed, kept_key, split_key

MEMBER = KeptMember(
    member_id="c-1-server",
    instance_id="i",
    client_id="c",
    client_host="127.0.0.1:5",
    session_timeout_ms=45_000,
    rebalance_timeout_ms=300_000,
    protocols={"range": b"\x00r", "": b""},
    assignment=b"\x00\x01",
    owes_sync=True,
)
GROUP = KeptGroup(
    generation=7,
    is_assigned=True,
    protocol_type="consumer",
    protocol="range",
    leader="c-1-server",
    members=(MEMBER,),
)
STORED = (
    bytes.fromhex("01010000000000000007000000010000")
    + bytes.fromhex("0008")
    + b"consumer"
    + bytes.fromhex("00000005")
    + b"range"
    + bytes.fromhex("0000000a")
    + b"c-1-server"
)
STORED_MEMBER = (
    bytes.fromhex("01030000afc8000493e000000001")
    + b"i"
    + bytes.fromhex("00000001")
    + b"c"
    + bytes.fromhex("0000000b")
    + b"127.0.0.1:5"
    + bytes.fromhex("0000000200000005")
    + b"range"
    + bytes.fromhex("000000020072")
    + bytes.fromhex("0000000000000000")
    + bytes.fromhex("000000020001")
)


def test_golden_bytes() -> None:
    """Written down when the format was made; state.lmdb of other versions must be read."""
    assert pack_kept(GROUP) == STORED
    assert pack_kept_member(MEMBER) == STORED_MEMBER
    assert unpack_kept(STORED, {MEMBER.member_id: STORED_MEMBER}) == GROUP
    key = kept_key("g", MEMBER.member_id)
    assert (kept_key("g"), key) == (b"Wg\0", b"Wg\0c-1-server")
    assert split_key(key) == ("g", MEMBER.member_id)
    assert split_key(kept_key("g")) == ("g", "")


def test_every_other_length_is_malformed() -> None:
    for size in range(len(STORED)):
        with pytest.raises(Malformed):
            unpack_kept(STORED[:size], {MEMBER.member_id: STORED_MEMBER})
    for size in range(len(STORED_MEMBER)):
        with pytest.raises(Malformed):
            unpack_kept(STORED, {MEMBER.member_id: STORED_MEMBER[:size]})
    for group, member in ((STORED + b"x", STORED_MEMBER), (STORED, STORED_MEMBER + b"x")):
        with pytest.raises(Malformed):
            unpack_kept(group, {MEMBER.member_id: member})


@given(which=st.integers(0, 1), position=st.integers(0, 200), bit=st.integers(0, 7))
def test_a_flipped_bit_is_another_group_or_malformed(which: int, position: int, bit: int) -> None:
    """The checksum of the value finds it before that; nothing else is raised."""
    parts = [bytearray(STORED), bytearray(STORED_MEMBER)]
    part = parts[which]
    part[position % len(part)] ^= 1 << bit
    try:
        found = unpack_kept(bytes(parts[0]), {MEMBER.member_id: bytes(parts[1])})
    except Malformed:
        return
    assert found != GROUP or part[1] != (STORED, STORED_MEMBER)[which][1]


@pytest.mark.parametrize(
    "group",
    [
        replace(GROUP, members=()),
        replace(GROUP, members=(MEMBER, replace(MEMBER, member_id="c-2-server"))),
        replace(GROUP, leader="c-2-server"),
        replace(GROUP, protocol="sticky"),
    ],
)
def test_what_does_not_go_together_is_malformed(group: KeptGroup) -> None:
    with pytest.raises(Malformed):
        unpack_kept(pack_kept(group), {MEMBER.member_id: pack_kept_member(MEMBER)})


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
members = st.builds(
    KeptMember,
    member_id=texts,
    instance_id=st.none() | texts,
    client_id=texts,
    client_host=texts,
    session_timeout_ms=st.integers(0, (1 << 31) - 1),
    rebalance_timeout_ms=st.integers(0, (1 << 31) - 1),
    protocols=st.dictionaries(texts, st.binary(max_size=50), max_size=3),
    assignment=st.binary(max_size=50),
    owes_sync=st.booleans(),
)


@given(
    members=st.lists(members, min_size=1, max_size=4, unique_by=lambda each: each.member_id),
    generation=st.integers(0, (1 << 64) - 1),
    is_assigned=st.booleans(),
    kind=texts,
    protocol=texts,
)
def test_what_is_packed_is_unpacked(
    members: list[KeptMember], generation: int, is_assigned: bool, kind: str, protocol: str
) -> None:
    members = [replace(each, protocols={**each.protocols, protocol: b"x"}) for each in members]
    group = KeptGroup(
        generation=generation,
        is_assigned=is_assigned,
        protocol_type=kind,
        protocol=protocol,
        leader=members[0].member_id,
        members=tuple(sorted(members, key=lambda each: each.member_id)),
    )
    packed = {each.member_id: pack_kept_member(each) for each in members}
    found = unpack_kept(pack_kept(group), packed)
    assert found == group
    for one, other in zip(found.members, group.members, strict=True):
        assert list(one.protocols) == list(other.protocols), "the order is a preference"
