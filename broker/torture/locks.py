"""The search "locks": what users do to a directory that processes have open.

They copy it, delete or replace its caches, open it from another container, or come while it
is being brought in order. Each must end well or in a named error, nothing that was
acknowledged may be lost, and no two processes may come to append at the same offset: that
would show as an offset that was given twice.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

from seawall.broker.torture import copies
from seawall.broker.torture.actors import Actor, warm_children
from seawall.broker.torture.children import Children
from seawall.broker.torture.marks import Ledger
from seawall.broker.torture.performer import Step
from seawall.broker.torture.scenes import CLOSE, OPEN, Scene, copy_tree
from seawall.wal.torture.search import Broken, Case, Search, Setting, seed_for

FULL_SEEDS = 5
NOTICE_MS = 5_000  # within which a waiting consumer sees what another process has sent

CACHES = {"index": "index.lmdb", "run": "run"}
WAYS = ("delete", "copy", "old", "move")


class Locks(Search):
    """A user copies, prunes or opens a directory that others have open."""

    name: ClassVar[str] = "locks"
    title: ClassVar[str] = (
        "a user copies the directory while it is open, deletes or replaces index.lmdb or run/ "
        "under a living process, opens it from another PID namespace, while it is opened "
        "or as soon as that lets others in"
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._children: Children | None = None

    def prepare(self) -> None:
        self._children = warm_children()

    def cases(self) -> Iterator[Case]:
        number = 0
        for seed in range(FULL_SEEDS if self.setting.full else 1):
            for what in CASES:
                if self.setting.mine(number):
                    yield {"what": what, "seed": seed_for(self.name, self.setting.seed, seed)}
                number += 1

    def run(self, case: Case) -> None:
        if self._children is None:
            raise RuntimeError("prepare() comes first")
        folder = os.path.join(self.setting.memory, "locks")
        os.mkdir(folder)
        try:
            what = str(case["what"])
            CASES[what](Scene(self.count, self._children, folder, int(case["seed"])))
            self.count("ways")
        finally:
            self._children.kill()
            shutil.rmtree(folder, ignore_errors=True)

    def count(self, what: str, by: int = 1) -> None:
        """Add to a figure."""
        self.figures[what] = self.figures.get(what, 0) + by

    def close(self) -> None:
        if self._children is not None:
            self._children.close()
            self._children = None


# -- caches that are deleted or replaced under living processes -------------------------------

_MEANWHILE = (
    *("produce", "produce", "consume", "acknowledge", "checkpoint", "produce_os", "burst"),
    *("create", "delete", "roll", "produce", "drop", "reset", "produce"),
)


def _disturb(scene: Scene, cache: str, way: str) -> None:
    """Take a cache away from two living processes, or put another one in its place."""
    first, second = scene.opened(), scene.opened()
    is_flat = scene.choose.random() < 0.5
    script = scene.furnish(first, rounds=1 if is_flat else 3, rolls=not is_flat)
    name = CACHES[cache]
    target, aside = os.path.join(scene.path, name), os.path.join(scene.folder, name)
    if way == "old":
        copy_tree(target, aside)
    elif way in ("copy", "move"):
        aside = _elsewhere(scene, name, script)
    for op in ("produce", "acknowledge") * scene.choose.randint(0, 2):
        first.must(scene.step(op))
    first.must({"op": "hold", "group": "search", "topic": "orders"})
    shutil.rmtree(target)
    if way == "move":
        os.rename(aside, target)
    elif way != "delete":
        copy_tree(aside, target)
    _go_on(scene, [first, second])
    scene.check()


def _elsewhere(scene: Scene, name: str, script: Sequence[Step]) -> str:
    """A cache of another directory in which, in this boot, nearly the same was done: it fits
    as well as one can that does not belong here."""
    path = os.path.join(scene.folder, "elsewhere")
    stranger = scene.actor(path, ledger=Ledger())
    stranger.must(OPEN)
    for step in script:
        stranger.must(step)
    for _ in range(scene.choose.randint(0, 2)):
        stranger.must(scene.step("produce"))
    stranger.end()
    return os.path.join(path, name)


def _go_on(scene: Scene, living: Sequence[Actor]) -> None:
    """Everyone goes on by turns, and others come; then all close what they have open."""
    newcomer = scene.actor()
    is_in = False
    actors = list(living)
    for number, op in enumerate(_MEANWHILE):
        if number in (1, 8) and not is_in:
            is_in = not scene.attempt(newcomer, OPEN).error
            scene.count("newcomers let in" if is_in else "newcomers refused")
            if is_in:
                actors.append(newcomer)
        for actor in actors:
            scene.attempt(actor, scene.step(op))
    _both_hold(scene, *living)
    _notices(scene, *living)
    for actor in actors:
        scene.attempt(actor, CLOSE)
    for actor in {*actors, newcomer}:
        actor.end()


def _both_hold(scene: Scene, holder: Actor, other: Actor) -> None:
    """If another process is given what a member has, that member must be fenced."""
    scene.attempt(holder, {"op": "take_held", "group": "search"})  # a poll later would find out
    joined = scene.attempt(other, scene.step("hold", group="search"))
    acked = scene.attempt(holder, {"op": "ack_held", "group": "search"})
    scene.attempt(other, {"op": "let"})
    if not joined.error and joined.found and not acked.error and acked.found:
        raise Broken("two processes acknowledge in the name of one group")
    scene.attempt(holder, {"op": "let"})


def _notices(scene: Scene, waiting: Actor, other: Actor) -> None:
    """Who waits for a record gets one that is acknowledged, or a named error."""
    wait = {"op": "wait", "topic": "audit", "partition": 0, "timeout_ms": NOTICE_MS}
    if scene.attempt(waiting, wait).op != "waiting":
        return
    sent = scene.attempt(other, {**scene.step("produce"), "topic": "audit"})
    reply = waiting.reply()
    if not sent.error and not reply.error and not reply.found:
        raise Broken(f"a consumer waited {NOTICE_MS} ms, and was not given what others had sent")


def _disturbance(cache: str, way: str) -> Callable[[Scene], None]:
    return lambda scene: _disturb(scene, cache, way)


# -- who may open it ---------------------------------------------------------------------------


def _namespaces(scene: Scene) -> None:
    """Whoever comes from another PID namespace is refused, whichever came first."""
    ours = scene.opened()
    scene.furnish(ours)
    foreigner = scene.actor(is_foreign=True)
    is_real = foreigner.reply().found
    scene.count("real PID namespaces" if is_real else "injected PID namespaces")
    _must_be_refused(foreigner)
    ours.must(scene.step("produce"))
    ours.must(CLOSE)
    foreigner.must(OPEN)
    foreigner.must(scene.step("produce"))
    _must_be_refused(ours)
    foreigner.must(scene.step("acknowledge"))
    foreigner.must(CLOSE)
    ours.must(OPEN)
    ours.must(scene.step("produce"))
    ours.end()
    foreigner.end()
    scene.check()


def _must_be_refused(actor: Actor) -> None:
    reply = actor.do(OPEN)
    if reply.error != "ForeignNamespace":
        raise Broken(f"another PID namespace was not refused: {reply}")


def _sole_opener(scene: Scene) -> None:
    """While one process brings the directory in order, others wait for it, or give up."""
    first = scene.opened()
    scene.furnish(first, rounds=2)
    first.must(CLOSE)
    if scene.choose.random() < 0.5:
        shutil.rmtree(os.path.join(scene.path, "run"))  # so that there is more to do
    first.must(
        {
            "op": "trap",
            "call": "lock",
            "pattern": os.path.join(scene.path, "LOCK"),
            "steps": scene.choose.randint(0, 25),
        }
    )
    first.tell(OPEN)
    if first.stopped_or_done() is not None:
        raise Broken("the sole opener was not stopped")
    second, third, fourth = (scene.actor() for _ in range(3))
    reply = second.do({**OPEN, "open_timeout_ms": 100})
    if reply.error != "LockTimeout" or reply.holder_pid not in (first.pid, 0):
        raise Broken(f"a second process came in beside the sole opener: {reply}")
    for actor in (third, fourth):
        actor.tell({**OPEN, "open_timeout_ms": 20_000})
    actors = [second, third, fourth]
    if scene.choose.random() < 0.5:
        first.child.kill()
    else:
        first.go_on()
        if (reply := first.reply()).error:
            raise Broken(f"the sole opener failed: {reply.error}: {reply.text}")
        actors.append(first)
    for actor in (third, fourth):
        if (reply := actor.reply()).error:
            raise Broken(f"who waited for the sole opener failed: {reply.error}: {reply.text}")
    second.must(OPEN)
    for op in ("produce", "acknowledge", "create", "produce"):
        for actor in actors:
            actor.must(scene.step(op))
    for actor in actors:
        actor.end()
    scene.check()


def _let_in(scene: Scene) -> None:
    """Whoever is let in finds the directory in order: nothing of that is still to be done."""
    first = scene.opened()
    scene.furnish(first, rounds=2)
    first.must({**scene.step("burst"), "commit": False})
    first.child.kill()
    shutil.rmtree(os.path.join(scene.path, "run"))  # so that every log is to be judged
    if scene.choose.random() < 0.5:
        shutil.rmtree(os.path.join(scene.path, "index.lmdb"))
    opener = scene.actor()
    opener.must({"op": "trap", "call": "share", "pattern": os.path.join(scene.path, "LOCK")})
    opener.tell(OPEN)
    if opener.stopped_or_done() is not None:
        raise Broken("the sole opener has let nobody in")
    others = [scene.opened(), scene.opened()]
    scene.check("beside the opener")
    for op in ("produce", "acknowledge", "create", "consume", "produce"):
        for actor in others:
            actor.must(scene.step(op))
    if scene.choose.random() < 0.5:
        opener.child.kill()
    else:
        opener.go_on()
        if (reply := opener.reply()).error:
            raise Broken(f"the sole opener failed: {reply.error}: {reply.text}")
        opener.must(scene.step("produce"))
        opener.end()
    for actor in others:
        actor.must(scene.step("produce"))
        actor.end()
    scene.check()


CASES: Mapping[str, Callable[[Scene], None]] = {
    "let-in": _let_in,
    "copied": copies.copied,
    "copied-with-topics": copies.copied_with_topics,
    "namespaces": _namespaces,
    "sole-opener": _sole_opener,
    **{f"{cache}-{way}": _disturbance(cache, way) for cache in CACHES for way in WAYS},
}
