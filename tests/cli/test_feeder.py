"""The feeder: lines of files to a send function, and where it stopped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seawall.cli import feeder as feeder_module
from seawall.cli.errors import CommandFailed
from seawall.cli.feeder import Feeder
from seawall.cli.output import Meter
from seawall.cli.signals import Interrupted, Signals


class Acknowledged:
    """A delivery that is done at once."""

    def done(self) -> bool:
        return True

    def exception(self, timeout: float | None = None) -> Exception | None:
        return None


class Never(Acknowledged):
    """A delivery that is never done."""

    def done(self) -> bool:
        return False

    def exception(self, timeout: float | None = None) -> Exception | None:
        raise TimeoutError


class Failed(Acknowledged):
    """A delivery that failed."""

    def exception(self, timeout: float | None = None) -> Exception | None:
        return OSError("no room")


class Bad(Exception):
    """What the send function says of a line that it does not like."""


class Sink:
    """Takes lines; refuses those that say bad, fails those that say fail."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def send(self, line: bytes) -> Any:
        if line.startswith(b"bad"):
            raise Bad("no good")
        self.lines.append(line)
        return Failed() if line == b"fail" else Acknowledged()


@pytest.fixture
def sink() -> Sink:
    return Sink()


def feed(send: Callable[[bytes], Any], *paths: Path | str, skip_bad: bool = False) -> Feeder:
    feeder = make(send, skip_bad=skip_bad)
    feeder.feed([str(path) for path in paths])
    return feeder


def make(
    send: Callable[[bytes], Any], *, skip_bad: bool = False, signals: Signals | None = None
) -> Feeder:
    return Feeder(
        send,
        bad_line=(Bad,),
        skip_bad=skip_bad,
        signals=signals or Signals(),
        meter=Meter("lines", enabled=False),
    )


def test_every_line_of_every_file(sink: Sink, tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    one.write_bytes(b"a\nb")
    two.write_bytes(b"")
    three.write_bytes(b"\nc\n")
    feeder = feed(sink.send, one, two, three)
    assert sink.lines == [b"a", b"b", b"", b"c"]
    feeder.ledger.settle()
    assert feeder.ledger.settled == 4


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 1000])
def test_chunks_make_no_difference(
    sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(feeder_module, "CHUNK_BYTES", chunk_bytes)
    data = b"".join(b"%d\n" % (n * n) for n in range(100)) + b"end"
    (tmp_path / "x").write_bytes(data)
    feed(sink.send, tmp_path / "x")
    assert sink.lines == data.split(b"\n")


def test_a_bad_line_is_named(sink: Sink, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a\nb\nbad\nc\n")
    feeder = make(sink.send)
    with pytest.raises(CommandFailed, match=r"x: line 3: no good$"):
        feeder.feed([str(path)])
    feeder.ledger.settle()
    assert (sink.lines, feeder.ledger.settled) == ([b"a", b"b"], 2)
    assert feeder.resume_hint() == f"tail -n +3 {path}"


def test_bad_lines_are_skipped_on_request(sink: Sink, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"bad\na\nbad\nbad\nb\nbad")
    feeder = feed(sink.send, path, skip_bad=True)
    feeder.ledger.settle()
    assert sink.lines == [b"a", b"b"]
    assert (feeder.ledger.settled, feeder.ledger.skipped) == (6, 4)


def test_a_failed_delivery_stops(sink: Sink, tmp_path: Path) -> None:
    one, two = tmp_path / "o'ne", tmp_path / "two"
    one.write_bytes(b"a\nb\n")
    two.write_bytes(b"c\nfail\nd\n")
    feeder = make(sink.send)
    with pytest.raises(CommandFailed, match="two: line 2: no room"):
        feeder.feed([str(one), str(two)])
    assert feeder.ledger.settled == 3
    assert feeder.resume_hint() == f"tail -n +2 {two}"


def test_what_is_left_of_several_files_is_named(sink: Sink, tmp_path: Path) -> None:
    one, two = tmp_path / "o'ne", tmp_path / "two"
    one.write_bytes(b"a\nbad\n")
    two.write_bytes(b"c\n")
    feeder = make(lambda line: Never() if line == b"a" else Acknowledged())
    feeder.feed([str(one), str(two)])
    feeder.ledger.settle()
    quoted = str(one).replace("'", "'\"'\"'")
    assert feeder.resume_hint() == f"tail -n +1 '{quoted}' and the files behind it"


@pytest.mark.parametrize("name", ["missing", ""])
def test_a_file_that_can_not_be_read(sink: Sink, tmp_path: Path, name: str) -> None:
    with pytest.raises(CommandFailed, match=r"cannot read .*: (No such file|Is a directory)"):
        feed(sink.send, tmp_path / name)


def test_a_line_too_long_is_named(
    sink: Sink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seawall.cli.lines.LINE_BYTES_MAX", 10)
    (tmp_path / "x").write_bytes(b"a\n" + b"x" * 11)
    with pytest.raises(CommandFailed, match="line 2: longer than"):
        feed(sink.send, tmp_path / "x")


def test_lines_arrive_while_the_pipe_stays_open(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    received: list[bytes] = []

    def send(line: bytes) -> Any:
        received.append(line)
        if line == b"one":
            os.write(writer, b"o\nthr")
        elif line == b"two":
            os.close(writer)
        return Acknowledged()

    os.write(writer, b"one\ntw")
    try:
        feed(send, f"/dev/fd/{reader}")
    finally:
        os.close(reader)
    assert received == [b"one", b"two", b"thr"]


def test_a_signal_stops_it_between_chunks(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a\nb\n")
    signals = Signals()

    def send(line: bytes) -> Any:
        signals.received = 2
        return Acknowledged()

    feeder = make(send, signals=signals)
    with pytest.raises(Interrupted):
        feeder.feed([str(tmp_path / "x")])
    feeder.ledger.settle()
    assert feeder.ledger.settled == 2


def test_a_signal_ends_waiting_for_a_stuck_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeder_module, "LINES_IN_FLIGHT_MAX", 1)
    (tmp_path / "x").write_bytes(b"a\nb\n")
    signals = Signals()

    def send(line: bytes) -> Any:
        signals.received = 15
        return Never()

    with pytest.raises(Interrupted):
        make(send, signals=signals).feed([str(tmp_path / "x")])
