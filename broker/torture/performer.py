"""Carrying out a workload's steps on a directory, and marking what it said to each.

The same script leads to the same calls to the operating system, because one step follows
the other and nothing happens by the clock. Every operation that exists is registered with
the public methods that it exercises (see `operations`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from seawall.broker.broker import Broker
from seawall.broker.errors import BrokerError, OutcomeUnknown, ProduceError
from seawall.broker.torture.marks import Mark
from seawall.broker.translation import translated
from seawall.wal.log import Log
from seawall.wal.records import Record
from seawall.wal.torture.search import Broken

Step = Mapping[str, Any]
Operation = Callable[["Performer", Step], None]

FIRST_TIMESTAMP_MS = 1_700_000_000_000
# So few that most records are superseded soon.
KEYS = 5

operations: dict[str, Operation] = {}
exercised: dict[str, str] = {}
"""Public method, such as ``Broker.create_topic`` -> the operation that exercises it."""


def operation(*methods: str) -> Callable[[Operation], Operation]:
    """Register an operation under its function's name, with the methods that it exercises."""

    def register(function: Operation) -> Operation:
        operations[function.__name__] = function
        exercised.update(dict.fromkeys(methods, function.__name__))
        return function

    return register


class Performer:
    """Carries out steps on the directory that `connect` opens, and marks them.

    `mark` is called with each mark. An error that a step meets is marked and swallowed if
    ``tolerant``, else raised.
    """

    def __init__(
        self,
        connect: Callable[[], Broker],
        mark: Callable[[Mark], None],
        *,
        tolerant: bool = False,
        first_id: int = 0,
    ) -> None:
        self._connect = connect
        self._mark = mark
        self._tolerant = tolerant
        self._id = first_id
        # By partition id: the offset of the last numbered batch that is on disk, and the batch.
        self.numbered: dict[int, tuple[int, bytes]] = {}
        self.broker = connect()

    def perform(self, script: Sequence[Step]) -> None:
        """Carry out all steps, in order. Raises `Broken` for one that fails."""
        for number, step in enumerate(script):
            try:
                self.do(step)
            except BrokerError as error:
                raise Broken(
                    f"step {number}, {step['op']}, fails without a fault: {error}"
                ) from error

    def do(self, step: Step) -> None:
        """Carry out one step."""
        try:
            operations[step["op"]](self, step)
        except BrokerError:
            if not self._tolerant:
                raise

    def reconnect(self) -> None:
        """Close the broker, and open it again."""
        self.broker.close()
        self.broker = self._connect()

    def close(self) -> None:
        """Close the broker."""
        self.broker.close()

    # -- marks -----------------------------------------------------------------------

    def began(self, op: str, **fields: Any) -> int:
        """Mark that an operation begins; give its id."""
        self._id += 1
        self._mark({"id": self._id, "is": "began", "op": op, **fields})
        return self._id

    def began_send(
        self, topic: str, partition: int, count: int, size: int, *, has_keys: bool = False
    ) -> tuple[int, list[tuple[str, bytes | None]]]:
        """Mark that so many values of so many bytes are about to be sent; give them, with keys
        if they have them: one of a few."""
        values = [f"{self._id + 1}.{at}".ljust(size, "~") for at in range(count)]
        keys = [f"k{(self._id + at) % KEYS}" for at in range(count)] if has_keys else []
        number = self.began("send", topic=topic, partition=partition, values=values, keys=keys)
        if not has_keys:
            return number, [(value, None) for value in values]
        return number, [(value, key.encode()) for value, key in zip(values, keys, strict=True)]

    def done(self, *numbers: int, **fields: Any) -> None:
        """Mark that operations were acknowledged."""
        for number in numbers:
            self._mark({"id": number, "is": "done", **fields})

    def ended(self, number: int, error: BrokerError | None) -> None:
        """Mark that an operation failed, or, without an error, that nobody waits for it.

        Only of records that were not stored does an error say so for certain.
        """
        is_certain = isinstance(error, ProduceError) and not isinstance(error, OutcomeUnknown)
        name = type(error).__name__ if error else ""
        self._mark({"id": number, "is": "failed" if is_certain else "unknown", "error": name})

    def refused(self, number: int) -> None:
        """Mark that an operation was certainly without effect."""
        self._mark({"id": number, "is": "failed", "error": ""})

    @contextmanager
    def ending(self, *numbers: int, has_begun: bool = False) -> Iterator[None]:
        """Mark the end of operations that the block fails to do.

        What `has_begun` may have had its effect, whatever the error is.
        """
        try:
            yield
        except BrokerError as error:
            for number in numbers:
                self.ended(number, None if has_begun else error)
            raise

    @contextmanager
    def marked(self, op: str, **fields: Any) -> Iterator[None]:
        """Mark the beginning and the end of what stands in the block."""
        number = self.began(op, **fields)
        with self.ending(number):
            yield
            self.done(number)

    def see(self, records: Sequence[Record]) -> None:
        """Mark what a consumer was given."""
        for record in records:
            with self.marked(
                "see",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                values=[(record.value or b"").decode()],
            ):
                pass

    # -- the directory ---------------------------------------------------------------

    def timestamp(self) -> int:
        """A time that grows from step to step, the same in every run."""
        return FIRST_TIMESTAMP_MS + 1000 * self._id

    def has(self, topic: str) -> bool:
        """Whether the topic is there: a step may have failed to create it."""
        return any(each.name == topic for each in self.broker.topics())

    def log(self, topic: str, partition: int) -> Log:
        """A partition's log."""
        engine = self.broker.engine
        with translated(topic, partition):
            return engine.log(engine.topic(topic).partitions[partition].id)
