"""How long `seawall serve` takes to start with many groups that it goes on with.

Up to the line that says where it listens, and up to the answer to the first heartbeat of a
member from before, which waits until all groups are loaded. Each start finds what a killed
server left.
"""

from __future__ import annotations

import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.measure import TOPIC, Result, Setting, broker_with_topic, ratios, take_turns
from benchmarks.serve import serving
from seawall.broker.group_kept_format import KeptGroup, KeptMember
from seawall.broker.kafka.coordinator_store import CoordinatorStore
from seawall.broker.kafka.coordinator_values import Snapshot

GROUPS = 1_000
MEMBERS = 3
AT_MOST = 1.2
FIRST_ANSWER_AT_MOST_MS = 500.0
HEARTBEAT = 12


def fill(folder: Path, groups: int) -> str:
    """Stable groups of three members that read a topic; gives the id of a member of "g0"."""
    with broker_with_topic(folder) as broker:
        store = CoordinatorStore(broker.engine)
        topic = TOPIC.encode()
        metadata = struct.pack(">hih", 1, 1, len(topic)) + topic + bytes(4)
        share = struct.pack(">hih", 1, 1, len(topic)) + topic + struct.pack(">iii", 1, 0, -1)
        first = ""
        for number in range(groups):
            members = tuple(
                KeptMember(
                    member_id=store.new_member_id("rdkafka"),
                    instance_id=None,
                    client_id="rdkafka",
                    client_host="127.0.0.1:1",
                    session_timeout_ms=45_000,
                    rebalance_timeout_ms=300_000,
                    protocols={"range": metadata, "roundrobin": metadata},
                    assignment=share,
                )
                for _ in range(MEMBERS)
            )
            group = KeptGroup(
                generation=1,
                is_assigned=True,
                protocol_type="consumer",
                protocol="range",
                leader=members[0].member_id,
                members=members,
            )
            store.save(f"g{number}", Snapshot(begins=True, group=group))
            store.save(f"g{number}", Snapshot(begins=False, group=group))
            first = first or members[0].member_id
        store.close()
    return first


def heartbeat(address: str, member_id: str) -> int:
    """The code that a member of "g0" is answered with."""
    host, _, port = address.rpartition(":")
    body = struct.pack(">hhih", HEARTBEAT, 0, 1, -1)
    body += struct.pack(">h2sih", 2, b"g0", 1, len(member_id)) + member_id.encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(struct.pack(">i", len(body)) + body)
        answer = b""
        while len(answer) < 10:
            answer += connection.recv(64)
    code: int = struct.unpack_from(">h", answer, 8)[0]
    return code


def measure(setting: Setting) -> Iterator[Result]:
    many, none = setting.folder / "many", setting.folder / "none"
    groups = setting.pick(GROUPS, 50)
    member_id = fill(many, groups)
    fill(none, 0)
    answers_ms: list[float] = []

    def start_ms(folder: Path) -> float:
        begun_s = time.perf_counter()
        with serving(folder) as (process, address):
            took_ms = 1000 * (time.perf_counter() - begun_s)
            if folder is many:
                begun_s = time.perf_counter()
                if code := heartbeat(address, member_id):
                    raise RuntimeError(f"the member is none any more: {code}")
                answers_ms.append(1000 * (time.perf_counter() - begun_s))
            process.send_signal(signal.SIGKILL)
        return took_ms

    ours, theirs = take_turns(setting.pick(15, 2), lambda: start_ms(many), lambda: start_ms(none))
    yield Result(
        what=f"start of `seawall serve` with {groups:,} groups of {MEMBERS} members",
        against="the same without groups",
        values=ratios(ours, theirs),
        at_most=AT_MOST,
        detail=f"{median(ours):.0f} ms to {median(theirs):.0f} ms, with the start of Python",
    )
    yield Result(
        what="from there to the answer to the first heartbeat",
        against="",
        values=answers_ms[1:],
        at_most=FIRST_ANSWER_AT_MOST_MS,
        unit="ms",
    )
