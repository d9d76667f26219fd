"""Fixtures for the broker: a directory in memory, open with one topic."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from seawall.broker import Broker


@pytest.fixture
def broker(folder: str) -> Iterator[Broker]:
    """An open broker with the topic ``orders`` of one partition."""
    with Broker.open(folder) as opened:
        opened.create_topic("orders")
        yield opened
