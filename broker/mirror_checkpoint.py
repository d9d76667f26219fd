"""Where a mirror is: which offsets of the source are which of the target.

The checkpoints stand in the target, in the topic `CHECKPOINT_TOPIC`, which is compacted by key.
A record's key is a JSON list: cluster id of the source, topic, partition. Its value is
a JSON object::

    {"source": UUID, "target": UUID, "pairs": [[s, t], …]}

with the ids of the topic on either side, and pairs in ascending order. A pair (s, t) says: what
the source has before its offset s is all in the target, before the target's offset t. Between
two pairs with the same difference the offsets run alike; between others the source has offsets
without records, which the target has not. The last pair is where copying goes on.

A checkpoint is written after what it speaks of is durable. It is never ahead, and may be
behind: what the target holds beyond it is compared with the source when the mirror goes on.
"""

from __future__ import annotations

import bisect
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from seawall.broker.errors import MirrorConflict

if TYPE_CHECKING:
    from seawall.broker.interface import AnyBroker, AnyProducer, Place

CHECKPOINT_TOPIC: Final = "__seawall_mirror"
# What a partition's checkpoint may hold. Beyond it every second pair goes; between those that
# are left, records are counted.
MOST_PAIRS: Final = 256
_CONFIG: Final[dict[str, str | int]] = {"cleanup.policy": "compact", "segment.bytes": 1 << 20}
READ_TIMEOUT_S: Final = 60.0

# Stands in the place of a partition in the key of the record that says whether one runs.
_RUNNING: Final = ("", -1)

Pair = tuple[int, int]


@dataclass(slots=True)
class OffsetMap:
    """The pairs of one partition."""

    pairs: list[Pair]

    @property
    def last(self) -> Pair:
        return self.pairs[-1]

    def add(self, source: int, target: int) -> None:
        """What the source has before `source` is all in the target, before `target`."""
        pairs = self.pairs
        if (source, target) == pairs[-1]:
            return
        if len(pairs) > 1 and _shift(pairs[-2]) == _shift(pairs[-1]) == target - source:
            pairs[-1] = source, target
            return
        pairs.append((source, target))
        if len(pairs) > MOST_PAIRS:
            self.pairs = [pairs[0], *pairs[1:-1:2], pairs[-1]]

    def translate(
        self, offset: int, count: Callable[[int, int], int], *, log_start: int = 0
    ) -> int:
        """The target's offset for a position in the source; that of the last pair at the most.

        `count(first, stop)` counts the source's records between two offsets: from the one where
        the stretch begins, or, if the source begins behind that, at `log_start`, up to its end.
        """
        pairs = self.pairs
        at = bisect.bisect_right(pairs, offset, key=lambda pair: pair[0]) - 1
        if at < 0:
            return pairs[0][1]
        source, target = pairs[at]
        if at + 1 == len(pairs) or source == offset:
            return target
        following = pairs[at + 1]
        if _shift(following) == target - source:
            return target + offset - source
        if log_start > source:
            return max(target, following[1] - count(offset, following[0]))
        return min(target + count(source, offset), following[1])

    def copied_before(self, target_offset: int) -> Pair:
        """The last pair that is not behind an offset of the target."""
        at = bisect.bisect_right(self.pairs, target_offset, key=lambda pair: pair[1]) - 1
        return self.pairs[max(at, 0)]


def _shift(pair: Pair) -> int:
    return pair[1] - pair[0]


@dataclass(slots=True)
class Checkpoint:
    """A partition's mapping, with the ids of the topic at either side."""

    source: str
    target: str
    mapping: OffsetMap = field(default_factory=lambda: OffsetMap([]))

    def encode(self) -> bytes:
        facts = {"source": self.source, "target": self.target, "pairs": self.mapping.pairs}
        return json.dumps(facts, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, value: bytes) -> Checkpoint:
        """Raises `MirrorConflict` for what is none."""
        try:
            facts = json.loads(value)
            pairs = [(int(source), int(target)) for source, target in facts["pairs"]]
            if not pairs or pairs != sorted(pairs):
                raise ValueError("its pairs are not in order")
            return cls(str(facts["source"]), str(facts["target"]), OffsetMap(pairs))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MirrorConflict(
                topic=CHECKPOINT_TOPIC,
                reason=f"topic {CHECKPOINT_TOPIC!r} of the target holds no checkpoint of a mirror "
                f"({error}); delete it, and all that was copied is compared anew",
            ) from None


class Checkpoints:
    """The checkpoints of one source in one target."""

    def __init__(self, target: AnyBroker, source_id: str) -> None:
        self._target = target
        self._source_id = source_id
        self._producer: AnyProducer | None = None
        # Whether the last mirror of this source did not come to its end, as far as was read.
        self.was_killed = False

    def create(self) -> None:
        """Make the topic, unless it is there."""
        self._target.create_topic(CHECKPOINT_TOPIC, 1, _CONFIG, if_not_exists=True)

    def read(self) -> dict[Place, Checkpoint]:
        """The last checkpoint of each partition; none if the topic is not there."""
        if CHECKPOINT_TOPIC not in [each.name for each in self._target.topics()]:
            return {}
        found: dict[Place, Checkpoint] = {}
        end = self._target.ends(CHECKPOINT_TOPIC, 0).durable_end
        deadline_s = time.monotonic() + READ_TIMEOUT_S
        with self._target.consumer(CHECKPOINT_TOPIC, start="start") as consumer:
            while consumer.reached(CHECKPOINT_TOPIC, 0) < end:
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"reading {CHECKPOINT_TOPIC!r} took too long")
                for record in consumer.poll(5_000, 500):
                    place = self._place(record.key)
                    if place == _RUNNING:
                        self.was_killed = record.value == b"true"
                    elif place is not None and record.value is not None:
                        found[place] = Checkpoint.decode(record.value)
        return found

    def _place(self, key: bytes | None) -> Place | None:
        """The partition, if a checkpoint is of this source."""
        try:
            source_id, topic, partition = json.loads(key or b"null")
            return (topic, partition) if source_id == self._source_id else None
        except (ValueError, TypeError):
            return None

    def write(self, changed: Mapping[Place, Checkpoint]) -> None:
        """Store checkpoints; they are durable when this returns."""
        self._write({place: each.encode() for place, each in changed.items()})

    def mark(self, *, is_running: bool) -> None:
        """Say that a mirror writes to the target from now on, or that it has come to its end."""
        self._write({_RUNNING: b"true" if is_running else b"false"})

    def _write(self, changed: Mapping[Place, bytes]) -> None:
        if not changed:
            return
        if self._producer is None:
            self._producer = self._target.producer(linger_ms=0, idempotent=True)
        for (topic, partition), value in changed.items():
            key = json.dumps([self._source_id, topic, partition]).encode()
            self._producer.send(CHECKPOINT_TOPIC, value, key=key, partition=0)
        self._producer.flush()

    def close(self) -> None:
        """Let go of the producer. Safe to call twice."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()
