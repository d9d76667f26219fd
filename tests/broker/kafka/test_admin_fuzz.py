"""Whatever a well-formed request says, it is answered, and no answer is the server's own fault."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from any_requests import ADMIN_KEYS, codes_in, entities
from hypothesis import given
from hypothesis import strategies as st
from kio.index import load_request_schema
from kio.schema.errors import ErrorCode
from wire import Wire

from seawall.broker import Broker
from seawall.broker.errors import CatalogBusy
from seawall.broker.kafka.registry import load_apis


@pytest.mark.parametrize("key", ADMIN_KEYS)
def test_every_request_is_answered(wire: Wire, broker: Broker, key: int) -> None:
    low, high = load_apis()[key].versions

    @given(st.data())
    def check(data: st.DataObject) -> None:
        version = data.draw(st.integers(low, high))
        request = data.draw(entities(load_request_schema(key, version)))
        named = {each.name: getattr(request, each.name) for each in fields(request)}
        answer = wire.ask(key, version, **named)
        assert ErrorCode.unknown_server_error not in set(codes_in(answer))

    check()
    assert wire.ask(18, 0).error_code == 0, "the connection goes on"
    assert isinstance(broker.topics(), list)


def test_when_the_catalogue_cannot_be_read_every_request_is_answered(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each API has a way to say so in each version."""

    def busy(*_: object, **__: object) -> Any:
        raise CatalogBusy(path="catalog.db", timeout_ms=7)

    for name in ("topic", "topics", "config", "create_topic", "delete_topic", "producers"):
        monkeypatch.setattr(Broker, name, busy)
    apis = load_apis()

    @given(st.sampled_from(ADMIN_KEYS), st.data())
    def check(key: int, data: st.DataObject) -> None:
        version = data.draw(st.integers(*apis[key].versions))
        request = data.draw(entities(load_request_schema(key, version)))
        named = {each.name: getattr(request, each.name) for each in fields(request)}
        found = set(codes_in(wire.ask(key, version, **named)))
        assert ErrorCode.unknown_server_error not in found
        seen.update(found)

    seen: set[Any] = set()
    check()
    # Whatever the examples were:
    seen.update(codes_in(wire.ask(20, 5, topic_names=("orders",), timeout=5_000)))
    assert ErrorCode.request_timed_out in seen
