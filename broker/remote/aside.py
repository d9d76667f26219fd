"""Calls into confluent-kafka where no handler of a signal runs.

Python runs handlers in the main thread, also in the middle of a call into C. While it converts
arguments, confluent-kafka (2.x) takes what a handler raises there for an argument that is missing
or of a wrong type, and complains of that, or goes on and ends in a SystemError. And who is
interrupted on the way into waiting for one of its futures may leave that locked, so that
librdkafka's thread waits for it for ever, and all later questions with it.
So where the main thread makes a client, or puts an administrator's question, another thread does
it for it; what a handler raises comes out of the waiting for that thread.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Answer = TypeVar("Answer")


def aside(call: Callable[..., Answer], *arguments: Any, **named: Any) -> Answer:
    """What that call returns or raises. It comes to its end also if the waiting does not."""
    if threading.current_thread() is not threading.main_thread():
        return call(*arguments, **named)
    answers: list[Answer] = []
    errors: list[Exception] = []
    is_done = _thread.allocate_lock()
    is_done.acquire()

    def run() -> None:
        try:
            answers.append(call(*arguments, **named))
        except Exception as error:  # noqa: BLE001 - raised by who waits
            errors.append(error)
        finally:
            is_done.release()

    # Nothing of `threading`: a handler that raises in the middle of its steps breaks them.
    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:  # the interpreter is ending, or no thread is to be had
        return call(*arguments, **named)
    is_done.acquire()
    if errors:
        raise errors.pop()
    return answers[0]
