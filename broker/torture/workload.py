"""The script of a workload: a seeded list of steps, small JSON objects.

Between them they do everything that changes a directory: see `operations`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from seawall.broker.handling import ORDERINGS
from seawall.broker.torture import (  # noqa: F401 - registers their operations
    copied,
    handled,
    letters,
    numbered,
)
from seawall.broker.torture.operations import EXPIRING, KEYED, TOPICS
from seawall.broker.torture.performer import Step
from seawall.wal.torture.search import seed_for

PASSING_TOPICS = ("carts", "mails")
PASSING_PARTITIONS = 1
SIZES = (8, 8, 40, 40, 300, 1500)  # of values, in bytes
GROUPS = ("billing", "search")
MOST_FIRST_STEPS = 14


def steps(seed: int, count: int) -> list[Step]:
    """A script of `count` operations; the first ones make the topics that stay."""
    choose = random.Random(seed)
    script: list[Step] = [
        {"op": "create", "topic": topic, "partitions": partitions}
        for topic, partitions in TOPICS.items()
    ]
    passing: set[str] = set()
    deck: list[str] = []
    follow_up = random.Random(seed_for("follow-up", seed))
    followed_up = 0
    while len(script) < count:
        if not deck:
            # From a deck, so that what is rare comes as well, and soon.
            deck = [kind for kind, weight in _WEIGHTS.items() for _ in range(weight)]
            choose.shuffle(deck)
        kind = deck.pop()
        step: dict[str, Any] = {"op": kind}
        topic = choose.choice([*TOPICS, *TOPICS, *sorted(passing)])
        partitions = {**TOPICS, **dict.fromkeys(PASSING_TOPICS, PASSING_PARTITIONS)}[topic]
        if kind == "create":
            left = sorted(set(PASSING_TOPICS) - passing)
            if not left:
                continue
            step |= {"topic": choose.choice(left), "partitions": PASSING_PARTITIONS}
            passing.add(step["topic"])
        elif kind == "delete":
            if not passing:
                continue
            step |= {"topic": choose.choice(sorted(passing))}
            passing.discard(step["topic"])
        elif kind == "trim":
            step |= {"topic": choose.choice(sorted({"orders", *passing}))}
            # Left to chance, all groups of a topic have seldom acknowledged a whole segment.
            is_third = (len(script) - followed_up) % 3 == 0
            step |= {"caught_up": list(GROUPS) if is_third else []}
        elif kind == "compact":
            step |= {"topic": KEYED}
        elif kind == "expire":
            step |= {"topic": EXPIRING, "part": choose.random()}
        elif kind == "grow":
            # The one that expires has a single partition; mostly where groups are.
            step |= {"topic": choose.choice(["orders", "orders", *sorted(passing)])}
        elif kind in ("acknowledge", "share", "reset", "forget", "lapse"):
            step |= {"group": choose.choice(GROUPS), "topic": topic}
            step |= {"records": choose.randint(1, 12), "part": choose.random()}
        elif kind == "handle":
            step |= {"group": choose.choice(GROUPS), "topic": choose.choice(["orders", KEYED])}
            step |= {"records": choose.randint(2, 8), "ordering": choose.choice(ORDERINGS)}
        elif kind == "burst":
            step |= {
                "appends": [
                    [
                        (name := choose.choice([*TOPICS, *sorted(passing)])),
                        choose.randrange(TOPICS.get(name, PASSING_PARTITIONS)),
                        choose.randint(1, 4),
                        choose.choice(SIZES),
                    ]
                    for _ in range(choose.randint(2, 6))
                ],
                "commit": choose.random() < 0.7,
            }
        else:
            step |= {"topic": topic, "partition": choose.randrange(partitions)}
            step |= {"records": choose.randint(1, 6), "size": choose.choice(SIZES)}
            step |= {"compression": choose.choice(("none", "none", "none", "lz4", "zstd"))}
            step |= {"part": choose.random()}
        script.append(step)
        behind = _follow_up(step, follow_up)
        script += behind
        followed_up += len(behind)
    return script[:count]


def _follow_up(step: Step, choose: random.Random) -> list[Step]:
    """What only makes sense behind some steps, with dice of its own: it takes nothing from the
    chances of all others."""
    if step["op"] == "handle" and choose.random() < 0.7:
        op = choose.choice(("redrive", "redrive", "purge"))
        return [{"op": op, "topic": step["topic"], "part": choose.random()}]
    # Behind what changes nothing: behind a checkpoint it would sync what that may not cover.
    if step["op"] == "consume" and choose.random() < 0.5:
        return [{**step, "op": "copy"}]
    return []


def tour(seed: int) -> list[Step]:
    """A short script with every operation in it, for what is done to each of its calls."""
    wanted = {*_WEIGHTS, *_FOLLOW_UPS}
    made: set[str] = set()
    tour: list[Step] = []
    for step in steps(seed, 2_000):
        if step["op"] in ("redrive", "purge"):
            if step["op"] == "purge" and "redrive" in wanted:
                continue  # what is left of the dead letters is enough for it
            step = {**step, "topic": "orders"}
        topic = step.get("topic")
        if step["op"] == "create":
            is_possible = topic in TOPICS or made <= TOPICS.keys()
        else:
            is_possible = topic is None or topic in made
        if is_possible and (len(tour) < MOST_FIRST_STEPS or step["op"] in wanted):
            wanted.discard(step["op"])
            if step["op"] == "create":
                made.add(step["topic"])
            around = _AROUND.get(step["op"])
            tour += around(step) if around else [step]
        if not wanted:
            break
    return tour


def _around_roll(step: Step) -> list[Step]:
    """A roll with bytes that were not synced before it, and the first ones in the new segment."""
    burst = {
        "op": "burst",
        "appends": [[step["topic"], step["partition"], 2, 300]],
        "commit": False,
    }
    return [burst, step, {**step, "op": "produce"}]


def _before_compact(step: Step) -> list[Step]:
    """A compaction of three segments, of which two become one."""
    put = {"op": "produce", "topic": KEYED, "partition": 0, "records": 4, "size": 300}
    put |= {"compression": "none", "part": 0.0}
    roll = {**put, "op": "roll"}
    return [put, roll, {**put, "size": 40}, roll, {**put, "compression": "lz4"}, roll, put, step]


def _before_handle(step: Step) -> list[Step]:
    """Records for the handler, some of which become dead letters, in the last partition."""
    put = {"op": "produce", "topic": step["topic"], "partition": TOPICS[step["topic"]] - 1}
    put |= {"records": 5, "size": 40, "compression": "none", "part": 0.0}
    return [put, {**step, "records": 12}]


def _before_redrive(step: Step) -> list[Step]:
    """Dead letters that are sent back."""
    handle = {"op": "handle", "group": GROUPS[0], "topic": step["topic"]}
    return [*_before_handle({**handle, "ordering": ORDERINGS[0]}), step]


_AROUND: Mapping[str, Callable[[Step], list[Step]]] = {
    "roll": _around_roll,
    "compact": _before_compact,
    "handle": _before_handle,
    "redrive": _before_redrive,
}

_FOLLOW_UPS = ("redrive", "purge", "copy")

_WEIGHTS = {
    "produce": 30,
    "burst": 25,
    "produce_os": 5,
    "produce_once": 3,
    "resend": 4,
    "acknowledge": 12,
    "share": 2,
    "handle": 3,
    "consume": 6,
    "roll": 4,
    "checkpoint": 6,
    "drop": 5,
    "trim": 8,
    "expire": 2,
    "compact": 4,
    "grow": 2,
    "tune": 1,
    "reset": 3,
    "forget": 1,
    "lapse": 1,
    "create": 4,
    "delete": 3,
    "configure": 1,
    "reopen": 2,
}
