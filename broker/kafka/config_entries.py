"""Settings as DescribeConfigs and CreateTopics tell clients of them.

A client knows Kafka's default of ``cleanup.policy``, which is ``delete``, and takes it for
what it gets when it removes the setting. So that is what clients are told: a topic with
``delete`` has the default, and one with seawall's own default ``acknowledged`` has a value
that somebody has chosen, which tools carry along when they copy a topic's settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Final

from seawall.broker.config import (
    ACKNOWLEDGED,
    BROKER_SETTINGS,
    DELETE,
    INT32_MAX,
    SETTINGS,
    Setting,
)
from seawall.broker.kafka.schema import Values
from seawall.broker.kafka.settings import ServerSettings, key_of
from seawall.broker.kafka.topic_configs import without_effect

# Kafka's ConfigSource
DYNAMIC_TOPIC: Final = 1
DYNAMIC_DEFAULT_BROKER: Final = 3
STATIC_BROKER: Final = 4
DEFAULT: Final = 5

# Kafka's ConfigType
BOOLEAN: Final = 1
STRING: Final = 2
INT: Final = 3
LONG: Final = 5
DOUBLE: Final = 6
LIST: Final = 7

#: Settings whose value is a list of words.
LISTS: Final = frozenset(
    {
        "cleanup.policy",
        "follower.replication.throttled.replicas",
        "leader.replication.throttled.replicas",
    }
)

# What a client may look for in a broker, and what follows from there being one.
_OF_ONE_BROKER: Final = {
    "default.replication.factor": ("1", INT, "There is one broker."),
    "delete.topic.enable": ("true", BOOLEAN, "Topics can be deleted."),
    "min.insync.replicas": ("1", INT, "There is one replica, and it is in sync."),
}


def topic_entries(config: Mapping[str, str], server: ServerSettings) -> list[Values]:
    """All settings of a topic that has these stored, by name."""
    entries = [_topic_entry(setting, config.get(key)) for key, setting in SETTINGS.items()]
    entries += [
        _entry(key, setting.default, DEFAULT, _type_of(setting), setting.description, fixed=True)
        for key, setting in without_effect(server).items()
    ]
    return sorted(entries, key=_name)


def _topic_entry(setting: Setting, stored: str | None) -> Values:
    default = setting.default
    if setting.key == "cleanup.policy":
        stored, default = stored or ACKNOWLEDGED, DELETE
        if stored == DELETE:
            stored = None
    return _entry(
        setting.key,
        default if stored is None else stored,
        DEFAULT if stored is None else DYNAMIC_TOPIC,
        _type_of(setting),
        setting.description,
        default=default,
        fixed=len(setting.words) == 1,
    )


def broker_entries(stored: Mapping[str, str], server: ServerSettings) -> list[Values]:
    """All settings of the broker: those of the directory, which can be changed, and those that
    the server was started with."""
    entries = directory_entries(stored, only_stored=False)
    defaults = ServerSettings()
    for each in dataclasses.fields(server):
        value, default = getattr(server, each.name), getattr(defaults, each.name)
        entries.append(
            _entry(
                key_of(each.name),
                _text(value),
                DEFAULT if value == default else STATIC_BROKER,
                _type_of_field(default, each.metadata),
                each.metadata["description"],
                default=_text(default),
                fixed=True,
            )
        )
    for key, (value, kind, description) in _OF_ONE_BROKER.items():
        entries.append(_entry(key, value, DEFAULT, kind, description, fixed=True))
    return sorted(entries, key=_name)


def directory_entries(stored: Mapping[str, str], *, only_stored: bool) -> list[Values]:
    """The settings that every server of this directory goes by."""
    return [
        _entry(
            key,
            stored.get(key, setting.default),
            DYNAMIC_DEFAULT_BROKER if key in stored else DEFAULT,
            _type_of(setting),
            setting.description,
            default=setting.default,
        )
        for key, setting in BROKER_SETTINGS.items()
        if key in stored or not only_stored
    ]


def chosen(
    entries: list[Values],
    keys: Collection[str] | None,
    *,
    synonyms: bool,
    documentation: bool,
) -> list[Values]:
    """The entries that a client asked for; all if it named none."""
    wanted = set(keys or ())
    return [
        {
            **each,
            "synonyms": each["synonyms"] if synonyms else (),
            "documentation": each["documentation"] if documentation else None,
        }
        for each in entries
        if not wanted or each["name"] in wanted
    ]


def _name(entry: Values) -> Any:
    return entry["name"]


def _entry(
    key: str,
    value: str,
    source: int,
    kind: int,
    documentation: str,
    *,
    default: str | None = None,
    fixed: bool = False,
) -> Values:
    """``synonyms`` are the places that the value was looked for, from the nearest on."""
    places = [(value, source)]
    if source != DEFAULT and default is not None:
        places.append((default, DEFAULT))
    return {
        "name": key,
        "value": value,
        "read_only": fixed,
        "config_source": source,
        "is_sensitive": False,
        "synonyms": [{"name": key, "value": each, "source": where} for each, where in places],
        "config_type": kind,
        "documentation": documentation,
    }


def _type_of(setting: Setting) -> int:
    if setting.key in LISTS:
        return LIST
    if setting.words:
        return BOOLEAN if set(setting.words) <= {"true", "false"} else STRING
    if setting.is_fraction:
        return DOUBLE
    return INT if setting.maximum <= INT32_MAX else LONG


def _type_of_field(default: object, metadata: Mapping[str, Any]) -> int:
    if isinstance(default, bool):
        return BOOLEAN
    if isinstance(default, str):
        return STRING
    return INT if metadata["maximum"] <= INT32_MAX else LONG


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
