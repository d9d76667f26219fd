"""The locks that there are, how a process comes to hold each, and what others meet then.

The words for steps are those of a workload's operations; what comes behind an underscore
says where it is different (see `stops`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LOCK = ("AppendLockTimeout",)
STATE = ("LockTimeout",)
CATALOG = ("CatalogBusy", "LockTimeout")
GROUP = ("GroupBusy",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A lock, how a process comes to hold it, who then has to wait, and who does not.

    ``holder``: one of these steps takes the lock; at its ``nth`` success, of up to so many,
    or up to ``steps`` changes later, the process stops. ``blocked``: steps of others, and
    the errors that each must end in. ``free``: steps of others that need no such lock.
    """

    holder: Sequence[str]
    call: str = "lock"
    pattern: str = "*"
    nth: int = 1
    steps: int = 0
    blocked: Mapping[str, Sequence[str]] = field(default_factory=dict)
    free: Sequence[str] = ()
    is_patient: bool = True
    """Whether others wait at all, so that they may outlast the stop."""


KINDS: Mapping[str, Kind] = {
    "append": Kind(
        holder=("produce", "produce_os"),
        pattern="*/logs/*-orders-0/LOCK",
        nth=2,  # the second time is for publishing
        steps=6,
        blocked={"produce": LOCK, "roll": LOCK, "burst": LOCK, "drop": LOCK},
        free=("produce_elsewhere", "consume", "acknowledge", "create", "checkpoint", "reopen"),
    ),
    "publish": Kind(
        holder=("produce",),
        pattern="*/logs/*-orders-0/LOCK",
        steps=4,
        blocked={"produce": LOCK, "roll": LOCK},
        free=("produce_elsewhere", "consume", "reset"),
        is_patient=False,
    ),
    "state": Kind(
        holder=("acknowledge_search",),
        pattern="*/state.lmdb/write.lock",
        nth=2,  # joining, the acknowledgement
        steps=3,
        blocked={"acknowledge": STATE, "reset": STATE, "drop": STATE, "delete": STATE},
        free=("produce", "consume", "checkpoint", "create", "roll", "reopen"),
    ),
    "index": Kind(
        holder=("checkpoint",),
        pattern="*/index.lmdb/write.lock",
        steps=3,
        blocked={"checkpoint_elsewhere": STATE, "delete": STATE},
        free=("produce", "consume", "acknowledge", "create", "reset"),
    ),
    "topics": Kind(
        holder=("create", "delete_carts"),
        pattern="*/run/topics.lock",
        steps=12,
        blocked={"create": STATE, "delete": STATE},
        free=("produce", "consume", "acknowledge", "checkpoint", "roll"),
    ),
    "catalog": Kind(
        holder=("configure", "create"),
        call="catalog",
        nth=2,
        blocked={"configure": CATALOG, "create": CATALOG},
        free=("produce", "consume", "acknowledge", "checkpoint", "roll"),
    ),
    "group": Kind(
        holder=("hold_search",),
        pattern="*/run/members/*",
        # The first time it is about to join, and holds nothing yet. There is no second time:
        # then it is stopped when it has joined.
        nth=2,
        blocked={"reset_search": GROUP, "forget_search": GROUP},
        free=("produce", "consume", "acknowledge", "reset", "create"),
        is_patient=False,
    ),
    "open": Kind(
        holder=("open",),
        pattern="*[!0-9]/LOCK",
        steps=30,
        blocked={"open": STATE},
    ),
}

# A sample takes one of each: append locks, LMDB writes, topics, leases.
FAMILIES = (
    ("append", "publish"),
    ("state",),
    ("index",),
    ("topics", "catalog"),
    ("group", "open"),
)
