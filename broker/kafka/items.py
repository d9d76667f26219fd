"""Requests about many things at once: how many, none twice, and an answer for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, TypeVar

from seawall.broker.kafka import codes
from seawall.broker.kafka.codes import KafkaError
from seawall.broker.kafka.schema import Values

#: What one request may change: topics, or partitions whose records are deleted.
MOST_CHANGES: Final = 1_000
#: What one request may ask about: topics, resources or partitions.
MOST_ASKED: Final = 10_000
# A message holds what the client wrote; the protocol's older strings end at 32 KiB.
_MESSAGE_CHARACTERS: Final = 1_000

T = TypeVar("T", bound=Hashable)


def check_count(count: int, most: int, what: str) -> None:
    """Raise POLICY_VIOLATION, as Kafka's controller does for too large a request."""
    if count > most:
        raise KafkaError(
            codes.POLICY_VIOLATION,
            f"{count} {what} in one request are too many; send at most {most} at once",
        )


def repeated(things: Iterable[T]) -> set[T]:
    """Those that are there more than once."""
    return {thing for thing, count in Counter(things).items() if count > 1}


def said(message: str) -> str:
    """A message that every version's strings can hold."""
    if len(message) <= _MESSAGE_CHARACTERS:
        return message
    return message[:_MESSAGE_CHARACTERS] + "…"


def by_partition(request: Any, told: Callable[[str, Any], Values], *, name: str = "name") -> Values:
    """An answer with an item for each partition of each topic that a request names.

    `told` is given the topic's name and what the request says of the partition. ``name`` is what
    the message calls a topic's name.
    """
    return {
        "topics": [
            {
                name: getattr(topic, name),
                "partitions": [told(getattr(topic, name), each) for each in topic.partitions],
            }
            for topic in request.topics
        ]
    }


def failure(error: BaseException) -> Values:
    """An error as the fields of an item."""
    return error_fields(codes.code_of(error), str(error))


def error_fields(code: int, message: str) -> Values:
    return {"error_code": code, "error_message": said(message)}


SUCCESS: Final[Values] = {"error_code": codes.NONE, "error_message": None}
