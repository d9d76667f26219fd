"""`seawall topic`: list, create, describe, delete; and directories that are no broker."""

from __future__ import annotations

import json
import os
from pathlib import Path
from uuid import UUID

import pytest
from commands import Cli, seawall


def test_create_list_describe_delete(cli: Cli, tmp_path: Path) -> None:
    ended = cli("topic", "create", "orders", "-p", 2, "-c", "segment.bytes=1048576")
    assert ended == (0, b"", "seawall: topic 'orders' has 2 partitions\n")
    assert cli("topic", "create", "audit").err == "seawall: topic 'audit' has 1 partition\n"
    (tmp_path / "x").write_bytes(b"a\nb\n")
    cli("produce", "orders", "-p", 1, tmp_path / "x")

    assert cli("topic", "list").out.decode() == (
        "TOPIC   PARTITIONS  RECORDS\naudit            1        0\norders           2        2\n"
    )
    assert cli("topic", "list", "-q").out == b"audit\norders\n"
    lines = cli("topic", "list", "--json").lines
    assert [json.loads(line)["topic"] for line in lines] == ["audit", "orders"]

    facts = json.loads(cli("topic", "describe", "orders", "--json").out)
    assert facts == json.loads(lines[1])
    assert str(UUID(facts["uuid"])) == facts["uuid"]
    assert facts["config"] == {"segment.bytes": "1048576"}
    assert facts["partitions"][1] == {
        "partition": 1,
        "id": facts["partitions"][1]["id"],
        "start": 0,
        "end": 2,
        "records": 2,
    }
    shown = cli("topic", "describe", "orders").out.decode()
    assert f"orders  {facts['uuid']}  segment.bytes=1048576\n" in shown
    assert "PARTITION  ID  START  END  RECORDS\n" in shown

    assert cli("topic", "delete", "orders", "audit") == (0, b"", "")
    assert cli("topic", "list", "-q").out == b""


def test_a_topic_that_is_there(cli: Cli, orders: str) -> None:
    ended = cli("topic", "create", orders)
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert ended.err.startswith("seawall: topic 'orders' exists already")
    assert cli("topic", "create", orders, "-p", 5, "--if-not-exists") == (
        0,
        b"",
        "seawall: topic 'orders' has 1 partition\n",
    )


def test_a_topic_that_is_not_there(cli: Cli, orders: str) -> None:
    for verb in ("describe", "delete"):
        ended = cli("topic", verb, "nosuch")
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
        assert ended.err.startswith("seawall: no topic 'nosuch'")
    assert cli("topic", "delete", "nosuch", orders, "--if-exists") == (0, b"", "")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ü", "x" * 250, "a\nb"])
def test_a_bad_name(cli: Cli, name: str) -> None:
    ended = cli("topic", "create", name)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert "is not a valid topic name" in ended.err


@pytest.mark.parametrize("config", ["nosuch=1", "segment.bytes=x", "segment.bytes=-1"])
def test_a_bad_setting(cli: Cli, config: str) -> None:
    ended = cli("topic", "create", "orders", "-c", config)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert config.split("=")[0] in ended.err


def test_too_many_partitions(cli: Cli) -> None:
    ended = cli("topic", "create", "orders", "-p", 1_000_000)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert ended.err.startswith("seawall: -p: a topic has 1 to 10000 partitions")


# Where the broker is, and what is no broker.


def test_the_nearest_location_wins(cli: Cli, orders: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli("-b", one, "topic", "create", "in-one", "-q").code == 0
    assert cli("topic", "create", "in-two", "-q", "-b", two).code == 0
    assert cli("topic", "list", "-q").out == b"orders\n"
    assert cli("-b", one, "topic", "list", "-q").out == b"in-one\n"
    assert cli("-b", one, "topic", "list", "-q", "--broker", two).out == b"in-two\n"


def test_the_default_is_data(tmp_path: Path) -> None:
    assert seawall("topic", "create", "t", "-q", cwd=tmp_path).code == 0
    assert (tmp_path / "data" / "FORMAT").is_file()


def test_looking_makes_no_broker(cli: Cli, data: Path) -> None:
    for verb in (("topic", "list"), ("consume", "t"), ("produce", "t", os.devnull), ("info",)):
        ended = cli(*verb)
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
        assert str(data) in ended.err
    assert not data.exists()


def test_a_file_where_a_directory_is_wanted(cli: Cli, data: Path) -> None:
    data.write_bytes(b"mine")
    for verb in ("list", "create"):
        ended = cli("topic", verb, *["t"][: verb == "create"])
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
        assert f"cannot use '{data}' as a broker directory" in ended.err
    assert data.read_bytes() == b"mine"


def test_a_foreign_directory_is_left_alone(cli: Cli, data: Path) -> None:
    data.mkdir()
    (data / "thesis.txt").write_bytes(b"mine")
    ended = cli("topic", "create", "t")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert "is not a seawall directory" in ended.err
    assert [path.name for path in data.iterdir()] == ["thesis.txt"]


def test_an_unknown_format_is_refused(cli: Cli, orders: str, data: Path) -> None:
    format_file = data / "FORMAT"
    format_file.write_bytes(format_file.read_bytes().replace(b"seawall 1", b"seawall 2"))
    ended = cli("topic", "list")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert "'seawall 2'" in ended.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_no_permission(cli: Cli, orders: str, data: Path) -> None:
    data.chmod(0)
    try:
        ended = cli("topic", "list")
    finally:
        data.chmod(0o700)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert str(data) in ended.err


def test_names_complete(cli: Cli, orders: str, data: Path) -> None:
    def complete(words: str) -> list[str]:
        env = {
            "_SEAWALL_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
            "SEAWALL_BROKER": str(data),
        }
        return seawall(env=env).out.decode().split()

    assert complete("seawall consume o") == ["orders"]
    assert complete(f"seawall -b {data} topic delete ") == ["orders"]
    assert complete("seawall -b nosuch consume o") == []
