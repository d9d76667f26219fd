"""The per-topic settings: Kafka's names, with types, ranges, defaults and what they do.

Values are kept as text, as Kafka does: that is what a user wrote and what is shown
again. `TopicConfig` is the same, parsed, with the defaults filled in. Only settings
that have an effect are known; another one is an error rather than a silent wish.
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

_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key. Either a whole number in a range, or one of a few words."""

    key: str
    default: str
    description: str
    minimum: int = 0
    maximum: int = 0
    words: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """What values may be, for people."""
        if self.words:
            return " or ".join(repr(word) for word in self.words)
        return f"a whole number from {self.minimum} to {self.maximum}"

    def check(self, value: str) -> str:
        """The value as it is stored, or `InvalidConfig`."""
        if self.words:
            if value in self.words:
                return value
        elif _NUMBER.fullmatch(value) and self.minimum <= int(value) <= self.maximum:
            return str(int(value))
        raise InvalidConfig(key=self.key, value=value, allowed=self.allowed)


SETTINGS: dict[str, Setting] = {
    setting.key: setting
    for setting in (
        Setting(
            key="compression.type",
            default="producer",
            words=("producer",),
            description="Batches are stored in the compression that their producer chose. "
            "seawall never compresses them anew.",
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
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """A topic's settings, parsed, defaults included."""

    index_interval_bytes: int
    max_message_bytes: int
    message_timestamp_type: str
    segment_bytes: int
    segment_ms: int


def check_config(config: Mapping[str, str | int]) -> dict[str, str]:
    """The settings as they are stored. Raises `InvalidConfig` for the first bad one."""
    checked = {}
    for key, value in config.items():
        setting = SETTINGS.get(key)
        if setting is None:
            _unknown(key, value)
        # A bool is an int to Python, and never meant here.
        text = "" if isinstance(value, bool) else str(value).strip()
        checked[key] = setting.check(text)
    return checked


def _unknown(key: str, value: object) -> NoReturn:
    near = difflib.get_close_matches(key.lower().replace("_", "."), SETTINGS, n=1)
    raise InvalidConfig(
        key=key,
        value=str(value),
        allowed=", ".join(SETTINGS),
        known=False,
        suggestion=near[0] if near else "",
    )


def parse_config(config: Mapping[str, str]) -> TopicConfig:
    """A topic's stored settings with the defaults filled in."""

    def text(key: str) -> str:
        return config.get(key, SETTINGS[key].default)

    return TopicConfig(
        index_interval_bytes=int(text("index.interval.bytes")),
        max_message_bytes=int(text("max.message.bytes")),
        message_timestamp_type=text("message.timestamp.type"),
        segment_bytes=int(text("segment.bytes")),
        segment_ms=int(text("segment.ms")),
    )


def effective_config(config: Mapping[str, str]) -> dict[str, str]:
    """Every setting as text, in order of its name, defaults included."""
    return {key: config.get(key, setting.default) for key, setting in SETTINGS.items()}
