"""A disk that the directory has filled by itself, and on which there is nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import seawall
from storage import Child, Say

from seawall.broker import Broker
from seawall.broker.errors import StorageFull
from seawall.broker.torture.small_disks import TMPFS_BYTES, mount


def test_a_disk_that_records_have_filled_is_emptied_by_acknowledging(tmp_path: Path) -> None:
    """No block could be freed in another way."""
    folder = str(tmp_path / "disk")
    os.mkdir(folder)

    def work(say: Say) -> None:
        try:
            mount("tmpfs", folder, "")  # only this process sees it, and it goes with it
        except OSError as error:
            say(f"cannot mount: {error}")
            return
        path = os.path.join(folder, "data")
        with Broker.open(path) as broker:
            broker.create_topic("orders", config={"segment.bytes": TMPFS_BYTES // 8})
            consumer, producer = broker.consumer("orders", group="g"), broker.producer()
            for _ in range(2):
                sent = 0
                try:
                    while True:
                        producer.send("orders", bytes(10_000)).result()
                        sent += 1
                except StorageFull:
                    pass
                assert 10_000 * sent > TMPFS_BYTES // 2, sent
                ended = seawall("compact", "-b", path)  # a new process has room to begin
                assert ended.code == 0, ended.err
                while records := consumer.poll(timeout_ms=0):
                    consumer.ack(records[-1])
                broker.compact()
        say("filled twice")

    said = Child(work).wait()
    if said[0].startswith("cannot mount"):
        pytest.skip(said[0])
    assert said == ["filled twice"]
