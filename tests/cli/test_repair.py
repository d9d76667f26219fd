"""`seawall repair`: what it did, line by line, and exit codes."""

from __future__ import annotations

import re
from pathlib import Path

from commands import Cli

from seawall.broker import Broker
from seawall.broker.state_format import group_key


def damage(data: Path, topic: str) -> Path:
    """Three records of which the second is damaged."""
    with Broker.open(data) as broker, broker.producer() as producer:
        for n in range(3):
            producer.send(topic, b"value-%d" % n).result()
    (segment,) = data.glob(f"logs/*-{topic}-0/*.log")
    content = segment.read_bytes()
    with segment.open("r+b") as file:
        file.seek(content.index(b"value-1"))
        file.write(b"VALUE")
    return segment


def test_repair(cli: Cli, orders: str, data: Path) -> None:
    assert cli("repair") == (0, b"", "seawall: nothing to repair\n")
    assert cli("repair", "-q") == (0, b"", "")
    segment = damage(data, orders)
    before = segment.read_bytes()

    ended = cli("repair", "--dry-run")
    assert (ended.code, ended.err) == (0, "seawall: 1 damaged place would be repaired\n")
    (line,) = ended.out.decode().splitlines()
    assert line.startswith(f"{segment}:")
    assert re.search(r": damage: its CRC is .*from offset 1 to 2\): would become a hole$", line)
    assert segment.read_bytes() == before

    ended = cli("repair", orders)
    assert (ended.code, ended.err) == (0, "seawall: 1 damaged place repaired\n")
    (line,) = ended.out.decode().splitlines()
    found = re.search(r": is a hole now, kept in (\S+)$", line)
    assert found
    assert Path(found[1]).parent == data / "quarantine"
    assert cli("verify") == (0, b"", "seawall: no damage found\n")
    assert cli("consume", orders, "-e").out == b"value-0\nvalue-2\n"


def test_what_only_a_backup_can_mend(cli: Cli, orders: str, data: Path) -> None:
    cli("consume", orders, "-e", "-g", "billing")
    with Broker.open(data) as broker:
        environment = broker.engine.opening.state_environment
        with environment.write() as transaction:
            transaction._transaction.put(group_key("billing"), b"rubbish")
    for arguments in (("--dry-run",), ()):
        ended = cli("repair", *arguments)
        assert ended.code == 1
        assert ended.err == "seawall: 1 damaged place left: only a backup can mend that\n"
        assert ended.out.decode().endswith("restore it from a backup: left as it is\n")


def test_it_is_refused_while_others_have_it_open(cli: Cli, orders: str, data: Path) -> None:
    with Broker.open(data):
        ended = cli("repair")
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
        assert "stop all that use it" in ended.err
        assert cli("repair", "--dry-run").code == 0


def test_an_unknown_topic_and_an_unknown_place(cli: Cli, orders: str) -> None:
    for arguments in (("nosuch",), ("nosuch", "--dry-run"), ("-b", "nowhere")):
        ended = cli("repair", *arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    ended = cli("repair", "-b", "kafka://host:9092")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "kafka://host:9092 cannot do this" in ended.err
