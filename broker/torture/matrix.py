"""The fault matrix: every search there is, in the order in which it is printed."""

from __future__ import annotations

from importlib import import_module

from seawall.wal.torture.search import Search

# Loaded when wanted: a search that this machine lacks something for hinders no other.
SEARCHES = {
    "crash-states": "seawall.broker.torture.crashes:CrashStates",
    "crash-in-recovery": "seawall.broker.torture.recovery_crashes:CrashInRecovery",
    "crash-in-compaction": "seawall.broker.torture.compaction_crashes:CrashInCompaction",
    "crash-in-repair": "seawall.broker.torture.repair_crashes:CrashInRepair",
    "kill-syscalls": "seawall.broker.torture.kills:KillSyscalls",
    "random-kills": "seawall.broker.torture.random_kills:RandomKills",
    "failed-syncs": "seawall.broker.torture.failures:FailedSyncs",
    "failed-writes": "seawall.broker.torture.failures:FailedWrites",
    "full-disk": "seawall.broker.torture.full_disk:FullDisk",
    "bit-rot": "seawall.wal.torture.bitrot:BitRot",
    "caches": "seawall.broker.torture.caches:Caches",
    "clock": "seawall.wal.torture.clock:Clock",
    "stopped-holder": "seawall.broker.torture.stops:StoppedHolder",
    "locks": "seawall.broker.torture.locks:Locks",
    "histories": "seawall.broker.torture.histories:Histories",
    "network": "seawall.broker.torture.network:Network",
}


def load(name: str) -> type[Search]:
    """The search of that name, or ``module:Class`` for one that is not in the matrix.

    Raises `KeyError`, `ImportError` or `AttributeError`.
    """
    module, _, kind = (name if ":" in name else SEARCHES[name]).partition(":")
    search: type[Search] = getattr(import_module(module), kind)
    return search
