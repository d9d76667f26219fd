"""A process that has a directory open and does what it is told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
from storage import memory_folder

from seawall.broker.broker import Broker
from seawall.broker.torture import promises
from seawall.broker.torture.actors import Actor, Reply, warm_children
from seawall.broker.torture.children import Children
from seawall.broker.torture.marks import Ledger
from seawall.wal.torture.search import Broken

PLACE = {"topic": "orders", "partition": 0, "partitions": 2}
PRODUCE = {"op": "produce", **PLACE, "records": 3, "size": 8, "compression": "none"}


@pytest.fixture
def folder() -> Iterator[str]:
    with memory_folder() as path:
        yield path


@pytest.fixture
def children() -> Iterator[Children]:
    with warm_children() as children:
        yield children


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def actor(children: Children, ledger: Ledger, folder: str) -> Actor:
    actor = Actor(children, ledger, folder, number=1)
    actor.must({"op": "open"})
    actor.must({"op": "create", **PLACE})
    return actor


def test_what_it_does_is_promised(actor: Actor, ledger: Ledger, folder: str) -> None:
    assert actor.must(PRODUCE).op == "produce"
    actor.must({"op": "acknowledge", **PLACE, "group": "billing", "records": 2})
    actor.end()
    assert len(ledger.topics["orders"].partitions[0].known) == 3
    assert ledger.committed["billing", "orders", 0] == {2}
    with Broker.open(folder) as broker:
        promises.check(broker, ledger)


def test_an_error_is_a_reply(actor: Actor) -> None:
    reply = actor.do({"op": "describe", "group": "nobody"})
    assert (reply.error, reply.holder_pid) == ("UnknownGroup", 0)
    assert "nobody" in reply.text
    with pytest.raises(Broken, match="process 1: describe: UnknownGroup"):
        actor.must({"op": "describe", "group": "nobody"})


def test_what_is_no_named_error_is_broken(actor: Actor) -> None:
    with pytest.raises(Broken, match="KeyError: 'no such step'"):
        actor.do({"op": "no such step"})
    with pytest.raises(Broken, match="died of 1 "):
        actor.do({"op": "open"})


def test_one_that_dies_is_broken(actor: Actor) -> None:
    os.kill(actor.pid, signal.SIGKILL)
    with pytest.raises(Broken, match="process 1 died of -9 while it was told produce"):
        actor.do(PRODUCE)


def test_it_holds_a_group_until_told(children: Children, actor: Actor, folder: str) -> None:
    actor.must(PRODUCE)
    actor.must({"op": "hold", "group": "billing", "topic": "orders"})
    other = Actor(children, Ledger(), folder, number=2)
    other.must({"op": "open"})
    assert other.must({"op": "describe", "group": "billing"}).found == actor.pid
    reply = other.do({"op": "reset", **PLACE, "part": 0, "group": "billing"})
    assert (reply.error, reply.holder_pid) == ("GroupBusy", actor.pid)
    assert actor.must({"op": "take_held", "group": "billing"}).found == 3
    assert actor.must({"op": "ack_held", "group": "billing"}).found == 3
    actor.must({"op": "let"})
    other.must({"op": "hold", "group": "billing", "topic": "orders"})
    assert other.must({"op": "take_held", "group": "billing"}).found == 0
    assert other.must({"op": "ack_held", "group": "billing"}).found == 0
    other.must({"op": "let"})
    other.end()
    actor.end()


def test_it_waits_for_a_record(
    children: Children, actor: Actor, ledger: Ledger, folder: str
) -> None:
    waiting = Actor(children, ledger, folder, number=2)
    waiting.must({"op": "open"})
    wait = {"op": "wait", **PLACE, "timeout_ms": 60_000}
    assert waiting.do(wait).op == "waiting"
    actor.must(PRODUCE)
    assert waiting.reply().found == 3
    assert actor.do({**wait, "timeout_ms": 1}).op == "waiting"
    assert actor.reply().found == 0


def test_it_goes_on_until_told_enough(actor: Actor, ledger: Ledger) -> None:
    actor.tell({"op": "stream", "steps": [PRODUCE, {"op": "checkpoint", **PLACE}]})
    deadline_s = time.monotonic() + 60
    while not (known := len(ledger.topics["orders"].partitions[0].known)):
        assert time.monotonic() < deadline_s, "nothing is produced"
        actor.gather(0.05)
    actor.child.say({"op": "enough"})
    reply = actor.reply()
    assert (reply.op, reply.error) == ("stream", "")
    assert len(ledger.topics["orders"].partitions[0].known) >= known


def test_what_ends_of_itself_is_no_stream(actor: Actor) -> None:
    actor.tell(PRODUCE)
    with pytest.raises(Broken, match="ended its produce"):
        actor.gather(60)


@pytest.mark.parametrize(
    ("trap", "pattern"),
    [
        ({"call": "lock", "pattern": "*-orders-0/LOCK"}, "append lock"),
        ({"call": "lock", "pattern": "*-orders-0/LOCK", "nth": 2}, "to publish"),
        ({"call": "lock", "pattern": "*-orders-0/LOCK", "steps": 1}, "in the middle"),
        ({"call": "lock", "pattern": "*-orders-0/LOCK", "steps": 99}, "before it is freed"),
        ({"call": "sync", "pattern": "*.log"}, "between append and publishing"),
    ],
)
def test_it_stops_where_it_is_told(
    actor: Actor, ledger: Ledger, trap: dict[str, object], pattern: str
) -> None:
    actor.must({"op": "trap", **trap})
    actor.tell(PRODUCE)
    assert actor.stopped_or_done() is None, pattern
    assert ledger.topics["orders"].partitions[0].known == {}
    actor.go_on()
    assert actor.reply().error == ""
    assert len(ledger.topics["orders"].partitions[0].known) == 3


def test_it_stops_in_transactions(actor: Actor) -> None:
    for trap, step in (
        ({"call": "catalog", "nth": 2}, {"op": "create", **PLACE, "topic": "new"}),
        (
            {"call": "lock", "pattern": "*/state.lmdb/write.lock", "steps": 1},
            {"op": "reset", **PLACE, "part": 0, "group": "billing"},
        ),
    ):
        actor.must({"op": "trap", **trap})
        actor.tell(step)
        assert actor.stopped_or_done() is None, trap
        actor.go_on()
        assert actor.reply().error == ""


def test_a_trap_that_is_not_met_stops_nothing(actor: Actor) -> None:
    actor.must({"op": "trap", "call": "lock", "pattern": "*-orders-1/LOCK"})
    actor.tell(PRODUCE)
    reply = actor.stopped_or_done()
    assert isinstance(reply, Reply)
    assert reply.error == ""
    actor.stop()
    assert actor.child.is_stopped()
    actor.go_on()
    actor.must(PRODUCE)


def test_it_may_be_in_another_pid_namespace(children: Children, actor: Actor, folder: str) -> None:
    foreigner = Actor(children, Ledger(), folder, number=2, is_foreign=True)
    assert foreigner.reply().found in (True, False)
    assert foreigner.do({"op": "open"}).error == "ForeignNamespace"
    foreigner.end()


def test_it_may_be_limited(actor: Actor) -> None:
    actor.must({"op": "enlarge", "topic": "orders", "bytes": 1 << 20})
    actor.must({"op": "limit", "bytes": 1000})
    assert actor.do({**PRODUCE, "size": 900}).error == "StorageFull"
    actor.must({"op": "limit", "bytes": -1})
    actor.must({**PRODUCE, "size": 900})
