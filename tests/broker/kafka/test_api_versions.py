from __future__ import annotations

import struct

import pytest
from wire import Wire

from seawall.broker.kafka.registry import load_apis


@pytest.mark.parametrize("version", range(5))
def test_it_names_what_is_registered(wire: Wire, version: int) -> None:
    answer = wire.ask(18, version, client_software_name="test", client_software_version="1")
    assert answer.error_code == 0
    told = {each.api_key: (each.min_version, each.max_version) for each in answer.api_keys}
    assert told == {key: api.advertised for key, api in load_apis().items()}


def test_an_unknown_version_is_answered_in_version_0(wire: Wire) -> None:
    body = struct.pack(">hhih", 18, 99, 7, -1)
    wire.socket.sendall(struct.pack(">i", len(body)) + body)
    frame = wire.receive_frame()
    correlation_id, code, count = struct.unpack_from(">ihi", frame)
    assert (correlation_id, code) == (7, 35)
    assert count == len(load_apis())
    assert wire.ask(18, 0).error_code == 0, "the connection goes on"


@pytest.mark.parametrize("key", load_apis())
def test_every_advertised_version_has_a_schema(key: int) -> None:
    from seawall.broker.kafka.schema import schema

    low, high = load_apis()[key].versions
    for version in range(low, high + 1):
        assert schema(key, version).response is not None
