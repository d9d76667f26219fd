"""`Fetcher`: one partition, record by record, whatever the batches look like."""

from __future__ import annotations

import pytest
from brokers import put
from hypothesis import given, settings
from hypothesis import strategies as st
from storage import memory_folder

from seawall.broker import Broker
from seawall.broker.fetch import Fetcher
from seawall.wal.log import Log
from seawall.wal.reader import Chunk, Reader
from seawall.wal.records import empty_batch, encode_batch

BATCHES = st.lists(
    st.tuples(
        st.sampled_from(["records", "records", "control", "hole"]),
        st.integers(1, 6),
        st.sampled_from(["none", "lz4"]),
    ),
    min_size=1,
    max_size=12,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 9)),
        st.tuples(st.just("seek"), st.integers(0, 80)),
    ),
    max_size=15,
)


def fetcher(
    log: Log,
    *,
    position: int = 0,
    fetch_bytes: int = 1 << 20,
    auto_offset_reset: str = "earliest",
) -> Fetcher:
    return Fetcher(
        log,
        topic="orders",
        partition=0,
        partition_id=1,
        position=position,
        auto_offset_reset=auto_offset_reset,
        fetch_bytes=fetch_bytes,
    )


@settings(max_examples=60)
@given(BATCHES, STEPS, st.sampled_from([1, 150, 1 << 20]))
def test_any_batches_any_steps(
    batches: list[tuple[str, int, str]], steps: list[tuple[str, int]], fetch_bytes: int
) -> None:
    with memory_folder() as folder, Broker.open(folder) as broker:
        broker.create_topic("orders")
        log = broker.engine.log(broker.topic("orders").partitions[0].id)
        visible: list[int] = []
        end = 0
        for kind, count, compression in batches:
            rows = [(1000, b"k", b"%d" % (end + number), ()) for number in range(count)]
            if kind == "hole":
                log.append([empty_batch(end, count - 1, 1000)])
            elif kind == "control":
                log.append([encode_batch(rows, is_control=True)])
            else:
                log.append([encode_batch(rows, compression=compression)])
                visible += range(end, end + count)
            end += count
        log.sync()
        reading = fetcher(log, fetch_bytes=fetch_bytes)
        position = 0
        for step, number in [*steps, *[("take", 9)] * 30]:
            if step == "seek":
                position = min(number, end)
                reading.seek(position)
                assert reading.position == position
                continue
            got = reading.take(number)
            wanted = [offset for offset in visible if offset >= position][:number]
            assert [record.offset for record in got] == wanted[: len(got)]
            assert bool(got) == bool(wanted)
            assert [record.value for record in got] == [b"%d" % record.offset for record in got]
            assert [record.topic for record in got] == ["orders"] * len(got)
            position = got[-1].offset + 1 if got else end
            assert reading.position >= position
        assert reading.position == end


def test_rewinding_hands_out_again() -> None:
    with memory_folder() as folder, Broker.open(folder) as broker:
        broker.create_topic("orders")
        log = broker.engine.log(broker.topic("orders").partitions[0].id)
        log.commit(log.append([encode_batch([(1, None, b"x", ())] * 10)]).next_offset)
        reading = fetcher(log)
        assert len(reading.take(4)) == 4
        reading.rewind(2)
        assert [record.offset for record in reading.take(100)] == list(range(2, 10))
        assert reading.take(1) == []
        reading.check_end(10)
        reading.check_offset(10)
        assert reading.ends().durable_end == 10


@pytest.mark.parametrize("reset", ["earliest", "latest"])
def test_a_place_that_is_trimmed_again_and_again(
    broker: Broker, reset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As happens if a log is trimmed between two looks at it."""
    put(broker, *[b"%d" % number for number in range(10)])
    log = broker.engine.log(broker.topic("orders").partitions[0].id)
    real = Reader.read
    left = [2, 5, 8]

    def slowly(reader: Reader, max_bytes: int) -> Chunk:
        if left:
            broker.delete_records("orders", {0: left.pop(0)})
        return real(reader, max_bytes)

    monkeypatch.setattr(Reader, "read", slowly)
    found = fetcher(log, auto_offset_reset=reset)
    records = found.take(100)
    while left:
        records += found.take(100)
    assert [each.offset for each in records] == ([8, 9] if reset == "earliest" else [])
    assert found.position == 10
