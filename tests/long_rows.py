"""How much of the longest tests is run: a sample by `make test`, all of it by `make torture`.

``SEAWALL_TORTURE=1`` asks for all; ``pytest -m long_row`` runs just these tests.
"""

from __future__ import annotations

import os
from typing import TypeVar

import pytest

Amount = TypeVar("Amount", int, float)

IS_WHOLE = os.environ.get("SEAWALL_TORTURE", "") not in ("", "0")


def amount(sample: Amount, whole: Amount) -> Amount:
    """How much to do here."""
    return whole if IS_WHOLE else sample


# How often a server is killed under load, how often a service is told to end, and how long a
# server is away.
KILLS = amount(3, 20)
SHUTDOWNS = amount(3, 50)
AWAY_S = amount(1.5, 60.0)

long_row = pytest.mark.long_row
