"""What is printed where: tables, words for people, the live rate."""

from __future__ import annotations

import os
import pty
import select
from collections.abc import Callable, Iterator

import pytest

from seawall.cli import output
from seawall.cli.errors import CommandFailed, PipeClosed
from seawall.cli.signals import Interrupted


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """A pipe whose writing end stands in for stdout."""
    reader, writer = os.pipe()
    monkeypatch.setattr(output, "STDOUT", writer)
    ends = [reader, writer]
    yield reader, writer
    for descriptor in ends:
        try:
            os.close(descriptor)
        except OSError:
            pass


def test_bytes_are_written_whole(pipe: tuple[int, int]) -> None:
    reader, _ = pipe
    output.write_bytes(b"ab\0\xff")
    output.write_bytes(b"")
    assert os.read(reader, 100) == b"ab\0\xff"


def test_a_pipe_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    import threading

    reader, writer = pipe
    os.set_blocking(writer, False)
    received: list[bytes] = []

    def read() -> None:
        while sum(map(len, received)) < 1_000_000:
            received.append(os.read(reader, 65_536))

    thread = threading.Thread(target=read)
    thread.start()
    output.write_bytes(b"x" * 1_000_000)
    thread.join()
    assert sum(map(len, received)) == 1_000_000


def test_it_can_be_interrupted_between_two_pieces(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    waits = 0

    def wait(ready: Callable[[], object]) -> object:
        nonlocal waits
        waits += 1
        if waits == 3:
            raise Interrupted
        return ready()

    with pytest.raises(Interrupted):
        output.write_bytes(b"x" * 100_000, wait)
    assert len(os.read(reader, 100_000)) == 2 * select.PIPE_BUF
    waits = 0
    output.write_bytes(b"x" * 2 * select.PIPE_BUF, wait)
    assert waits == 2, "what is written whole is not interrupted"


def test_a_closed_pipe_is_noticed(pipe: tuple[int, int]) -> None:
    reader, _ = pipe
    assert not output.reader_is_gone()
    os.close(reader)
    assert output.reader_is_gone()
    with pytest.raises(PipeClosed):
        output.write_bytes(b"x")


def test_another_failure_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(output, "STDOUT", full)
    try:
        assert not output.reader_is_gone()
        with pytest.raises(CommandFailed, match="cannot write to stdout: No space left"):
            output.write_bytes(b"x")
    finally:
        os.close(full)


def test_table(pipe: tuple[int, int]) -> None:
    reader, _ = pipe
    output.write_table(
        ("NAME", "COUNT", "HOLDER"), [("a", 5, None), ("long name", 1234, "x\ny\x1b[2J")]
    )
    assert os.read(reader, 1000).decode().splitlines() == [
        "NAME       COUNT  HOLDER",
        "a              5  -",
        r"long name   1234  x\ny\x1b[2J",
    ]


def test_a_table_without_rows_is_its_header(pipe: tuple[int, int]) -> None:
    reader, _ = pipe
    output.write_table(("NAME", "COUNT"), [])
    assert os.read(reader, 1000) == b"NAME  COUNT\n"


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("no topic 'a\nb\x1b[2J' — gone")
    assert capsys.readouterr().err == "seawall: no topic 'a\\nb\\x1b[2J' — gone\n"


def test_counted() -> None:
    assert [output.counted(n, "line") for n in (0, 1, 2)] == ["0 lines", "1 line", "2 lines"]


def test_the_meter_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    meter = output.Meter("lines", clock=iter(range(100)).__next__)
    meter.update(5)
    meter.clear()
    assert capsys.readouterr().err == ""


def test_the_meter_shows_a_rate_and_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "_is_terminal", lambda descriptor: descriptor == 2)
    now_s = 0.0
    meter = output.Meter("lines", clock=lambda: now_s)
    meter.update(10)
    assert capsys.readouterr().err == "", "too early"
    now_s = 2.0
    meter.update(3000)
    assert capsys.readouterr().err == "\r\x1b[K3,000 lines, 1,500/s"
    meter.clear()
    meter.clear()
    assert capsys.readouterr().err == "\r\x1b[K"


def test_a_terminal_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    main, other = pty.openpty()
    try:
        monkeypatch.setattr(output, "STDOUT", other)
        assert output.stdout_is_terminal()
    finally:
        os.close(main)
        os.close(other)
    assert not output.stdout_is_terminal()
