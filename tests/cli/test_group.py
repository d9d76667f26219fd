"""`seawall group`: list, describe, reset, delete."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from commands import Cli

from seawall.broker import Broker


@pytest.fixture
def group(orders: str, cli: Cli, tmp_path: Path) -> str:
    """A group that has acknowledged three of five records."""
    (tmp_path / "five").write_bytes(b"0\n1\n2\n3\n4\n")
    cli("produce", orders, "-q", tmp_path / "five")
    assert cli("consume", orders, "-g", "billing", "-n", 3, "-q").code == 0
    return "billing"


def place(cli: Cli, group: str) -> dict[str, Any]:
    facts = json.loads(cli("group", "describe", group, "--json").out)
    (found,) = facts["offsets"]
    assert isinstance(found, dict)
    return found


def test_list_and_describe(cli: Cli, group: str) -> None:
    assert cli("group", "list").out.decode() == (
        "GROUP    STATE  MEMBERS  LAG\nbilling  Empty        0    2\n"
    )
    assert cli("group", "list", "-q").out == b"billing\n"
    facts = json.loads(cli("group", "list", "--json").out)
    [offset] = facts["offsets"]
    assert 0 <= offset.pop("lag_ms") < 600_000
    assert facts == {
        "group": "billing",
        "state": "Empty",
        "generation": 2,
        "assignor": "",
        "members": [],
        "offsets": [
            {
                "topic": "orders",
                "partition": 0,
                "committed": 3,
                "start": 0,
                "end": 5,
                "lag": 2,
                "holds_back": True,
                "member": None,
            }
        ],
    }
    behind = re.sub(r"\d+\.\ds +", "N.Ns    ", cli("group", "describe", group).out.decode())
    assert behind == (
        "GROUP    STATE  GENERATION  ASSIGNOR\n"
        "billing  Empty           2  -\n"
        "\n"
        "TOPIC   PARTITION  COMMITTED  START  END  LAG  BEHIND  HOLDS  MEMBER\n"
        "orders          0          3      0    5    2  N.Ns    yes    -\n"
    )


def test_members_are_named_and_in_the_way(cli: Cli, group: str, data: Path) -> None:
    with (
        Broker.open(data) as broker,
        broker.consumer("orders", group=group, client_id="me") as consumer,
    ):
        facts = json.loads(cli("group", "describe", group, "--json").out)
        [member] = facts["members"]
        assert (member["pid"], member["host"]) == (os.getpid(), os.uname().nodename)
        assert (member["client"], member["instance"]) == ("me", None)
        assert member["partitions"] == [["orders", 0]]
        assert facts["offsets"][0]["member"] == member["member"] == consumer.member_id  # type: ignore[attr-defined]
        shown = cli("group", "describe", group).out.decode().splitlines()
        assert shown[1].split() == ["billing", "Stable", "3", "cooperative-sticky"]
        assert shown[4].split()[3:] == [str(os.getpid()), os.uname().nodename, "orders/0"]
        for verb in (("reset", group, "-t", "orders", "-o", "start"), ("delete", group)):
            ended = cli("group", *verb)
            assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
            assert f"in use by process {os.getpid()} on" in ended.err
        planned = cli("group", "reset", group, "-t", "orders", "-o", "start", "--dry-run")
        assert (planned.code, len(planned.lines)) == (0, 2)
        assert "has 1 member, so it would be refused now" in planned.err
    assert place(cli, group)["committed"] == 3


@pytest.mark.parametrize(
    ("offset", "committed"),
    [
        ("start", 0),
        ("end", 5),
        ("1", 1),
        ("-1", 4),
        ("@-1h", 0),
        ("@0", 0),
        ("@2020-01-01T00:00", 0),
    ],
)
def test_reset(cli: Cli, group: str, offset: str, committed: int) -> None:
    arguments = ("group", "reset", group, "-t", "orders", "-o", offset)
    shown = f"TOPIC   PARTITION  FROM  TO\norders          0     3   {committed}\n".encode()
    assert cli(*arguments, "--dry-run") == (0, shown, "")
    assert place(cli, group)["committed"] == 3
    assert cli(*arguments) == (0, shown, "")
    assert place(cli, group)["committed"] == committed
    printed = cli("consume", "orders", "-g", group, "-e", "-q").lines
    assert printed == [b"%d" % n for n in range(committed, 5)]


def test_reset_one_partition_as_json(cli: Cli, group: str) -> None:
    ended = cli("group", "reset", group, "-t", "orders", "-o", "2", "-p", 0, "--json")
    assert json.loads(ended.out) == {"topic": "orders", "partition": 0, "from": 3, "to": 2}


@pytest.mark.parametrize(
    ("shift", "committed"), [("-2", 1), ("1", 4), ("-9", 0), ("9", 5), ("0", 3)]
)
def test_reset_by_a_shift(cli: Cli, group: str, shift: str, committed: int) -> None:
    """As far as there are records, and no further."""
    ended = cli("group", "reset", group, "-t", "orders", "--shift-by", shift)
    assert ended.out.decode().splitlines()[1].split() == ["orders", "0", "3", str(committed)]
    assert place(cli, group)["committed"] == committed


def test_a_shift_needs_something_to_shift(cli: Cli, orders: str) -> None:
    ended = cli("group", "reset", "new", "-t", orders, "--shift-by", "1")
    assert (ended.code, ended.out) == (1, b"")
    assert "group 'new' is nowhere in partition 0 of 'orders'; use -o" in ended.err


def test_reset_in_several_topics(cli: Cli, group: str) -> None:
    cli("topic", "create", "more", "-p", 2)
    wanted = [["more", "0", "-", "0"], ["more", "1", "-", "0"], ["orders", "0", "3", "5"]]
    both = ("group", "reset", group, "-t", "more", "-t", "orders", "-o", "end")
    assert [line.split() for line in cli(*both).out.decode().splitlines()[1:]] == wanted
    everywhere = cli("group", "reset", group, "--all-topics", "-o", "start", "--json")
    assert [json.loads(line) for line in everywhere.lines] == [
        {"topic": "more", "partition": 0, "from": 0, "to": 0},
        {"topic": "more", "partition": 1, "from": 0, "to": 0},
        {"topic": "orders", "partition": 0, "from": 5, "to": 0},
    ]
    ended = cli("group", "reset", "nobody", "--all-topics", "-o", "start")
    assert (ended.code, ended.out) == (1, b"")
    assert "group 'nobody' has read no topic" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("-o", "start"),
        ("-t", "orders", "--all-topics", "-o", "start"),
        ("-t", "orders"),
        ("-t", "orders", "-o", "start", "--shift-by", "1"),
        ("--all-topics", "-o", "start", "-p", "0"),
        ("-t", "orders", "-t", "more", "-o", "start", "-p", "0"),
    ],
)
def test_a_reset_that_makes_no_sense(cli: Cli, group: str, arguments: tuple[str, ...]) -> None:
    ended = cli("group", "reset", group, *arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, b"", 1)
    assert place(cli, group)["committed"] == 3


def test_reset_makes_a_group(cli: Cli, group: str) -> None:
    arguments = ("group", "reset", "new", "-t", "orders", "-o", "4")
    assert cli(*arguments, "--dry-run").err == "seawall: group 'new' would be a new one\n"
    assert b"new" not in cli("group", "list", "-q").out
    ended = cli(*arguments)
    assert ended.err == "seawall: group 'new' is a new one\n"
    assert ended.out.decode().splitlines()[1].split() == ["orders", "0", "-", "4"]
    assert cli("consume", "orders", "-g", "new", "-e", "-q").out == b"4\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("-t", "nosuch", "-o", "0"), "no topic 'nosuch'"),
        (("-t", "orders", "-o", "6"), "offset 6 is out of range"),
        (("-t", "orders", "-o", "0", "-p", "1"), "has no partition 1"),
    ],
)
def test_a_bad_reset(cli: Cli, group: str, arguments: tuple[str, ...], complaint: str) -> None:
    ended = cli("group", "reset", group, *arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert complaint in ended.err
    assert place(cli, group)["committed"] == 3


def test_delete(cli: Cli, group: str) -> None:
    assert cli("group", "delete", group) == (0, b"", "")
    assert cli("group", "list").out == b"GROUP  STATE  MEMBERS  LAG\n"
    for verb in ("delete", "describe"):
        ended = cli("group", verb, group)
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
        assert ended.err.startswith("seawall: no group 'billing'")


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256])
def test_a_bad_name(cli: Cli, orders: str, name: str) -> None:
    ended = cli("consume", orders, "-e", "-g", name)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, b"", 1)
    assert "is not a valid group name" in ended.err
