"""Whatever bytes come, the server lives, and its memory is bounded."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from any_requests import ADMIN_KEYS, codes_in, entities
from brokers import put
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kio.index import load_request_schema
from kio.schema.errors import ErrorCode
from whole_requests import WHOLE
from wire import Wire

from seawall.broker import Broker
from seawall.broker.kafka.registry import load_apis
from seawall.broker.kafka.threaded import ServerThread

Serve = Callable[..., ServerThread]

# All that small frames may take, Hypothesis's own included.
MOST_MEMORY_BYTES = 100 << 20


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid frame with some bytes changed, its length mostly right."""
    body = bytearray(draw(st.sampled_from(WHOLE))[4:])
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(body) - 1))
        body[at] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del body[draw(st.integers(8, len(body))) :]
    body += draw(st.binary(max_size=20))
    length = len(body) if draw(st.integers(0, 9)) else draw(st.integers(-(2**31), 2**31 - 1))
    return struct.pack(">i", length) + bytes(body)


FRAMES = st.lists(st.one_of(mutated(), st.binary(max_size=100)), min_size=1, max_size=5)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture
def fuzzed(serving: Serve) -> Iterator[ServerThread]:
    before = resident_bytes()
    yield serving(auto_create_topics_enable=False)
    assert resident_bytes() - before < MOST_MEMORY_BYTES


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(frames=FRAMES)
def test_the_server_lives(fuzzed: ServerThread, frames: list[bytes]) -> None:
    bad = Wire(fuzzed.address)
    try:
        bad.socket.sendall(b"".join(frames))
        bad.socket.settimeout(0.02)
        while bad.socket.recv(1 << 16):
            pass
    except (TimeoutError, ConnectionError):
        pass
    finally:
        bad.close()
    wire = Wire(fuzzed.address)
    assert wire.ask(18, 0).error_code == 0
    wire.close()


ASKED = [key for key in load_apis() if key not in ADMIN_KEYS]


@pytest.mark.parametrize("key", ASKED)
def test_every_request_is_answered(serving: Serve, broker: Broker, key: int) -> None:
    """Whatever a well-formed request says, and no answer is the server's own fault."""
    put(broker, b"a", b"b")
    server = serving(group_initial_rebalance_delay_ms=0)
    wire = Wire(server.address)
    low, high = load_apis()[key].versions

    @settings(max_examples=40)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        version = data.draw(st.integers(low, high))
        request = data.draw(entities(load_request_schema(key, version)))
        named = {each.name: getattr(request, each.name) for each in fields(request)}
        answer = wire.ask(key, version, **named)
        assert ErrorCode.unknown_server_error not in set(codes_in(answer))

    check()
    assert wire.ask(18, 0).error_code == 0, "the connection goes on"
    wire.close()


def test_lengths_that_are_only_claimed_take_no_memory(serving: Serve) -> None:
    server = serving()
    before = resident_bytes()
    wires = [Wire(server.address) for _ in range(50)]
    for wire in wires:
        wire.socket.sendall(struct.pack(">i", 100 << 20) + b"x" * 1000)
    other = Wire(server.address)
    assert other.ask(18, 0).error_code == 0, "small requests still pass"
    assert resident_bytes() - before < 50 << 20
    for wire in [*wires, other]:
        wire.close()
