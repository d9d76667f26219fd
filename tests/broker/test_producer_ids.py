"""Producer ids: nobody ever gets one that somebody else had."""

from __future__ import annotations

import os
import shutil
import threading
from typing import Any

import pytest
from brokers import crash
from storage import Child

from seawall.broker import Broker
from seawall.broker.errors import ForkedBroker
from seawall.broker.producer_ids import BLOCK, LAST_EPOCH, ProducerId


def test_ids_follow_one_another_in_a_block(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = broker.engine.producer_ids
    first = ids.next()
    taken: list[int] = []
    take = broker.engine.state.take_producer_ids

    def counted(count: int) -> int:
        taken.append(count)
        return take(count)

    monkeypatch.setattr(broker.engine.state, "take_producer_ids", counted)
    block = [ids.next() for _ in range(BLOCK - 1)]
    assert block == [ProducerId(first.producer_id + 1 + number, 0) for number in range(BLOCK - 1)]
    assert taken == []
    assert ids.next().producer_id > block[-1].producer_id
    assert taken == [BLOCK]


def test_no_id_is_given_twice(folder: str) -> None:
    """To threads, to processes that are killed, and after an old copy of the state was put back."""
    given: list[int] = []
    with Broker.open(folder) as broker:

        def take() -> None:
            given.extend(broker.engine.producer_ids.next().producer_id for _ in range(700))

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    shutil.copytree(os.path.join(folder, "state.lmdb"), os.path.join(folder, "run", "copy"))
    for _ in range(3):
        crashed = Broker.open(folder)
        given.append(crashed.engine.producer_ids.next().producer_id)
        crash(crashed)
    shutil.rmtree(os.path.join(folder, "state.lmdb"))
    shutil.move(os.path.join(folder, "run", "copy"), os.path.join(folder, "state.lmdb"))
    with Broker.open(folder) as broker:
        given.append(broker.engine.producer_ids.next().producer_id)
    assert len(set(given)) == len(given)
    assert max(given) < 1 << 53  # exact in JSON, too


def test_a_clock_that_is_set_back(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    state = broker.engine.state
    first = state.take_producer_ids(10)
    monkeypatch.setattr(state, "clock_ms", lambda: 5)
    assert state.take_producer_ids(10) == first + 10
    assert state.take_producer_ids(10) == first + 20


def test_what_comes_after_an_epoch(broker: Broker) -> None:
    ids = broker.engine.producer_ids
    assert ids.after(7, 0) == (7, 1)
    assert ids.after(7, LAST_EPOCH - 1) == (7, LAST_EPOCH)
    for epoch in (LAST_EPOCH, LAST_EPOCH + 1, -1):
        producer_id, new_epoch = ids.after(7, epoch)
        assert producer_id != 7
        assert new_epoch == 0


def test_an_interrupt_wastes_a_block_at_the_most(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids: Any = broker.engine.producer_ids
    state = broker.engine.state
    take = state.take_producer_ids

    def interrupted(count: int) -> int:
        take(count)
        raise KeyboardInterrupt

    monkeypatch.setattr(state, "take_producer_ids", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ids.next()
    monkeypatch.setattr(state, "take_producer_ids", take)
    assert ids.next().producer_id > 0


def test_a_child_takes_nothing_of_its_parents_block(broker: Broker) -> None:
    broker.engine.producer_ids.next()

    def work(say: Any) -> None:
        try:
            broker.engine.producer_ids.next()
        except ForkedBroker as error:
            say(type(error).__name__)

    assert Child(work).wait() == ["ForkedBroker"]
