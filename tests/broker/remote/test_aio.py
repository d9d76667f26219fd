"""The asyncio twins while a server is away."""

from __future__ import annotations

import asyncio

import pytest
from outages import PATIENCE_S, QUICK, location, serving

from seawall.broker import AsyncProducer, connect
from seawall.broker.errors import BrokerClosed, OutcomeUnknown


def test_closing_waits_no_longer_than_it_may(folder: str) -> None:
    async def work(port: int) -> None:
        broker = connect(location(port), **QUICK)
        try:
            producer = AsyncProducer(broker)
            await producer.send("orders", b"there")
            server.kill()
            report = producer.send("orders", b"never there")
            try:
                await producer.close(timeout_ms=300)
            except TimeoutError:
                pass
            else:
                raise AssertionError("it was closed as if all were acknowledged")
            error = (await asyncio.gather(report, return_exceptions=True))[0]
            assert isinstance(error, (BrokerClosed, OutcomeUnknown))
            await producer.close()
        finally:
            await asyncio.to_thread(broker.close)

    with serving(folder) as server:
        with connect(location(server.port), **QUICK) as broker:
            broker.create_topic("orders")
        asyncio.run(asyncio.wait_for(work(server.port), PATIENCE_S))


def test_who_is_cancelled_does_not_wait_for_ever(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seawall.broker.aio.CANCELLED_MS", 300)

    async def use(port: int, sent: asyncio.Event) -> None:
        with connect(location(port), **QUICK) as broker:
            async with AsyncProducer(broker) as producer:
                await producer.send("orders", b"there")
                server.kill()
                report = producer.send("orders", b"never there")
                sent.set()
                await report

    async def work(port: int) -> None:
        sent = asyncio.Event()
        using = asyncio.create_task(use(port, sent))
        await sent.wait()
        using.cancel()
        with pytest.raises(asyncio.CancelledError):
            await using

    with serving(folder) as server:
        with connect(location(server.port), **QUICK) as broker:
            broker.create_topic("orders")
        asyncio.run(asyncio.wait_for(work(server.port), PATIENCE_S))
