"""Events as lines, files of them, and several files as one history."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall.broker.torture import events
from seawall.broker.torture.events import (
    KINDS,
    OPERATIONS,
    Event,
    HistoryError,
    Recorder,
    decode,
    encode,
    merged,
    read_events,
    read_histories,
)

PLACES = st.dictionaries(st.text(max_size=5), st.integers(0, 2**63), max_size=3)
EVENTS = st.builds(
    Event,
    process=st.text(max_size=5),
    number=st.integers(0, 1000),
    time_ns=st.integers(0, 2**63),
    kind=st.sampled_from(KINDS),
    op=st.sampled_from(OPERATIONS),
    partition=st.text(max_size=5),
    values=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    offsets=st.lists(st.integers(0, 2**63), max_size=3).map(tuple),
    records=st.dictionaries(
        st.text(max_size=5),
        st.lists(st.tuples(st.integers(0, 2**63), st.text(max_size=5)), max_size=3).map(tuple),
        max_size=2,
    ),
    places=PLACES,
    starts=PLACES,
    group=st.text(max_size=5),
    final=st.booleans(),
    error=st.text(max_size=5),
)


@given(EVENTS)
def test_an_event_is_one_line_and_comes_back(event: Event) -> None:
    line = encode(event)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == event


def test_what_an_event_does_not_say_is_not_written() -> None:
    event = Event("p", 1, 2, "invoke", "poll")
    assert encode(event) == b'{"process":"p","number":1,"time_ns":2,"kind":"invoke","op":"poll"}\n'


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"{}",
        b'{"process":"p","number":1,"time_ns":2,"kind":"begins","op":"poll"}',
        b'{"process":"p","number":1,"time_ns":2,"kind":"invoke","op":"jump"}',
        b'{"process":"p","number":1,"time_ns":2,"kind":"invoke","op":"poll","x":1}',
        b'{"process":"p","number":1,"time_ns":2,"kind":"ok","op":"poll","records":[1]}',
        b'{"process":"p","number":1,"time_ns":2,"kind":"ok","op":"poll","records":{"a":[1]}}',
        b'{"process":"p","number":1,"time_ns":2,"kind":"ok","op":"send","offsets":1}',
    ],
)
def test_a_line_that_is_no_event(line: bytes) -> None:
    with pytest.raises(HistoryError):
        decode(line)


def test_what_a_recorder_writes_is_read_again(tmp_path: Path) -> None:
    times = iter(range(100))
    path = str(tmp_path / "p")
    with Recorder(path, "p", clock_ns=lambda: next(times)) as recorder:
        first = recorder.invoke("send", partition="orders/0", values=["a", "b"])
        second = recorder.invoke("assign", group="g", final=True)
        recorder.ok(second, "assign", places={"orders/0": 3})
        recorder.ok(first, "send", partition="orders/0", offsets=[4, 5])
        third = recorder.invoke("poll")
        recorder.ok(third, "poll", records={"orders/0": [(4, "a")]})
        recorder.fail(recorder.invoke("seek", places={"orders/0": 9}), "seek", ValueError("no"))
        recorder.info(recorder.invoke("end"), "end", "who knows")
        recorder.close()  # and again at the end
    assert list(read_events(path)) == [
        Event("p", 0, 0, "invoke", "send", partition="orders/0", values=("a", "b")),
        Event("p", 1, 1, "invoke", "assign", group="g", final=True),
        Event("p", 1, 2, "ok", "assign", places={"orders/0": 3}),
        Event("p", 0, 3, "ok", "send", partition="orders/0", offsets=(4, 5)),
        Event("p", 2, 4, "invoke", "poll"),
        Event("p", 2, 5, "ok", "poll", records={"orders/0": ((4, "a"),)}),
        Event("p", 3, 6, "invoke", "seek", places={"orders/0": 9}),
        Event("p", 3, 7, "fail", "seek", error="ValueError: no"),
        Event("p", 4, 8, "invoke", "end"),
        Event("p", 4, 9, "info", "end", error="who knows"),
    ]


def test_each_event_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    path = str(tmp_path / "p")
    with Recorder(path, "p") as recorder:
        for count in range(1, 4):
            recorder.invoke("poll")
            assert len(list(read_events(path))) == count


def test_threads_share_a_recorder(tmp_path: Path) -> None:
    path = str(tmp_path / "p")
    with Recorder(path, "p") as recorder:

        def work() -> None:
            for _ in range(100):
                recorder.ok(recorder.invoke("poll"), "poll")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = list(read_events(path))
    assert sorted(event.number for event in found) == [each // 2 for each in range(800)]
    assert [event.time_ns for event in found] == sorted(event.time_ns for event in found)


def test_a_last_line_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "p"
    whole = encode(Event("p", 0, 0, "invoke", "poll"))
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut])
        assert len(list(read_events(str(path)))) == 1


def test_a_bad_line_in_the_middle_counts(tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(b"{}\n" + encode(Event("p", 0, 0, "invoke", "poll")))
    with pytest.raises(HistoryError):
        list(read_events(str(path)))


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_LINE_BYTES", 100)
    path = tmp_path / "p"
    path.write_bytes(b"x" * 101)
    with pytest.raises(HistoryError, match="more than 100 bytes"):
        list(read_events(str(path)))


def test_histories_are_merged_by_time_with_invocations_first(tmp_path: Path) -> None:
    first = [Event("a", 0, 1, "invoke", "poll"), Event("a", 0, 5, "ok", "poll")]
    second = [Event("b", 0, 3, "invoke", "poll"), Event("b", 0, 9, "ok", "poll")]
    third = [Event("c", 0, 5, "invoke", "poll")]
    wanted = [first[0], second[0], third[0], first[1], second[1]]
    assert list(merged([first, second, third])) == wanted
    for name, each in (("a", first), ("b", second), ("c", third)):
        (tmp_path / name).write_bytes(b"".join(map(encode, each)))
    paths = [str(tmp_path / name) for name in sorted(os.listdir(tmp_path))]
    assert list(read_histories(paths)) == wanted
