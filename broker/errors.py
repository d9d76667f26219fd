"""Every error that the broker raises to its users.

::

    SeawallError                    the root of everything that seawall raises
    └── BrokerError
        ├── TopicError              topic
        │   ├── UnknownTopic
        │   ├── UnknownPartition    no partition with that number
        │   ├── TopicExists
        │   ├── InvalidTopicName
        │   ├── InvalidPartitions   a number of partitions that a topic cannot have
        │   ├── NoDeadLetters       it holds none, so it is not taken for what it is not
        │   ├── UnknownOrigin       a dead letter does not say where it was
        │   └── InvalidConfig       a setting: its key or its value
        ├── ProduceError            a record that was not, or perhaps not, published
        │   ├── RecordTooLarge      above max.message.bytes
        │   │   └── BatchTooLarge   above segment.bytes
        │   ├── InvalidRecord       cannot be stored as it is
        │   │   ├── CorruptBatch    not the bytes that a client made: its CRC or size is wrong
        │   │   ├── InvalidTimestamp
        │   │   └── UnsupportedCompression
        │   ├── BufferFull          max_block_ms passed without room in the buffer
        │   ├── AppendLockTimeout   another process keeps the partition's lock
        │   ├── WriteFailed         nothing was stored
        │   ├── LogFenced           the disk failed earlier: nothing more is stored
        │   ├── ProducerError       what a producer id, its epoch and sequence forbid
        │   │   ├── OutOfOrderSequence
        │   │   └── InvalidProducerEpoch
        │   └── OutcomeUnknown      the record may or may not survive
        │       └── SyncFailed
        ├── GroupError              group
        │   ├── InvalidGroupName
        │   ├── UnknownGroup
        │   ├── NotInGroup          acknowledging without a group
        │   ├── GroupBusy           it has members, and should have none
        │   │   └── GroupHeldByServer   clients of `seawall serve`
        │   ├── GroupFull           it has as many members as it may have
        │   ├── GroupFenced         the consumer is no longer a member
        │   ├── FencedInstanceId    another one has its instance id by now
        │   ├── PartitionRevoked    the partition belongs to another member by now
        │   ├── HandlerFailed       run ended: a record that may not become a dead letter
        │   └── InconsistentGroupProtocol
        │                           its members know no assignor in common
        ├── ConsumeError            topic, partition
        │   ├── OffsetOutOfRange    below the log start or above the durable end
        │   ├── NoOffset            nothing acknowledged, and auto_offset_reset="error"
        │   ├── RecordDecodeError   a batch that is whole, but whose records do not parse
        │   └── LogDamaged          damage in what was once durable
        ├── StorageFull             nothing was changed; works again once there is room
        ├── LockTimeout             another process keeps a lock of the directory
        ├── DirectoryError          path; the directory cannot be opened as it is
        │   ├── DirectoryUnusable   missing, not a directory, not readable or writable
        │   ├── ForeignDirectory    holds files, but is not seawall's
        │   ├── UnsupportedFormat   written by another version of the format
        │   ├── ForeignNamespace    is open in another PID namespace or container
        │   ├── DirectoryInUse      is open elsewhere, and wanted alone
        │   ├── ServerRunning       is served by another process
        │   └── UnsupportedPlatform the system lacks what durability needs
        ├── CatalogError            path; topics and their settings: catalog.db
        │   ├── CatalogDamaged
        │   ├── CatalogBusy         another process keeps its lock
        │   └── CatalogUnusable     cannot be read or written
        ├── LocationError           location
        │   ├── InvalidLocation     neither a directory nor kafka://host:port
        │   ├── UnsupportedByLocation
        │   │                       can be done elsewhere, but not there
        │   ├── MissingExtra        a package is not installed
        │   ├── ConnectionLost      no server answers, and it was tried long enough
        │   │   └── Away            for the moment; who runs handlers tries again by itself
        │   ├── AccessRefused       servers answer, and do not let this client in
        │   │   ├── AuthenticationFailed
        │   │   └── TlsFailed
        │   └── RemoteError         what a server said, and nothing else fits
        ├── MirrorError             topic; copying topics from one broker to another
        │   ├── MirrorConflict      the two sides do not go together
        │   └── ForeignRecord       the target holds what the mirror has not written
        ├── StateDamaged            path; acknowledgements and log starts: state.lmdb
        ├── StateLost               run/ends was lost while the directory was open
        ├── BrokerClosed            used after close()
        └── ForkedBroker            used in a child process after fork()

Errors carry their facts as attributes, named as in the constructor; `topic` and
`partition` are None where they are not known. The table that turns the storage
engine's errors into these is in ``broker/translation.py``. This module is the one to
import all of them from, wherever they are written down.
"""

from __future__ import annotations

from seawall.broker.errors_base import (
    BrokerClosed,
    BrokerError,
    CatalogBusy,
    CatalogDamaged,
    CatalogError,
    CatalogUnusable,
    DirectoryError,
    DirectoryInUse,
    DirectoryUnusable,
    ForeignDirectory,
    ForeignNamespace,
    ForkedBroker,
    LockTimeout,
    ServerRunning,
    StateDamaged,
    StateLost,
    StorageFull,
    UnsupportedFormat,
    UnsupportedPlatform,
)
from seawall.broker.errors_groups import (
    FencedInstanceId,
    GroupBusy,
    GroupError,
    GroupFenced,
    GroupFull,
    GroupHeldByServer,
    HandlerFailed,
    InconsistentGroupProtocol,
    InvalidGroupName,
    NotInGroup,
    PartitionRevoked,
    UnknownGroup,
)
from seawall.broker.errors_mirror import ForeignRecord, MirrorConflict, MirrorError
from seawall.broker.errors_records import (
    AppendLockTimeout,
    BatchTooLarge,
    BufferFull,
    ConsumeError,
    CorruptBatch,
    InvalidProducerEpoch,
    InvalidRecord,
    InvalidTimestamp,
    LogDamaged,
    LogFenced,
    NoOffset,
    OffsetOutOfRange,
    OutcomeUnknown,
    OutOfOrderSequence,
    ProduceError,
    ProducerError,
    RecordDecodeError,
    RecordTooLarge,
    SyncFailed,
    UnsupportedCompression,
    WriteFailed,
)
from seawall.broker.errors_remote import (
    AccessRefused,
    AuthenticationFailed,
    Away,
    ConnectionLost,
    InvalidLocation,
    LocationError,
    MissingExtra,
    RemoteError,
    TlsFailed,
    UnsupportedByLocation,
)

__all__ = [
    "AccessRefused",
    "AppendLockTimeout",
    "AuthenticationFailed",
    "Away",
    "BatchTooLarge",
    "BrokerClosed",
    "BrokerError",
    "BufferFull",
    "CatalogBusy",
    "CatalogDamaged",
    "CatalogError",
    "CatalogUnusable",
    "ConnectionLost",
    "ConsumeError",
    "CorruptBatch",
    "DirectoryError",
    "DirectoryInUse",
    "DirectoryUnusable",
    "FencedInstanceId",
    "ForeignDirectory",
    "ForeignNamespace",
    "ForeignRecord",
    "ForkedBroker",
    "GroupBusy",
    "GroupError",
    "GroupFenced",
    "GroupFull",
    "GroupHeldByServer",
    "HandlerFailed",
    "InconsistentGroupProtocol",
    "InvalidConfig",
    "InvalidGroupName",
    "InvalidLocation",
    "InvalidPartitions",
    "InvalidProducerEpoch",
    "InvalidRecord",
    "InvalidTimestamp",
    "InvalidTopicName",
    "LocationError",
    "LockTimeout",
    "LogDamaged",
    "LogFenced",
    "MirrorConflict",
    "MirrorError",
    "MissingExtra",
    "NoDeadLetters",
    "NoOffset",
    "NotInGroup",
    "OffsetOutOfRange",
    "OutOfOrderSequence",
    "OutcomeUnknown",
    "PartitionRevoked",
    "ProduceError",
    "ProducerError",
    "RecordDecodeError",
    "RecordTooLarge",
    "RemoteError",
    "ServerRunning",
    "StateDamaged",
    "StateLost",
    "StorageFull",
    "SyncFailed",
    "TlsFailed",
    "TopicError",
    "TopicExists",
    "UnknownGroup",
    "UnknownOrigin",
    "UnknownPartition",
    "UnknownTopic",
    "UnsupportedByLocation",
    "UnsupportedCompression",
    "UnsupportedFormat",
    "UnsupportedPlatform",
    "WriteFailed",
]

# -- topics --------------------------------------------------------------------------


class TopicError(BrokerError):
    """About a topic, or what was meant to be one."""

    def __init__(self, message: str, *, topic: str | None) -> None:
        super().__init__(message)
        self.topic = topic


class UnknownTopic(TopicError):
    """There is no such topic, or not any more. `is_another`: what has its name was made later."""

    def __init__(self, *, topic: str | None, is_another: bool = False) -> None:
        name = "the topic does not exist any more" if topic is None else f"no topic {topic!r}"
        super().__init__(
            f"topic {topic!r} was deleted, and made anew with the same name; read that one with a "
            "new consumer"
            if is_another
            else f"{name}; create it, or list the topics there are with `seawall topic list`",
            topic=topic,
        )
        self.is_another = is_another


class NoDeadLetters(TopicError):
    """The topic has no dead-letter topic, and is none."""

    def __init__(self, *, topic: str) -> None:
        super().__init__(
            f"topic {topic!r} has no dead letters; list the topics that have some with "
            "`seawall dlq list`",
            topic=topic,
        )


class UnknownOrigin(TopicError):
    """A record in a dead-letter topic that does not say where it was."""

    def __init__(self, *, topic: str, partition: int, offset: int) -> None:
        super().__init__(
            f"offset {offset} of {topic}/{partition} does not say which topic it was in: name one "
            "to send it to",
            topic=topic,
        )
        self.partition = partition
        self.offset = offset


class UnknownPartition(TopicError):
    """The topic has no partition with that number, or a consumer does not read it."""

    def __init__(
        self, *, topic: str | None, partition: int, partitions: int, is_read: bool = True
    ) -> None:
        message = (
            f"topic {topic!r} has no partition {partition}; "
            f"its partitions are 0 to {partitions - 1}"
        )
        if not is_read:
            message = (
                f"this consumer does not read partition {partition} of topic {topic!r}; "
                "its assignment() says what it does"
            )
        super().__init__(message, topic=topic)
        self.partition = partition
        self.partitions = partitions
        self.is_read = is_read


class TopicExists(TopicError):
    """A topic with this name is there. ``state`` is ``live``, or ``creating``.

    One that is being created will be there soon; if its creator died, it is finished
    when the directory is next opened by one process alone.
    """

    def __init__(self, *, topic: str, state: str = "live") -> None:
        how = "exists already" if state == "live" else "is being created by another process"
        super().__init__(f"topic {topic!r} {how}; use it, or choose another name", topic=topic)
        self.state = state


class InvalidTopicName(TopicError):
    """A name that Kafka would not accept."""

    def __init__(self, *, topic: str, reason: str) -> None:
        super().__init__(
            f"{topic!r} is not a valid topic name: {reason}; use 1 to 249 of the "
            "characters a-z A-Z 0-9 . _ - but neither '.' nor '..' alone",
            topic=topic,
        )
        self.reason = reason


class InvalidPartitions(TopicError):
    """A topic cannot be given fewer partitions than it has, nor more than ``most``."""

    def __init__(self, *, topic: str, partitions: int, wanted: int, most: int) -> None:
        super().__init__(
            f"topic {topic!r} has {partitions} partitions and cannot have {wanted}; "
            f"give {partitions} to {most}, or create another topic",
            topic=topic,
        )
        self.partitions = partitions
        self.wanted = wanted
        self.most = most


class InvalidConfig(TopicError):
    """A setting with a key that is not ``known``, or a value that is not allowed."""

    def __init__(
        self,
        *,
        key: str,
        value: str,
        allowed: str,
        known: bool = True,
        suggestion: str = "",
        said: str = "",
    ) -> None:
        """``said``: by a server that refused it, in its own words."""
        if said:
            message = f"the server refuses that: {said}"
        elif suggestion:
            message = f"unknown setting {key!r}; did you mean {suggestion!r}?"
        elif known:
            message = f"invalid value {value!r} for {key!r}: give {allowed}"
        else:
            message = f"unknown setting {key!r}; there are: {allowed}"
        super().__init__(message, topic=None)
        self.key = key
        self.value = value
        self.allowed = allowed
        self.known = known
        self.suggestion = suggestion
        self.said = said
