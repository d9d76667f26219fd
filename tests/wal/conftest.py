"""Fixtures for the storage engine: stores that close themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from storage import Store


@pytest.fixture
def make_store(folder: str) -> Iterator[Callable[..., Store]]:
    """Opens stores in `folder` (or in `root`), and lets go of them afterwards."""
    stores: list[Store] = []

    def make(root: str = folder, **options: object) -> Store:
        store = Store(root, **options)  # type: ignore[arg-type]
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.crash()


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    """A new, empty store."""
    return make_store()
