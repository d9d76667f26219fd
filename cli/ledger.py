"""How far the input has come: which of its leading lines are acknowledged.

Records resolve partition by partition, in any order between them, while a restart with
``tail -n +N`` needs one number: how many lines from the first on are in the log, all of
them. So lines are settled from the left only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seawall.broker import AnyDelivery


class Ledger:
    """The lines of the input, in order: sent or skipped, settled or not.

    `settled` leading lines are acknowledged (or were skipped on purpose). `failure` is why
    the line behind them never will be, None as long as it may.
    """

    def __init__(self) -> None:
        self.settled = 0
        self.skipped = 0
        self.failure: BaseException | None = None
        self._pending: deque[AnyDelivery | None] = deque()

    @property
    def count(self) -> int:
        """Lines taken so far."""
        return self.settled + len(self._pending)

    @property
    def pending(self) -> int:
        """Lines that are neither acknowledged nor skipped, or behind such a line."""
        return len(self._pending)

    def extend(self, deliveries: Iterable[AnyDelivery]) -> None:
        """Take lines that were sent. If the iterable raises, those before it are taken."""
        self._pending.extend(deliveries)

    def skip(self) -> None:
        """Take one line that is not sent, on purpose."""
        self.skipped += 1
        self._pending.append(None)

    def settle(self) -> int:
        """Settle what can be settled now; return how many lines that were."""
        pending = self._pending
        before = len(pending)
        while pending and self.failure is None:
            delivery = pending[0]
            if delivery is not None:
                if not delivery.done():
                    break
                self.failure = delivery.exception()
                if self.failure is not None:
                    break
            pending.popleft()
        settled = before - len(pending)
        self.settled += settled
        return settled

    def oldest(self) -> AnyDelivery | None:
        """The delivery that the next line waits for, if there is one."""
        return self._pending[0] if self._pending else None
