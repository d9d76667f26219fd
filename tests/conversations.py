"""What both a real Apache Kafka and seawall are asked, in the oldest and the newest versions.

Each conversation has topics and groups of its own. A step's name says what is special about
it. `tests/record_kafka.py` holds them with Apache Kafka and keeps the answers;
`tests/broker/kafka/test_differences.py` holds them with seawall.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Any

from conversing import NEWEST, OLDEST, PICKS, Talk
from wire import batch

Conversation = Callable[[Talk], None]

NOBODY = "nobody"
UNKNOWN_ID = uuid.UUID(int=7)
T0 = 1_700_000_000_000
SESSION_MS, REBALANCE_MS = 120_000, 120_000
SUBSCRIPTION = struct.pack(">hi", 0, 0) + struct.pack(">i", -1)
ASSIGNMENT = struct.pack(">hi", 0, 0) + struct.pack(">i", -1)

PRODUCE, FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, OFFSET_FETCH = 0, 1, 2, 3, 8, 9
FIND_COORDINATOR, JOIN_GROUP, HEARTBEAT, LEAVE_GROUP, SYNC_GROUP = 10, 11, 12, 13, 14
DESCRIBE_GROUPS, LIST_GROUPS, CREATE_TOPICS, DELETE_TOPICS, DELETE_RECORDS = 15, 16, 19, 20, 21
INIT_PRODUCER_ID, OFFSET_FOR_LEADER_EPOCH, DESCRIBE_CONFIGS, ALTER_CONFIGS = 22, 23, 32, 33
DESCRIBE_LOG_DIRS, CREATE_PARTITIONS, DELETE_GROUPS, INCREMENTAL_ALTER_CONFIGS = 35, 37, 42, 44
OFFSET_DELETE, DESCRIBE_CLUSTER, DESCRIBE_PRODUCERS, DESCRIBE_TOPIC_PARTITIONS = 47, 60, 61, 75

TOPIC, BROKER = 2, 4


# -- what several conversations do -----------------------------------------------------------


def topic_made(talk: Talk, name: str, partitions: int = 1, **config: str) -> uuid.UUID:
    """A topic that is there and has leaders; its id."""
    # The records are of T0, and would be removed for their age.
    settings = {"retention_ms": "-1", **config}
    wanted = wanted_topic(
        name, partitions, config={key.replace("_", "."): v for key, v in settings.items()}
    )
    talk.ask_quietly(CREATE_TOPICS, 5, topics=[wanted], timeout=10_000, validate_only=False)
    found = talk.until(
        METADATA,
        12,
        lambda answer: (
            not answer.topics[0].error_code
            and not any(each.error_code for each in answer.topics[0].partitions)
        ),
        topics=[{"name": name, "topic_id": None}],
        allow_auto_topic_creation=False,
        include_topic_authorized_operations=False,
    )
    places = [
        {"partition_index": number, "timestamp": -1, "current_leader_epoch": -1}
        for number in range(partitions)
    ]
    talk.until(
        LIST_OFFSETS,
        4,
        lambda answer: not any(each.error_code for each in answer.topics[0].partitions),
        replica_id=-1,
        isolation_level=0,
        topics=[{"name": name, "partitions": places}],
    )
    topic_id: uuid.UUID = found.topics[0].topic_id
    talk.topic_ids[name] = topic_id
    return topic_id


def wanted_topic(
    name: str,
    partitions: int = 1,
    *,
    replication_factor: int = 1,
    config: dict[str, str | None] | None = None,
    assignments: Any = (),
) -> dict[str, Any]:
    return {
        "name": name,
        "num_partitions": partitions,
        "replication_factor": replication_factor,
        "assignments": assignments,
        "configs": [{"name": key, "value": value} for key, value in (config or {}).items()],
    }


def produce(
    talk: Talk,
    step: str,
    topic: str,
    records: bytes,
    *,
    partition: int = 0,
    acks: int = -1,
    transactional_id: str | None = None,
    version: int | None = None,
) -> Any:
    data = [{"index": partition, "records": records}]
    topic_id = talk.topic_ids.get(topic, UNKNOWN_ID)
    return talk.ask(
        step,
        PRODUCE,
        version=version,
        acks=acks,
        timeout=5_000,
        transactional_id=transactional_id,
        topic_data=[{"name": topic, "topic_id": topic_id, "partition_data": data}],
    )


def fetch(
    talk: Talk,
    step: str,
    topic: str,
    topic_id: uuid.UUID,
    *wanted: tuple[int, int],
    max_bytes: int = 1 << 20,
    partition_max_bytes: int = 1 << 20,
    epoch: int = -1,
    version: int | None = None,
) -> Any:
    partitions = [
        {
            "partition": partition,
            "fetch_offset": offset,
            "current_leader_epoch": epoch,
            "partition_max_bytes": partition_max_bytes,
        }
        for partition, offset in wanted
    ]
    return talk.ask(
        step,
        FETCH,
        version=version,
        max_wait=0,
        min_bytes=0,
        max_bytes=max_bytes,
        isolation_level=0,
        session_id=0,
        session_epoch=-1,
        topics=[{"topic": topic, "topic_id": topic_id, "partitions": partitions}],
        forgotten_topics_data=(),
    )


def ten_records() -> bytes:
    return batch(*[b"%d" % number for number in range(10)], timestamp=T0)


def crooked(data: bytes, position: int) -> bytes:
    """A batch with a flipped bit."""
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


# -- records ---------------------------------------------------------------------------------


def producing(talk: Talk) -> None:
    topic, small, stamped = talk.name("produce"), talk.name("small"), talk.name("stamped")
    topic_made(talk, topic, 2)
    topic_made(talk, small, max_message_bytes="200")
    topic_made(talk, stamped, message_timestamp_type="LogAppendTime")
    good = batch(b"a", b"b", timestamp=T0)
    produce(talk, "a batch", topic, good)
    produce(talk, "another one", topic, good)
    produce(talk, "acks=1", topic, good, acks=1)
    produce(talk, "the other partition", topic, good, partition=1)
    produce(talk, "a topic that stamps", stamped, good)
    produce(talk, "gzip", topic, batch(b"a" * 100, timestamp=T0, compression="gzip"))
    if talk.pick == NEWEST:
        produce(talk, "zstd", topic, batch(b"a" * 100, timestamp=T0, compression="zstd"))
    else:
        produce(talk, "zstd in a version before it", topic, batch(b"a", compression="zstd"))
    produce(talk, "unknown topic", talk.name("nobody-made-it"), good)
    if talk.pick == NEWEST:
        produce(talk, "by name, in the last version that has names", topic, good, version=12)
        produce(talk, "unknown name", talk.name("nobody-made-it"), good, version=12)
    produce(talk, "partition beyond the last", topic, good, partition=2)
    produce(talk, "negative partition", topic, good, partition=-1)
    produce(talk, "flipped bit in the records", topic, crooked(good, len(good) - 1))
    produce(talk, "flipped bit in the crc", topic, crooked(good, 18))
    produce(talk, "magic 1", topic, good[:16] + b"\1" + good[17:])
    produce(talk, "cut off", topic, good[:-3])
    produce(talk, "two batches", topic, good + good)
    produce(talk, "no records", topic, b"")
    produce(talk, "too large", small, batch(b"x" * 300, timestamp=T0))
    produce(talk, "acks=2", topic, good, acks=2)
    produce(talk, "a control batch", topic, batch(b"a", timestamp=T0, is_control=True))
    transactional = batch(
        b"a", is_transactional=True, producer_id=77, producer_epoch=0, base_sequence=0
    )
    produce(talk, "transactional batch without a transaction", topic, transactional)
    if talk.pick == NEWEST:
        name = talk.name("transaction")
        produce(
            talk,
            "of an unknown transaction",
            topic,
            transactional,
            transactional_id=name,
            version=12,
        )
    produce(talk, "what is there now", topic, good)


def idempotent_producing(talk: Talk) -> None:
    topic = talk.name("idempotent")
    topic_made(talk, topic)
    talk.until(
        INIT_PRODUCER_ID,
        4,
        lambda answer: not answer.error_code,
        transactional_id=None,
        transaction_timeout=1000,
    )
    told = talk.ask("a new id", INIT_PRODUCER_ID, transactional_id=None, transaction_timeout=1000)
    mine = told.producer_id

    def put(step: str, sequence: int, *, count: int = 1, epoch: int = 0, who: int = mine) -> None:
        values = [b"%d" % each for each in range(sequence, sequence + count)]
        data = batch(
            *values, timestamp=T0, producer_id=who, producer_epoch=epoch, base_sequence=sequence
        )
        produce(talk, step, topic, data)

    put("first", 0)
    put("second", 1, count=2)
    put("duplicate of the second", 1, count=2)
    put("duplicate of the first", 0)
    put("a gap", 5)
    put("overlap", 2, count=2)
    for number in range(3, 9):
        put(f"sequence {number}", number)
    put("an old duplicate, no longer known", 0)
    put("the oldest of the last five", 4)
    put("a new epoch that does not begin at 0", 3, epoch=1)
    put("a new epoch", 0, epoch=1)
    put("the old epoch", 9)
    put("an unknown id that begins at 0", 0, who=mine + 1_000_000)
    put("an unknown id that does not", 7, who=mine + 2_000_000)
    if talk.pick == NEWEST:
        talk.ask(
            "the next epoch",
            INIT_PRODUCER_ID,
            transactional_id=None,
            transaction_timeout=1000,
            producer_id=mine,
            producer_epoch=1,
        )
    talk.ask(
        "who produces here",
        DESCRIBE_PRODUCERS,
        topics=[{"name": topic, "partition_indexes": (0,)}],
    )
    talk.ask(
        "who produces where nothing is",
        DESCRIBE_PRODUCERS,
        topics=[
            {"name": topic, "partition_indexes": (5,)},
            {"name": talk.name("nobody-made-it"), "partition_indexes": (0,)},
        ],
    )


def fetching(talk: Talk) -> None:
    topic = talk.name("fetch")
    topic_id = topic_made(talk, topic, 2)
    for values in ((b"a", b"b", b"c"), (b"d",), (b"e" * 100, b"f")):
        data = batch(*values, timestamp=T0)
        produce(talk, "a batch to be fetched", topic, data)
    fetch(talk, "from the start", topic, topic_id, (0, 0))
    fetch(talk, "inside a batch", topic, topic_id, (0, 1))
    fetch(talk, "from the last offset", topic, topic_id, (0, 5))
    fetch(talk, "at the end", topic, topic_id, (0, 6))
    fetch(talk, "beyond the end", topic, topic_id, (0, 7))
    fetch(talk, "negative offset", topic, topic_id, (0, -1))
    fetch(talk, "an empty partition", topic, topic_id, (1, 0))
    fetch(talk, "both partitions", topic, topic_id, (1, 0), (0, 3))
    fetch(talk, "fewer bytes than a batch", topic, topic_id, (0, 0), max_bytes=1)
    fetch(talk, "fewer bytes of a partition", topic, topic_id, (0, 0), partition_max_bytes=1)
    fetch(talk, "partition beyond the last", topic, topic_id, (2, 0))
    fetch(talk, "unknown topic", talk.name("nobody-made-it"), UNKNOWN_ID, (0, 0))
    if talk.pick == NEWEST:
        fetch(talk, "leader epoch of the future", topic, topic_id, (0, 0), epoch=99)
        fetch(
            talk, "by name, in the last version that has names", topic, topic_id, (0, 0), version=12
        )


def listing_offsets(talk: Talk) -> None:
    topic = talk.name("offsets")
    topic_made(talk, topic, 2)
    for number in range(3):
        produce(talk, "a batch", topic, batch(b"a", b"b", timestamp=T0 + 1000 * number))

    def ask(step: str, timestamp: int, *, name: str = topic, partition: int = 0) -> None:
        wanted = {"partition_index": partition, "timestamp": timestamp, "current_leader_epoch": -1}
        talk.ask(
            step,
            LIST_OFFSETS,
            replica_id=-1,
            isolation_level=0,
            topics=[{"name": name, "partitions": [wanted]}],
        )

    ask("latest", -1)
    ask("earliest", -2)
    ask("a time before all", 0)
    ask("just that time", T0 + 1000)
    ask("between two", T0 + 1001)
    ask("after all", T0 + 9999)
    ask("latest of an empty partition", -1, partition=1)
    ask("earliest of an empty partition", -2, partition=1)
    ask("a time in an empty partition", T0, partition=1)
    ask("partition beyond the last", -1, partition=2)
    ask("unknown topic", -1, name=talk.name("nobody-made-it"))
    if talk.pick == NEWEST:
        ask("the greatest timestamp", -3)
        ask("the greatest timestamp of an empty partition", -3, partition=1)
        ask("earliest that is local", -4)
        ask("last that is elsewhere", -5)
    ask("no such special time", -77)


def leader_epochs(talk: Talk) -> None:
    topic = talk.name("epochs")
    topic_made(talk, topic)
    produce(talk, "a batch", topic, batch(b"a", b"b", timestamp=T0))

    def ask(step: str, epoch: int, *, name: str = topic, partition: int = 0) -> None:
        wanted = {"partition": partition, "current_leader_epoch": -1, "leader_epoch": epoch}
        talk.ask(step, OFFSET_FOR_LEADER_EPOCH, topics=[{"topic": name, "partitions": [wanted]}])

    ask("the one there is", 0)
    ask("one of the future", 5)
    ask("unknown topic", 0, name=talk.name("nobody-made-it"))
    ask("partition beyond the last", 0, partition=3)


def metadata(talk: Talk) -> None:
    topic = talk.name("metadata")
    topic_id = topic_made(talk, topic, 3)

    def ask(step: str, topics: Any, *, creates: bool = False, operations: bool = False) -> None:
        talk.ask(
            step,
            METADATA,
            topics=topics,
            allow_auto_topic_creation=creates,
            include_cluster_authorized_operations=operations,
            include_topic_authorized_operations=operations,
        )

    ask("one topic", [{"name": topic, "topic_id": None}])
    if talk.pick == NEWEST:
        ask("no topics", ())
        ask("unknown topic", [{"name": talk.name("nobody-made-it"), "topic_id": None}])
        ask("by id", [{"name": None, "topic_id": topic_id}])
        ask("unknown id", [{"name": None, "topic_id": UNKNOWN_ID}])
        ask("what one may do", [{"name": topic, "topic_id": None}], operations=True)
        talk.ask(
            "every partition", DESCRIBE_TOPIC_PARTITIONS, topics=[{"name": topic}], cursor=None
        )
        talk.ask(
            "two partitions",
            DESCRIBE_TOPIC_PARTITIONS,
            topics=[{"name": topic}],
            response_partition_limit=2,
            cursor=None,
        )
        talk.ask(
            "the rest",
            DESCRIBE_TOPIC_PARTITIONS,
            topics=[{"name": topic}],
            cursor={"topic_name": topic, "partition_index": 2},
        )
        talk.ask(
            "partitions of an unknown topic",
            DESCRIBE_TOPIC_PARTITIONS,
            topics=[{"name": talk.name("nobody-made-it")}],
            cursor=None,
        )
    ask("a name that cannot be", [{"name": "no/slash", "topic_id": None}])
    ask("created by asking", [{"name": talk.name("by-asking"), "topic_id": None}], creates=True)


# -- groups ----------------------------------------------------------------------------------


class Member:
    """One member of a group, on a connection of its own."""

    def __init__(self, talk: Talk, group: str, who: str, instance: str | None = None) -> None:
        self.talk, self.group, self.who, self.instance = talk, group, who, instance
        self.member_id = ""
        self.generation_id = -1

    def send_join(self, *, protocol: str = "range", kind: str = "consumer", **rest: Any) -> None:
        self.talk.send(
            JOIN_GROUP,
            who=self.who,
            **{
                "group_id": self.group,
                "session_timeout": SESSION_MS,
                "rebalance_timeout": REBALANCE_MS,
                "member_id": self.member_id,
                "group_instance_id": self.instance,
                "protocol_type": kind,
                "protocols": [{"name": protocol, "metadata": SUBSCRIPTION}],
                "reason": None,
                **rest,
            },
        )

    def hear_join(self, step: str) -> Any:
        answer = self.talk.hear(step, self.who)
        if answer.error_code in (0, 79):
            self.member_id = answer.member_id
            self.generation_id = answer.generation_id
        return answer

    def join(self, step: str, **rest: Any) -> Any:
        self.send_join(**rest)
        return self.hear_join(step)

    def send_sync(self, *members: Member, **rest: Any) -> None:
        self.talk.send(
            SYNC_GROUP,
            who=self.who,
            **{
                "group_id": self.group,
                "generation_id": self.generation_id,
                "member_id": self.member_id,
                "group_instance_id": self.instance,
                "protocol_type": "consumer",
                "protocol_name": "range",
                "assignments": [
                    {"member_id": each.member_id, "assignment": ASSIGNMENT} for each in members
                ],
                **rest,
            },
        )

    def sync(self, step: str, *members: Member, **rest: Any) -> Any:
        self.send_sync(*members, **rest)
        return self.talk.hear(step, self.who)

    def beat(self, step: str, **rest: Any) -> Any:
        known = {
            "group_id": self.group,
            "generation_id": self.generation_id,
            "member_id": self.member_id,
            "group_instance_id": self.instance,
        }
        return self.talk.ask(step, HEARTBEAT, who=self.who, **{**known, **rest})

    def leave(self, step: str, member_id: str | None = None) -> Any:
        member_id = self.member_id if member_id is None else member_id
        gone = {"member_id": member_id, "group_instance_id": self.instance, "reason": None}
        return self.talk.ask(
            step,
            LEAVE_GROUP,
            who=self.who,
            group_id=self.group,
            member_id=member_id,
            members=[gone],
        )

    def commit(self, step: str, topic: str, offset: int, **rest: Any) -> Any:
        known = {"generation": self.generation_id, "member": self.member_id}
        return commit(
            self.talk, step, self.group, topic, offset, **{**known, "who": self.who, **rest}
        )


def commit(
    talk: Talk,
    step: str,
    group: str,
    topic: str,
    offset: int,
    *,
    partition: int = 0,
    generation: int = -1,
    member: str = "",
    metadata: str | None = "",
    who: str = "",
) -> Any:
    place = {
        "partition_index": partition,
        "committed_offset": offset,
        "committed_leader_epoch": -1,
        "committed_metadata": metadata,
    }
    return talk.ask(
        step,
        OFFSET_COMMIT,
        who=who,
        group_id=group,
        generation_id_or_member_epoch=generation,
        member_id=member,
        group_instance_id=None,
        topics=[{"name": topic, "partitions": [place]}],
    )


def committed(talk: Talk, step: str, group: str, topic: str | None, *partitions: int) -> Any:
    topics = None if topic is None else [{"name": topic, "partition_indexes": partitions}]
    wanted = {"group_id": group, "member_id": None, "member_epoch": -1, "topics": topics}
    return talk.ask(
        step, OFFSET_FETCH, group_id=group, topics=topics, groups=[wanted], require_stable=False
    )


def describe_group(talk: Talk, step: str, group: str) -> Any:
    return talk.ask(step, DESCRIBE_GROUPS, groups=(group,), include_authorized_operations=False)


def delete_group(talk: Talk, step: str, group: str) -> Any:
    return talk.ask(step, DELETE_GROUPS, groups_names=(group,))


def members_of_a_group(talk: Talk) -> None:
    group, topic = talk.name("members"), talk.name("members-topic")
    topic_made(talk, topic, 2)
    produce(talk, "ten records", topic, ten_records())
    talk.ask("the coordinator", FIND_COORDINATOR, key=group, key_type=0, coordinator_keys=(group,))
    a, b = Member(talk, group, "a"), Member(talk, group, "b")
    _entered(a, "a")
    a.sync("a syncs", a)
    a.beat("heartbeat")
    describe_group(talk, "stable, one member", group)
    a.beat("heartbeat of another generation", generation_id=a.generation_id + 5)
    a.beat("heartbeat of nobody", member_id=NOBODY)
    a.beat("heartbeat in an unknown group", group_id=talk.name("nobody-made-it"))
    a.sync("sync of another generation", generation_id=a.generation_id + 5)
    a.sync("sync of nobody", member_id=NOBODY)
    a.commit("commit", topic, 5, metadata="note")
    a.commit("commit of another generation", topic, 6, generation=a.generation_id + 5)
    a.commit("commit of nobody", topic, 6, member=NOBODY)
    commit(talk, "commit of no member while there are some", group, topic, 7)
    if talk.pick == NEWEST:
        b.join("b gets an id")
    b.send_join()
    while a.beat("a is told to rejoin").error_code == 0:
        talk.steps.pop()
    a.send_join()
    a.hear_join("a rejoins")
    b.hear_join("b has joined")
    b.send_sync()
    a.sync("a syncs for both", a, b)
    talk.hear("b syncs", "b")
    describe_group(talk, "stable, two members", group)
    delete_group(talk, "delete it while it has members", group)
    b.leave("b leaves")
    a.leave("nobody leaves", NOBODY)
    while a.beat("a is told of it").error_code == 0:
        talk.steps.pop()
    a.leave("a leaves")
    a.beat("heartbeat of a member that left")
    describe_group(talk, "empty", group)
    committed(talk, "what it has committed", group, topic, 0, 1)
    delete_group(talk, "delete it", group)
    describe_group(talk, "gone", group)


def _entered(member: Member, name: str) -> None:
    if member.talk.pick == NEWEST:
        member.join(f"{name} gets an id")
    member.join(f"{name} joins")


def refusals_of_a_group(talk: Talk) -> None:
    group = talk.name("refusing")
    a = Member(talk, group, "a")
    a.join("without a group id", group_id="")
    a.join("session too short", session_timeout=10)
    a.join("session too long", session_timeout=100_000_000)
    a.join("unknown member", member_id=NOBODY)
    a.join("no protocols", protocols=())
    a.join("no protocol type", kind="")
    _entered(a, "a")
    a.sync("a syncs", a)
    b = Member(talk, group, "b")
    if talk.pick == NEWEST:
        b.join("b gets an id, whatever it speaks", protocol="other")
    b.join("no protocol in common", protocol="other")
    b.join("another type of protocol", kind="connect")
    if talk.pick == NEWEST:
        a.sync("sync with another type", protocol_type="connect")
        a.sync("sync with another protocol", protocol_name="other")
    a.leave("a leaves")
    describe_group(talk, "a group that never was", talk.name("nobody-made-it"))
    delete_group(talk, "delete one that never was", talk.name("nobody-made-it"))
    a.leave("leave a group that never was")


def static_members(talk: Talk) -> None:
    if talk.pick == OLDEST:
        return  # they came with version 5 of joining
    group, topic = talk.name("static"), talk.name("static-topic")
    topic_made(talk, topic)
    produce(talk, "ten records", topic, ten_records())
    first = Member(talk, group, "a", instance="one")
    first.join("the instance joins")
    first.sync("it syncs", first)
    again = Member(talk, group, "b", instance="one")
    again.join("it joins again, without an id")
    again.beat("the new one's heartbeat")
    first.beat("the old one's heartbeat")
    first.commit("the old one commits", topic, 3)
    again.commit("the new one commits", topic, 3)
    describe_group(talk, "static member", group)
    again.leave("it leaves")


def committed_offsets(talk: Talk) -> None:
    group, topic = talk.name("offsets-group"), talk.name("offsets-topic")
    topic_made(talk, topic, 2)
    produce(talk, "ten records", topic, ten_records())
    produce(talk, "ten in the other partition", topic, ten_records(), partition=1)
    committed(talk, "nothing yet", group, topic, 0)
    commit(talk, "by nobody in particular", group, topic, 5)
    commit(talk, "with a note", group, topic, 6, metadata="note")
    commit(talk, "the other partition", group, topic, 1, partition=1)
    commit(talk, "a note that is too long", group, topic, 7, metadata="x" * 5000)
    commit(talk, "unknown topic", group, talk.name("nobody-made-it"), 1)
    commit(talk, "partition beyond the last", group, topic, 1, partition=9)
    commit(talk, "beyond the log", group, topic, 1_000_000, partition=1)
    commit(talk, "with a generation, but no member", group, topic, 1, generation=3, member=NOBODY)
    committed(talk, "both", group, topic, 0, 1)
    committed(talk, "partition beyond the last", group, topic, 9)
    committed(talk, "unknown topic", group, talk.name("nobody-made-it"), 0)
    if talk.pick == NEWEST:
        committed(talk, "all", group, None)
        committed(talk, "all of an unknown group", talk.name("nobody-made-it"), None)
    describe_group(talk, "a group without members", group)
    talk.ask("groups", LIST_GROUPS, states_filter=(), types_filter=())
    talk.steps[-1]["answer"]["groups"] = [
        each for each in talk.steps[-1]["answer"]["groups"] if each["group_id"] == group
    ]
    if talk.pick == NEWEST:
        for step, states, types in (
            ("no such state", ("Nonsense",), ()),
            ("stable groups", ("Stable",), ()),
            ("no such type", (), ("nonsense",)),
        ):
            talk.ask(step, LIST_GROUPS, states_filter=states, types_filter=types)

    def forget(step: str, name: str, partition: int, of: str = group) -> None:
        talk.ask(
            step,
            OFFSET_DELETE,
            group_id=of,
            topics=[{"name": name, "partitions": [{"partition_index": partition}]}],
        )

    forget("forget an offset", topic, 1)
    forget("forget it again", topic, 1)
    forget("forget where nothing is", talk.name("nobody-made-it"), 0)
    forget("forget of an unknown group", topic, 0, talk.name("nobody-made-it"))
    committed(talk, "the one that is left", group, topic, 0, 1)
    delete_group(talk, "delete it", group)
    committed(talk, "nothing any more", group, topic, 0)


def coordinators(talk: Talk) -> None:
    group = talk.name("coordinated")
    talk.ask("of a group", FIND_COORDINATOR, key=group, key_type=0, coordinator_keys=(group,))
    if talk.pick == NEWEST:
        talk.ask("of two", FIND_COORDINATOR, key_type=0, coordinator_keys=(group, "other"))
        talk.ask("of nobody", FIND_COORDINATOR, key_type=0, coordinator_keys=())
        talk.ask("no such kind", FIND_COORDINATOR, key_type=9, coordinator_keys=(group,))
        talk.ask("an empty key", FIND_COORDINATOR, key_type=0, coordinator_keys=("",))


# -- topics ----------------------------------------------------------------------------------


def creating_topics(talk: Talk) -> None:
    def create(step: str, *topics: dict[str, Any], dry: bool = False) -> None:
        talk.ask(step, CREATE_TOPICS, topics=topics, timeout=10_000, validate_only=dry)
        for each in talk.steps[-1]["answer"]["topics"]:
            if each.get("configs"):
                each["configs"] = [
                    config for config in each["configs"] if config["name"] == "retention.ms"
                ]

    topic, other = talk.name("create"), talk.name("create-other")
    create("a topic", wanted_topic(topic, 2, config={"retention.ms": "100000"}))
    create("it is there", wanted_topic(topic))
    create("only looked at", wanted_topic(other), dry=True)
    create("only looked at, and it is there", wanted_topic(topic), dry=True)
    create("a name that cannot be", wanted_topic("no/slash"))
    create("an empty name", wanted_topic(""))
    create("a long name", wanted_topic("x" * 250))
    create("dots", wanted_topic(".."))
    create("no partitions", wanted_topic(other, 0))
    create("-2 partitions", wanted_topic(other, -2))
    create("three replicas", wanted_topic(other, replication_factor=3))
    create("no replicas", wanted_topic(other, replication_factor=0))
    create("an unknown setting", wanted_topic(other, config={"no.such.setting": "1"}))
    create("a value that cannot be", wanted_topic(other, config={"retention.ms": "soon"}))
    create("a null value", wanted_topic(other, config={"retention.ms": None}))
    create("the same twice", wanted_topic(other), wanted_topic(other))
    create("one good, one bad", wanted_topic(talk.name("one-good")), wanted_topic("no/slash"))
    assigned = [{"partition_index": 0, "broker_ids": (1,)}]
    create(
        "replicas assigned",
        wanted_topic(talk.name("assigned"), -1, replication_factor=-1, assignments=assigned),
    )
    elsewhere = [{"partition_index": 0, "broker_ids": (99,)}]
    create(
        "assigned to a broker that is not",
        wanted_topic(other, -1, replication_factor=-1, assignments=elsewhere),
    )
    create(
        "assigned, and a number of partitions",
        wanted_topic(other, 3, replication_factor=1, assignments=assigned),
    )
    if talk.pick == NEWEST:
        create("defaults", wanted_topic(talk.name("defaults"), -1, replication_factor=-1))


def deleting_topics(talk: Talk) -> None:
    topic = talk.name("delete")
    topic_id = topic_made(talk, topic)
    other_id = topic_made(talk, talk.name("delete-too"))

    def delete(step: str, *topics: tuple[str | None, uuid.UUID | None]) -> None:
        talk.ask(
            step,
            DELETE_TOPICS,
            topics=[{"name": name, "topic_id": of} for name, of in topics],
            topic_names=[name for name, _ in topics],
            timeout=10_000,
        )

    delete("unknown topic", (talk.name("nobody-made-it"), None))
    if talk.pick == NEWEST:
        delete("unknown id", (None, UNKNOWN_ID))
        delete("by name and by id", (topic, topic_id))
        delete("by id", (None, other_id))
    delete("by name", (topic, None))
    delete("it is gone", (topic, None))


def growing_topics(talk: Talk) -> None:
    topic = talk.name("grow")
    topic_made(talk, topic, 2)

    def grow(
        step: str, name: str, count: int, *, dry: bool = False, assignments: Any = None
    ) -> None:
        wanted = {"name": name, "count": count, "assignments": assignments}
        talk.ask(step, CREATE_PARTITIONS, topics=[wanted], timeout=10_000, validate_only=dry)

    grow("only looked at", topic, 3, dry=True)
    grow("one more", topic, 3)
    grow("as many", topic, 3)
    grow("fewer", topic, 2)
    grow("none", topic, 0)
    grow("unknown topic", talk.name("nobody-made-it"), 3)
    grow("assigned", topic, 4, assignments=[{"broker_ids": (1,)}])
    grow("assigned to a broker that is not", topic, 5, assignments=[{"broker_ids": (99,)}])
    grow("too few assigned", topic, 6, assignments=[{"broker_ids": (1,)}])


def deleting_records(talk: Talk) -> None:
    topic = talk.name("delete-records")
    topic_id = topic_made(talk, topic, 2)
    produce(talk, "four records", topic, batch(b"a", b"b", b"c", b"d", timestamp=T0))

    def delete(step: str, offset: int, *, name: str = topic, partition: int = 0) -> None:
        wanted = {"partition_index": partition, "offset": offset}
        talk.ask(
            step,
            DELETE_RECORDS,
            topics=[{"name": name, "partitions": [wanted]}],
            timeout=10_000,
        )

    delete("before 2", 2)
    fetch(talk, "what was deleted", topic, topic_id, (0, 0))
    fetch(talk, "what is left", topic, topic_id, (0, 2))
    delete("before 1, which is gone", 1)
    delete("beyond the end", 9)
    delete("-5", -5)
    delete("all", -1)
    delete("of an empty partition", -1, partition=1)
    delete("partition beyond the last", 1, partition=7)
    delete("unknown topic", 1, name=talk.name("nobody-made-it"))


NAMES = ("retention.ms", "cleanup.policy", "max.message.bytes", "segment.bytes", "compression.type")


def topic_settings(talk: Talk) -> None:
    topic, unknown = talk.name("settings"), talk.name("nobody-made-it")
    topic_made(talk, topic, retention_ms="100000")

    def describe(
        step: str, kind: int, name: str, keys: Any = NAMES, synonyms: bool = False
    ) -> None:
        wanted = {"resource_type": kind, "resource_name": name, "configuration_keys": keys}
        talk.ask(
            step,
            DESCRIBE_CONFIGS,
            resources=[wanted],
            include_synonyms=synonyms,
            include_documentation=False,
        )
        for each in talk.steps[-1]["answer"]["results"]:
            each["configs"].sort(key=lambda config: config["name"])

    def alter(step: str, kind: int, name: str, dry: bool = False, **config: str | None) -> None:
        entries = [{"name": k.replace("_", "."), "value": v} for k, v in config.items()]
        wanted = {"resource_type": kind, "resource_name": name, "configs": entries}
        talk.ask(step, ALTER_CONFIGS, resources=[wanted], validate_only=dry)

    def change(
        step: str, name: str, *entries: tuple[str, int, str | None], kind: int = TOPIC
    ) -> None:
        changes = [
            {"name": key, "config_operation": how, "value": value} for key, how, value in entries
        ]
        wanted = {"resource_type": kind, "resource_name": name, "configs": changes}
        talk.ask(step, INCREMENTAL_ALTER_CONFIGS, resources=[wanted], validate_only=False)

    describe("some of a topic's", TOPIC, topic)
    describe("where they come from", TOPIC, topic, ("retention.ms",), True)
    describe("one that is not", TOPIC, topic, ("no.such.setting",))
    describe("unknown topic", TOPIC, unknown)
    describe("a name that cannot be", TOPIC, "no/slash")
    describe("unknown broker", BROKER, "99")
    describe("a broker that is no number", BROKER, "one")
    describe("no such kind", 77, "x")
    alter("all anew", TOPIC, topic, max_message_bytes="5000")
    describe("after that", TOPIC, topic)
    alter("only looked at", TOPIC, topic, True, max_message_bytes="6000")
    alter("a value that cannot be", TOPIC, topic, max_message_bytes="many")
    alter("an unknown setting", TOPIC, topic, no_such_setting="1")
    alter("unknown topic", TOPIC, unknown, max_message_bytes="5000")
    alter("a null value", TOPIC, topic, max_message_bytes=None)
    change("set one", topic, ("retention.ms", 0, "200000"))
    change("back to the default", topic, ("max.message.bytes", 1, None))
    describe("after these", TOPIC, topic)
    change("a list grows", topic, ("cleanup.policy", 2, "compact"))
    change("and shrinks", topic, ("cleanup.policy", 3, "compact"))
    change("a number grows", topic, ("retention.ms", 2, "1"))
    change("no such operation", topic, ("retention.ms", 9, "1"))
    change("the same twice", topic, ("retention.ms", 0, "1"), ("retention.ms", 0, "2"))
    change("a value that cannot be", topic, ("retention.ms", 0, "soon"))
    change("below the least", topic, ("max.message.bytes", 0, "-1"))
    change("an unknown setting", topic, ("no.such.setting", 0, "1"))
    change("a null value", topic, ("retention.ms", 0, None))
    change("unknown topic", unknown, ("retention.ms", 0, "1"))
    change("no such kind", "x", ("retention.ms", 0, "1"), kind=77)
    describe("in the end", TOPIC, topic)


def the_cluster(talk: Talk) -> None:
    topic = talk.name("cluster")
    topic_made(talk, topic)
    talk.ask(
        "the cluster",
        DESCRIBE_CLUSTER,
        include_cluster_authorized_operations=False,
        include_fenced_brokers=False,
    )
    talk.ask(
        "folders of a topic",
        DESCRIBE_LOG_DIRS,
        topics=[{"topic": topic, "partitions": (0,)}],
    )
    talk.ask(
        "folders of an unknown topic",
        DESCRIBE_LOG_DIRS,
        topics=[{"topic": talk.name("nobody-made-it"), "partitions": (0,)}],
    )


CONVERSATIONS: dict[str, Conversation] = {
    each.__name__: each
    for each in (
        producing,
        idempotent_producing,
        fetching,
        listing_offsets,
        leader_epochs,
        metadata,
        members_of_a_group,
        refusals_of_a_group,
        static_members,
        committed_offsets,
        coordinators,
        creating_topics,
        deleting_topics,
        growing_topics,
        deleting_records,
        topic_settings,
        the_cluster,
    )
}


def hold(address: str, name: str, pick: str) -> list[dict[str, Any]]:
    """The steps of one conversation with a server."""
    talk = Talk(address, pick)
    try:
        CONVERSATIONS[name](talk)
        return talk.steps
    finally:
        talk.close()


def hold_all(address: str) -> dict[str, list[dict[str, Any]]]:
    """All conversations, in both sets of versions."""
    return {f"{name}-{pick}": hold(address, name, pick) for name in CONVERSATIONS for pick in PICKS}
