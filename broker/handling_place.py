"""What a `run` needs of the place that its records come from: a directory, or a cluster.

`Handling` works with these alone, so the same code handles records wherever they are.
`GroupRunning` is the directory's side, `remote.handling` the cluster's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from seawall.broker.delivery import RecordMetadata
    from seawall.broker.group_running import GroupOptions
    from seawall.broker.handling import Failure
    from seawall.wal.records import Record

Place = tuple[str, int]


class Notes(Protocol):
    """How often the records of one partition were delivered, for whoever reads it next."""

    @property
    def deliveries(self) -> Mapping[int, int]:
        """By offset: what was noted by those who read the partition before."""
        ...

    def note(self, slot: int, offset: int, deliveries: int) -> int:
        """A handler is about to get a record; its slot (-1: it has none yet)."""
        ...

    def store(self, *, polls: bool) -> None:
        """Return once what was noted outlives this process, as far as that is promised.
        `polls`: whoever calls is the one who polls."""
        ...

    def clear(self, slot: int, offset: int) -> None:
        """The record is done with. `slot`: see `note`."""
        ...

    def close(self, *, is_owner: bool) -> None:
        """Let go; if the partition is still the caller's, what says nothing is removed."""
        ...


class DeadLetterSink(Protocol):
    """Where records go that cannot be handled. Safe to use from any thread."""

    def write(self, record: Record, failure: Failure, attempts: int, topic: str) -> RecordMetadata:
        """Return once the dead letter is durable. Raises what keeps it from that."""
        ...

    def close(self) -> None:
        """Let go. Safe to call twice."""
        ...


class RunPlace(Protocol):
    """A member of a group, as `run` works with it."""

    # What `run` has too much of for now.
    held_back: frozenset[Place]
    is_running: bool
    # Errors that pass by themselves, besides those that every place has.
    passing: ClassVar[tuple[type[Exception], ...]]
    # Whether partitions that were lost mostly come back to the same member, so that it is
    # worth while to finish what runs, and to keep what was done.
    outlives_loss: ClassVar[bool]
    # How long an event loop has a thread wait for records when it has nothing else to do;
    # 0: somebody tells it of new ones.
    idle_wait_ms: ClassVar[float]
    # How often it has to be seen to while there is no room for more records.
    attend_ms: ClassVar[float]

    @property
    def group(self) -> str: ...
    @property
    def topics(self) -> Collection[str]: ...
    @property
    def max_poll_interval_ms(self) -> float: ...
    @property
    def is_closed(self) -> bool: ...
    @property
    def caller(self) -> int:
        """The thread that callbacks are called for, which may wait for the one that does."""
        ...

    @property
    def announced(self) -> set[Place]:
        """The partitions that `on_assigned` was told of."""
        ...

    def swap_options(self, options: GroupOptions | None = None) -> GroupOptions: ...
    def poll(self, max_records: int = ..., timeout_ms: float | None = ...) -> list[Record]: ...
    def attend(self) -> None:
        """What `poll` does besides reading: partitions are given up and taken."""
        ...

    def interrupt(self) -> None:
        """Have a `poll` that is under way look again at what is held back."""
        ...

    def rejoin(self) -> None:
        """It was taken for dead: the next `poll` sees to that."""
        ...

    def assignment(self) -> list[Place]: ...
    def position(self, topic: str, partition: int) -> int: ...
    def lag(self) -> dict[Place, int]: ...
    def rewind(self, offsets: Mapping[Place, int]) -> None:
        """Hand out again from these offsets on, where the partition is read still."""
        ...

    def ack_offsets(self, wanted: Mapping[Place, int]) -> None:
        """Acknowledge all before an offset in each partition; raises like `Consumer.ack`."""
        ...

    def keep_progress(self, offsets: Mapping[Place, int]) -> None:
        """These were lost; what was done there counts if they come back untouched. Only
        where `outlives_loss`."""
        ...

    def open_notes(self, topic: str, partition: int) -> Notes: ...
    def close_notes(self, notes: Mapping[Place, Notes], owned: Collection[Place]) -> None:
        """Let go of notes; of those that are `owned`, whoever is next finds them."""
        ...

    def open_dead_letters(self) -> DeadLetterSink: ...
