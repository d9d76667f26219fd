"""What goes by which rule, and what stays: decided, done, and done again after a crash."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from brokers import broker_on, crash, drain, put, read_all, values
from deaths import dies_at_every_call
from storage import FaultyFiles

from seawall.broker import Broker, Hold, Removal, Trimmed
from seawall.broker.config import check_config, parse_config
from seawall.broker.errors import BrokerError, OffsetOutOfRange, UnknownPartition, UnknownTopic
from seawall.broker.group_state import GroupState
from seawall.broker.pace import Pace
from seawall.broker.state import State
from seawall.broker.trimming import SEGMENTS_PER_STEP, Facts, decide, trim
from seawall.wal.errors import LogGone
from seawall.wal.inventory import SegmentInfo

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
SMALL = {"segment.bytes": 4096}


# -- deciding ------------------------------------------------------------------------


def facts(
    *sizes: int,
    ages_ms: Sequence[int] = (),
    log_start: int = 0,
    committed: dict[str, int] | None = None,
    active_age_ms: int = 0,
    **settings: str | int,
) -> Facts:
    """Segments of ten records each; the last one is active."""
    segments = [SegmentInfo(at * 10, at * 10 + 10, size) for at, size in enumerate(sizes)]
    segments[-1] = segments[-1]._replace(is_active=True, begun_ms=NOW_MS - active_age_ms)
    config = {key.replace("_", "."): value for key, value in settings.items()}
    return Facts(
        settings=parse_config(check_config(config)),
        segments=segments,
        log_start=log_start,
        committed=committed or {},
        now_ms=NOW_MS,
        newest_ms=lambda segment: NOW_MS - ages_ms[segment.base_offset // 10],
    )


def decided(of: Facts) -> tuple[list[str], list[str]]:
    """The rule of each segment that goes, and what holds the rest."""
    going, holds = decide(of)
    assert [segment for segment, _ in going] == list(of.segments[: len(going)])
    return (
        [rule for _, rule in going],
        [each.rule if each.group is None else f"{each.group}@{each.offset}" for each in holds],
    )


def test_acknowledged_by_everybody() -> None:
    three = (1, 1, 1)
    assert decided(facts(*three)) == ([], ["no group"])
    assert decided(facts(*three, committed={"g": 9})) == ([], ["g@9"])
    assert decided(facts(*three, committed={"g": 10})) == (["acknowledged"], ["g@10"])
    both = {"g": 20, "h": 19}
    assert decided(facts(*three, committed=both)) == (["acknowledged"], ["h@19"])
    assert decided(facts(*three, committed={"g": 10, "h": 5})) == ([], ["h@5"])
    assert decided(facts(*three, committed={"g": 30})) == (["acknowledged"] * 2, ["active segment"])


def test_an_active_segment_that_is_due_goes_as_well() -> None:
    old = facts(1, 1, committed={"g": 20}, active_age_ms=7 * DAY_MS)
    assert decided(old) == (["acknowledged"] * 2, [])
    assert decided(replace(old, committed={"g": 19})) == (["acknowledged"], ["g@19"])
    not_durable = old.segments[1]._replace(is_durable=False)
    assert decided(replace(old, segments=[old.segments[0], not_durable]))[0] == ["acknowledged"]


@pytest.mark.parametrize("policy", ["acknowledged", "delete", "compact", "compact,delete"])
def test_below_the_log_start(policy: str) -> None:
    config: dict[str, Any] = {"cleanup_policy": policy, "retention_ms": -1}
    assert decided(facts(1, 1, 1, log_start=20, **config))[0] == ["log start"] * 2
    assert decided(facts(1, 1, 1, log_start=19, **config))[0] == ["log start"]
    assert decided(facts(1, 1, 1, log_start=30, **config))[0] == ["log start"] * 2  # no roll


def test_older_than_retention_ms() -> None:
    """By the greatest timestamp, the active segment too, and only from the oldest on."""

    def by(*ages_ms: int, **more: Any) -> tuple[list[str], list[str]]:
        config = {"cleanup_policy": "delete", "retention_ms": 1000, **more}
        return decided(facts(1, 1, 1, ages_ms=ages_ms, **config))

    assert by(1001, 1000, 2000) == (["retention.ms"], ["retention.ms"])
    assert by(9000, 9000, 1) == (["retention.ms"] * 2, ["retention.ms"])
    assert by(9000, 9000, 9000) == (["retention.ms"] * 3, [])
    assert by(-5, 9000, 9000) == ([], ["retention.ms"])  # of the future
    assert by(9000, 9000, 9000, retention_ms=-1) == ([], ["no limit"])
    assert by(9000, 9000, 9000, cleanup_policy="compact") == ([], ["compact"])
    assert by(9000, 0, 0, cleanup_policy="compact,delete")[0] == ["retention.ms"]
    assert by(9000, 9000, 9000, cleanup_policy="acknowledged") == ([], ["no group"])


def test_more_than_retention_bytes() -> None:
    """As long as at least so many bytes stay: Kafka's deleteRetentionSizeBreachedSegments."""

    def by(limit: int, *sizes: int) -> tuple[list[str], list[str]]:
        config: dict[str, Any] = {"cleanup_policy": "delete", "retention_ms": -1}
        return decided(facts(*sizes, retention_bytes=limit, **config))

    assert by(100, 50, 50, 50) == (["retention.bytes"], ["retention.bytes"])
    assert by(101, 50, 50, 50) == ([], ["retention.bytes"])
    assert by(0, 50, 50) == (["retention.bytes"] * 2, [])
    assert by(10, 50, 50) == (["retention.bytes"], ["retention.bytes"])
    assert by(10**9, 50, 50) == ([], ["retention.bytes"])


def test_by_size_and_by_age() -> None:
    config: dict[str, Any] = {"cleanup_policy": "delete", "retention_ms": 10, "retention_bytes": 5}
    found = decided(facts(5, 1, 2, 3, ages_ms=[0, 0, 99, 0], **config))
    assert found[0] == ["retention.bytes", "retention.bytes", "retention.ms"]
    assert found[1] == ["retention.ms", "retention.bytes"]


# -- doing ---------------------------------------------------------------------------


def fill(broker: Broker, count: int = 60, topic: str = "orders", **config: Any) -> None:
    """Five or so segments of a dozen records."""
    settings = {**SMALL, **{key.replace("_", "."): value for key, value in config.items()}}
    broker.create_topic(topic, config=settings)
    with broker.producer(linger_ms=0) as producer:
        for number in range(count):
            producer.send(topic, b"%d" % number * 150, partition=0, timestamp=1000).result()


def acknowledge(broker: Broker, offset: int, group: str = "g", topic: str = "orders") -> None:
    with broker.consumer(topic, group=group) as consumer:
        while consumer.position(topic, 0) < offset:
            records = consumer.poll(offset - consumer.position(topic, 0))
        if offset:
            consumer.ack(records[-1])


def files(folder: str) -> list[str]:
    logs = Path(folder, "logs")
    return sorted(path.name for path in logs.rglob("*.log"))


def bases(broker: Broker, topic: str = "orders") -> list[int]:
    log = broker.engine.log(broker.topic(topic).partitions[0].id)
    return [each.base_offset for each in log.segments()]


@pytest.fixture
def broker(folder: str) -> Any:
    with Broker.open(folder) as opened:
        yield opened


def test_nothing_that_a_group_has_not_acknowledged(broker: Broker, folder: str) -> None:
    fill(broker)
    before, names = bases(broker), files(folder)
    assert len(before) > 4
    assert broker.compact()[0].held_by == (Hold(rule="no group"),)
    acknowledge(broker, before[3] + 1)
    acknowledge(broker, before[1], "slow")
    sizes = [os.path.getsize(path) for path in sorted(Path(folder, "logs").rglob("*.log"))]
    expected = Trimmed(
        topic="orders",
        partition=0,
        policy="acknowledged",
        log_start=before[1],
        removed=(Removal(rule="acknowledged", segments=1, bytes=sizes[0]),),
        kept_segments=len(before) - 1,
        kept_bytes=broker.info().log_bytes - sizes[0],
        held_by=(Hold(rule="group", group="slow", offset=before[1]),),
    )
    assert broker.compact(dry_run=True) == [expected]
    assert files(folder) == names
    assert broker.compact("orders") == [expected]
    assert files(folder) == names[1:]
    assert broker.ends("orders", 0).log_start == before[1]
    assert broker.compact() == [replace(expected, removed=())]
    acknowledge(broker, 60, "slow")
    assert broker.compact()[0].log_start == before[3]
    broker.delete_group("g")
    assert broker.compact()[0].log_start == before[-1]
    assert broker.compact()[0].held_by == (Hold(rule="active segment"),)
    assert [each.offset for each in read_all(broker)] == list(range(before[-1], 60))
    with broker.consumer("orders", group="late") as consumer:
        assert consumer.position("orders", 0) == before[-1]
    assert list(broker.verify()) == []


def test_unknown_topics_are_named(broker: Broker) -> None:
    with pytest.raises(UnknownTopic):
        broker.compact("nobody")
    assert broker.compact() == []


def test_a_group_that_comes_in_between_is_not_overtaken(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the transaction; and from the transaction on it is too late."""
    fill(broker)
    acknowledge(broker, 60)
    real = State.trim

    def slowly(state: State, partition_id: int, ceiling: int) -> int:
        broker.reset_group("new", "orders", {0: 5})
        return real(state, partition_id, ceiling)

    monkeypatch.setattr(State, "trim", slowly)
    [found] = broker.compact()
    assert (found.removed, found.log_start) == ((), 0)
    assert found.held_by == (Hold(rule="group", group="new", offset=5),)
    assert broker.ends("orders", 0).log_start == 0
    monkeypatch.undo()
    broker.delete_group("new")
    assert broker.compact()[0].log_start > 5


def test_a_place_that_was_trimmed_meanwhile_is_refused_or_moved(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(broker)
    acknowledge(broker, 60)

    def trimmed_meanwhile(method: str) -> None:
        real: Callable[..., Any] = getattr(GroupState, method)

        def slowly(groups: GroupState, *arguments: Any, **more: Any) -> Any:
            broker.compact()
            return real(groups, *arguments, **more)

        monkeypatch.setattr(GroupState, method, slowly)

    trimmed_meanwhile("reset")
    with pytest.raises(OffsetOutOfRange) as caught:
        broker.reset_group("h", "orders", {0: 3})
    start = broker.ends("orders", 0).log_start
    error = caught.value
    assert (error.topic, error.partition, error.offset) == ("orders", 0, 3)
    assert (error.log_start, error.durable_end) == (start, 60)
    assert "h" not in broker.groups()
    with pytest.raises(OffsetOutOfRange):
        broker.reset_group("h", "orders", {0: 3})
    monkeypatch.undo()
    fill(broker, topic="second")
    acknowledge(broker, 60, topic="second")
    trimmed_meanwhile("join")
    with broker.consumer("second", group="h") as consumer:
        [place] = broker.group("h").offsets
        assert consumer.position("second", 0) == place.committed == place.log_start > 0


def test_many_segments_go_step_by_step(broker: Broker, folder: str) -> None:
    broker.create_topic("orders", config=SMALL)
    log = broker.engine.log(broker.topic("orders").partitions[0].id)
    count = 2 * SEGMENTS_PER_STEP + 50
    with broker.producer(linger_ms=0, durability="os") as producer:
        for number in range(count):
            producer.send("orders", b"%d" % number).result()
            log.roll()
    acknowledge(broker, count)
    assert len(files(folder)) == count
    [found] = broker.compact()
    assert found.removed[0].segments == count
    assert (found.log_start, found.kept_segments, found.held_by) == (count, 0, ())
    assert files(folder) == []
    put(broker, b"goes on")
    assert [(each.offset, each.value) for each in read_all(broker)] == [(count, b"goes on")]


def test_old_and_idle_active_segments_go(broker: Broker, folder: str) -> None:
    """What is acknowledged does not stay for ever only because nothing follows."""
    fill(broker, 5)
    acknowledge(broker, 5)
    assert broker.compact()[0].held_by == (Hold(rule="active segment"),)
    broker.alter_topic("orders", {"segment.ms": 1})
    time.sleep(0.002)
    assert broker.compact(dry_run=True)[0].removed[0].segments == 1
    assert broker.compact()[0].removed[0].segments == 1
    assert files(folder) == []
    assert broker.ends("orders", 0) == (5, 5, 5)
    assert broker.compact()[0].removed == ()


def test_everything_too_old_goes_by_a_roll(broker: Broker, folder: str) -> None:
    fill(broker, cleanup_policy="delete")
    acknowledge(broker, 7)
    [found] = broker.compact(dry_run=True)
    assert found.removed == broker.compact()[0].removed
    assert (found.removed[0].rule, found.log_start) == ("retention.ms", 60)
    assert files(folder) == []
    assert broker.ends("orders", 0) == (60, 60, 60)
    put(broker, b"new")
    assert broker.compact()[0].held_by == (Hold(rule="retention.ms"),)
    assert values(read_all(broker)) == [b"new"]


def test_of_a_fenced_log_all_but_the_newest_segment_goes(broker: Broker, folder: str) -> None:
    fill(broker, cleanup_policy="delete")
    before = files(folder)
    log = broker.engine.log(broker.topic("orders").partitions[0].id)
    log._appender.fence()
    [found] = broker.compact()
    assert found.removed[0].segments == len(before) - 1
    assert found.held_by == (Hold(rule="failed sync"),)
    assert files(folder) == before[-1:]
    assert broker.ends("orders", 0).log_start == found.log_start > 0
    assert broker.compact()[0].removed == ()


def test_what_comes_during_the_roll_stays(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(broker, 5, cleanup_policy="delete")
    log = broker.engine.log(broker.topic("orders").partitions[0].id)
    real = log.roll

    def slowly() -> None:
        put(broker, b"young")
        real()

    monkeypatch.setattr(log, "roll", slowly)
    [found] = broker.compact()
    assert (found.removed, found.log_start) == ((), 0)
    assert values(read_all(broker))[-1] == b"young"


def test_only_so_many_bytes(broker: Broker) -> None:
    fill(broker, cleanup_policy="delete", retention_ms=-1, retention_bytes=9000)
    [found] = broker.compact()
    assert found.removed[0].rule == "retention.bytes"
    assert 9000 <= found.kept_bytes < 9000 + 4096
    assert found.held_by == (Hold(rule="retention.bytes"),)


# -- deleting records ----------------------------------------------------------------


def test_deleted_records_are_hidden_at_once_and_go_by_files(broker: Broker, folder: str) -> None:
    fill(broker)
    before = bases(broker)
    assert broker.delete_records("orders", {0: before[2] + 3}) == {0: before[2] + 3}
    assert bases(broker) == before[2:]
    assert [each.offset for each in read_all(broker)] == list(range(before[2] + 3, 60))
    # A lower one changes nothing, and says where the log starts.
    assert broker.delete_records("orders", {0: 0}) == {0: before[2] + 3}
    assert broker.delete_records("orders", {}) == {}
    assert broker.delete_records("orders", {0: -1}) == {0: 60}
    assert read_all(broker) == []
    assert broker.ends("orders", 0) == (60, 60, 60)
    put(broker, b"new")
    assert values(read_all(broker)) == [b"new"]
    broker.engine.log(broker.topic("orders").partitions[0].id).roll()
    assert broker.compact()[0].removed == ()  # of the last one, a record is still wanted
    assert list(broker.verify()) == []
    broker.close()
    with Broker.open(folder) as again:
        assert again.ends("orders", 0) == (60, 61, 61)


def test_nothing_is_deleted_if_anything_is_wrong(broker: Broker) -> None:
    broker.create_topic("orders", 2)
    put(broker, b"a", b"b")
    for offset in (3, -2):
        with pytest.raises(OffsetOutOfRange) as caught:
            broker.delete_records("orders", {0: 1, 1: offset})
        assert (caught.value.topic, caught.value.partition) == ("orders", 1)
    for number in (2, -1):
        with pytest.raises(UnknownPartition):
            broker.delete_records("orders", {0: 1, number: 0})
    with pytest.raises(UnknownTopic):
        broker.delete_records("nobody", {0: 0})
    assert broker.ends("orders", 0).log_start == 0


def test_a_group_behind_what_was_deleted(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    """It goes on where `auto_offset_reset` says, and the log says so."""
    fill(broker)
    acknowledge(broker, 3, "first")
    acknowledge(broker, 3, "last")
    acknowledge(broker, 3, "strict")
    start = broker.delete_records("orders", {0: 20})[0]
    caplog.clear()
    with broker.consumer("orders", group="first") as consumer:
        assert [each.offset for each in drain(consumer)] == list(range(start, 60))
        assert "orders/0: offset 3 is gone (the log holds 20 to 60)" in caplog.text
    with broker.consumer("orders", group="last", auto_offset_reset="latest") as consumer:
        assert consumer.poll() == []
        assert consumer.position("orders", 0) == 60
    with (
        broker.consumer("orders", group="strict", auto_offset_reset="error") as consumer,
        pytest.raises(OffsetOutOfRange),
    ):
        consumer.poll()
    # What a group has not acknowledged holds back what is still there.
    assert {each.group for each in broker.compact()[0].held_by} == {"first", "last", "strict"}


# -- topics that go away -------------------------------------------------------------


def test_a_new_group_is_told_what_was_trimmed_before_it(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.create_topic("orders")
    put(broker, *[b"%d" % number for number in range(6)])
    broker.consumer("orders", group="first").close()
    assert caplog.text == ""  # nothing was
    broker.delete_records("orders", {0: 4})
    with broker.consumer("orders", group="new") as consumer:
        assert (
            "group new begins at offset 4 of orders/0: the 4 before it were removed" in caplog.text
        )
        assert [record.offset for record in drain(consumer)] == [4, 5]
        consumer.ack()
    caplog.clear()
    broker.consumer("orders", group="new").close()  # it is new no more
    broker.consumer("orders", group="late", auto_offset_reset="latest").close()
    assert caplog.text == ""


def test_a_topic_that_is_deleted_meanwhile(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(broker)
    acknowledge(broker, 60)
    info = broker.topic("orders")
    real = State.trim

    def slowly(state: State, partition_id: int, ceiling: int) -> int:
        broker.delete_topic("orders")
        state.set_log_start(partition_id, ceiling)  # as if it had been quicker
        return ceiling

    monkeypatch.setattr(State, "trim", slowly)
    assert broker.compact() == []
    assert broker.engine.state.partition_ids() == set()
    assert real is not State.trim
    with pytest.raises(LogGone):
        trim(broker.engine, info, info.partitions[0], Pace())


# -- on a bad day --------------------------------------------------------------------


def prepare(folder: str) -> None:
    with Broker.open(folder) as broker:
        if not broker.topics():
            fill(broker)
            acknowledge(broker, 60)
        else:
            put(broker, *[b"%d" % number * 150 for number in range(50)])
            acknowledge(broker, broker.ends("orders", 0).durable_end)


@pytest.mark.parametrize("how", ["acknowledged", "delete", "delete_records"])
def test_a_death_at_any_step_of_trimming(folder: str, how: str) -> None:
    """The log start stands, and what is left of the files goes next time."""
    prepare(folder)

    def work(broker: Broker) -> None:
        if how == "delete_records":
            broker.delete_records("orders", {0: bases(broker)[-1]})
            return
        broker.compact()

    def check(dies_at: int, survived: bool) -> None:
        with Broker.open(folder) as broker:
            start, durable_end, log_end = broker.ends("orders", 0)
            stored = broker.engine.state.log_start(broker.topic("orders").partitions[0].id)
            assert start == stored
            assert durable_end == log_end
            assert [each.offset for each in read_all(broker)] == list(range(start, log_end))
            assert bases(broker)[0] <= start
            if survived:
                assert bases(broker)[:1] == [start] or how == "delete"
            assert list(broker.verify()) == []
            again = broker.compact()[0]
            assert again.log_start >= start
            left = bases(broker)
            assert not left or left[0] >= start or left[0] == left[-1]
            put(broker, b"more")
            assert broker.ends("orders", 0).durable_end == log_end + 1
            broker.alter_topic("orders", {"cleanup.policy": None})
            assert os.listdir(Path(folder) / "quarantine") == []
        prepare(folder)
        if how == "delete":
            with Broker.open(folder) as broker:
                config = {"cleanup.policy": "delete", "retention.ms": -1, "retention.bytes": 4096}
                broker.alter_topic("orders", config)

    assert dies_at_every_call(folder, work, check) > 5


@pytest.mark.parametrize("how", ["acknowledged", "delete"])
def test_a_fault_at_any_call_of_trimming(folder: str, how: str) -> None:
    """Then records can be appended, nothing is lost, and the next attempt comes through."""
    files = FaultyFiles()

    def opened() -> Broker:
        broker = broker_on(files, folder)
        broker.engine.compactor.start = lambda: None  # type: ignore[method-assign]
        return broker

    big = [b"%d" % number * 1500 for number in range(8)]  # a batch each
    broker = opened()
    try:
        fill(broker, 1, cleanup_policy=how, retention_bytes=0)  # which rolls, too
        was_hit, nth = True, 0
        while was_hit:
            nth += 1
            for value in big:
                put(broker, value)
            end = broker.ends("orders", 0).durable_end
            if how == "acknowledged":
                acknowledge(broker, end)
            assert len(bases(broker)) > 3
            before = files.hits
            files.fail(nth=nth)
            with contextlib.suppress(BrokerError):
                broker.compact()
            files.heal()
            was_hit = files.hits > before
            start = broker.ends("orders", 0).log_start
            assert [each.offset for each in read_all(broker)] == list(range(start, end))
            try:
                put(broker, b"afterwards")
            except BrokerError:
                # A sync that failed on rolling has fenced the log, until it is opened again.
                broker.close()
                broker = opened()
                put(broker, b"afterwards")
            assert values(read_all(broker))[-1] == b"afterwards"
            broker.compact()
            start = broker.ends("orders", 0).log_start
            assert bases(broker) == ([start] if start <= end else [])
            assert [each.offset for each in read_all(broker)] == list(range(start, end + 1))
            assert list(broker.verify()) == []
        assert nth > 10
    finally:
        broker.close()


def test_a_log_start_that_only_the_state_has_is_applied(broker: Broker, folder: str) -> None:
    """Whoever stored it died before the row and the files."""
    fill(broker)
    before = bases(broker)
    partition_id = broker.topic("orders").partitions[0].id
    broker.engine.state.set_log_start(partition_id, before[2])
    assert broker.ends("orders", 0).log_start == 0
    [found] = broker.compact()
    assert found.removed[0].rule == "log start"
    assert (bases(broker), broker.ends("orders", 0).log_start) == (before[2:], before[2])
    broker.engine.state.set_log_start(partition_id, before[2] + 1)
    assert broker.compact()[0].removed == ()
    assert broker.ends("orders", 0).log_start == before[2] + 1
    crash(broker)
    with Broker.open(folder) as again:
        assert again.ends("orders", 0).log_start == before[2] + 1
