"""What is closed at the end of a `with`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Protocol, Self


class Closes(Protocol):
    """What `with` can be used with."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Closing(ABC):
    """The part of a broker, a producer and a consumer that `with` needs."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, Exception):
            self.close()
        else:
            self._close_interrupted(error)

    def _close_interrupted(self, error: BaseException) -> None:
        """Close after Ctrl-C or the like: who might have to wait for long does not."""
        self.close()
