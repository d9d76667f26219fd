"""What an operator asks of a directory: what is in it, and is it whole."""

from __future__ import annotations

import os
import re

import pytest
from brokers import in_thread, put
from storage import batch, flip

from seawall.broker import Broker
from seawall.broker.errors import UnknownTopic


def test_info(broker: Broker, folder: str) -> None:
    put(broker, b"a", b"b")
    broker.consumer("orders", group="g").close()
    info = broker.info()
    assert (info.path, info.cluster_id, info.format) == (folder, broker.cluster_id, "seawall 1")
    assert (info.topics, info.partitions, info.groups, info.records) == (1, 1, 1, 2)
    assert 0 < info.log_bytes < 300


def test_a_whole_directory_has_no_findings(broker: Broker) -> None:
    put(broker, b"a")
    assert list(broker.verify()) == []
    assert list(broker.verify("orders")) == []
    with pytest.raises(UnknownTopic):
        list(broker.verify("nowhere"))


def test_verify_while_others_write(broker: Broker) -> None:
    stop = False

    def write() -> None:
        with broker.consumer("orders", group="g") as consumer:
            while not stop:
                put(broker, b"x")
                consumer.poll()
                consumer.ack()

    with in_thread(write):
        try:
            for _ in range(4):
                assert list(broker.verify()) == []
        finally:
            stop = True


def test_every_flipped_byte_of_a_segment_is_found(broker: Broker) -> None:
    log = broker.engine.log(broker.topic("orders").partitions[0].id)
    size = len(batch(b"abc"))
    for _ in range(4):
        log.commit(log.append([batch(b"abc")]).next_offset)
    path = log.context.segment_path(0)
    for inside in range(size):
        if 12 <= inside < 16:
            continue  # the leader epoch carries no meaning here
        flip(path, 2 * size + inside, 4)
        findings = list(broker.verify("orders"))
        assert findings, inside
        finding = findings[0]
        assert (finding.path, finding.topic, finding.partition) == (path, "orders", 0)
        assert (finding.position, finding.offset) == (2 * size, 2)
        flip(path, 2 * size + inside, 4)
    assert list(broker.verify()) == []


def test_missing_and_shortened_segments(broker: Broker) -> None:
    broker.create_topic("rolled", config={"segment.bytes": 4096})
    log = broker.engine.log(broker.topic("rolled").partitions[0].id)
    for _ in range(30):
        log.commit(log.append([batch(b"x" * 1000)]).next_offset)
    names = sorted(name for name in os.listdir(log.context.folder) if name.endswith(".log"))
    assert len(names) > 3
    second = os.path.join(log.context.folder, names[1])
    os.rename(second, second + ".away")
    [finding] = broker.verify()
    assert finding.path == second
    assert (finding.offset, finding.next_offset) == (int(names[1][:20]), int(names[2][:20]))
    os.rename(second + ".away", second)
    os.truncate(second, 1500)
    [finding] = broker.verify("rolled")
    assert (finding.path, finding.position) == (second, len(batch(b"x" * 1000)))


def test_damage_in_the_state_and_the_index(folder: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders")
        put(broker, b"x")
        broker.consumer("orders", group="the group's name").close()
        for name in ("state.lmdb", "index.lmdb"):
            path = os.path.join(folder, name, "data.mdb")
            with open(path, "rb") as file:
                data = file.read()
            what = b"the group's name" if name == "state.lmdb" else broker.cluster_id.encode()
            # Wherever it stands: pages that were replaced keep what they held.
            places = [found.start() for found in re.finditer(re.escape(what), data)]
            for at in places:
                flip(path, at)
            findings = list(broker.verify())
            assert {finding.path for finding in findings} == {os.path.join(folder, name)}
            assert findings[0].problem
            for at in places:
                flip(path, at)
        assert list(broker.verify()) == []
