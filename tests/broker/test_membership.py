"""Holding a group: one at a time, freed by close or death, fenced when lost."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from brokers import in_thread, put
from storage import Child

from seawall.broker import Broker
from seawall.broker.errors import GroupBusy, GroupFenced, InvalidGroupName
from seawall.broker.membership import group_path


def test_taking_over_begins_a_new_generation(broker: Broker) -> None:
    generations = []
    for _ in range(3):
        with broker.consumer("orders", group="g"):
            found = broker.engine.state.group("g")
            assert found is not None
            assert found.holder is not None
            assert found.holder.pid == os.getpid()
            generations.append(found.generation)
    assert generations == [1, 2, 3]


def test_whoever_lost_its_lock_can_acknowledge_nothing(broker: Broker, folder: str) -> None:
    put(broker, b"x")
    with broker.consumer("orders", group="g") as late:
        late.poll()
        shutil.rmtree(Path(folder) / "run" / "groups")  # somebody tidied up
        with broker.consumer("orders", group="g") as holder:
            with pytest.raises(GroupFenced) as caught:
                late.ack()
            assert (caught.value.generation, caught.value.current) == (1, 2)
            holder.poll()
            holder.ack()


def test_waiting_for_a_group(broker: Broker) -> None:
    holder = broker.consumer("orders", group="g")

    def close_later() -> None:
        time.sleep(0.2)
        holder.close()

    with in_thread(close_later):
        started = time.monotonic()
        broker.consumer("orders", group="g", group_wait_ms=10_000).close()
        assert 0.1 < time.monotonic() - started < 1.5


def test_a_failed_opening_does_not_keep_the_group(broker: Broker) -> None:
    with pytest.raises(ValueError):
        broker.consumer("orders", group="g", start="nonsense")
    broker.consumer("orders", group="g").close()


def test_looking_does_not_hold(broker: Broker) -> None:
    broker.consumer("orders", group="g").close()
    stop = False

    def look() -> None:
        while not stop:
            broker.group("g")

    with in_thread(look), in_thread(look):
        try:
            for _ in range(150):
                broker.consumer("orders", group="g").close()
        finally:
            stop = True


@pytest.mark.parametrize("name", ["", "x" * 256, "a\nb", "\udc80", "é" * 128])
def test_bad_group_names(broker: Broker, name: str) -> None:
    for call in (
        lambda: broker.consumer("orders", group=name),
        lambda: broker.group(name),
        lambda: broker.delete_group(name),
        lambda: broker.reset_group(name, "orders", {0: 0}),
    ):
        with pytest.raises(InvalidGroupName) as caught:
            call()  # type: ignore[no-untyped-call]
        assert caught.value.group == name


@pytest.mark.parametrize("name", ["../../escape", "a/b", "ü", "x" * 255, " "])
def test_any_other_name_stays_inside_the_folder(broker: Broker, folder: str, name: str) -> None:
    groups = Path(folder) / "run" / "groups"
    assert Path(group_path(str(groups), name)).parent == groups
    with broker.consumer("orders", group=name):
        assert broker.group(name).holder is not None
    assert broker.groups() == [name]


def test_a_holder_that_is_killed_frees_the_group_at_once(folder: str) -> None:
    with Broker.open(folder) as broker:
        broker.create_topic("orders")

    def hold(say: Callable[[str], None]) -> None:
        with Broker.open(folder) as other, other.consumer("orders", group="g"):
            say("holding")
            time.sleep(60)

    child = Child(hold)
    assert child.line() == "holding"
    try:
        with Broker.open(folder) as broker:
            with pytest.raises(GroupBusy) as caught:
                broker.consumer("orders", group="g")
            assert caught.value.holder_pid == child.pid
            assert str(child.pid) in str(caught.value)
            holder = broker.group("g").holder
            assert holder is not None
            assert holder.pid == child.pid
            child.kill(signal.SIGKILL)
            started = time.monotonic()
            broker.consumer("orders", group="g", group_wait_ms=10_000).close()
            assert time.monotonic() - started < 1
            assert broker.group("g").holder is None
    finally:
        child.kill(signal.SIGKILL)
        child.wait()
