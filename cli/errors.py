"""How a command ends: exit codes, and the exceptions that carry them.

::

    0    done; also when whoever reads the output has closed the pipe
    1    failed: one line on stderr says why
    2    wrong usage: nothing was done
    130  interrupted (SIGINT, Ctrl-C): 128 + the number of the signal,
    143  terminated (SIGTERM), so also
    129  hung up (SIGHUP)
"""

from __future__ import annotations

DONE = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130


class CommandEnded(Exception):
    """Ends the command with an exit code, and one line on stderr unless that is empty."""

    exit_code = FAILED


class CommandFailed(CommandEnded):
    """What was asked for did not happen, or not all of it."""


class WrongUsage(CommandEnded):
    """The arguments contradict each other or make no sense."""

    exit_code = USAGE


class PipeClosed(CommandEnded):
    """Nobody reads the output any more. Not an error: `seawall consume … | head` is fine."""

    exit_code = DONE

    def __init__(self) -> None:
        super().__init__("")


class Stopped(CommandEnded):
    """A signal asked the command to stop, and it did."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
