"""A server that is away for a minute (`make test`: for seconds), with everybody's defaults.

A producer with what it could not send, a member of a group with an acknowledgement on its way,
a reader without a group, `seawall produce` and `seawall consume` wait it out, and go on within
one step of the back-off: with the first attempt that was due once the server was there.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

import pytest
from commands import pipe_of, running
from long_rows import AWAY_S, long_row
from outages import Server, location, read, serving, until
from storage import memory_folder

from seawall.broker import AnyConsumer, AnyDelivery, Record, connect

# What the machine, and joining a group anew, may add to the wait that is pending.
SLACK_S = 20.0
BASE_S, MOST_S = 0.1, 10.0
SEND_INTERVAL_S = 0.02
LINE = re.compile(r"seawall: connection lost; retry (\d+) in (\d+\.\d) s \(.*\)\n")


class Told(NamedTuple):
    """A report of an attempt to come; it was heard of at `at_s`, so it is due `delay_s` later."""

    attempt: int
    delay_s: float
    at_s: float


class Reader(threading.Thread):
    """Polls until it is told to end, and knows what it saw, and when the last of it."""

    def __init__(self, consumer: AnyConsumer) -> None:
        super().__init__()
        self.seen: list[Record] = []
        self.last_s = 0.0
        self._consumer = consumer
        self._ended = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                if records := self._consumer.poll(timeout_ms=50):
                    self.last_s = time.monotonic()
                    self.seen += records
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.failure = error

    def end(self) -> None:
        self._ended.set()
        self.join()


@contextmanager
def reading(consumer: AnyConsumer) -> Iterator[Reader]:
    reader = Reader(consumer)
    reader.start()
    try:
        yield reader
    finally:
        reader.end()


class Lines(threading.Thread):
    """The lines of a pipe, each with the time at which it came."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        super().__init__()
        self.lines: list[tuple[str, float]] = []
        self._pipe = pipe_of(pipe)
        self.start()

    def run(self) -> None:
        for line in self._pipe:
            self.lines.append((line.decode(), time.monotonic()))

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self.lines]


def check_schedule(told: list[Told], back_s: float, connected_s: float) -> float:
    """Each wait is within its bounds and kept, and the first attempt that is due with the
    server there is the last one. Gives until when all should have gone on."""
    assert [each.attempt for each in told] == list(range(1, len(told) + 1))
    for each, following in zip(told, [*told[1:], None], strict=True):
        most_s = min(MOST_S, BASE_S * 2 ** (each.attempt - 1))
        assert 0 <= each.delay_s <= most_s + 0.05  # stderr has one decimal place
        after_s = (following.at_s if following else connected_s) - each.at_s
        assert each.delay_s - 0.2 <= after_s <= each.delay_s + SLACK_S
    due_s = [each.at_s + each.delay_s for each in told]
    assert sum(due > back_s + 0.5 for due in due_s) <= 1, "it failed with the server there"
    return max(back_s, due_s[-1]) + SLACK_S


def told_by(lines: Lines) -> tuple[list[Told], float]:
    """What a command said about its attempts, and when it said that it is connected again."""
    told = []
    for text, at_s in lines.lines:
        if found := LINE.fullmatch(text):
            told.append(Told(int(found[1]), float(found[2]), at_s))
        elif text.startswith("seawall: connected again after "):
            return told, at_s
    raise AssertionError(f"it never said that it is connected again: {lines.texts}")


def be_away(server: Server, deliveries: list[AnyDelivery], send: object) -> float:
    """Away for AWAY_S; `send` is called all the time. Gives when the server was back."""
    assert callable(send)
    server.kill()
    until_s = time.monotonic() + AWAY_S
    while time.monotonic() < until_s:
        deliveries.append(send())
        time.sleep(SEND_INTERVAL_S)
    assert not any(each.done() for each in deliveries), "nobody was there"
    server.start()
    return time.monotonic()


@long_row
@pytest.mark.timeout(180 + AWAY_S)
def test_a_server_that_comes_back_after_a_while() -> None:
    told: list[Told] = []
    connected_s: list[float] = []
    with memory_folder() as folder, serving(folder) as server:
        at = ("-b", location(server.port))
        with (
            connect(
                location(server.port),
                on_reconnect=lambda n, delay_s, _: told.append(Told(n, delay_s, time.monotonic())),
                on_connected=lambda _: connected_s.append(time.monotonic()),
            ) as broker,
            broker.producer() as producer,
        ):
            broker.create_topic("orders")
            broker.create_topic("lines")
            for number in range(10):
                producer.send("orders", b"%d" % number)
            producer.flush()
            with (
                broker.consumer("orders", group="billing") as consumer,
                broker.consumer("orders", start="start") as alone,
                running("produce", "lines", *at) as producing,
                running("consume", "lines", "-g", "cli", *at) as consuming,
            ):
                written, out = pipe_of(producing.stdin), Lines(consuming.stdout)
                errors = Lines(producing.stderr), Lines(consuming.stderr)
                written.write(b"before\n")
                written.flush()
                until(lambda: out.texts == ["before\n"])
                until(lambda: [o.committed for o in broker.group("cli").offsets] == [1])
                before = read(consumer, 10)
                assert len(read(alone, 10)) == 10
                consumer.ack(before[4])
                acking = threading.Thread(target=consumer.ack, args=(before[7],))
                acknowledged_s: list[float] = []
                deliveries: list[AnyDelivery] = []

                def send() -> AnyDelivery:
                    number = len(deliveries)
                    written.write(b"%d\n" % number)
                    written.flush()
                    if number == 10:
                        acking.start()  # it waits as well
                    return producer.send("orders", b"%d" % (10 + number))

                with reading(consumer) as member, reading(alone) as reader:
                    back_s = be_away(server, deliveries, send)
                    count = len(deliveries)
                    first = deliveries[0].result(SLACK_S + MOST_S)
                    first_s = time.monotonic()
                    acking.join(SLACK_S + MOST_S)
                    acknowledged_s.append(time.monotonic())
                    assert not acking.is_alive()
                    until(lambda: member.seen and member.seen[-1].offset == 9 + count)
                    until(lambda: reader.seen and reader.seen[-1].offset == 9 + count)
                    until(lambda: len(out.lines) >= 1 + count)
                    until(lambda: connected_s)
                    by_s = check_schedule(told, back_s, connected_s[0])
                    assert max(first_s, *acknowledged_s, member.last_s, reader.last_s) <= by_s
                    assert (member.failure, reader.failure) == (None, None)

                # Nothing that was sent is lost, refused or there twice.
                assert first.offset == 10
                places = [each.result(SLACK_S).offset for each in deliveries]
                assert places == list(range(10, 10 + count))
                assert broker.ends("orders", 0).durable_end == 10 + count
                assert [r.offset for r in reader.seen] == places
                values = {r.offset: r.value for r in [*before, *reader.seen, *member.seen]}
                assert values == {n: b"%d" % n for n in range(10 + count)}
                # Nothing unacknowledged is skipped; what comes twice was not acknowledged.
                counts = Counter(r.offset for r in member.seen)
                assert set(counts) >= set(places)
                twice = [r.offset for r in before if counts[r.offset]]
                assert twice in ([], [8, 9])
                assert max(counts.values()) == 1
                assert consumer.committed("orders", 0) == 8
                consumer.ack(member.seen)
                assert broker.group("billing").offsets[0].committed == 10 + count

                # And what the commands say and do. Their records may be there before they say so.
                for lines in errors:
                    until(lambda lines=lines: "connected again" in lines.texts[-1])
                written.close()
                assert producing.wait(30) == 0
                until(lambda: [o.committed for o in broker.group("cli").offsets] == [1 + count])
                consuming.terminate()
                assert consuming.wait(30) == 143
                for lines in (out, *errors):
                    lines.join()
                assert out.texts == ["before\n", *(f"{n}\n" for n in range(count))]
                for lines in errors:
                    check_schedule(*told_by(lines)[:1], back_s, told_by(lines)[1])
                by_s = max(told_by(errors[1])[1], back_s) + SLACK_S
                assert max(at_s for _, at_s in out.lines) <= by_s
                assert errors[0].texts[-1] == f"seawall: {1 + count} lines acknowledged\n"
                assert f"terminated; {1 + count} records printed" in errors[1].texts[-1]
    resumed = [
        ("first delivery", first_s),
        ("ack", acknowledged_s[0]),
        ("supervisor", connected_s[0]),
        ("member", member.last_s),
        ("reader", reader.last_s),
    ]
    pending_s = max(0.0, told[-1].at_s + told[-1].delay_s - back_s)
    print(f"away {AWAY_S} s, {count} records, {len(told)} attempts, pending {pending_s:.2f} s")
    print(*(f"{name} {at_s - back_s:.2f} s" for name, at_s in resumed), sep=", ")
