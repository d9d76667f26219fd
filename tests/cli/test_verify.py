"""`seawall verify`: silent success, or file, position and offset of each damaged place."""

from __future__ import annotations

import re
from pathlib import Path

from commands import Cli

from seawall.broker import Broker


def test_verify(cli: Cli, orders: str, data: Path) -> None:
    cli("topic", "create", "other", "-q")
    with Broker.open(data) as broker, broker.producer() as producer:
        for n in range(3):
            producer.send(orders, b"value-%d" % n).result()
    assert cli("verify") == (0, b"", "seawall: no damage found\n")
    assert cli("verify", orders, "-q") == (0, b"", "")

    (segment,) = data.glob("logs/*-orders-0/*.log")
    content = segment.read_bytes()
    with segment.open("r+b") as file:
        file.seek(content.index(b"value-1"))
        file.write(b"VALUE")

    ended = cli("verify")
    assert (ended.code, ended.err) == (1, "seawall: 1 damaged place found\n")
    (line,) = ended.out.decode().splitlines()
    assert line.startswith(f"{segment}:")
    assert re.search(r"\(partition 0 of 'orders', from offset 1 to 2\)$", line)
    assert cli("verify", orders).code == 1
    assert cli("verify", "other").code == 0


def test_an_unknown_topic(cli: Cli, orders: str) -> None:
    ended = cli("verify", "nosuch")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
