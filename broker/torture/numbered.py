"""The operations of idempotent producers: batches that come again, and are there once."""

from __future__ import annotations

from seawall.broker.torture.operations import produce_in
from seawall.broker.torture.performer import Performer, Step, operation
from seawall.broker.translation import translated
from seawall.wal.log import Log
from seawall.wal.records import encode_batch


@operation("State.take_producer_ids")
def produce_once(performer: Performer, step: Step) -> None:
    """Publish records as an idempotent producer does, and wait until they are on disk."""
    produce_in(performer, step, "fsync", idempotent=True)


@operation("Log.append_checked")
def resend(performer: Performer, step: Step) -> None:
    """Append numbered batches and again the same ones, as a client that got no answer does.

    They come by turns through this process's log and through another one, which learns
    from the disk alone what the first has appended: so would another process. What came last
    in the step before of this kind comes again first, whatever has happened since.
    """
    topic, partition = step["topic"], step["partition"]
    if not performer.has(topic):
        return
    log = performer.log(topic, partition)
    partition_id = log.context.partition_id
    offset, batch = performer.numbered.get(partition_id, (-1, b""))
    # A log forgets the producers of what was dropped, once its index is lost as well.
    if offset >= log.ends().log_start:
        with translated(topic, partition):
            log.append_checked([bytearray(batch)])
    producer_id, epoch = performer.broker.engine.producer_ids.next()
    other = Log(log.context)
    sequence = 0
    try:
        for first, second in ((log, other), (other, log)):
            number, keyed = performer.began_send(
                topic, partition, step["records"], step["size"], has_keys=True
            )
            batch = bytes(
                encode_batch(
                    [(performer.timestamp(), key, value.encode(), ()) for value, key in keyed],
                    compression=step["compression"],
                    producer_id=producer_id,
                    producer_epoch=epoch,
                    base_sequence=sequence,
                )
            )
            sequence += len(keyed)
            with performer.ending(number), translated(topic, partition):
                placed = first.append_checked([bytearray(batch)])[0]
            with performer.ending(number, has_begun=True), translated(topic, partition):
                second.append_checked([bytearray(batch)])
                first.commit(placed.next_offset)
                performer.done(number, offset=placed.base_offset)
            performer.numbered[partition_id] = placed.base_offset, batch
    finally:
        other.close()
