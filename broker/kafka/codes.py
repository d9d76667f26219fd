"""Kafka's error codes for the broker's errors: the one table.

The nearest kind in a class's ancestry counts; a test fails when a `BrokerError` has none.
Numbers and meanings are those of Kafka's protocol (``Errors.java``).
"""

from __future__ import annotations

from typing import Final

from seawall.broker import errors
from seawall.broker.errors import BrokerError

NONE: Final = 0
UNKNOWN_SERVER_ERROR: Final = -1
OFFSET_OUT_OF_RANGE: Final = 1
CORRUPT_MESSAGE: Final = 2
UNKNOWN_TOPIC_OR_PARTITION: Final = 3
LEADER_NOT_AVAILABLE: Final = 5
NOT_LEADER_OR_FOLLOWER: Final = 6
REQUEST_TIMED_OUT: Final = 7
MESSAGE_TOO_LARGE: Final = 10
OFFSET_METADATA_TOO_LARGE: Final = 12
COORDINATOR_LOAD_IN_PROGRESS: Final = 14
COORDINATOR_NOT_AVAILABLE: Final = 15
NOT_COORDINATOR: Final = 16
INVALID_TOPIC_EXCEPTION: Final = 17
RECORD_LIST_TOO_LARGE: Final = 18
INVALID_REQUIRED_ACKS: Final = 21
ILLEGAL_GENERATION: Final = 22
INCONSISTENT_GROUP_PROTOCOL: Final = 23
INVALID_GROUP_ID: Final = 24
UNKNOWN_MEMBER_ID: Final = 25
INVALID_SESSION_TIMEOUT: Final = 26
REBALANCE_IN_PROGRESS: Final = 27
INVALID_TIMESTAMP: Final = 32
UNSUPPORTED_VERSION: Final = 35
TOPIC_ALREADY_EXISTS: Final = 36
INVALID_PARTITIONS: Final = 37
INVALID_REPLICATION_FACTOR: Final = 38
INVALID_REPLICA_ASSIGNMENT: Final = 39
INVALID_CONFIG: Final = 40
INVALID_REQUEST: Final = 42
UNSUPPORTED_FOR_MESSAGE_FORMAT: Final = 43
POLICY_VIOLATION: Final = 44
OUT_OF_ORDER_SEQUENCE_NUMBER: Final = 45
INVALID_PRODUCER_EPOCH: Final = 47
TRANSACTIONAL_ID_AUTHORIZATION_FAILED: Final = 53
KAFKA_STORAGE_ERROR: Final = 56
NON_EMPTY_GROUP: Final = 68
GROUP_ID_NOT_FOUND: Final = 69
FETCH_SESSION_ID_NOT_FOUND: Final = 70
FENCED_LEADER_EPOCH: Final = 74
UNKNOWN_LEADER_EPOCH: Final = 75
UNSUPPORTED_COMPRESSION_TYPE: Final = 76
MEMBER_ID_REQUIRED: Final = 79
GROUP_MAX_SIZE_REACHED: Final = 81
FENCED_INSTANCE_ID: Final = 82
GROUP_SUBSCRIBED_TO_TOPIC: Final = 86
INVALID_RECORD: Final = 87
UNKNOWN_TOPIC_ID: Final = 100
MISMATCHED_ENDPOINT_TYPE: Final = 114
UNSUPPORTED_ENDPOINT_TYPE: Final = 115

TABLE: Final[dict[type[BrokerError], int]] = {
    errors.BrokerClosed: LEADER_NOT_AVAILABLE,
    errors.ForkedBroker: UNKNOWN_SERVER_ERROR,
    # the directory
    errors.StorageFull: KAFKA_STORAGE_ERROR,
    errors.LockTimeout: REQUEST_TIMED_OUT,
    errors.DirectoryError: KAFKA_STORAGE_ERROR,
    errors.CatalogError: KAFKA_STORAGE_ERROR,
    errors.CatalogBusy: REQUEST_TIMED_OUT,
    errors.LocationError: UNKNOWN_SERVER_ERROR,  # no server of ours stands before another one
    errors.StateDamaged: KAFKA_STORAGE_ERROR,
    errors.StateLost: KAFKA_STORAGE_ERROR,
    # topics
    errors.UnknownTopic: UNKNOWN_TOPIC_OR_PARTITION,
    errors.UnknownPartition: UNKNOWN_TOPIC_OR_PARTITION,
    errors.TopicExists: TOPIC_ALREADY_EXISTS,
    errors.InvalidTopicName: INVALID_TOPIC_EXCEPTION,
    errors.InvalidPartitions: INVALID_PARTITIONS,
    errors.InvalidConfig: INVALID_CONFIG,
    # producing
    errors.RecordTooLarge: MESSAGE_TOO_LARGE,
    errors.BatchTooLarge: RECORD_LIST_TOO_LARGE,
    errors.InvalidRecord: INVALID_RECORD,
    errors.CorruptBatch: CORRUPT_MESSAGE,
    errors.InvalidTimestamp: INVALID_TIMESTAMP,
    errors.UnsupportedCompression: UNSUPPORTED_COMPRESSION_TYPE,
    errors.OutOfOrderSequence: OUT_OF_ORDER_SEQUENCE_NUMBER,
    errors.InvalidProducerEpoch: INVALID_PRODUCER_EPOCH,
    errors.BufferFull: REQUEST_TIMED_OUT,
    errors.AppendLockTimeout: REQUEST_TIMED_OUT,
    errors.WriteFailed: KAFKA_STORAGE_ERROR,
    errors.LogFenced: KAFKA_STORAGE_ERROR,
    errors.OutcomeUnknown: REQUEST_TIMED_OUT,
    errors.SyncFailed: KAFKA_STORAGE_ERROR,
    # consuming; clients repeat a KAFKA_STORAGE_ERROR in silence, and damage must not be silent
    errors.OffsetOutOfRange: OFFSET_OUT_OF_RANGE,
    errors.NoOffset: OFFSET_OUT_OF_RANGE,
    errors.RecordDecodeError: CORRUPT_MESSAGE,
    errors.LogDamaged: CORRUPT_MESSAGE,
    # groups
    errors.InvalidGroupName: INVALID_GROUP_ID,
    errors.UnknownGroup: GROUP_ID_NOT_FOUND,
    errors.NotInGroup: UNKNOWN_MEMBER_ID,
    errors.GroupBusy: NON_EMPTY_GROUP,
    errors.GroupFull: GROUP_MAX_SIZE_REACHED,
    errors.GroupFenced: UNKNOWN_MEMBER_ID,
    errors.FencedInstanceId: FENCED_INSTANCE_ID,
    errors.PartitionRevoked: ILLEGAL_GENERATION,
    errors.InconsistentGroupProtocol: INCONSISTENT_GROUP_PROTOCOL,
    # of handlers, dead letters and mirrors, which no request has
    errors.HandlerFailed: UNKNOWN_SERVER_ERROR,
    errors.NoDeadLetters: UNKNOWN_TOPIC_OR_PARTITION,
    errors.UnknownOrigin: UNKNOWN_TOPIC_OR_PARTITION,
    errors.MirrorConflict: UNKNOWN_SERVER_ERROR,
    errors.ForeignRecord: UNKNOWN_SERVER_ERROR,
}


class KafkaError(Exception):
    """What a handler raises to answer with a code of its choice."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


# What goes by: a full disk, a lock that another process keeps, a broker that is closed.
_PASSING: Final = (
    errors.StorageFull,
    errors.LockTimeout,
    errors.CatalogBusy,
    errors.BrokerClosed,
)


def group_code_of(error: BaseException) -> int:
    """The code where a coordinator answers: COORDINATOR_NOT_AVAILABLE for what goes by.

    Consumers ask again then, and give up at others, however passing (``ConsumerCoordinator``).
    Kafka's coordinator does the same (``GroupCoordinatorService.handleOperationException``).
    """
    return COORDINATOR_NOT_AVAILABLE if isinstance(error, _PASSING) else code_of(error)


def code_of(error: BaseException) -> int:
    """The code that tells a client of this error; UNKNOWN_SERVER_ERROR for a bug."""
    if isinstance(error, KafkaError):
        return error.code
    for kind in type(error).__mro__:
        code = TABLE.get(kind)
        if code is not None:
            return code
    return UNKNOWN_SERVER_ERROR
