"""What the broker warns of while a command runs, as lines on stderr like all others."""

from __future__ import annotations

import logging

from seawall.cli.output import say


class _Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


_said = _Said(logging.WARNING)


def show_warnings() -> None:
    """Have them shown from now on."""
    logging.getLogger("seawall").addHandler(_said)  # which is done once only
