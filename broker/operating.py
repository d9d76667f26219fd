"""What an operator does with a broker: change topics and settings, remove records.

`Operating` is a part of `Broker`; it has a module of its own because it is a job of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

from seawall.broker import topics

if TYPE_CHECKING:
    from uuid import UUID

    from seawall.broker.broker import Broker
    from seawall.broker.dead_letters import DeadLetters, DeadLetterTopic
    from seawall.broker.engine import Engine
    from seawall.broker.inspect import BrokerInfo, Finding
    from seawall.broker.producer_ids import ProducerInfo
    from seawall.broker.topic_info import TopicInfo
    from seawall.broker.trimming import Trimmed


class Operating:
    """The operator's methods of a `Broker`."""

    def _usable(
        self, topic: str | None = None, partition: int | None = None
    ) -> AbstractContextManager[Engine]:
        """The engine, for as long as it takes; what goes wrong becomes the broker's errors."""
        raise NotImplementedError

    # -- topics ----------------------------------------------------------------------

    def alter_topic(self, name: str, config: Mapping[str, str | int | None]) -> TopicInfo:
        """Change settings of a topic; None takes one back to its default.

        Processes that have the directory open go by them within moments: producers after
        half a second at the latest. Raises `UnknownTopic` and `InvalidConfig`.
        """
        with self._usable(name) as engine:
            return topics.alter_topic(engine, name, config)

    def delete_topic(self, name: str, *, uuid: UUID | None = None) -> None:
        """Delete a topic, its records and every group's place in it.

        With `uuid` only if it is that topic, and not another one that got the name since.
        Raises `UnknownTopic`.
        """
        with self._usable() as engine:
            topics.delete_topic(engine, name, uuid)

    def add_partitions(self, name: str, total: int) -> TopicInfo:
        """Give a topic partitions until it has `total`; they are there when this returns.

        From then on records with a key may go to another partition than before, as in
        Kafka. Raises `UnknownTopic`, and `InvalidPartitions` for fewer than there are.
        """
        with self._usable(name) as engine:
            return topics.add_partitions(engine, name, total)

    def delete_records(self, topic: str, offsets: Mapping[int, int]) -> dict[int, int]:
        """Remove the records below an offset of some partitions: partition -> offset.

        -1 stands for the durable end (the high watermark). Nobody can read them from now
        on, acknowledged or not; the files go as far as they hold nothing else. Gives the
        log starts afterwards.

        Raises `UnknownTopic`, `UnknownPartition` and `OffsetOutOfRange`, before anything is
        changed.
        """
        from seawall.broker import trimming  # only operators wait for it

        with self._usable(topic) as engine:
            return trimming.delete_records(engine, engine.topic(topic), offsets)

    def producers(self, topic: str, partition: int) -> list[ProducerInfo]:
        """The idempotent producers that a partition knows, in order of their ids.

        Those are forgotten of which nothing has come for ``producer.id.expiration.ms``.
        Raises `UnknownTopic` and `UnknownPartition`.
        """
        from seawall.broker import producer_ids

        with self._usable(topic, partition) as engine:
            return producer_ids.describe(engine.log(engine.partition_id(topic, partition)))

    # -- dead letters ----------------------------------------------------------------

    def dead_letter_topics(self) -> list[DeadLetterTopic]:
        """The topics that hold dead letters, sorted by name: how many, since when, of whom."""
        from seawall.broker import dead_letters
        from seawall.broker.redrive_places import DirectoryRedrives

        broker = cast("Broker", self)
        return dead_letters.find(broker, DirectoryRedrives(broker))

    def dead_letters(self, topic: str) -> DeadLetters:
        """The dead letters of a topic: of ``topic.dlq`` if there is one, else those in it.

        Raises `UnknownTopic`, and `NoDeadLetters` for a topic without any.
        """
        from seawall.broker.dead_letters import DeadLetters
        from seawall.broker.redrive_places import DirectoryRedrives

        broker = cast("Broker", self)
        return DeadLetters(broker, DirectoryRedrives(broker), topic)

    # -- the directory ---------------------------------------------------------------

    def info(self) -> BrokerInfo:
        """What the directory is and holds."""
        from seawall.broker import inspect  # only operators wait for it

        with self._usable() as engine:
            return inspect.info(engine)

    def verify(self, topic: str | None = None) -> Iterator[Finding]:
        """Read everything, and yield what is damaged: file, position, offset."""
        from seawall.broker import inspect

        with self._usable() as engine:
            yield from inspect.verify(engine, topic)

    def compact(self, topic: str | None = None, *, dry_run: bool = False) -> list[Trimmed]:
        """Remove now what may go by each topic's ``cleanup.policy``, which otherwise
        happens in the background; with `dry_run` only say what would be.

        Gives what was removed from each partition and by which rule, and what keeps the
        rest. Raises `UnknownTopic`, and what the disk's trouble is called.
        """
        from seawall.broker import cleaning

        with self._usable(topic) as engine:
            return cleaning.compact(engine, topic, dry_run=dry_run)

    def config(self) -> dict[str, str]:
        """The settings of the broker itself, in order of their names, defaults included."""
        from seawall.broker.config import BROKER_SETTINGS, effective_config

        with self._usable() as engine:
            return effective_config(engine.catalog.broker_config(), BROKER_SETTINGS)

    def set_config(self, changes: Mapping[str, str | int | None]) -> None:
        """Change settings of the broker itself, for every process that has it open.

        None takes one back to its default. Raises `InvalidConfig`.
        """
        from seawall.broker.config import BROKER_SETTINGS, check_changes

        checked = check_changes(changes, BROKER_SETTINGS)
        with self._usable() as engine:
            engine.catalog.set_broker_config(checked)
