"""Opening a directory on a disk that is not what it seems, and letting go of it rudely."""

from __future__ import annotations

from collections.abc import Mapping

from seawall.broker.broker import Broker
from seawall.broker.engine import acquire_engine
from seawall.broker.group_consumer import GroupConsumer
from seawall.broker.topics import finish_unfinished
from seawall.broker.translation import translated
from seawall.wal.files import Files
from seawall.wal.kv_check import Kind, Verdict, find_damage

LOCK_TIMEOUT_MS = 5_000
# What time it always is for the state: acknowledgements, producer ids.
CLOCK_MS = 1_700_000_000_000
# For topics of which everything is read at the end, while the compactor is at work.
KEEPS_ALL: Mapping[str, str | int] = {"cleanup.policy": "delete", "retention.ms": "-1"}


def connect(
    path: str, files: Files | None = None, *, lock_timeout_ms: int = LOCK_TIMEOUT_MS
) -> Broker:
    """`Broker.open` on another disk, in which nothing happens by the clock.

    Raises what that raises.
    """
    with translated():
        engine = acquire_engine(
            path,
            create=True,
            open_timeout_ms=lock_timeout_ms,
            lock_timeout_ms=lock_timeout_ms,
            files=files,
            check_environment=check_here,
        )
        try:
            finish_unfinished(engine)
        except BaseException:
            engine.release()
            raise
    broker = Broker(engine, durability="fsync")
    quiet(broker)
    return broker


def check_here(path: str) -> Verdict:
    """`check_in_child` without the child, which costs 0.1 s.

    For environments that LMDB has written and nobody has torn since: they kill nobody.
    """
    damage = find_damage(path)
    return Verdict(Kind.DAMAGED, damage) if damage else Verdict(Kind.FINE)


def quiet(broker: Broker) -> None:
    """Have nothing done by the clock: no checkpoint or late sync but on closing, nobody looks
    after groups, and nothing is removed but on demand. In the state no time passes."""
    broker.engine.state.clock_ms = lambda: CLOCK_MS
    broker.engine.housekeeper._wake = lambda: None  # type: ignore[method-assign]
    broker.engine.keeper._wake = lambda: None  # type: ignore[method-assign]
    broker.engine.compactor.start = lambda: None  # type: ignore[method-assign]


def crash(broker: Broker) -> None:
    """Let go of a broker as the kernel does when its process dies: nothing is flushed.

    All producers must be closed.
    """
    housekeeper = broker.engine.housekeeper
    with housekeeper._work:
        housekeeper._dirty.clear()
        housekeeper._unsynced.clear()
    for user in list(broker._users):
        if isinstance(user, GroupConsumer):
            user.membership.vanish()
    broker.close()
