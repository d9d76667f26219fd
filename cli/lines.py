"""Lines of bytes from files and pipes: split at ``\\n`` only, as they arrive.

A line is what stands before a ``\\n``, or behind the last one if that is not empty. An
empty line is a line; ``\\r`` is a byte like any other. What has arrived is handed out at
once, whole lines only, so that a slow pipe does not hold back its last whole line.
"""

from __future__ import annotations

LINE_BYTES_MAX = 32 * 1024 * 1024


class LineTooLong(ValueError):
    """A line beyond LINE_BYTES_MAX: probably not a file of lines."""

    def __init__(self) -> None:
        super().__init__(f"longer than {LINE_BYTES_MAX} bytes; is this a file of lines?")


class LineSplitter:
    """Turns chunks of bytes into lines."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of the line that has no end yet
        self._held_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that this chunk completes, without their ``\\n``.

        Raises LineTooLong when the line begun by earlier chunks exceeds the bound.
        """
        if self._held_bytes > LINE_BYTES_MAX:
            raise LineTooLong
        lines = chunk.split(b"\n")
        last = lines.pop()
        if lines and self._parts:
            lines[0] = b"".join(self._parts) + lines[0]
            self._parts.clear()
            self._held_bytes = 0
        if last:
            self._parts.append(last)
            self._held_bytes += len(last)
        return lines

    def end(self) -> list[bytes]:
        """The last line, if the input does not end in ``\\n``; then ready for another input."""
        if self._held_bytes > LINE_BYTES_MAX:
            raise LineTooLong
        lines = [b"".join(self._parts)] if self._parts else []
        self._parts.clear()
        self._held_bytes = 0
        return lines
