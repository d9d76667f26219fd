"""Errors about copying topics from one broker to another.

Import them from ``seawall.broker.errors``, whose docstring draws the whole tree.
"""

from __future__ import annotations

from seawall.broker.errors_base import BrokerError


class MirrorError(BrokerError):
    """A mirror that cannot go on. What it has copied stays, and is found again."""

    def __init__(self, message: str, *, topic: str | None = None) -> None:
        super().__init__(message)
        self.topic = topic


class MirrorConflict(MirrorError):
    """The two sides do not go together; nothing was copied."""

    def __init__(self, *, reason: str, topic: str | None = None) -> None:
        super().__init__(reason, topic=topic)
        self.reason = reason


class ForeignRecord(MirrorError):
    """The target holds something that this mirror has not written.

    ``offset`` is where in the target, ``source_offset`` what should be there, None if
    nothing should.
    """

    def __init__(
        self,
        *,
        topic: str,
        partition: int,
        offset: int,
        source_offset: int | None,
        reason: str,
    ) -> None:
        super().__init__(
            f"partition {partition} of topic {topic!r} holds a foreign record at offset {offset} "
            f"of the target: {reason}; only the mirror may write there. Delete the topic at the "
            "target to copy it anew, or leave it out with --exclude",
            topic=topic,
        )
        self.partition = partition
        self.offset = offset
        self.source_offset = source_offset
        self.reason = reason
