"""Kafka's settings of a topic, as clients know them, and which of them mean something here.

Three kinds (docs/kafka.md has the table for users):

* seawall's own, in ``broker/config.py``, which are stored and have an effect;
* `without_effect`: accepted where what they ask for is the case anyway, or where no client
  could tell the difference. They are not stored; the description of a topic shows what holds;
* all others, and values of these that would promise what is not done, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from seawall.broker.config import INT32_MAX, INT64_MAX, SETTINGS, Setting, check_config
from seawall.broker.errors import InvalidConfig
from seawall.broker.kafka import codes
from seawall.broker.kafka.codes import KafkaError

if TYPE_CHECKING:
    from seawall.broker.kafka.settings import ServerSettings

# No setting has a longer name; a longer one is not worth a search for what it may mean.
MOST_KEY_CHARACTERS: Final = 249

_YES_OR_NO: Final = ("true", "false")


def _number(key: str, holds: int, minimum: int, maximum: int, description: str) -> Setting:
    return Setting(
        key=key, default=str(holds), minimum=minimum, maximum=maximum, description=description
    )


def _only(key: str, holds: str, description: str) -> Setting:
    return Setting(key=key, default=holds, words=(holds,), description=description)


def _flag(key: str, holds: str, description: str) -> Setting:
    return Setting(key=key, default=holds, words=_YES_OR_NO, description=description)


_NO_REMOTE: Final = "There is no remote storage."
_NO_LEVEL: Final = "Batches are stored as their producer compressed them."

# ``default`` is what holds.
_WITHOUT_EFFECT: Final = (
    _number("compression.gzip.level", -1, -1, 9, _NO_LEVEL),
    _number("compression.lz4.level", 9, 1, 17, _NO_LEVEL),
    _number("compression.zstd.level", 3, -131_072, 22, _NO_LEVEL),
    _number("file.delete.delay.ms", 0, 0, INT64_MAX, "Files of old segments go at once."),
    _number(
        "flush.messages",
        1,
        1,
        INT64_MAX,
        "Every batch is on disk before it is acknowledged, whatever this is.",
    ),
    _number(
        "flush.ms",
        0,
        0,
        INT64_MAX,
        "Every batch is on disk before it is acknowledged, whatever this is.",
    ),
    _only("follower.replication.throttled.replicas", "", "There is one replica."),
    _only("leader.replication.throttled.replicas", "", "There is one replica."),
    _number("local.retention.bytes", -2, -2, -2, _NO_REMOTE),
    _number("local.retention.ms", -2, -2, -2, _NO_REMOTE),
    _number(
        "max.compaction.lag.ms",
        INT64_MAX,
        INT64_MAX,
        INT64_MAX,
        "How soon a record is compacted at the latest is not promised.",
    ),
    _number("min.insync.replicas", 1, 1, 1, "There is one replica, and it is in sync."),
    _flag("preallocate", "true", "Files are allocated ahead, some MiB at a time."),
    _only("remote.log.copy.disable", "false", _NO_REMOTE),
    _only("remote.log.delete.on.disable", "false", _NO_REMOTE),
    _only("remote.storage.enable", "false", _NO_REMOTE),
    _number(
        "segment.index.bytes",
        10 << 20,
        4,
        INT32_MAX,
        "The offset index is one for all topics and grows as it must.",
    ),
    _number("segment.jitter.ms", 0, 0, INT64_MAX, "Segments end when segment.ms says so."),
    _flag(
        "unclean.leader.election.enable",
        "false",
        "There is one replica, and so no other one to elect.",
    ),
)

# Why a value that Kafka takes is refused, where the setting itself does not say it.
_HINTS: Final = {
    "compression.type": "seawall never compresses anew: set compression.type of the producers",
    "min.insync.replicas": "there is one replica",
    "remote.storage.enable": "there is no remote storage",
    "max.compaction.lag.ms": "how soon a record is compacted at the latest is not promised",
    "message.timestamp.before.max.ms": "it is set for the whole server, when it starts",
    "message.timestamp.after.max.ms": "it is set for the whole server, when it starts",
}


def without_effect(server: ServerSettings) -> dict[str, Setting]:
    """What is accepted and changes nothing, by key; ``default`` is what holds."""
    times = {
        "message.timestamp.before.max.ms": server.log_message_timestamp_before_max_ms,
        "message.timestamp.after.max.ms": server.log_message_timestamp_after_max_ms,
    }
    limits = [
        _number(
            key,
            limit,
            limit,
            limit,
            f"How far a record's time may be off, in milliseconds: log.{key} of the server.",
        )
        for key, limit in times.items()
    ]
    return {each.key: each for each in (*_WITHOUT_EFFECT, *limits)}


def checked_for_topic(config: Mapping[str, str | None], server: ServerSettings) -> dict[str, str]:
    """What is stored of settings that a client gives. Raises INVALID_CONFIG for the first bad
    one."""
    ignored = without_effect(server)
    stored: dict[str, str] = {}
    for key, value in config.items():
        check_key(key)
        if value is None:
            raise KafkaError(codes.INVALID_CONFIG, f"{key} needs a value, and has none")
        try:
            if key in ignored:
                ignored[key].check(value.strip().lower())
            else:
                stored |= check_config({key: value}, SETTINGS)
        except InvalidConfig as error:
            if not error.known:
                raise
            hint = _HINTS.get(key)
            message = f"{error} ({hint})" if hint else str(error)
            raise KafkaError(codes.INVALID_CONFIG, message) from error
    return stored


def check_key(key: str) -> None:
    """Raise INVALID_CONFIG for a key that is too long to be one."""
    if len(key) > MOST_KEY_CHARACTERS:
        raise KafkaError(codes.INVALID_CONFIG, f"no setting has a name of {len(key)} characters")
