"""What a round's errors are called."""

from __future__ import annotations

import errno

import pytest

from seawall.broker import Broker
from seawall.broker.errors import (
    BrokerError,
    DirectoryUnusable,
    LogFenced,
    OutcomeUnknown,
    RecordTooLarge,
    StorageFull,
)
from seawall.broker.rounds import interrupted, named
from seawall.broker.routes import Route, TopicPartition
from seawall.wal import errors as wal


@pytest.fixture
def queue(broker: Broker) -> TopicPartition:
    return Route(broker.topic("orders"), 1000).queues[0]


def test_names(queue: TopicPartition) -> None:
    own = RecordTooLarge(size_bytes=2, max_bytes=1)
    assert named(own, queue) is own
    fenced = named(wal.LogFenced(path="/x"), queue)
    assert isinstance(fenced, LogFenced)
    assert (fenced.topic, fenced.partition) == ("orders", 0)
    assert isinstance(named(OSError(errno.ENOSPC, "full"), queue), StorageFull)
    assert isinstance(named(OSError(errno.EMFILE, "too many", "/x"), queue), DirectoryUnusable)
    unexpected = named(ZeroDivisionError("why"), queue)
    assert type(unexpected) is BrokerError
    assert "ZeroDivisionError" in str(unexpected)


def test_an_interrupted_round(queue: TopicPartition) -> None:
    error = interrupted(queue)
    assert isinstance(error, OutcomeUnknown)
    assert (error.topic, error.partition) == ("orders", 0)
