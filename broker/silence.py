"""Servers that answer, but give nothing of what they say they have: for how long that may be.

While no server answers nothing comes either. That is an outage, and is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from seawall.broker.interface import AnyBroker

SILENCE_S: Final = 60.0
# How soon somebody who hears nothing asks whether the servers are there.
ASK_S: Final = 5.0


class Silence:
    """How long nothing was heard of a broker while it was there."""

    def __init__(self, broker: AnyBroker, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._broker = broker
        self._clock_s = clock_s
        self.heard()

    def heard(self) -> None:
        """Something came."""
        self._since_s = self._asked_s = self._clock_s()

    def is_too_long(self, topic: str, partition: int) -> bool:
        """Whether no more than silence is to be expected. Waits while no server answers, and
        raises what asking for the ends of the partition raises."""
        now_s = self._clock_s()
        if now_s - self._asked_s > ASK_S:
            self._broker.ends(topic, partition)
            self._asked_s = self._clock_s()
            self._since_s += self._asked_s - now_s
        return self._clock_s() - self._since_s > SILENCE_S
