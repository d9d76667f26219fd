"""Copying between brokers: what arrives, what is said, and that a mirror goes on."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import locations
import pytest
from brokers import eventually
from hypothesis import example, given, settings
from hypothesis import strategies as st
from storage import memory_folder

from seawall.broker import AnyBroker, Broker, MirrorProgress, Record, connect, errors, mirror
from seawall.broker.mirror_checkpoint import CHECKPOINT_TOPIC
from seawall.broker.mirror_read import Side, read
from seawall.wal.records import empty_batch, encode_batch


@pytest.fixture(scope="module", params=locations.PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """The other side of a directory: a directory, a server of ours, Apache Kafka."""
    with ExitStack() as stack:
        if request.param == locations.DIRECTORY:
            yield stack.enter_context(locations.directory())
        elif request.param == locations.SERVER:
            yield stack.enter_context(locations.server())
        else:
            found = stack.enter_context(locations.apache_kafka())
            if found is None:
                pytest.skip(locations.NO_KAFKA)
            yield found


@pytest.fixture
def topic() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def cluster(place: str) -> Iterator[AnyBroker]:
    with connect(place) as opened:
        yield opened


@pytest.fixture
def home(folder: str) -> Iterator[Broker]:
    with Broker.open(folder) as opened:
        yield opened


@pytest.fixture
def other() -> Iterator[Broker]:
    with memory_folder() as path, Broker.open(path) as opened:
        yield opened


# Young enough for every rule about age.
FIRST_MS = time.time_ns() // 1_000_000 - 100_000


def fill(broker: AnyBroker, topic: str, first: int, stop: int) -> None:
    """Records of all kinds: with and without key, value and headers, old and new."""
    partitions = len(broker.topic(topic).partitions)
    with broker.producer() as producer:
        for number in range(first, stop):
            producer.send(
                topic,
                None if number % 11 == 10 else b"value-%d" % number,
                key=None if number % 3 == 2 else b"key-%d" % (number % 5),
                headers=[("a", b"1"), ("a", None)] if number % 4 == 3 else None,
                partition=number % partitions,
                timestamp=FIRST_MS + number * 7,
            )


def contents(broker: AnyBroker, topic: str, partition: int = 0) -> list[Record]:
    end = broker.ends(topic, partition).durable_end
    return list(read(Side(broker, topic, partition), 0, end))


def without_offsets(records: list[Record]) -> list[Any]:
    return [(r.timestamp, r.key, r.value, tuple(r.headers)) for r in records]


def hole(broker: Broker, topic: str, count: int, partition: int = 0) -> None:
    """Offsets without records, as compaction and recovery leave them."""
    log = broker.engine.log(broker.engine.partition_id(topic, partition))
    log.commit(log.append([empty_batch(0, count - 1, -1)]).next_offset)


class Numbering:
    """A directory that is written to as a cluster is: by a producer, which numbers anew."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.is_remote = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)


def numbering(broker: Broker) -> AnyBroker:
    return cast(AnyBroker, Numbering(broker))


# -- there and back ----------------------------------------------------------------------


def test_everything_arrives_and_comes_back(
    home: Broker, cluster: AnyBroker, other: Broker, topic: str
) -> None:
    home.create_topic(topic, 2, {"segment.bytes": 1 << 20, "cleanup.policy": "delete"})
    fill(home, topic, 0, 1_500)
    home.reset_group(topic, topic, {0: 100, 1: 750})
    there = mirror(home, cluster, topics=[topic], groups=True, verify=True)
    assert (there.records, there.compared, there.difference) == (1_500, 1_500, None)
    back = mirror(cluster, other, topics=[topic], groups=True, verify=True)
    assert (back.records, back.compared, back.difference) == (1_500, 1_500, None)
    for number in (0, 1):
        assert contents(home, topic, number) == contents(other, topic, number)
        assert without_offsets(contents(cluster, topic, number)) == without_offsets(
            contents(home, topic, number)
        )
    for broker in (cluster, other):
        info = broker.topic(topic)
        assert info.config["segment.bytes"] == str(1 << 20)
        assert info.in_force["cleanup.policy"] == "delete"
        assert info.in_force["retention.ms"] == "604800000"
        offsets = broker.group(topic).offsets
        assert [(each.partition, each.committed) for each in offsets] == [(0, 100), (1, 750)]


def test_a_second_run_copies_what_is_new(home: Broker, cluster: AnyBroker, topic: str) -> None:
    home.create_topic(topic, 1)
    fill(home, topic, 0, 10)
    assert mirror(home, cluster, topics=[topic]).records == 10
    again = mirror(home, cluster, topics=[topic], verify=True)
    assert (again.records, again.found, again.compared) == (0, 0, 10)
    fill(home, topic, 10, 17)
    home.add_partitions(topic, 2)
    fill(home, topic, 17, 20)
    more = mirror(home, cluster, topics=[topic], verify=True)
    assert (more.records, more.compared, more.difference) == (10, 20, None)


def test_offsets_are_kept_in_a_directory(home: Broker, other: Broker) -> None:
    home.create_topic("orders")
    fill(home, "orders", 0, 40)
    hole(home, "orders", 30)
    fill(home, "orders", 40, 50)
    hole(home, "orders", 3)
    home.delete_records("orders", {0: 25})
    home.reset_group("late", "orders", {0: 83})
    done = mirror(home, other, groups=True, verify=True)
    assert (done.records, done.compared) == (25, 25)
    assert contents(home, "orders") == contents(other, "orders")
    assert other.ends("orders", 0) == home.ends("orders", 0) == (25, 83, 83)
    assert other.group("late").offsets[0].committed == 83
    assert list(other.verify()) == []
    fill(home, "orders", 50, 60)
    assert mirror(home, other, verify=True).compared == 35
    assert other.ends("orders", 0).durable_end == 93


def test_a_log_that_begins_far_out_is_kept(home: Broker, other: Broker) -> None:
    home.create_topic("orders")
    hole(home, "orders", 1 << 31)
    hole(home, "orders", 1 << 31)
    fill(home, "orders", 0, 5)
    home.delete_records("orders", {0: 1 << 32})
    mirror(home, other, verify=True)
    assert [each.offset for each in contents(other, "orders")] == [(1 << 32) + n for n in range(5)]
    assert other.ends("orders", 0).log_start == 1 << 32
    other.delete_records("orders", {0: (1 << 32) + 2})
    assert len(contents(other, "orders")) == 3


def test_groups_are_translated_where_offsets_change(home: Broker, cluster: AnyBroker) -> None:
    topic = f"t-{uuid.uuid4().hex[:12]}"
    home.create_topic(topic)
    fill(home, topic, 0, 40)
    hole(home, topic, 30)
    fill(home, topic, 40, 50)
    home.delete_records(topic, {0: 25})
    keeps = not cluster.is_remote
    for group, at, translated in (
        (f"{topic}-a", 30, 30 if keeps else 5),
        (f"{topic}-b", 72, 72 if keeps else 17),
        (f"{topic}-c", 80, 80 if keeps else 25),
    ):
        home.reset_group(group, topic, {0: at})
        mirror(home, cluster, topics=[topic], groups=True, verify=True)
        assert cluster.group(group).offsets[0].committed == translated


def test_a_group_is_neither_moved_back_nor_under_its_members(home: Broker, other: Broker) -> None:
    home.create_topic("orders")
    fill(home, "orders", 0, 20)
    home.reset_group("ahead", "orders", {0: 5})
    home.reset_group("busy", "orders", {0: 5})
    mirror(home, other, groups=True)
    other.reset_group("ahead", "orders", {0: 9})
    home.reset_group("busy", "orders", {0: 8})
    with other.consumer("orders", group="busy") as member:
        member.poll(1, 1_000)
        done = mirror(home, other, groups=True)
    assert done.groups is not None
    assert (done.groups.busy, done.groups.ahead) == (("busy",), ("ahead",))
    assert other.group("ahead").offsets[0].committed == 9
    assert other.group("busy").offsets[0].committed == 5
    assert any("members at the target" in note for note in done.notes)


def test_groups_lose_nothing_to_each_other(home: Broker, other: Broker) -> None:
    """A directory removes what all its groups have acknowledged: they come together."""
    home.create_topic("orders", 1, {"segment.bytes": 4096})
    fill(home, "orders", 0, 2_000)
    for number in range(5):
        home.reset_group(f"g{number}", "orders", {0: 2_000 - 400 * number})
    seen = []
    reset = other.reset_group

    def watched(name: str, topic: str, offsets: dict[int, int]) -> None:
        reset(name, topic, offsets)
        other.compact()
        seen.append(other.ends(topic, 0).log_start)

    other.reset_group = watched  # type: ignore[method-assign, assignment]
    mirror(home, other, groups=True)
    assert len(seen) > 5
    assert max(seen) <= 400
    assert other.group("g4").offsets[0].committed == 400


# -- goes on -----------------------------------------------------------------------------


class Killed(Exception):
    pass


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["fill", "fill", "fill", "hole", "trim", "mirror", "kill", "kill"]),
        st.integers(1, 40),
    ),
    min_size=3,
    max_size=14,
)


@pytest.mark.parametrize("kind", ["directory", "cluster"])
@given(steps=STEPS)
@example(steps=[("fill", 5), ("kill", 1), ("trim", 5)])  # beyond the checkpoint, and removed
@settings(max_examples=25)
def test_a_mirror_that_dies_anywhere_goes_on(kind: str, steps: list[tuple[str, int]]) -> None:
    with ExitStack() as stack:
        home, other = (
            stack.enter_context(Broker.open(stack.enter_context(memory_folder()))) for _ in "ab"
        )
        target = numbering(other) if kind == "cluster" else other
        home.create_topic("t")
        written = lost = 0
        for step, count in steps:
            if step == "fill":
                fill(home, "t", written, written + count)
                written += count
            elif step == "hole" and kind == "directory":
                hole(home, "t", count)
            elif step == "trim" and kind == "directory":
                ends = home.ends("t", 0)
                home.delete_records("t", {0: min(ends.durable_end, ends.log_start + count)})
            elif step == "mirror":
                lost += mirror(home, target).lost
            elif step == "kill":
                die(home, target, count)
        last = mirror(home, target, verify=True)
        assert last.difference is None
        originals, copies = contents(home, "t"), contents(other, "t")
        if kind == "directory":
            start = home.ends("t", 0).log_start
            assert [r for r in copies if r.offset >= start] == originals
        else:
            assert without_offsets(copies) == without_offsets(originals)
        assert list(other.verify()) == []


def die(home: Broker, target: AnyBroker, after: int) -> None:
    """End a mirror after some calls, at one of those that change or ask the target."""
    left = after % 12

    def count_down(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        from seawall.broker import mirror_session

        patch.setattr(mirror_session, "POLL_RECORDS", 1 + after % 7)
        try:
            mirror(
                home,
                target,
                checkpoint_interval_ms=0 if after % 2 else 1_000,
                on_progress=count_down,
            )
        except Killed:
            pass


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is on its way here from a mirror that was killed."""
    monkeypatch.setattr("seawall.broker.mirroring.QUIET_S", 0)


def test_the_source_is_trimmed_between_two_runs(home: Broker, other: Broker) -> None:
    home.create_topic("t")
    fill(home, "t", 0, 10)
    target = numbering(other)
    mirror(home, target)
    fill(home, "t", 10, 20)
    home.delete_records("t", {0: 15})
    done = mirror(home, target, verify=True)
    assert (done.records, done.lost, done.difference) == (5, 5, None)
    assert any("removed 5 offsets" in note for note in done.notes)


@pytest.mark.parametrize("as_cluster", [False, True])
def test_the_source_is_trimmed_while_it_is_copied(
    home: Broker, other: Broker, as_cluster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is read, and while it is."""
    from seawall.broker import mirror_session

    monkeypatch.setattr(mirror_session, "POLL_RECORDS", 3)
    home.create_topic("t", 1, {"segment.bytes": 1 << 20})
    value = b"x" * 100_000
    with home.producer(linger_ms=0) as producer:
        for _ in range(60):
            producer.send("t", value).result(60)
    run = mirror_session.Session.run

    def trim_and_run(session: Any, names: Any) -> Any:
        home.delete_records("t", {0: 2})
        return run(session, names)

    monkeypatch.setattr(mirror_session.Session, "run", trim_and_run)
    target = numbering(other) if as_cluster else other
    done = mirror(
        home, target, on_progress=lambda _: home.delete_records("t", {0: 50}), verify=True
    )
    assert (done.records + done.lost, done.difference) == (60, None)
    assert done.lost > 2
    assert len(done.notes) == 2
    # The offsets on both sides are known to go together behind the gap.
    home.delete_records("t", {0: 55})
    assert mirror(home, target, dry_run=True, verify=True).difference is None


def test_a_stretch_with_holes_is_compared_behind_its_beginning(home: Broker, other: Broker) -> None:
    """The source has removed the beginning of a stretch between two pairs of the checkpoint."""
    home.create_topic("t")
    for first in (0, 10, 20):
        fill(home, "t", first, first + 10)
        hole(home, "t", 3)
    target = numbering(other)
    assert mirror(home, target, verify=True).compared == 30
    home.delete_records("t", {0: 17})
    done = mirror(home, target, verify=True)
    assert (done.compared, done.removed, done.difference) == (16, 17, None)
    with other.producer() as producer:
        producer.send("t", b"one too many")
    assert mirror(home, target, dry_run=True, verify=True).difference is not None


def test_compaction_between_two_runs(home: Broker, other: Broker) -> None:
    """Of what a killed mirror left, either side may have lost records since."""
    home.create_topic("t")
    fill(home, "t", 0, 50)
    target = numbering(other)
    with pytest.raises(Killed):
        mirror(home, target, on_progress=_raise)
    # What compaction would have left: the first ten are gone, for newer values.
    home.alter_topic("t", {"cleanup.policy": "compact"})
    done = mirror(home, target, verify=True)
    assert (done.records, done.found, done.difference) == (0, 50, None)


def _raise(*_: object) -> None:
    raise Killed


# -- what it refuses ---------------------------------------------------------------------


@pytest.mark.parametrize("as_cluster", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_foreign_record_is_named(
    home: Broker, other: Broker, as_cluster: bool, when: str
) -> None:
    home.create_topic("t")
    fill(home, "t", 0, 10)
    target = numbering(other) if as_cluster else other
    if when == "after":
        mirror(home, target)
    else:
        other.create_topic("t")
    fill(other, "t", 99, 100)
    fill(home, "t", 10, 20)
    with pytest.raises(errors.ForeignRecord) as caught:
        mirror(home, target)
    at = 10 if when == "after" else 0
    assert (caught.value.topic, caught.value.partition, caught.value.offset) == ("t", 0, at)
    assert "value-99" in str(caught.value)
    assert len(contents(other, "t")) == at + 1
    looked = mirror(home, target, dry_run=True, verify=True)
    assert looked.difference is not None
    assert looked.difference.target_offset == at


@pytest.mark.parametrize("as_cluster", [False, True])
def test_somebody_who_writes_meanwhile_is_noticed(
    home: Broker, other: Broker, as_cluster: bool
) -> None:
    home.create_topic("t")
    fill(home, "t", 0, 5_000)
    target = numbering(other) if as_cluster else other
    done: list[None] = []

    def intrude(*_: object) -> None:
        if not done:
            done.append(None)
            other.engine.log(other.engine.partition_id("t", 0)).sync()
            fill(other, "t", 99, 100)

    with pytest.raises(errors.ForeignRecord, match="while the mirror ran"):
        mirror(home, target, on_progress=intrude, checkpoint_interval_ms=0)


def test_a_target_that_lost_records(home: Broker, other: Broker) -> None:
    home.create_topic("t")
    fill(home, "t", 0, 10)
    mirror(home, other)
    other.delete_topic("t")
    assert mirror(home, other, verify=True).records == 10  # that is another topic
    home.delete_topic("t")
    home.create_topic("t")
    fill(home, "t", 50, 60)
    with pytest.raises(errors.ForeignRecord):
        mirror(home, other)


@pytest.mark.parametrize("as_cluster", [False, True])
@pytest.mark.parametrize("first", [10, 15])
def test_a_target_that_lost_what_was_not_durable(
    home: Broker, other: Broker, as_cluster: bool, first: int
) -> None:
    """The power failed: of what a mirror had written some was lost, and what came behind it was
    not. Recovery leaves a hole there, which nobody can fill."""
    home.create_topic("t")
    fill(home, "t", 0, 10)
    target = numbering(other) if as_cluster else other
    mirror(home, target)
    fill(home, "t", 10, 30)
    there = [
        encode_batch([(r.timestamp, r.key, r.value, r.headers)]) for r in contents(home, "t")[10:20]
    ]
    there[first - 10 : first - 7] = [empty_batch(0, 2, -1)]
    log = other.engine.log(other.engine.partition_id("t", 0))
    log.commit(log.append(there).next_offset)
    with pytest.raises(errors.MirrorConflict, match="no record at offset"):
        mirror(home, target)
    other.delete_topic("t")
    assert mirror(home, target, verify=True).difference is None


def test_what_does_not_go_together(home: Broker, other: Broker, folder: str) -> None:
    home.create_topic("t", 2)
    other.create_topic("t", 3)
    with pytest.raises(errors.MirrorConflict, match="3 partitions at the target") as caught:
        mirror(home, other)
    assert caught.value.topic == "t"
    assert CHECKPOINT_TOPIC not in [each.name for each in other.topics()]
    with Broker.open(folder) as same, pytest.raises(errors.MirrorConflict, match="the same"):
        mirror(home, same)
    with pytest.raises(errors.UnknownTopic) as unknown:
        mirror(home, other, topics=["nope*"])
    assert unknown.value.topic == "nope*"


def test_timestamps_are_not_given_up(
    home: Broker, other: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster whose topic, or whose default, puts in its own."""
    home.create_topic("t")
    fill(home, "t", 0, 10)
    setting = "message.timestamp.type"
    other.create_topic("t", 1, {setting: "LogAppendTime"})
    with pytest.raises(errors.MirrorConflict, match="LogAppendTime at the target"):
        mirror(home, numbering(other))
    mirror(home, other, verify=True)  # a directory stores what it is given
    other.delete_topic("t")
    create = other.create_topic

    def create_by_default(name: str, partitions: int, config: Any, **more: Any) -> Any:
        return create(name, partitions, {setting: "LogAppendTime", **config}, **more)

    monkeypatch.setattr(other, "create_topic", create_by_default)
    assert mirror(home, numbering(other), verify=True).difference is None
    assert other.topic("t").in_force[setting] == "CreateTime"


def test_differences_are_named(home: Broker, other: Broker) -> None:
    for name, change in (("v", {"value": b"y"}), ("k", {"key": b"y"}), ("h", {"headers": None})):
        facts: dict[str, Any] = {"value": b"x", "key": b"x", "headers": {"x": b"x"}}
        for broker, extra in ((home, {}), (other, change)):
            broker.create_topic(name)
            with broker.producer() as producer:
                wanted = {**facts, **extra}
                producer.send(name, wanted.pop("value"), timestamp=1, **wanted)
        found = mirror(home, other, topics=[name], dry_run=True, verify=True).difference
        assert found is not None
        assert str(found).startswith(f"{name}/0 offset 0/0: ")
        assert {"v": "value", "k": "key", "h": "headers"}[name] in found.what


# -- what it chooses ---------------------------------------------------------------------


def test_headers_differ_in_a_compacted_topic(home: Broker, other: Broker) -> None:
    for broker, content in ((home, b"1"), (other, b"2")):
        broker.create_topic("t", 1, {"cleanup.policy": "compact"})
        with broker.producer() as producer:
            producer.send("t", b"v", key=b"k", headers={"a": content}, timestamp=FIRST_MS)
    found = mirror(home, other, dry_run=True, verify=True).difference
    assert found is not None
    assert "b'k'" in found.what
    other.delete_topic("t")
    assert mirror(home, other, verify=True, provenance=True).difference is None


def test_a_topic_that_was_deleted_at_the_target_is_a_difference(
    home: Broker, other: Broker
) -> None:
    home.create_topic("t")
    fill(home, "t", 0, 10)
    mirror(home, other)
    other.delete_topic("t")
    looked = mirror(home, other, dry_run=True, verify=True)
    assert looked.left == {"t": 10}
    assert looked.difference is not None
    assert "no such partition" in looked.difference.what


def test_topics_are_chosen(home: Broker, other: Broker) -> None:
    for name in ("orders", "orders.dlq", "returns", "__own", CHECKPOINT_TOPIC):
        home.create_topic(name)

    def chosen(*topics: str, exclude: tuple[str, ...] = ()) -> list[str]:
        done = mirror(home, other, topics=topics or ("*",), exclude=exclude, dry_run=True)
        return [each.name for each in done.topics]

    assert chosen() == ["orders", "orders.dlq", "returns"]
    assert chosen("ord*") == ["orders", "orders.dlq"]
    assert chosen(exclude=("*.dlq",)) == ["orders", "returns"]
    assert chosen("__own") == ["__own"]
    assert chosen(CHECKPOINT_TOPIC) == []
    assert other.topics() == []


def test_settings_that_the_target_does_not_take(home: Broker, other: Broker) -> None:
    home.create_topic("t", 1, {"message.timestamp.type": "LogAppendTime"})
    fill(home, "t", 0, 3)
    refusing = _Refusing(other)
    done = mirror(home, cast(AnyBroker, refusing), verify=True)
    assert done.difference is None
    assert other.topic("t").in_force["message.timestamp.type"] == "CreateTime"
    assert other.topic("t").config["cleanup.policy"] == "delete"
    assert other.topic("t").config["retention.ms"] == "-1"
    notes = "\n".join(done.notes)
    assert "retention.bytes=-1 is left out" in notes
    assert "cleanup.policy=acknowledged is not known there" in notes
    assert "message.timestamp.type stays CreateTime" in notes


class _Refusing(Numbering):
    """Takes what a cluster takes, and not retention.bytes."""

    def create_topic(self, name: str, partitions: int, config: Any, **more: Any) -> Any:
        if config.get("cleanup.policy") == "acknowledged":
            raise errors.UnsupportedByLocation(operation="x", location="y")
        if "retention.bytes" in config and name != CHECKPOINT_TOPIC:
            raise errors.InvalidConfig(
                key="retention.bytes", value="-1", allowed="", known=False, suggestion=""
            )
        return self._broker.create_topic(name, partitions, config, **more)


def test_provenance_is_added_only_if_asked_for(home: Broker, other: Broker) -> None:
    home.create_topic("t")
    fill(home, "t", 0, 4)
    assert mirror(home, other, provenance=True, verify=True).difference is None
    record = contents(other, "t")[3]
    assert list(record.headers[:2]) == [("a", b"1"), ("a", None)]
    assert dict(record.headers[2:]) == {
        "seawall.mirror.source": home.cluster_id.encode(),
        "seawall.mirror.offset": b"3",
    }


# -- follows -----------------------------------------------------------------------------


def test_it_follows(
    home: Broker, cluster: AnyBroker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seawall.broker.mirroring._LOOK_AGAIN_S", 0.2)
    home.create_topic(topic)
    fill(home, topic, 0, 10)
    stop = threading.Event()
    done: list[Any] = []

    def run() -> None:
        done.append(
            mirror(
                home,
                cluster,
                topics=[f"{topic}*"],
                follow=True,
                groups=True,
                checkpoint_interval_ms=50,
                groups_interval_ms=100,
                should_stop=stop.is_set,
            )
        )

    thread = threading.Thread(target=run)
    thread.start()
    try:
        eventually(lambda: _end(cluster, topic) == 10, 60)
        fill(home, topic, 10, 20)
        home.create_topic(f"{topic}-new", 2)
        fill(home, f"{topic}-new", 0, 6)
        home.reset_group(topic, topic, {0: 15})
        eventually(lambda: _end(cluster, topic) == 20 and _end(cluster, f"{topic}-new") == 3, 60)
        eventually(lambda: topic in cluster.groups(), 60)
    finally:
        stop.set()
        thread.join(30)
    assert done[0].was_stopped
    assert done[0].records == 26
    assert cluster.group(topic).offsets[0].committed == 15
    checked = mirror(home, cluster, topics=[f"{topic}*"], dry_run=True, verify=True)
    assert (checked.compared, checked.difference) == (26, None)


def _end(broker: AnyBroker, topic: str) -> int:
    if topic not in [each.name for each in broker.topics()]:
        return 0
    return broker.ends(topic, 0).durable_end


def test_a_topic_that_is_deleted_at_the_source_ends_nothing(
    cluster: AnyBroker, home: Broker, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seawall.broker.mirroring._LOOK_AGAIN_S", 3_600.0)
    gone = f"{topic}-gone"
    for name in (topic, gone):
        cluster.create_topic(name)
        fill(cluster, name, 0, 10)
    stop = threading.Event()
    done: list[Any] = []
    notes: list[str] = []

    def run() -> None:
        done.append(
            mirror(
                cluster,
                home,
                topics=[f"{topic}*"],
                follow=True,
                verify=True,
                on_note=notes.append,
                should_stop=stop.is_set,
            )
        )

    thread = threading.Thread(target=run)
    thread.start()
    try:
        eventually(lambda: _end(home, topic) == _end(home, gone) == 10, 60)
        cluster.delete_topic(gone)
        eventually(lambda: bool(notes) or not thread.is_alive(), 60)
        fill(cluster, topic, 10, 20)
        eventually(lambda: _end(home, topic) == 20 or not thread.is_alive(), 60)
    finally:
        stop.set()
        thread.join(30)
    assert [each.records for each in done] == [30]
    assert notes == [f"{gone}: deleted at the source; what was copied of it stays"]
    assert _end(home, gone) == 10
    with pytest.raises(errors.UnknownTopic):  # whoever asks for it by its name hears of it
        mirror(cluster, home, topics=[gone])


def test_a_comparison_can_be_stopped(home: Broker, other: Broker) -> None:
    home.create_topic("t")
    fill(home, "t", 0, 10_000)
    mirror(home, other)
    heard: list[int] = []

    def hear(progress: MirrorProgress) -> None:
        assert (progress.stage, progress.total) == ("comparing", 10_000)
        heard.append(progress.records)

    done = mirror(
        home, other, verify=True, on_progress=hear, should_stop=lambda: sum(heard) > 5_000
    )
    assert done.was_stopped
    assert heard == [2_000, 4_000]
    assert (done.compared, done.difference) == (4_000, None)
    assert not mirror(home, other, verify=True, on_progress=hear).was_stopped
    assert heard[2:] == [2_000, 4_000, 6_000, 8_000, 10_000, 10_000]
