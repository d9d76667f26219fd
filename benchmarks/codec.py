"""The record codec against building the same records as NamedTuples, in the same run.

    python benchmarks/codec.py

"reading" is what every consumed batch costs: check_batch (CRC and all) and decode_batch.
The ratio is the rate of reading over the rate of building; 1.00 means as fast.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable

from seawall.wal import records
from seawall.wal.records import Record, RecordTuple, check_batch, decode_batch, encode_batch

RECORDS = 600  # per batch, near batch_bytes' default with 100-byte values
ROUNDS = 200
NOW = 1_700_000_000_000
VALUES = [b"%0100d" % number for number in range(RECORDS)]


def best_us(run: Callable[[], object]) -> float:
    """Microseconds for each record: the best of many short rounds, so that others on this
    machine disturb little."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best / RECORDS * 1e6


def build() -> list[Record]:
    built = []
    for value in VALUES:
        built.append(Record("topic", 0, 17, NOW, None, value, ()))
    return built


def cases() -> dict[str, list[RecordTuple]]:
    return {
        "no key": [(NOW + i // 100, None, VALUES[i], ()) for i in range(RECORDS)],
        "short key": [(NOW + i // 100, b"key-%04d" % i, VALUES[i], ()) for i in range(RECORDS)],
        "one header": [(NOW + i // 100, None, VALUES[i], (("h", b"1"),)) for i in range(RECORDS)],
        "far timestamps": [(NOW + i * 9000, None, VALUES[i], ()) for i in range(RECORDS)],
    }


def main() -> int:
    print(f"{'core':10}{'records':16}{'write us':>9}{'read us':>9}{'build us':>9}{'ratio':>7}")
    for name in ("codec", "_codec"):
        try:
            core = importlib.import_module(f"seawall.wal.{name}")
        except ImportError:
            print("the compiled core was not built", file=sys.stderr)
            continue
        records.encode_records, records.decode_records = core.encode_records, core.decode_records
        for case, rows in cases().items():
            batch = bytes(encode_batch(rows))

            def read(batch: bytes = batch) -> list[Record]:
                check_batch(batch, 0, len(batch))
                return decode_batch(batch, 0, "topic", 0)

            write_us = best_us(lambda rows=rows: encode_batch(rows))  # type: ignore[misc]
            read_us, build_us = best_us(read), best_us(build)
            print(
                f"{'pure' if name == 'codec' else 'compiled':10}{case:16}{write_us:9.2f}"
                f"{read_us:9.2f}{build_us:9.2f}{build_us / read_us:7.2f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
