"""Holding a group, and looking whether somebody does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from seawall.broker import Broker
from seawall.broker.errors import GroupBusy
from seawall.broker.groups import groups_folder
from seawall.broker.membership import group_path, is_held
from seawall.wal.files import READ_WRITE, Files


@contextmanager
def glance(path: str) -> Iterator[None]:
    """Somebody who is in the middle of looking whether a group is held."""
    files = Files()
    descriptor = files.open(path, READ_WRITE)
    try:
        assert files.try_lock(descriptor, exclusive=False)
        yield
    finally:
        files.close(descriptor)


@pytest.fixture
def path(broker: Broker) -> str:
    """The lock file of the group ``readers``, which nobody holds."""
    broker.consumer("orders", group="readers").close()
    return group_path(groups_folder(broker.engine), "readers")


def test_is_held(broker: Broker, path: str) -> None:
    folder = str(Path(path).parent)
    assert not is_held(Files(), folder, "unknown")
    assert not is_held(Files(), folder, "readers")
    with broker.consumer("orders", group="readers"):
        assert is_held(Files(), folder, "readers")
    assert not is_held(Files(), folder, "readers")


def test_who_looks_does_not_look_like_a_holder(broker: Broker, path: str) -> None:
    with glance(path):
        assert not is_held(Files(), str(Path(path).parent), "readers")
        assert broker.group("readers").holder is None


def test_who_looks_is_waited_out(broker: Broker, path: str) -> None:
    """Also by a consumer that does not want to wait for the group."""
    looking, seen = threading.Event(), threading.Event()

    def look() -> None:
        with glance(path):
            looking.set()
            seen.wait(0.05)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        assert looking.wait(10)
        broker.consumer("orders", group="readers", group_wait_ms=0).close()
    finally:
        seen.set()
        thread.join()


def test_who_holds_is_not_waited_for(broker: Broker, path: str) -> None:
    with broker.consumer("orders", group="readers"), pytest.raises(GroupBusy):
        broker.consumer("orders", group="readers", group_wait_ms=0)
