"""Python's cyclic garbage collector, while records flow.

Records are tuples without cycles, but their sheer number makes the collector look through
everything that was imported, again and again: half of the time that `consume` takes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Objects made and not yet gone before it looks at the new ones; a batch of records is far less.
NEW_OBJECTS = 50_000


@contextmanager
def few_collections() -> Iterator[None]:
    """Meanwhile, leave alone what there is now, and look at new objects more rarely."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
