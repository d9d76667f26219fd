"""Copying a directory with ``cp -r`` while processes write to it.

Such a copy is no moment's picture: each file is of another moment, and files that came
after their folder was read are missing. So the copy may lack the newest records, may be
damaged where they were, and may be refused by name; but what had been acknowledged before
the copying began is in it if it opens, and the original does not notice.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Sequence

from seawall.broker.broker import Broker
from seawall.broker.errors import LogDamaged
from seawall.broker.torture.actors import Actor
from seawall.broker.torture.marks import Ledger, PartitionLedger
from seawall.broker.torture.scenes import OPEN, Scene, copy_tree
from seawall.wal.torture.search import Broken

COPIES = 2
SEND_MS = 30  # between the copies


def copied(scene: Scene) -> None:
    """Copy it while two processes produce, roll, acknowledge and checkpoint."""
    _copied(scene, with_topics=False)


def copied_with_topics(scene: Scene) -> None:
    """The same, while a third one creates and deletes topics."""
    _copied(scene, with_topics=True)


def _copied(scene: Scene, *, with_topics: bool) -> None:
    writers = [scene.opened(), scene.opened()]
    scene.furnish(writers[0], rounds=2)
    for partition, writer in enumerate(writers):
        group = f"group-{partition}"
        script = [
            scene.step(op, partition, group)
            for op in ("produce", "produce", "acknowledge", "produce", "checkpoint", "produce")
        ]
        writer.tell({"op": "stream", "steps": script})
    if with_topics:
        writers.append(scene.opened())
        writers[-1].tell({"op": "stream", "steps": _topics_that_come_and_go()})
    kept: list[tuple[str, Ledger]] = []
    for number in range(COPIES):
        for writer in writers:
            writer.gather(SEND_MS / 1000 / len(writers))
        target = os.path.join(scene.folder, f"copy-{number}")
        kept.append((target, copy.deepcopy(scene.ledger)))
        copy_tree(scene.path, target)
    for writer in writers:
        writer.child.say({"op": "enough"})
    for writer in writers:
        reply = writer.reply()
        if reply.error:
            raise Broken(f"the original was disturbed: {reply.error}: {reply.text}")
        writer.end()
    for target, ledger in kept:
        _check_copy(scene, target, ledger)
        shutil.rmtree(target)
    scene.check()


def _topics_that_come_and_go() -> Sequence[dict[str, object]]:
    script: list[dict[str, object]] = []
    for number in range(200):
        script.append({"op": "create", "topic": f"carts-{number}", "partitions": 2})
        if number % 3:
            script.append({"op": "delete", "topic": f"carts-{number}"})
    return script


def _check_copy(scene: Scene, path: str, before: Ledger) -> None:
    """Open a copy. ``before`` is what had been promised when the copying began."""
    first: Actor = scene.actor(path, ledger=Ledger())
    reply = first.do(OPEN)
    if reply.error:
        scene.count(f"copies refused ({reply.error})")
        first.child.kill()
        return
    scene.count("copies opened")
    first.end()
    with Broker.open(path) as broker:
        present = {topic.name for topic in broker.topics()}
        for name, promised in before.topics.items():
            may_be_gone = not scene.ledger.topics[name].must_exist
            if promised.must_exist and name not in present and not may_be_gone:
                raise Broken(f"topic {name!r} had been created, and the copy lacks it")
            if name not in present or name not in ("orders", "audit"):
                continue
            for number, partition in promised.partitions.items():
                sent = scene.ledger.topics[name].partitions[number]
                _check_partition(scene, broker, (name, number), partition, sent)
        _check_committed(broker, before, scene.ledger)


def _check_partition(
    scene: Scene,
    broker: Broker,
    where: tuple[str, int],
    before: PartitionLedger,
    after: PartitionLedger,
) -> None:
    visible = _read_over_damage(scene, broker, *where)
    for offset, value in before.known.items():
        if visible.get(offset) != value:
            found = visible.get(offset)
            raise Broken(f"{where} offset {offset} was {value!r}, and in the copy {found!r}")
    for offset, value in visible.items():
        if after.known.get(offset, value) != value or value not in after.order:
            raise Broken(f"{where} offset {offset} is {value!r} in the copy alone")
    end = broker.ends(*where).log_end
    with broker.producer(linger_ms=0) as producer:
        sent = producer.send(where[0], b"in the copy", partition=where[1]).result(30)
    if sent.offset < end or _read_over_damage(scene, broker, *where).get(sent.offset) is None:
        raise Broken(
            f"{where} of the copy gave offset {sent.offset} to a record, and ends at {end}"
        )


def _read_over_damage(scene: Scene, broker: Broker, topic: str, partition: int) -> dict[int, bytes]:
    """Every record of a partition that can be read; what is damaged is passed over."""
    visible: dict[int, bytes] = {}
    end = broker.ends(topic, partition).durable_end
    with broker.consumer(topic, partitions=[partition], start="start") as consumer:
        while consumer.position(topic, partition) < end:
            try:
                records = consumer.poll(timeout_ms=0)
            except LogDamaged as error:
                scene.count("damage in copies, named")
                consumer.seek(topic, partition, error.next_offset)
                continue
            if not records:
                raise Broken(f"{topic}/{partition} of the copy gives nothing before its end {end}")
            visible.update((record.offset, record.value or b"") for record in records)
    return visible


def _check_committed(broker: Broker, before: Ledger, after: Ledger) -> None:
    """Committed offsets lie between what they were before and after the copying."""
    for (group, topic, partition), possible in before.committed.items():
        if None in possible:
            continue
        least = min(each for each in possible if each is not None)
        later = after.committed[group, topic, partition]
        most = max(each for each in later if each is not None)
        found = {
            (place.topic, place.partition): place.committed for place in broker.group(group).offsets
        }.get((topic, partition))
        end = broker.ends(topic, partition).durable_end
        if found is None or not least <= found <= most or found > end:
            raise Broken(
                f"group {group!r} has committed {found} in {topic}/{partition} of the copy, which "
                f"ends at {end}; it was {least} before and {most} after"
            )
