"""librdkafka's errors as the broker's: the one table.

Some need facts that only the caller has (a size, a limit, a number of partitions); the
caller raises those by itself and comes here for the rest.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from confluent_kafka import KafkaError, KafkaException

from seawall.broker.errors import (
    AccessRefused,
    AuthenticationFailed,
    BatchTooLarge,
    BrokerError,
    CorruptBatch,
    FencedInstanceId,
    GroupBusy,
    GroupFenced,
    GroupFull,
    InconsistentGroupProtocol,
    InvalidGroupName,
    InvalidRecord,
    InvalidTimestamp,
    InvalidTopicName,
    OutcomeUnknown,
    RecordTooLarge,
    RemoteError,
    TlsFailed,
    TopicExists,
    UnknownGroup,
    UnknownPartition,
    UnknownTopic,
    UnsupportedByLocation,
    UnsupportedCompression,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known about what went wrong, besides Kafka's code."""

    location: str
    topic: str | None = None
    partition: int | None = None
    partitions: int = 0
    group: str = ""
    member_id: str = ""
    instance_id: str = ""
    size_bytes: int = 0
    max_bytes: int = 0
    reason: str = ""


# What says that no server, or not the right one, was reached in time: try again, and look.
AWAY = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._RESOLVE,
        KafkaError._NOENT,  # no leaders are known, for a moment
        KafkaError._WAIT_COORD,
        KafkaError._DESTROY_BROKER,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_CONTROLLER,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.FENCED_LEADER_EPOCH,  # what is known of a leader is behind, or ahead
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
_AUTHENTICATION = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)
# TLS ends a connection for good by these alerts (RFC 8446, section 6): certificates, versions,
# ciphers. All others may be of the moment.
_FINAL_ALERTS = frozenset({*range(40, 52), 70, 71, 86, *range(109, 117), 120})
_ALERT = re.compile(r"SSL alert number (\d+)")
_WHEN = re.compile(r" \(after \d+ms in state \w+\)$|error:[0-9A-F]+:")
# The member is none any more, or not in this generation.
FENCED = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._STATE,
    }
)

_TABLE: dict[int, Callable[[Facts], BrokerError]] = {
    KafkaError.UNKNOWN_TOPIC_OR_PART: lambda f: UnknownTopic(topic=f.topic),
    KafkaError._UNKNOWN_TOPIC: lambda f: UnknownTopic(topic=f.topic),
    KafkaError.UNKNOWN_TOPIC_ID: lambda f: UnknownTopic(topic=f.topic),
    KafkaError._UNKNOWN_PARTITION: lambda f: UnknownPartition(
        topic=f.topic, partition=f.partition or 0, partitions=f.partitions
    ),
    KafkaError.TOPIC_ALREADY_EXISTS: lambda f: TopicExists(topic=f.topic or ""),
    KafkaError.TOPIC_EXCEPTION: lambda f: InvalidTopicName(topic=f.topic or "", reason=f.reason),
    KafkaError.MSG_SIZE_TOO_LARGE: lambda f: RecordTooLarge(
        topic=f.topic, partition=f.partition, size_bytes=f.size_bytes, max_bytes=f.max_bytes
    ),
    KafkaError.RECORD_LIST_TOO_LARGE: lambda f: BatchTooLarge(
        topic=f.topic, partition=f.partition, size_bytes=f.size_bytes, max_bytes=f.max_bytes
    ),
    KafkaError.INVALID_RECORD: lambda f: InvalidRecord(
        topic=f.topic, partition=f.partition, reason=f.reason
    ),
    KafkaError.INVALID_MSG: lambda f: CorruptBatch(
        topic=f.topic, partition=f.partition, reason=f.reason
    ),
    KafkaError.INVALID_TIMESTAMP: lambda f: InvalidTimestamp(
        topic=f.topic, partition=f.partition, reason=f.reason
    ),
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE: lambda f: UnsupportedCompression(
        topic=f.topic, partition=f.partition, reason=f.reason
    ),
    KafkaError._MSG_TIMED_OUT: lambda f: OutcomeUnknown(
        path=f.location,
        topic=f.topic,
        partition=f.partition,
        reason="delivery_timeout_ms passed without an acknowledgement",
    ),
    KafkaError._PURGE_INFLIGHT: lambda f: OutcomeUnknown(
        path=f.location,
        topic=f.topic,
        partition=f.partition,
        reason="the connection was lost before the acknowledgement came",
    ),
    KafkaError.INVALID_GROUP_ID: lambda f: InvalidGroupName(group=f.group, reason=f.reason),
    KafkaError.GROUP_ID_NOT_FOUND: lambda f: UnknownGroup(group=f.group),
    KafkaError.NON_EMPTY_GROUP: lambda f: GroupBusy(
        group=f.group, holder_pid=0, holder_host=f.location
    ),
    KafkaError.GROUP_MAX_SIZE_REACHED: lambda f: GroupFull(group=f.group, members=0),
    KafkaError.INCONSISTENT_GROUP_PROTOCOL: lambda f: InconsistentGroupProtocol(
        group=f.group, assignors=("those of this consumer",), others=("others",)
    ),
    KafkaError.FENCED_INSTANCE_ID: lambda f: FencedInstanceId(
        group=f.group, instance_id=f.instance_id, holder_pid=0, holder_host=f.location
    ),
    KafkaError.UNSUPPORTED_VERSION: lambda f: UnsupportedByLocation(
        operation=f.reason, location=f.location
    ),
    KafkaError._UNSUPPORTED_FEATURE: lambda f: UnsupportedByLocation(
        operation=f.reason, location=f.location
    ),
    **{
        code: lambda f: GroupFenced(group=f.group, member_id=f.member_id, generation=-1)
        for code in FENCED - {KafkaError._STATE}
    },
}


def named(error: KafkaError, facts: Facts) -> BrokerError:
    """The broker's error for one of Kafka's."""
    make = _TABLE.get(error.code())
    reason = error.str()
    if make is None:
        return RemoteError(
            location=facts.location, code=error.name(), reason=reason, topic=facts.topic
        )
    return make(replace(facts, reason=reason))


def refusal(error: KafkaError, location: str) -> AccessRefused | None:
    """The broker's error for what no waiting changes; None for all else.

    A connection that is cut in the middle of TLS or SASL is reported with the same codes.
    """
    text = error.str()
    reason = _WHEN.sub("", text)
    if error.code() in _AUTHENTICATION and "Local: " not in text:
        return AuthenticationFailed(location=location, reason=reason)
    if error.code() in (KafkaError._SSL, KafkaError._TRANSPORT):
        alert = _ALERT.search(text)
        if "certificate verify failed" in text or (alert and int(alert[1]) in _FINAL_ALERTS):
            return TlsFailed(location=location, reason=reason)
    return None


def kafka_error(error: KafkaException) -> KafkaError:
    """What a KafkaException is about."""
    found = error.args[0] if error.args else None
    return found if isinstance(found, KafkaError) else KafkaError(KafkaError._FAIL, str(error))


_LOST = ("without setting an exception", "expected header key to be unicode string")


def lost_signal(error: SystemError | TypeError) -> BaseException:
    """What to raise instead of that. confluent-kafka loses what is raised in a callback, or while
    it converts the names of headers, and that is where the handler of a signal runs if one comes
    meanwhile: usually Ctrl-C's."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and any(words in str(error) for words in _LOST):
        return KeyboardInterrupt()
    return error


@contextmanager
def translated(facts: Facts) -> Iterator[None]:
    """Let librdkafka's exceptions out as the broker's."""
    try:
        yield
    except KafkaException as error:
        raise named(kafka_error(error), facts) from error
