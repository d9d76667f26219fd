from __future__ import annotations

import os
import subprocess
import sys

import pytest
from storage import FaultyFiles

from seawall.broker import Broker
from seawall.broker.errors import ServerRunning
from seawall.broker.server_lease import ServerLease
from seawall.wal.files import Files

HOLD = """
import sys, time
from seawall.broker.server_lease import ServerLease
from seawall.wal.files import Files
lease = ServerLease(Files(), sys.argv[1])
lease.take()
lease.tell("127.0.0.1:1234")
print("held", flush=True)
time.sleep(600)
"""


def lease_of(broker: Broker) -> ServerLease:
    return ServerLease(Files(), broker.path)


def test_one_holds_it_and_says_where(broker: Broker) -> None:
    first, second = lease_of(broker), lease_of(broker)
    first.take()
    with pytest.raises(ServerRunning) as raised:
        second.take()
    assert (raised.value.holder_pid, raised.value.address) == (os.getpid(), "")
    first.tell("127.0.0.1:9092")
    with pytest.raises(ServerRunning, match=r"127\.0\.0\.1:9092") as raised:
        second.take()
    assert raised.value.address == "127.0.0.1:9092"
    first.give_back()
    first.give_back()
    second.take()
    second.give_back()


def test_it_is_free_as_soon_as_its_holder_is_dead(broker: Broker) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, broker.path], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        lease = lease_of(broker)
        with pytest.raises(ServerRunning) as raised:
            lease.take()
        assert (raised.value.holder_pid, raised.value.address) == (holder.pid, "127.0.0.1:1234")
        holder.kill()
        holder.wait()
        lease.take()
        lease.give_back()


def test_what_a_dead_one_wrote_is_not_believed(broker: Broker) -> None:
    first, second = lease_of(broker), lease_of(broker)
    path = f"{broker.path}/run/server.lock"
    for left in (b"", b"{", b"[]", b'{"pid": 1}', b'{"pid": 1, "address": "elsewhere:1"}'):
        first.take()
        with open(path, "wb") as file:
            file.write(left)
        with pytest.raises(ServerRunning) as raised:
            second.take()
        assert (raised.value.holder_pid, raised.value.address) == (os.getpid(), "")
        first.give_back()


def test_a_forked_child_does_not_hold_it(broker: Broker) -> None:
    lease = lease_of(broker)
    lease.take()
    lease.abandon()  # which in a child closes the child's copy
    other = lease_of(broker)
    other.take()
    other.give_back()


def test_a_disk_that_fails_holds_nothing(broker: Broker) -> None:
    files = FaultyFiles()
    lease = ServerLease(files, broker.path)
    files.fail("pwrite", where="server.lock")
    with pytest.raises(OSError, match="Input/output"):
        lease.take()
    again = lease_of(broker)
    again.take()
    again.give_back()
