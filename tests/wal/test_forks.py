"""Forks: what is registered is abandoned in every child, once, and nothing else happens."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

from storage import Child

from seawall.wal import forks


class Handle:
    def __init__(self) -> None:
        self.abandoned_by: list[int] = []

    def abandon(self) -> None:
        self.abandoned_by.append(os.getpid())


def test_children_abandon_and_parents_do_not() -> None:
    handle = Handle()
    forks.register(handle)

    def work(say: Callable[[str], None]) -> None:
        say(f"{handle.abandoned_by == [os.getpid()]}")

        def grandchild(say_again: Callable[[str], None]) -> None:
            say_again(f"{len(handle.abandoned_by)}")  # it is its grandparent's, not its parent's

        say(Child(grandchild).line())

    child = Child(work)
    assert child.wait() == ["True", "1"]
    assert handle.abandoned_by == []


def test_what_is_gone_is_not_kept_alive() -> None:
    before = len(forks._registered)
    forks.register(Handle())
    gc.collect()
    assert len(forks._registered) <= before


def test_one_that_fails_does_not_spare_the_others() -> None:
    class Failing(Handle):
        def abandon(self) -> None:
            raise ValueError("on purpose")

    handles = [Handle(), Handle(), Handle()]
    failing = [Failing(), Failing()]
    for handle in (*handles, *failing):
        forks.register(handle)

    def work(say: Callable[[str], None]) -> None:
        say(f"{[len(handle.abandoned_by) for handle in handles]}")

    child = Child(work)
    assert child.wait() == ["[1, 1, 1]"]
    failing.clear()


def test_what_is_kept_for_ever_is_never_destroyed() -> None:
    def work(say: Callable[[str], None]) -> None:
        class Noisy:
            def __del__(self) -> None:
                say("destroyed")

        forks.keep_for_ever(Noisy())
        forks._kept_for_ever.clear()
        gc.collect()
        say("end")

    assert Child(work).wait() == ["end"]
