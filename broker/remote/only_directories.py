"""What only a directory can do. Here each raises `UnsupportedByLocation`, and says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from seawall.broker.errors import UnsupportedByLocation


class OnlyDirectories:
    """The part of a `RemoteBroker` that refuses."""

    location: str

    @property
    def is_remote(self) -> bool:
        """Whether it is reached over a network."""
        return True

    def check_usable(self) -> None:
        """Raise `BrokerClosed` after `close`, and `ForkedBroker` in a child after a fork."""
        raise NotImplementedError

    def _unsupported(self, operation: str) -> NoReturn:
        self.check_usable()
        raise UnsupportedByLocation(operation=operation, location=self.location)

    def info(self) -> NoReturn:
        """Raises `UnsupportedByLocation`."""
        self._unsupported("tell what a directory holds; ask where the directory is")

    def verify(self, topic: str | None = None) -> Iterator[NoReturn]:
        """Raises `UnsupportedByLocation`."""
        self._unsupported("verify files; run it where the directory is")

    def compact(self, topic: str | None = None, *, dry_run: bool = False) -> NoReturn:
        """Raises `UnsupportedByLocation`."""
        self._unsupported("remove records on demand; the servers do so by each topic's settings")

    def producers(self, topic: str, partition: int) -> NoReturn:
        """Raises `UnsupportedByLocation`."""
        self._unsupported("list the producers that a partition knows")
