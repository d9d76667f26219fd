"""The demo: it runs, its checker finds what is wrong, and it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import leaks
import pytest
from commands import environment, eventually

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))

from demo_parts.checking import (  # noqa: E402
    DeliveryFacts,
    LogFacts,
    Problems,
    Run,
    check_counts,
    check_deliveries,
    check_kills,
    check_log,
)
from demo_parts.conducting import Child, Conductor, Look  # noqa: E402
from demo_parts.deliveries import (  # noqa: E402
    Copy,
    DeliveriesDamaged,
    DeliveryFile,
    DeliveryWriter,
)
from demo_parts.job import CONSUMER, PRODUCER, Job, Kill  # noqa: E402
from demo_parts.leash import ConductorGone, Leash  # noqa: E402
from demo_parts.report import Meter  # noqa: E402
from demo_parts.sources import find_files, read_sources, split_lines  # noqa: E402

TIMEOUT_S = 120


def demo(*options: str | Path) -> list[str]:
    return [sys.executable, str(BENCHMARKS / "demo.py"), *map(str, options)]


def run_demo(*options: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        demo(*options),
        capture_output=True,
        env=environment(),
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.stderr == b""
    return done.returncode, done.stdout.decode()


# -- the whole of it -------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder of .py files such as nobody should write, 8,000 lines in all."""
    root = tmp_path / "library"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "site-packages").mkdir()
    (root / "a_empty.py").write_bytes(b"")
    (root / "b_blank.py").write_bytes(b"\n" * 1000)
    (root / "c_odd.py").write_bytes(b"\r\nform\x0cfeed\n\x00\xff\xfe\nno end" * 250)
    (root / "deep" / "er" / "same.py").write_bytes(b"pass\n" * 2000)
    (root / "deep" / "long.py").write_bytes(b"".join(b"%d\n" % n * 7 for n in range(600)))
    (root / "site-packages" / "not_ours.py").write_bytes(b"import this\n")
    (root / "notes.txt").write_bytes(b"not Python\n")
    (root / "z_beyond_the_limit.py").write_bytes(b"pass\n" * 10)
    return root


# b_blank 1000; c_odd 3 * 250, and its last line, which no \n ends; same 2000; long 7 * 600
LIBRARY_LINES = 1000 + 3 * 250 + 1 + 2000 + 7 * 600


def test_demo(library: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    code, report = run_demo("--source", library, "--limit", "5", "--dir", kept)
    assert code == 0, report
    assert f"5 files, {LIBRARY_LINES:,} lines" in report
    assert f"first deliveries of 5 files: {LIBRARY_LINES:,} lines" in report
    assert len(re.findall("consumer killed at [1-9]", report)) == 3
    assert len(re.findall("producer killed at [1-9]", report)) == 1
    number = r"([\d,]+)"
    in_log = re.search(f"in the log +{number} repeats among {number} records", report)
    redelivered = re.search(f"redelivered +{number} repeats among {number} deliveries", report)
    assert in_log is not None
    assert redelivered is not None
    repeats, records = (int(text.replace(",", "")) for text in in_log.groups())
    again, deliveries = (int(text.replace(",", "")) for text in redelivered.groups())
    assert records == LIBRARY_LINES + repeats
    assert deliveries == records + again
    assert report.index("OK: nothing is missing") < report.index(f"kept in {kept}")

    # The same folder, when a byte of a source is another one than was sent.
    source = library / "deep" / "er" / "same.py"
    source.write_bytes(source.read_bytes()[:-2] + b"t\n")
    code, report = run_demo("--check", kept)
    assert code == 1
    assert "deep/er/same.py line 2000" in report
    assert "the bytes differ" in report


def test_too_small_an_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "one.py").write_bytes(b"pass\n")
    kept = tmp_path / "kept"
    code, report = run_demo("--source", tmp_path / "library", "--dir", kept)
    assert code == 1
    assert "FAILED: 1 lines are too few" in report


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    done = subprocess.run(
        demo("--dir", tmp_path), capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 2
    assert b"is not empty" in done.stderr
    assert os.listdir(tmp_path) == ["x"]


@contextmanager
def interrupted(library: Path, temporary: Path, number: signal.Signals) -> Iterator[int]:
    """The demo, stopped by a signal once it has killed somebody; gives its exit code."""
    temporary.mkdir()
    process = subprocess.Popen(
        demo("--source", library),
        stdout=subprocess.PIPE,
        env=environment({"TMPDIR": str(temporary)}),
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if b"killed" in line:
                process.send_signal(number)
                break
        yield process.wait(TIMEOUT_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_behind(
    library: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """The watch for leaks looks for the processes, children of a child though they are."""
    with interrupted(library, tmp_path / "temporary", number) as code:
        assert code == (130 if number == signal.SIGINT else 128 + number)
    assert os.listdir(tmp_path / "temporary") == []


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are counted in /proc")
def test_killed_itself_it_leaves_no_process(library: Path, tmp_path: Path) -> None:
    before = leaks.snapshot().children
    with interrupted(library, tmp_path / "temporary", signal.SIGKILL) as code:
        assert code == -signal.SIGKILL

        def all_are_gone() -> bool:
            orphans = leaks.snapshot().children - before
            return not [pid for pid in orphans if os.waitpid(pid, os.WNOHANG)[0] != pid]

        eventually(all_are_gone)


# -- the checker -----------------------------------------------------------------------

SOURCES = {b"a.py": [b"one", b"", b"three", b"one"], b"b.py": [b"x", b"y"], b"empty.py": []}


def log_of(*lines: tuple[bytes, int]) -> list[Copy]:
    """A log of one partition that holds these lines, as they are in the sources."""
    return [Copy(0, n, key, line, SOURCES[key][line - 1]) for n, (key, line) in enumerate(lines)]


A, B = b"a.py", b"b.py"
ALL = [(A, 1), (A, 2), (B, 1), (A, 3), (B, 2), (A, 4)]
# The producer died behind a.py 3, and what follows it did not know of the last two lines.
REPEATED = [(A, 1), (A, 2), (B, 1), (A, 3), (B, 1), (A, 3), (B, 2), (A, 4)]


def problems_of_log(copies: Sequence[Copy]) -> list[str]:
    problems = Problems()
    check_log(copies, SOURCES, 1, problems)
    assert problems.count == len(problems.texts)
    return problems.texts


def test_a_good_log() -> None:
    problems = Problems()
    facts = check_log(log_of(*ALL), SOURCES, 1, problems)
    assert (facts.records, facts.repeats, problems.texts) == (6, 0, [])
    facts = check_log(log_of(*REPEATED), SOURCES, 1, problems)
    assert (facts.records, facts.repeats, problems.texts) == (8, 2, [])


def test_a_missing_line() -> None:
    assert problems_of_log(log_of(*ALL[:1], *ALL[2:])) == [
        "log: a.py line 3 (partition 0, offset 2): it comes where line 2 is due"
    ]


def test_a_missing_last_line() -> None:
    assert problems_of_log(log_of(*ALL[:-1])) == ["log: a.py ends after line 3 of 4"]


def test_swapped_lines() -> None:
    swapped = log_of(*ALL[:3], ALL[5], ALL[4], ALL[3])
    assert problems_of_log(swapped) == [
        "log: a.py line 4 (partition 0, offset 3): it comes where line 3 is due"
    ]


@pytest.mark.parametrize("value", [b"", b"One", b"one ", b"one\n", b"x"])
def test_changed_bytes(value: bytes) -> None:
    copies = log_of(*ALL)
    copies[5] = copies[5]._replace(value=value)
    assert problems_of_log(copies)[0] == (
        "log: a.py line 4 (partition 0, offset 5): the bytes differ"
    )


def test_changed_bytes_in_a_repeat() -> None:
    copies = log_of(*REPEATED)
    copies[4] = copies[4]._replace(value=b"z")
    assert problems_of_log(copies) == ["log: b.py line 1 (partition 0, offset 4): the bytes differ"]


@pytest.mark.parametrize(("key", "line"), [(A, 5), (A, 0), (b"empty.py", 1), (b"c.py", 1)])
def test_a_line_that_does_not_exist(key: bytes, line: int) -> None:
    copies = [*log_of(*ALL), Copy(0, 6, key, line, b"")]
    assert [text.partition(": there")[1] for text in problems_of_log(copies)] == [": there"]


def test_an_offset_that_is_left_out() -> None:
    copies = log_of(*ALL)
    copies[-1] = copies[-1]._replace(offset=6)
    assert problems_of_log(copies)[0] == "log: partition 0 has offset 6 where 5 is due"


def test_many_problems_are_counted_and_some_shown() -> None:
    problems = Problems()
    for _ in range(1000):
        problems.add("x")
    assert (problems.count, len(problems.texts)) == (1000, Problems.SHOWN)


def runs_of(copies: Sequence[Copy], *ranges: tuple[int, int]) -> Iterator[Run]:
    """Runs that began at the first offset of each range, and ended before the second."""
    for start, stop in ranges:
        yield Run(acknowledged=(start,), start=(start,), copies=copies[start:stop])


def delivered(
    runs: Iterator[Run], lines: Sequence[tuple[bytes, int]]
) -> tuple[LogFacts, DeliveryFacts, list[str]]:
    problems = Problems()
    log = check_log(log_of(*lines), SOURCES, 1, problems)
    assert problems.texts == []
    facts = check_deliveries(runs, SOURCES, log, problems)
    check_counts(sum(map(len, SOURCES.values())), log, facts, problems)
    return log, facts, problems.texts


def test_good_deliveries() -> None:
    runs = runs_of(log_of(*REPEATED), (0, 3), (1, 2), (1, 5), (5, 8))
    _, facts, problems = delivered(runs, REPEATED)
    assert problems == []
    assert facts == DeliveryFacts(
        deliveries=3 + 1 + 4 + 3, repeats_in_log=2, redelivered=1 + 2, unacknowledged=3
    )


def test_an_acknowledgement_that_was_under_way_may_count() -> None:
    copies = log_of(*ALL)
    runs = [
        Run(acknowledged=(0,), start=(0,), copies=copies[:4]),
        Run(acknowledged=(2,), start=(3,), copies=copies[3:]),
    ]
    _, facts, problems = delivered(iter(runs), ALL)
    assert (facts.redelivered, problems) == (1, [])


@pytest.mark.parametrize("start", [1, 5])
def test_a_run_that_begins_elsewhere(start: int) -> None:
    """Before what was acknowledged (2), or behind what was delivered (4)."""
    copies = log_of(*ALL)
    runs = [
        Run(acknowledged=(0,), start=(0,), copies=copies[:4]),
        Run(acknowledged=(2,), start=(start,), copies=copies[start:]),
    ]
    _, _, problems = delivered(iter(runs), ALL)
    assert problems[0] == (
        f"deliveries: run 2 begins at offset {start} of partition 0, "
        "but 2 was acknowledged and 4 delivered"
    )


def test_a_delivery_that_is_missing() -> None:
    copies = log_of(*ALL)
    whole = Run(acknowledged=(0,), start=(0,), copies=copies[:2] + copies[3:])
    _, _, problems = delivered(iter([whole]), ALL)
    assert "deliveries: run 1 has offset 3 of partition 0 where 2 is due" in problems
    assert any(text.startswith("counts: deliveries = ") for text in problems)


def test_deliveries_that_are_swapped() -> None:
    copies = log_of(*ALL)
    whole = Run(acknowledged=(0,), start=(0,), copies=[copies[1], copies[0], *copies[2:]])
    _, _, problems = delivered(iter([whole]), ALL)
    assert "deliveries: run 1 has offset 1 of partition 0 where 0 is due" in problems
    assert (
        "deliveries: a.py line 2 (partition 0, offset 1): it comes where line 1 is due"
    ) in problems


def test_a_delivery_of_what_the_log_does_not_have() -> None:
    copies = log_of(*ALL)
    copies[3], copies[5] = copies[5]._replace(offset=3), copies[3]._replace(offset=5)
    _, _, problems = delivered(runs_of(copies, (0, 6)), ALL)
    assert problems[0] == (
        "deliveries: run 1 got another record than the log has at offset 3 of partition 0"
    )


def test_a_redelivery_with_other_bytes() -> None:
    copies = log_of(*ALL)
    again = [copies[4]._replace(value=b"z"), copies[5]]
    runs = [
        Run(acknowledged=(0,), start=(0,), copies=copies[:5]),
        Run(acknowledged=(4,), start=(4,), copies=again),
    ]
    _, _, problems = delivered(iter(runs), ALL)
    assert problems == ["deliveries: b.py line 2 (partition 0, offset 4): the bytes differ"]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("deliveries", "counts: deliveries = records in the log + redelivered"),
        ("repeats_in_log", "counts: repeats delivered = repeats in the log"),
        ("redelivered", "counts: redelivered = delivered to the dead and not acknowledged"),
        ("unacknowledged", "counts: redelivered = delivered to the dead and not acknowledged"),
    ],
)
def test_a_wrong_count(field: str, text: str) -> None:
    log, facts, _ = delivered(runs_of(log_of(*REPEATED), (0, 3), (1, 8)), REPEATED)
    problems = Problems()
    check_counts(6, log, replace(facts, **{field: getattr(facts, field) + 1}), problems)
    assert any(found.startswith(text) for found in problems.texts)


def test_a_wrong_count_of_repeats_in_the_log() -> None:
    log, facts, _ = delivered(runs_of(log_of(*REPEATED), (0, 8)), REPEATED)
    problems = Problems()
    check_counts(6, replace(log, repeats=log.repeats - 1), facts, problems)
    assert len(problems.texts) == 2


def kill(who: str, started_at: int, reached: int) -> Kill:
    return Kill(who=who, started_at=started_at, reached=reached, acknowledged=(reached,))


GOOD_KILLS = [
    kill(CONSUMER, 0, 3),
    kill(PRODUCER, 0, 6),
    kill(CONSUMER, 3, 4),
    kill(CONSUMER, 4, 9),
]


@pytest.mark.parametrize(
    ("kills", "problems"),
    [
        (GOOD_KILLS, 0),
        (GOOD_KILLS[:-1], 1),
        (GOOD_KILLS + GOOD_KILLS[2:3], 1),
        ([*GOOD_KILLS[:-1], kill(CONSUMER, 4, 4)], 1),  # no progress
        ([*GOOD_KILLS[:-1], kill(CONSUMER, 4, 10)], 1),  # finished
        ([], 2),
    ],
)
def test_kills(kills: Sequence[Kill], problems: int) -> None:
    found = Problems()
    check_kills(kills, 10, found)
    assert found.count == problems


def test_a_consumer_is_not_killed_for_what_the_one_before_it_did(tmp_path: Path) -> None:
    """An acknowledgement that was under way at a kill may be seen only after the next start."""
    job = Job(folder=tmp_path, source=tmp_path, limit=None)
    conductor = Conductor(job, BENCHMARKS / "demo.py")
    conductor._total, conductor._consumer_runs = 100, 2
    conductor._kills = [kill(CONSUMER, 0, 25)]
    consumer = conductor._consumer = Child([sys.executable, "-c", "input()"], CONSUMER, 25)
    try:
        late, further = Look((45,), (100,)), Look((46,), (100,))
        assert not conductor._consumer_is_due(late)  # it has no file
        with closing(DeliveryWriter(job.deliveries_path(2))) as deliveries:
            assert not conductor._consumer_is_due(further)  # it is not where it begins
            deliveries.begin([45])
        assert not conductor._consumer_is_due(late)
        assert conductor._consumer_is_due(further)
        assert consumer.started_at == 45
    finally:
        consumer.kill()


# -- the parts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a", [b"a"]),
        (b"a\n", [b"a"]),
        (b"a\n\n", [b"a", b""]),
        (b"a\r\nb\rc\x0b\x0c\x1c\x85d\n", [b"a\r", b"b\rc\x0b\x0c\x1c\x85d"]),
    ],
)
def test_split_lines(data: bytes, lines: list[bytes]) -> None:
    assert split_lines(data) == lines


def test_find_files(library: Path) -> None:
    names = ["a_empty.py", "b_blank.py", "c_odd.py", "deep/er/same.py", "deep/long.py"]
    assert find_files(library, None) == [*names, "z_beyond_the_limit.py"]
    assert find_files(library, 5) == names
    os.symlink("nowhere", library / "dangling.py")
    assert list(read_sources(library, 6)) == [os.fsencode(name) for name in names]


@pytest.fixture
def delivery_path(tmp_path: Path) -> Path:
    path = tmp_path / "deliveries"
    writer = DeliveryWriter(path)
    try:
        writer.begin([7, 2**40])
        writer.add(log_of(*ALL[:4]))
        writer.add(log_of(*ALL[4:]))
        writer.sync()
    finally:
        writer.close()
    return path


def test_delivery_file(delivery_path: Path) -> None:
    file = DeliveryFile(delivery_path)
    assert file.start() == [7, 2**40]
    assert list(file.copies()) == [*log_of(*ALL[:4]), *log_of(*ALL[4:])]
    assert file.cut_bytes == 0


def test_delivery_file_cut_short(delivery_path: Path) -> None:
    """At every length: whole frames count, the rest does not."""
    data = delivery_path.read_bytes()
    counts = []
    for length in range(len(data)):
        delivery_path.write_bytes(data[:length])
        file = DeliveryFile(delivery_path)
        counts.append(len(list(file.copies())))
        if counts[-1] == 0 and length < 24:
            with pytest.raises(DeliveriesDamaged):
                file.start()
    assert counts == sorted(counts)
    assert set(counts) == {0, 4}
    assert file.cut_bytes > 0


def test_delivery_file_damaged(delivery_path: Path) -> None:
    data = bytearray(delivery_path.read_bytes())
    data[-1] ^= 1
    delivery_path.write_bytes(data)
    with pytest.raises(DeliveriesDamaged):
        list(DeliveryFile(delivery_path).copies())


def test_leash() -> None:
    read_end, write_end = os.pipe()
    try:
        leash = Leash(read_end)
        assert leash.read(wait=False) == []
        os.write(write_end, b"12\n3")
        assert leash.read(wait=True) == ["12"]
        assert leash.read(wait=False) == []
        os.write(write_end, b"4\n56\n")
        assert leash.read(wait=True) == ["34", "56"]
    finally:
        os.close(write_end)
    try:
        with pytest.raises(ConductorGone):
            leash.read(wait=False)
    finally:
        os.close(read_end)


def test_meter() -> None:
    meter = Meter()
    for now_s, position in ((10, 0), (11, 0), (12, 5), (13, 9), (14, 9)):
        meter.observe(now_s, position)
    meter.end_life()
    assert (meter.work, meter.busy_s) == (9, 2)
    for now_s, position in ((100, 9), (102, 19)):
        meter.observe(now_s, position)
    meter.end_life()
    assert (meter.work, meter.busy_s, meter.rate) == (19, 4, 4.75)
