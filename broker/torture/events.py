"""What clients did and were told: events, and the files that they are written to.

A history is a list of events. An operation is two of them: its invocation, and its
completion, which says how it ended::

    invoke    it begins
    ok        it is done
    fail      it certainly had no effect
    info      nobody knows whether it had one, or will have

An operation without a completion was cut off, which is as good as ``info``. A *process* is
one thread of one client, in one life: it does one thing after the other, except that sends
may be under way at once. What belongs to the events of each operation:

    send        invoke  partition, values (in the order of sending); the name of the topic
                        alone, "orders/", if the client leaves the choice to somebody else
                ok      partition, offsets (one for each value)
    assign      invoke  group, if it is to be held; final, if this is to read everything
                ok      places (where it begins in each partition); from here on, the
                        process reads these partitions and no others
    poll        ok      records (what was handed out, in that order)
    seek        invoke  places
    ack         invoke  group, places (the next offset to read)
    committed   invoke  group
                ok      places, as somebody who looks is told
    reset       invoke  group, places
    forget      invoke  group: it is deleted
    drop        invoke  places: log starts may rise to these
    end         ok      starts, places (log starts and durable ends): what was assigned as
                        final has been read from the one to the other
    crash       info    the process died, and does nothing from now on

Partitions go by names such as ``orders/0``, values by texts that no other record has. A
topic's name stands for one life of the topic. Times come from a clock that all processes
share.
"""

from __future__ import annotations

import heapq
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

KINDS = ("invoke", "ok", "fail", "info")
OPERATIONS = (
    *("send", "assign", "poll", "seek", "ack", "committed"),
    *("reset", "forget", "drop", "end", "crash"),
)
# An event is one line; a poll of some thousand records fits easily.
MOST_LINE_BYTES = 16 << 20

Records = Mapping[str, Sequence[tuple[int, str]]]
Places = Mapping[str, int]
_NO_RECORDS: Records = MappingProxyType({})
_NO_PLACES: Places = MappingProxyType({})


class HistoryError(ValueError):
    """What is not a history: a line that is no event, a completion of nothing, …"""


class Event(NamedTuple):
    """One invocation or completion. `number` counts the operations of its process, and is
    the same for both events of one."""

    process: str
    number: int
    time_ns: int
    kind: str
    op: str
    partition: str = ""
    values: tuple[str, ...] = ()
    offsets: tuple[int, ...] = ()
    records: Records = _NO_RECORDS
    places: Places = _NO_PLACES
    starts: Places = _NO_PLACES
    group: str = ""
    final: bool = False
    error: str = ""


_DEFAULTS = Event._field_defaults


def encode(event: Event) -> bytes:
    """An event as one line of JSON, without what it does not say."""
    said = {
        name: dict(value) if isinstance(value, Mapping) else value
        for name, value in zip(Event._fields, event, strict=True)
        if name not in _DEFAULTS or value != _DEFAULTS[name]
    }
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes | str) -> Event:
    """The event that a line holds. Raises `HistoryError`."""
    try:
        said: dict[str, Any] = json.loads(line)
        for name in ("values", "offsets"):
            if name in said:
                said[name] = tuple(said[name])
        if "records" in said:
            said["records"] = {
                partition: tuple((int(offset), str(value)) for offset, value in records)
                for partition, records in said["records"].items()
            }
        event = Event(**said)
        if event.kind not in KINDS or event.op not in OPERATIONS:
            raise HistoryError(f"no such event: {event.kind!r} of {event.op!r}")
        return event
    except (ValueError, TypeError, AttributeError) as error:
        raise HistoryError(f"not an event: {line[:200]!r} ({error})") from error


def read_events(path: str) -> Iterator[Event]:
    """The events of one file, in its order.

    A last line without its end was being written when its process was killed, and does not
    count. Raises `HistoryError`, `OSError`.
    """
    with open(path, "rb") as file:
        while line := file.readline(MOST_LINE_BYTES):
            if line.endswith(b"\n"):
                yield decode(line)
            elif len(line) == MOST_LINE_BYTES:
                raise HistoryError(f"{path}: a line of more than {MOST_LINE_BYTES} bytes")


def merged(histories: Iterable[Iterable[Event]]) -> Iterator[Event]:
    """Histories, each in the order of time, as one.

    At the same time, invocations come first: then more is concurrent, and less is wrong.
    """
    return heapq.merge(*histories, key=_when)


def read_histories(paths: Iterable[str]) -> Iterator[Event]:
    """The histories in these files as one. Raises `HistoryError`, `OSError`."""
    return merged(read_events(path) for path in paths)


def _when(event: Event) -> tuple[int, bool]:
    return event.time_ns, event.kind != "invoke"


class Recorder:
    """Writes down the history of one process, into a file of its own.

    Each event is with the kernel before the call returns, so a SIGKILL loses none. Safe to
    use from any thread, because completions come from whichever thread has them.
    """

    def __init__(
        self, path: str, process: str, *, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self.process = process
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._count = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)

    def invoke(
        self,
        op: str,
        *,
        partition: str = "",
        values: Sequence[str] = (),
        places: Places = _NO_PLACES,
        group: str = "",
        final: bool = False,
    ) -> int:
        """An operation begins; its number, for `ok`, `fail` or `info`."""
        with self._lock:
            number = self._count
            self._count += 1
            self._write(
                Event(
                    self.process,
                    number,
                    self._clock_ns(),
                    "invoke",
                    op,
                    partition=partition,
                    values=tuple(values),
                    places=places,
                    group=group,
                    final=final,
                )
            )
        return number

    def ok(
        self,
        number: int,
        op: str,
        *,
        partition: str = "",
        offsets: Sequence[int] = (),
        records: Records = _NO_RECORDS,
        places: Places = _NO_PLACES,
        starts: Places = _NO_PLACES,
    ) -> None:
        """It is done, and this is what came of it."""
        with self._lock:
            self._write(
                Event(
                    self.process,
                    number,
                    self._clock_ns(),
                    "ok",
                    op,
                    partition=partition,
                    offsets=tuple(offsets),
                    records=records,
                    places=places,
                    starts=starts,
                )
            )

    def fail(self, number: int, op: str, error: BaseException | str) -> None:
        """It certainly had no effect."""
        self._end("fail", number, op, error)

    def info(self, number: int, op: str, error: BaseException | str) -> None:
        """It may have had an effect, or may have one later."""
        self._end("info", number, op, error)

    def _end(self, kind: str, number: int, op: str, error: BaseException | str) -> None:
        said = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        with self._lock:
            self._write(Event(self.process, number, self._clock_ns(), kind, op, error=said))

    def _write(self, event: Event) -> None:
        line = encode(event)
        while line:  # a short write leaves a torn line only if the process dies in between
            line = line[os.write(self._descriptor, line) :]

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
