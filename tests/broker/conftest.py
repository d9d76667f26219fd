"""Fixtures for the broker: a directory in memory, open with one topic."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from storage import memory_folder

from seawall.broker import Broker


@pytest.fixture
def folder() -> Iterator[str]:
    """An empty folder, in memory if that can be had."""
    with memory_folder() as path:
        yield path


@pytest.fixture
def broker(folder: str) -> Iterator[Broker]:
    """An open broker with the topic ``orders`` of one partition."""
    with Broker.open(folder) as opened:
        opened.create_topic("orders")
        yield opened
