"""Lines from chunks: whatever the chunks, the lines are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.cli import lines as lines_module
from seawall.cli.lines import LineSplitter, LineTooLong


def split(*chunks: bytes) -> list[bytes]:
    splitter = LineSplitter()
    return [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.end()


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([], []),
        ([b"\n"], [b""]),
        ([b"a"], [b"a"]),
        ([b"a\n"], [b"a"]),
        ([b"a\n\n"], [b"a", b""]),
        ([b"a\r\nb\x0bc\x85\n"], [b"a\r", b"b\x0bc\x85"]),
        ([b"a", b"b", b"\n", b"c"], [b"ab", b"c"]),
        ([b"a\n", b"\n", b"b"], [b"a", b"", b"b"]),
    ],
)
def test_lines(chunks: list[bytes], lines: list[bytes]) -> None:
    assert split(*chunks) == lines


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\x00", b"\n"))))
def test_chunks_make_no_difference(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    expected = whole.split(b"\n")
    if expected[-1] == b"":  # what stands behind the last \n is a line only if there is something
        expected.pop()
    assert split(*[c for c in chunks if c]) == expected


def test_whole_lines_do_not_wait() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntwo\nthr") == [b"one", b"two"]
    assert splitter.feed(b"ee\n") == [b"three"]
    assert splitter.end() == []


def test_another_input_begins_afresh() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"a") == []
    assert splitter.end() == [b"a"]
    assert splitter.feed(b"b\n") == [b"b"]


def test_a_line_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "LINE_BYTES_MAX", 10)
    assert split(b"x" * 10) == [b"x" * 10]
    splitter = LineSplitter()
    assert splitter.feed(b"ok\n" + b"x" * 11) == [b"ok"]
    with pytest.raises(LineTooLong):
        splitter.feed(b"x")
    with pytest.raises(LineTooLong):
        split(b"x" * 11)
