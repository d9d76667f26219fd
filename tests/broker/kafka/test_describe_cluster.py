from __future__ import annotations

from typing import Any

import pytest
from wire import Wire

from seawall.broker import Broker
from seawall.broker.kafka import codes
from seawall.broker.kafka.threaded import ServerThread

KEY = 60


def ask(wire: Wire, version: int = 2, **fields: Any) -> Any:
    given = {
        "include_cluster_authorized_operations": False,
        "include_fenced_brokers": False,
        **fields,
    }
    return wire.ask(KEY, version, **given)


@pytest.mark.parametrize("version", range(3))
def test_it_names_the_one_broker_in_every_version(
    wire: Wire, server: ServerThread, broker: Broker, version: int
) -> None:
    answer = ask(wire, version)
    assert (answer.error_code, answer.cluster_id) == (0, broker.cluster_id)
    [node] = answer.brokers
    assert f"{node.host}:{node.port}" == server.address
    assert answer.controller_id == node.broker_id == 1
    assert answer.cluster_authorized_operations == -(2**31)


def test_operations_when_asked_for(wire: Wire) -> None:
    answer = ask(wire, include_cluster_authorized_operations=True)
    assert answer.cluster_authorized_operations & (1 << 5)  # CREATE


@pytest.mark.parametrize(
    ("endpoint_type", "code"),
    [(2, codes.MISMATCHED_ENDPOINT_TYPE), (7, codes.UNSUPPORTED_ENDPOINT_TYPE)],
)
def test_there_are_no_other_endpoints(wire: Wire, endpoint_type: int, code: int) -> None:
    answer = ask(wire, endpoint_type=endpoint_type)
    assert (answer.error_code, answer.brokers) == (code, ())
    assert answer.error_message
