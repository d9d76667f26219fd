from __future__ import annotations

import pytest
from wire import Wire

from seawall.broker.kafka.threaded import ServerThread


@pytest.mark.parametrize("version", range(7))
def test_it_is_the_one_node_in_every_version(
    wire: Wire, server: ServerThread, version: int
) -> None:
    if version < 4:
        found = [wire.ask(10, version, key="g", key_type=0)]
    else:
        found = list(wire.ask(10, version, key_type=0, coordinator_keys=("g", "h")).coordinators)
        assert [each.key for each in found] == ["g", "h"]
    for each in found:
        assert (each.error_code, f"{each.host}:{each.port}") == (0, server.address)
        assert each.node_id == server.server.node.node_id


def test_share_groups_have_none(wire: Wire) -> None:
    [found] = wire.ask(10, 6, key_type=2, coordinator_keys=("s",)).coordinators
    assert (found.error_code, found.node_id) == (42, -1)
    assert "kind 2" in found.error_message
