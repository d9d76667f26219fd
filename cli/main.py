"""The console script: runs a command, and turns whatever ends it into one line and a code."""

from __future__ import annotations

import gc
import os
import sys

from seawall.cli.collector import NEW_OBJECTS
from seawall.cli.errors import DONE, FAILED, INTERRUPTED, USAGE, CommandEnded

DEBUG_VARIABLE = "SEAWALL_DEBUG"


def run() -> None:
    """What the installed `seawall` calls.

    What a command imports stays until it ends. To look through all of it for cycles, again and
    again and once more at the very end, takes a quarter of the time of a short command.
    """
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
    try:
        code = main(sys.argv[1:])
    finally:
        gc.freeze()
    sys.exit(code)


def main(arguments: list[str]) -> int:
    """Run one command line; return its exit code. Prints what went wrong to stderr."""
    _occupy_standard_descriptors()
    try:
        from seawall.cli.app import build

        result = build().main(arguments, prog_name="seawall", standalone_mode=False)
        return result if isinstance(result, int) else DONE
    except CommandEnded as end:
        if end.__cause__ is not None:
            _trace(end.__cause__)
        _say(str(end))
        return end.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: one line instead of a traceback
        return _failed(error)


def _failed(error: Exception) -> int:
    from typer.exceptions import Abort, TyperException

    from seawall.wal.errors import SeawallError

    if isinstance(error, Abort):
        return FAILED
    if isinstance(error, TyperException):
        return _wrong_usage(error)
    _trace(error)
    if isinstance(error, SeawallError):
        _say(str(error))
    else:
        kind = type(error).__name__
        _say(f"unexpected {kind}: {error} (SEAWALL_DEBUG=1 shows where)")
    return FAILED


def _wrong_usage(error: Exception) -> int:
    """Typer's own complaint in one line. Without any arguments, the help is what it says."""
    context = getattr(error, "ctx", None)
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
    elif context is None:
        _say(message)
    else:
        _say(f"{message.rstrip('.')} (see: {context.command_path} --help)")
    code = getattr(error, "exit_code", USAGE)
    return code if isinstance(code, int) else USAGE


def _trace(error: BaseException) -> None:
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        traceback.print_exception(error)


def _occupy_standard_descriptors() -> None:
    """Put something in the place of a closed stdin, stdout or stderr.

    Else the next file to be opened takes its number, and what is meant for stdout goes
    into the log. Reading or writing what stands in fails, as it should.
    """
    for descriptor, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # the lowest number that is free: this one


def _say(message: str) -> None:
    if message:
        from seawall.cli.output import say

        say(message)
