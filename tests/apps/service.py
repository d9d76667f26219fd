"""A service that takes records, handles them and lets Kafka clients in, under one supervisor.

``python service.py FOLDER HOST:PORT JOURNAL``. It prints where it listens once it is up, and
works as fast as it can until SIGTERM. It ends then: writers send nothing more and wait for
their reports, the consumer acknowledges what it has handled, the server answers what it has
accepted, and the directory is closed last. What it was told and what it did is in the journal,
a line of JSON each.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from seawall.broker import AsyncConsumer, AsyncProducer, Broker
from seawall.broker.kafka.server import serve

TOPIC, GROUP = "orders", "billing"
WRITERS = 4
OUTSTANDING = 200  # of each writer

Note = Callable[..., None]


async def write(producer: AsyncProducer, name: str, note: Note, stopping: asyncio.Event) -> int:
    """Send numbered records until it is time to stop, then wait for all reports."""
    sent = 0
    reports: set[asyncio.Future[Any]] = set()
    while not stopping.is_set():
        while len(reports) < OUTSTANDING:
            value = f"{name} {sent}"
            report = asyncio.ensure_future(producer.send(TOPIC, value.encode()))
            report.add_done_callback(lambda done, value=value: note_report(note, value, done))
            reports.add(report)
            sent += 1
        _, reports = await asyncio.wait(reports, return_when=asyncio.FIRST_COMPLETED)
    if reports:
        await asyncio.wait(reports)
    return sent


def note_report(note: Note, value: str, done: asyncio.Future[Any]) -> None:
    error = done.exception()
    if error is None:
        note("accepted", value, done.result().partition, done.result().offset)
    else:
        note("refused", value, repr(error))


async def handle(consumer: AsyncConsumer, note: Note, stopping: asyncio.Event) -> None:
    """Handle records and acknowledge them; stop between two batches, never inside one."""
    while not stopping.is_set():
        records = await consumer.poll(timeout_ms=50)
        for record in records:
            note("handled", record.partition, record.offset)
        if records:
            await consumer.ack(records)
            for partition, offset in {r.partition: r.offset for r in records}.items():
                note("acknowledged", partition, offset)


async def main(folder: str, address: str, note: Note) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    broker = await asyncio.to_thread(Broker.open, folder)
    try:
        # Left from the last to the first: the writers and the handler are done, then the
        # consumer leaves its group, the producer is flushed, the server answers and closes.
        async with (
            serve(broker, listen=address) as server,
            AsyncProducer(broker, linger_ms=1) as producer,
            await AsyncConsumer.open(broker, TOPIC, group=GROUP) as consumer,
            asyncio.TaskGroup() as tasks,
        ):
            name = str(time.time_ns())
            writers = [
                tasks.create_task(write(producer, f"{name}-{number}", note, stopping))
                for number in range(WRITERS)
            ]
            tasks.create_task(handle(consumer, note, stopping))
            print(server.address, flush=True)
        note("sent", sum(writer.result() for writer in writers))
    finally:
        await asyncio.to_thread(broker.close)


if __name__ == "__main__":
    _, its_folder, its_address, path = sys.argv
    with open(path, "w") as journal:
        asyncio.run(
            main(its_folder, its_address, lambda *entry: print(json.dumps(entry), file=journal))
        )
