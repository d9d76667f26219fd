"""Which names topics and groups may have."""

from __future__ import annotations

import re

from seawall.broker.errors import InvalidGroupName, InvalidTopicName

# Whose place in a dead-letter topic says what was redriven; it never expires.
REDRIVE_GROUP = "seawall.dlq.redrive"

MAX_TOPIC_NAME_CHARACTERS = 249
MAX_GROUP_NAME_BYTES = 255

_TOPIC = re.compile(r"[a-zA-Z0-9._-]+")
# C0 and C1 controls: a name is printed, and a zero byte ends it in state.lmdb's keys.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_topic_name(name: str) -> None:
    """Kafka's rule (``org.apache.kafka.common.internals.Topic``), or `InvalidTopicName`."""
    if not name:
        reason = "it is empty"
    elif name in (".", ".."):
        reason = "it stands for a folder"
    elif len(name) > MAX_TOPIC_NAME_CHARACTERS:
        reason = f"it has {len(name)} characters"
    elif _TOPIC.fullmatch(name) is None:
        bad = next(character for character in name if _TOPIC.fullmatch(character) is None)
        reason = f"it holds {bad!r}"
    else:
        return
    raise InvalidTopicName(topic=name, reason=reason)


def check_group_name(name: str) -> None:
    """Anything that can be printed and stored, or `InvalidGroupName`."""
    try:
        size_bytes = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidGroupName(group=name, reason="it is not UTF-8") from None
    control = _CONTROL.search(name)
    if not name:
        reason = "it is empty"
    elif size_bytes > MAX_GROUP_NAME_BYTES:
        reason = f"it has {size_bytes} bytes"
    elif control is not None:
        reason = f"it holds {control.group()!r}"
    else:
        return
    raise InvalidGroupName(group=name, reason=reason)
