"""A server that is away for a minute (`make test`: for seconds), with everybody's defaults.

A producer with what it could not send, a member of a group with an acknowledgement on its way,
a reader without a group, `seawall produce` and `seawall consume` wait it out, and go on within
one step of the back-off: with the first attempt that was due once the server was there.

What the commands say is in files, of which it is known what is in them at any moment.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import pytest
from commands import pipe_of, running
from long_rows import AWAY_S, long_row
from outages import PATIENCE_S, Server, location, read, serving, until

from seawall.broker import AnyConsumer, AnyDelivery, Record, connect

# What the machine, and joining a group anew, may add to the wait that is pending; and as often
# as long as it takes a server to start.
SLACK_S = 20.0
SLACK_STARTS = 20
BASE_S, MOST_S = 0.1, 10.0
SEND_INTERVAL_S = 0.02
CONNECTED = "seawall: connected again after "
LINE = re.compile(r"seawall: connection lost; retry (\d+) in (\d+\.\d) s \(.*\)\n")


class Told(NamedTuple):
    """A report of an attempt to come, which is due `delay_s` after `at_s`."""

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


def check_delays(delays_s: list[float]) -> None:
    """Each wait is within its bounds. On stderr it has one decimal place."""
    for number, delay_s in enumerate(delays_s):
        assert 0 <= delay_s <= min(MOST_S, BASE_S * 2**number) + 0.05


class Command:
    """What `seawall` said on stderr, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def lines(self) -> list[str]:
        """Whole ones."""
        return [e for e in self._path.read_text().splitlines(keepends=True) if e.endswith("\n")]

    @property
    def delays_s(self) -> list[float]:
        """Of the attempts that it told of, whose numbers are right."""
        told = [found for line in self.lines if (found := LINE.fullmatch(line))]
        assert [int(each[1]) for each in told] == list(range(1, len(told) + 1))
        return [float(each[2]) for each in told]

    @property
    def is_connected_again(self) -> bool:
        """Whether it said so; then nothing failed after that."""
        lines = self.lines
        found = [n for n, line in enumerate(lines) if line.startswith(CONNECTED)]
        assert not any(LINE.fullmatch(line) for n in found for line in lines[n:])
        return len(found) == 1


class Back(NamedTuple):
    """When a server was there again, and what had been told until then."""

    at_s: float
    slack_s: float
    attempts: list[int]


def be_away(
    server: Server,
    deliveries: list[AnyDelivery],
    send: Callable[[], AnyDelivery],
    attempts: Callable[[], list[int]],
) -> Back:
    """Away for AWAY_S, and until all who tell of attempts have told of one; `send` is called
    all the time."""
    server.kill()
    until_s = time.monotonic() + AWAY_S
    give_up_s = until_s + PATIENCE_S
    while time.monotonic() < until_s or not all(attempts()):
        assert time.monotonic() < give_up_s, attempts()
        deliveries.append(send())
        time.sleep(SEND_INTERVAL_S)
    assert not any(each.done() for each in deliveries), "nobody was there"
    begun_s = time.monotonic()
    server.start()
    at_s = time.monotonic()
    return Back(at_s, max(SLACK_S, SLACK_STARTS * (at_s - begun_s)), attempts())


@long_row
@pytest.mark.timeout(180 + AWAY_S)
def test_a_server_that_comes_back_after_a_while(folder: str, tmp_path: Path) -> None:
    told: list[Told] = []
    connected_s: list[float] = []
    with serving(folder) as server, ExitStack() as files:
        at = ("-b", location(server.port))
        names = ("produce", "consume")
        commands = [Command(tmp_path / name) for name in names]
        errors = [files.enter_context((tmp_path / name).open("wb")) for name in names]
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
                running("produce", "lines", *at, stderr=errors[0]) as producing,
                running("consume", "lines", "-g", "cli", *at, stderr=errors[1]) as consuming,
            ):
                written, out = pipe_of(producing.stdin), Lines(consuming.stdout)
                written.write(b"before\n")
                written.flush()
                until(lambda: out.texts == ["before\n"])
                until(lambda: [o.committed for o in broker.group("cli").offsets] == [1])
                before = read(consumer, 10)
                assert len(read(alone, 10)) == 10
                consumer.ack(before[4])
                acking = threading.Thread(target=consumer.ack, args=(before[7],))
                deliveries: list[AnyDelivery] = []

                def send() -> AnyDelivery:
                    number = len(deliveries)
                    written.write(b"%d\n" % number)
                    written.flush()
                    if number == 10:
                        acking.start()  # it waits as well
                    return producer.send("orders", b"%d" % (10 + number))

                def attempts() -> list[int]:
                    return [len(told), *(len(each.delays_s) for each in commands)]

                with reading(consumer) as member, reading(alone) as reader:
                    back = be_away(server, deliveries, send, attempts)
                    count = len(deliveries)
                    first = deliveries[0].result(PATIENCE_S)
                    first_s = time.monotonic()
                    acking.join(PATIENCE_S)
                    acknowledged_s = time.monotonic()
                    assert not acking.is_alive()
                    until(lambda: member.seen and member.seen[-1].offset == 9 + count)
                    until(lambda: reader.seen and reader.seen[-1].offset == 9 + count)
                    until(lambda: len(out.lines) >= 1 + count)
                    until(lambda: connected_s)
                    # Their records may be there before they say so.
                    until(lambda: all(each.is_connected_again for each in commands))
                    assert (member.failure, reader.failure) == (None, None)

                # Nothing that was sent is lost, refused or there twice.
                assert first.offset == 10
                places = [each.result(PATIENCE_S).offset for each in deliveries]
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

                # And what the commands say and do.
                written.close()
                assert producing.wait(PATIENCE_S) == 0
                until(lambda: [o.committed for o in broker.group("cli").offsets] == [1 + count])
                consuming.terminate()
                assert consuming.wait(PATIENCE_S) == 143
                out.join()
                assert out.texts == ["before\n", *(f"{n}\n" for n in range(count))]
                assert commands[0].lines[-1] == f"seawall: {1 + count} lines acknowledged\n"
                assert f"terminated; {1 + count} records printed" in commands[1].lines[-1]
    # Attempts that were under way are the only ones that may have failed with the server there.
    failed = zip(attempts(), back.attempts, strict=True)
    assert all(0 <= after - before <= 1 for after, before in failed)
    assert [each.attempt for each in told] == list(range(1, len(told) + 1))
    for delays_s in ([each.delay_s for each in told], *(each.delays_s for each in commands)):
        check_delays(delays_s)
    ends_s = [*(each.at_s for each in told[1:]), connected_s[0]]
    for each, end_s in zip(told, ends_s, strict=True):
        assert each.delay_s - 0.01 <= end_s - each.at_s <= each.delay_s + back.slack_s
    # All of them go on with the first attempt that was due then.
    pending_s = max(0.0, told[-1].at_s + told[-1].delay_s - back.at_s)
    resumed = [
        ("first delivery", first_s),
        ("ack", acknowledged_s),
        ("supervisor", connected_s[0]),
        ("member", member.last_s),
        ("reader", reader.last_s),
    ]
    by_s = back.at_s + pending_s + back.slack_s
    assert max(at_s for _, at_s in resumed) <= by_s
    by_s = back.at_s + commands[1].delays_s[-1] + back.slack_s
    assert max(at_s for _, at_s in out.lines) <= by_s
    print(f"away {AWAY_S} s, {count} records, {len(told)} attempts, pending {pending_s:.2f} s")
    print(*(f"{name} {at_s - back.at_s:.2f} s" for name, at_s in resumed), sep=", ")
