"""The harness is itself tested: each bug that is planted is met by the search that must."""

from __future__ import annotations

from pathlib import Path

import planting
import pytest
from planting import PatchError, Planted, all_planted, copy_code, is_broken_promise, parse, search

from seawall.broker.torture.matrix import SEARCHES

# The longest takes a hundredth of it where nothing else runs.
BUDGET_S = 900.0
# What is done at random, or at once with others, is not the same twice, and less on a busy machine.
SEEDS = {"network": 5, "histories": 5, "locks": 5}

# What a harness for this engine must find at the least.
MUST_BE_PLANTED = {
    "acknowledge-before-sync",
    "publish-before-sync",
    "retry-failed-sync",
    "name-not-synced-after-roll",
    "old-segment-not-synced-on-roll",
    "index-trusted-ahead-of-log",
    "crc-not-checked",
    "last-batch-dropped",
    "one-segment-too-many-dropped",
    "last-value-superseded",
    "merged-name-not-synced",
    "committed-offset-moves-back",
    "no-lock-between-processes",
    "short-write-ignored",
    "truncated-at-first-bad-byte",
    "state-keyed-by-topic-name",
}


@pytest.mark.timeout(1_000)
@pytest.mark.parametrize("planted", [pytest.param(each, id=each.name) for each in all_planted()])
def test_a_planted_bug_is_caught(planted: Planted, tmp_path: Path) -> None:
    planted.apply(copy_code(tmp_path))
    for seed in range(SEEDS.get(planted.search, 1)):
        outcome = search(tmp_path, planted.search, BUDGET_S, seed)
        if outcome["unavailable"]:
            pytest.skip(outcome["unavailable"])
        if outcome["failures"]:
            break
    assert outcome["failures"], f"{planted.search} finds nothing in {outcome['cases']} cases"
    reason = outcome["failures"][0]["reason"]
    assert is_broken_promise(reason), f"not a promise, but the patch itself is broken: {reason}"


def test_without_a_bug_the_same_copy_keeps_its_promises(tmp_path: Path) -> None:
    copy_code(tmp_path)
    outcome = search(tmp_path, "clock", BUDGET_S)
    assert outcome["is_whole"]
    assert outcome["cases"] == 20
    assert outcome["failures"] == []


def test_every_bug_that_must_be_planted_is() -> None:
    assert {each.name for each in all_planted()} >= MUST_BE_PLANTED


@pytest.mark.parametrize("name", sorted(SEARCHES))
def test_every_search_meets_a_bug(name: str) -> None:
    assert name in {each.search for each in all_planted()}, f"no bug is planted for {name}"


def test_every_planted_bug_names_a_search_of_the_matrix() -> None:
    assert {each.search for each in all_planted()} <= SEARCHES.keys()


# -- the patches --------------------------------------------------------------------------

PATCH = """\
Bug: The lock is left out.
Caught-by: locks

--- a/wal/x.py
+++ b/wal/x.py
@@ -1,3 +1,3 @@
 first

-second
+2nd
@@ -9,2 +9,1 @@
 last
-gone
--- a/wal/y.py
+++ b/wal/y.py
@@ -1 +1,2 @@
 only
+more
"""


def code(root: Path, text: str) -> Path:
    (root / "wal").mkdir()
    (root / "wal" / "x.py").write_text(text)
    (root / "wal" / "y.py").write_text("only\n")
    return root


def test_a_patch_is_applied_wherever_its_lines_stand(tmp_path: Path) -> None:
    planted = parse("lock", PATCH)
    assert (planted.name, planted.bug, planted.search) == ("lock", "The lock is left out.", "locks")
    planted.apply(code(tmp_path, "zeroth\nfirst\n\nsecond\nthird\nlast\ngone\n"))
    assert (tmp_path / "wal" / "x.py").read_text() == "zeroth\nfirst\n\n2nd\nthird\nlast\n"
    assert (tmp_path / "wal" / "y.py").read_text() == "only\nmore\n"


@pytest.mark.parametrize(
    "text",
    [
        "first\nsecond\nlast\ngone\n",  # without the empty line
        "first\n\nsecond \nlast\ngone\n",
        "first\n\nsecond\nfirst\n\nsecond\nlast\ngone\n",  # twice
        "first\n\nsecond\nlast\n",
    ],
)
def test_a_patch_that_does_not_fit_says_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(PatchError, match=r"lock no longer applies: wal/x\.py has"):
        parse("lock", PATCH).apply(code(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        PATCH.partition("\n---")[0],
        PATCH.replace("Bug: ", "Bag: "),
        PATCH.replace("Caught-by: locks\n", ""),
        PATCH.replace("+++ b/wal/x.py\n", ""),
        PATCH.replace("@@", "##"),
        PATCH.replace("-second", "second"),
    ],
)
def test_a_patch_that_makes_no_sense_says_so(text: str) -> None:
    with pytest.raises(PatchError, match=r"^lock "):
        parse("lock", text)


# -- the copy -----------------------------------------------------------------------------


def test_a_patch_that_does_not_run_is_not_a_broken_promise(tmp_path: Path) -> None:
    target = copy_code(tmp_path)
    path = target / "wal" / "log.py"
    path.write_text(path.read_text() + "\nthis is no Python\n")
    with pytest.raises(RuntimeError, match="SyntaxError"):
        search(tmp_path, "clock", BUDGET_S)


def test_what_is_installed_does_not_stand_in_for_the_copy(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"seawall\.broker comes from"):
        search(tmp_path, "clock", BUDGET_S)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("orders/0 offset 3 was b'1.0' and is None", True),
        ("LogDamaged: partition 0 is damaged", True),
        ("OSError: [Errno 5] Input/output error", True),
        ("AttributeError: 'Log' object has no attribute 'x'", False),
        ("ImportError: cannot import name", False),
        ("client 1c0: Traceback (most recent call last):\n  …\nNameError: name 'x'", False),
        ("client 1c0: Traceback (most recent call last):\n  …\nx.LogDamaged: so it is", True),
    ],
)
def test_programming_errors_are_told_from_broken_promises(reason: str, expected: bool) -> None:
    assert is_broken_promise(reason) is expected


def test_the_copy_has_every_layer(tmp_path: Path) -> None:
    target = copy_code(tmp_path)
    for layer in planting.LAYERS:
        copied = {path.relative_to(target) for path in (target / layer).rglob("*.py")}
        there = {path.relative_to(planting.ROOT) for path in (planting.ROOT / layer).rglob("*.py")}
        assert copied == there
