"""Which kind of members holds a group."""

from __future__ import annotations

from dataclasses import replace

import pytest
from members import all_alive, member

from seawall.broker.errors import GroupBusy, GroupHeldByServer
from seawall.broker.group_holds import check_free, check_not_served


def test_clients_of_a_server_are_told_from_others() -> None:
    embedded = member()
    client = replace(member(), assignors=("kafka:consumer",), pid=7, host="127.0.0.1:9")
    check_not_served("g", [embedded], all_alive)
    check_free("g", [embedded, client], lambda each: True)
    with pytest.raises(GroupHeldByServer, match=r"'g' is in use by a client of the server") as one:
        check_not_served("g", [embedded, client], all_alive)
    assert (one.value.holder_pid, one.value.holder_host, one.value.members) == (7, "127.0.0.1:9", 1)
    with pytest.raises(GroupHeldByServer, match="2 clients of the server"):
        check_free("g", [client, client], all_alive)
    with pytest.raises(GroupBusy, match="process 42 on here and 1 more") as other:
        check_free("g", [embedded, embedded], all_alive)
    assert not isinstance(other.value, GroupHeldByServer)
