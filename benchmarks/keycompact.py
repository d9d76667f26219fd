"""Keeping the last value of each key: how fast, and with how much memory."""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import TOPIC, VALUE_BYTES, Result, Setting, ratios, seconds_for, take_turns
from benchmarks.memory import resident_mib
from seawall.broker.broker import Broker
from seawall.wal.filtering import spans_of
from seawall.wal.keymap import KeyMap, Span
from seawall.wal.records import encode_batch, parse_header

# A copy looks at no record, and here each is parsed twice, hashed and looked up: that is what
# costs. These are bounds below which something would be wrong.
AT_LEAST = {"compiled": 0.02, "pure": 0.01}
AT_MOST_MIB = 128
RECORDS_PER_BATCH = 500
# Of each key so many values; the last one stays.
VALUES_PER_KEY = 3
BLOCK_BYTES = 1 << 20


def batch(first: int, keys: int) -> bytearray:
    """So many records from a number on."""
    value = bytes(VALUE_BYTES)
    numbers = range(first, first + RECORDS_PER_BATCH)
    return encode_batch([(1, b"key-%012d" % (number % keys), value, ()) for number in numbers])


def filled(folder: Path, total_bytes: int) -> Broker:
    """A log of sealed segments of which a third is to stay."""
    shutil.rmtree(folder, ignore_errors=True)
    broker = Broker.open(folder)
    broker.create_topic(TOPIC, config={"cleanup.policy": "compact"})
    log = broker.engine.log(broker.topic(TOPIC).partitions[0].id)
    per_batch = len(batch(0, 1))
    records = total_bytes // per_batch * RECORDS_PER_BATCH
    for first in range(0, records, RECORDS_PER_BATCH):
        log.append([batch(first, records // VALUES_PER_KEY)])
    log.roll()
    log.append([batch(0, 1)])
    log.sync()
    log.checkpoint()
    return broker


def bare(folder: Path, total_bytes: int) -> float:
    """Copying a file of so many bytes, and syncing the copy; in bytes a second."""
    source, target = folder / "source", folder / "target"
    source.write_bytes(bytes(total_bytes))
    target.unlink(missing_ok=True)
    os.sync()

    def copy() -> None:
        with source.open("rb") as reading, target.open("wb") as writing:
            while block := reading.read(BLOCK_BYTES):
                writing.write(block)
            writing.flush()
            os.fdatasync(writing.fileno())

    return total_bytes / seconds_for(copy)


def measure(setting: Setting) -> Iterator[Result]:
    total_bytes = setting.pick(256 << 20, 4 << 20)
    if setting.core == "compiled":
        yield memory_of_keys(setting.pick(5_000_000, 50_000))

    def compact() -> float:
        with filled(setting.folder / "broker", total_bytes) as broker:
            os.sync()
            before = broker.info().log_bytes
            took_s = seconds_for(broker.compact)
            if not before / 4 < broker.info().log_bytes < before / 2:
                raise RuntimeError("not what should have gone is gone")
            return before / took_s

    rates, bares = take_turns(
        setting.pick(5, 1), compact, lambda: bare(setting.folder, total_bytes)
    )
    yield Result(
        what=f"compact {total_bytes >> 20:,} MiB of records of which a third stays: bytes a second",
        against="copying as many bytes, and one fdatasync",
        values=ratios(rates, bares),
        at_least=AT_LEAST[setting.core],
        detail=f"{statistics.median(rates) / 1e6:.0f} MB/s, copying "
        f"{statistics.median(bares) / 1e6:.0f} MB/s",
    )


def memory_of_keys(count: int) -> Result:
    """What the map of so many keys takes: what this process had resident at the most, less what
    it has before."""
    spans_of_batch(0, count)
    before_mib = resident_mib("VmRSS")
    keys = KeyMap(AT_MOST_MIB << 20, 0, count)
    for first in range(0, count, RECORDS_PER_BATCH):
        if keys.put(spans_of_batch(first, count), first, 0) is not None:
            raise RuntimeError("not all of them have room")
    if keys.count != count:
        raise RuntimeError(f"{count - keys.count} keys were taken for others")
    return Result(
        what=f"the map of {count:,} keys: resident memory, peak",
        against="",
        values=[resident_mib("VmHWM") - before_mib],
        at_most=AT_MOST_MIB,
        unit="MiB",
        detail=f"{before_mib:.0f} MiB before it; it has room for {keys.most:,}",
    )


def spans_of_batch(first: int, keys: int) -> list[Span]:
    data = bytes(batch(first, keys))
    return spans_of(parse_header(data), data)[1]
