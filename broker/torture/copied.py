"""The operation of a mirror: batches at an offset that is known before, and gaps between them."""

from __future__ import annotations

from seawall.broker.torture.performer import Performer, Step, operation
from seawall.broker.translation import translated
from seawall.wal.records import empty_batch, encode_batch
from seawall.wal.torture.search import Broken


@operation("Log.append_at")
def copy(performer: Performer, step: Step) -> None:
    """Append batches where the log ends, with a hole between them; and, in vain, elsewhere."""
    topic, partition = step["topic"], step["partition"]
    if not performer.has(topic):
        return
    log = performer.log(topic, partition)
    end, gap = log.ends().log_end, 1 + int(step["part"] * 4)
    for offset in (end + 1, end - 1):
        number, batch = _batch(performer, step)
        with performer.ending(number), translated(topic, partition):
            if log.append_at(offset, [batch]) is not None:
                raise Broken(f"{topic}/{partition} ends at {end}, and took a batch at {offset}")
        performer.refused(number)
    first, before = _batch(performer, step)
    second, behind = _batch(performer, step)
    with performer.ending(first, second), translated(topic, partition):
        appended = log.append_at(end, [before, empty_batch(0, gap - 1, -1), behind])
    if appended is None:
        raise Broken(f"{topic}/{partition} ends at {end}, and took nothing there")
    with performer.ending(first, second, has_begun=True), translated(topic, partition):
        log.commit(appended.next_offset)
        performer.done(first, offset=end)
        performer.done(second, offset=end + step["records"] + gap)


def _batch(performer: Performer, step: Step) -> tuple[int, bytearray]:
    # Without keys, wherever they go: then nothing ever takes their place.
    number, keyed = performer.began_send(
        step["topic"], step["partition"], step["records"], step["size"]
    )
    records = [(performer.timestamp(), key, value.encode(), ()) for value, key in keyed]
    return number, encode_batch(records, compression=step["compression"])
