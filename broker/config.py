"""The settings of topics and of the whole broker: Kafka's names, types, ranges, defaults.

Values are kept as text, as Kafka does: that is what a user wrote and what is shown
again. `TopicConfig` and `BrokerConfig` are the same, parsed, with the defaults filled in.
Only settings that have an effect are known; another one is an error rather than a silent
wish.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from seawall.broker.errors import InvalidConfig

MIB = 1 << 20
MS_PER_DAY = 86_400_000
INT32_MAX = (1 << 31) - 1
INT64_MAX = (1 << 63) - 1

ACKNOWLEDGED = "acknowledged"
DELETE = "delete"
COMPACT = "compact"
COMPACT_AND_DELETE = "compact,delete"

_NUMBER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_FRACTION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key. A whole number in a range, one of a few words, or a fraction of 1.

    ``same`` names other ways to write a word.
    """

    key: str
    default: str
    description: str
    minimum: int = 0
    maximum: int = 0
    words: tuple[str, ...] = ()
    same: Mapping[str, str] | None = None
    is_fraction: bool = False

    @property
    def allowed(self) -> str:
        """What values may be, for people."""
        if self.words:
            return " or ".join(repr(word) for word in self.words)
        kind = "a number" if self.is_fraction else "a whole number"
        return f"{kind} from {self.minimum} to {self.maximum}"

    def check(self, value: str) -> str:
        """The value as it is stored, or `InvalidConfig`."""
        if self.words:
            value = (self.same or {}).get(value, value)
            if value in self.words:
                return value
        elif self.is_fraction:
            if _FRACTION.fullmatch(value) and self.minimum <= float(value) <= self.maximum:
                return str(float(value))
        elif _NUMBER.fullmatch(value) and self.minimum <= int(value) <= self.maximum:
            return str(int(value))
        raise InvalidConfig(key=self.key, value=value, allowed=self.allowed)


def _by_key(*settings: Setting) -> dict[str, Setting]:
    return {setting.key: setting for setting in settings}


SETTINGS = _by_key(
    Setting(
        key="cleanup.policy",
        default=ACKNOWLEDGED,
        words=(ACKNOWLEDGED, DELETE, COMPACT, COMPACT_AND_DELETE),
        same={
            "delete,compact": COMPACT_AND_DELETE,
            "compact, delete": COMPACT_AND_DELETE,
            "delete, compact": COMPACT_AND_DELETE,
        },
        description="What becomes of old records. 'acknowledged' removes what every group "
        "has acknowledged that is registered in the partition, and nothing while there is "
        "none; 'delete' removes by age and size; 'compact' keeps the last value of each key.",
    ),
    Setting(
        key="compression.type",
        default="producer",
        words=("producer",),
        description="Batches are stored in the compression that their producer chose. "
        "seawall never compresses them anew.",
    ),
    Setting(
        key="delete.retention.ms",
        default=str(MS_PER_DAY),
        minimum=0,
        maximum=INT64_MAX,
        description="With 'compact': how long a null value stays after its key was "
        "compacted, in milliseconds, so that slow readers learn of the deletion.",
    ),
    Setting(
        key="index.interval.bytes",
        default="4096",
        minimum=1,
        maximum=INT32_MAX,
        description="How many bytes of log lie between two entries of the offset index, "
        "at least. Less makes lookups quicker and the index larger.",
    ),
    Setting(
        key="max.message.bytes",
        default=str(MIB + 12),
        minimum=61,
        maximum=256 * MIB,
        description="The largest record batch that the topic takes, in bytes, after "
        "compression. A record that alone is larger is refused.",
    ),
    Setting(
        key="message.timestamp.type",
        default="CreateTime",
        words=("CreateTime", "LogAppendTime"),
        description="Whether a record carries the time that its producer gave, or the "
        "time at which it was appended.",
    ),
    Setting(
        key="min.cleanable.dirty.ratio",
        default="0.5",
        maximum=1,
        is_fraction=True,
        description="With 'compact': how much of a log has to be new since it was last "
        "compacted, as a fraction, for it to be worth compacting.",
    ),
    Setting(
        key="min.compaction.lag.ms",
        default="0",
        minimum=0,
        maximum=INT64_MAX,
        description="With 'compact': how long a record stays as it is, in milliseconds.",
    ),
    Setting(
        key="retention.bytes",
        default="-1",
        minimum=-1,
        maximum=INT64_MAX,
        description="With 'delete': how large a partition may be, in bytes, before its "
        "oldest segments are removed. -1: as large as it gets.",
    ),
    Setting(
        key="retention.ms",
        default=str(7 * MS_PER_DAY),
        minimum=-1,
        maximum=INT64_MAX,
        description="With 'delete': how old the newest record of a segment may be, in "
        "milliseconds, before the segment is removed. -1: as old as it gets.",
    ),
    Setting(
        key="segment.bytes",
        default=str(64 * MIB),
        minimum=4096,
        maximum=INT32_MAX,
        description="The size at which a log begins a new file, in bytes. Only whole "
        "files are removed.",
    ),
    Setting(
        key="segment.ms",
        default=str(7 * MS_PER_DAY),
        minimum=1,
        maximum=INT64_MAX,
        description="The age at which a log begins a new file, in milliseconds, even "
        "if the old one is small.",
    ),
)

BROKER_SETTINGS = _by_key(
    Setting(
        key="log.cleaner.io.max.bytes.per.second",
        default=str(32 * MIB),
        minimum=4096,
        maximum=INT64_MAX,
        description="How many bytes a second the compactor reads and writes at the most. "
        "Removing a file counts for nothing.",
    ),
    Setting(
        key="log.retention.check.interval.ms",
        default="300000",
        minimum=100,
        maximum=INT32_MAX,
        description="How often the compactor looks for what has grown too old, in "
        "milliseconds. What is acknowledged goes within seconds, whatever this is.",
    ),
    Setting(
        key="offsets.retention.minutes",
        default="10080",
        minimum=1,
        maximum=INT32_MAX,
        description="How long a group that nobody is in keeps its place, in minutes, "
        "before it is forgotten and holds nothing back any more.",
    ),
    Setting(
        key="producer.id.expiration.ms",
        default=str(MS_PER_DAY),
        minimum=1,
        maximum=INT32_MAX,
        description="How long a partition remembers an idempotent producer of which nothing "
        "comes, in milliseconds. A batch that is sent again later than that is stored twice.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """A topic's settings, parsed, defaults included."""

    cleanup_policy: str
    delete_retention_ms: int
    index_interval_bytes: int
    max_message_bytes: int
    message_timestamp_type: str
    min_cleanable_dirty_ratio: float
    min_compaction_lag_ms: int
    retention_bytes: int
    retention_ms: int
    segment_bytes: int
    segment_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """The broker's settings, parsed, defaults included."""

    io_max_bytes_per_second: int
    retention_check_interval_ms: int
    offsets_retention_minutes: int
    producer_id_expiration_ms: int


def check_config(
    config: Mapping[str, str | int], settings: Mapping[str, Setting] = SETTINGS
) -> dict[str, str]:
    """The settings as they are stored. Raises `InvalidConfig` for the first bad one."""
    checked = {}
    for key, value in config.items():
        setting = settings.get(key)
        if setting is None:
            _unknown(key, value, settings)
        # A bool is an int to Python, and never meant here.
        text = "" if isinstance(value, bool) else str(value).strip()
        checked[key] = setting.check(text)
    return checked


def check_changes(
    changes: Mapping[str, str | int | None], settings: Mapping[str, Setting] = SETTINGS
) -> dict[str, str | None]:
    """The same for changes, where None takes a setting back to its default."""
    checked: dict[str, str | None] = {}
    for key, value in changes.items():
        if value is not None:
            checked |= check_config({key: value}, settings)
        elif key in settings:
            checked[key] = None
        else:
            _unknown(key, "", settings)
    return checked


def _unknown(key: str, value: object, settings: Mapping[str, Setting]) -> NoReturn:
    near = difflib.get_close_matches(key.lower().replace("_", "."), settings, n=1)
    raise InvalidConfig(
        key=key,
        value=str(value),
        allowed=", ".join(settings),
        known=False,
        suggestion=near[0] if near else "",
    )


def parse_config(config: Mapping[str, str]) -> TopicConfig:
    """A topic's stored settings with the defaults filled in."""
    text = effective_config(config)
    return TopicConfig(
        cleanup_policy=text["cleanup.policy"],
        delete_retention_ms=int(text["delete.retention.ms"]),
        index_interval_bytes=int(text["index.interval.bytes"]),
        max_message_bytes=int(text["max.message.bytes"]),
        message_timestamp_type=text["message.timestamp.type"],
        min_cleanable_dirty_ratio=float(text["min.cleanable.dirty.ratio"]),
        min_compaction_lag_ms=int(text["min.compaction.lag.ms"]),
        retention_bytes=int(text["retention.bytes"]),
        retention_ms=int(text["retention.ms"]),
        segment_bytes=int(text["segment.bytes"]),
        segment_ms=int(text["segment.ms"]),
    )


def parse_broker_config(config: Mapping[str, str]) -> BrokerConfig:
    """The broker's stored settings with the defaults filled in."""
    text = effective_config(config, BROKER_SETTINGS)
    return BrokerConfig(
        io_max_bytes_per_second=int(text["log.cleaner.io.max.bytes.per.second"]),
        retention_check_interval_ms=int(text["log.retention.check.interval.ms"]),
        offsets_retention_minutes=int(text["offsets.retention.minutes"]),
        producer_id_expiration_ms=int(text["producer.id.expiration.ms"]),
    )


def effective_config(
    config: Mapping[str, str], settings: Mapping[str, Setting] = SETTINGS
) -> dict[str, str]:
    """Every setting as text, in order of its name, defaults included."""
    return {key: config.get(key, setting.default) for key, setting in settings.items()}
