"""What happens to open handles when a process forks.

A child gets copies of its parent's descriptors and of its memory, but none of its
threads. LMDB and SQLite do not notice: they would go on with the parent's locks and
transactions. So right after ``fork()`` every registered object is *abandoned* in the
child: it unlocks, flushes and closes nothing of its parent's, and its next use raises.

Lock descriptors are the exception: the child closes its copies (a plain close, which
frees nothing while the parent has its own), because an flock lives until the last
copy is closed and must not outlive the parent.
"""

from __future__ import annotations

import os
import weakref

from seawall.wal.files import Abandonable

_registered: weakref.WeakSet[Abandonable] = weakref.WeakSet()
_kept_for_ever: list[object] = []


def register(handle: Abandonable) -> None:
    """Have `handle.abandon()` called in every child that is forked from now on."""
    _registered.add(handle)


def keep_for_ever(value: object) -> None:
    """Keep an object alive until the process ends, so that its destructor never runs.

    The reference is leaked on purpose: even clearing this module at exit must not
    bring the count to zero.
    """
    import ctypes

    _kept_for_ever.append(value)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def _after_fork_in_child() -> None:
    handles = list(_registered)
    _registered.clear()
    failed = None
    for handle in handles:
        try:
            handle.abandon()
        except Exception as error:  # noqa: BLE001 - raised below: the others come first
            failed = error
    if failed is not None:
        raise failed  # the interpreter reports it and goes on


os.register_at_fork(after_in_child=_after_fork_in_child)
