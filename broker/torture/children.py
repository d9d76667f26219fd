"""Processes that a search starts, talks to, stops and ends.

`Children` forks one server when it is made, before anything is open, and that server forks
a child for each piece of work: so a child begins with all modules imported and with no
thread, lock or broker of the search's. A child and the search exchange small JSON objects
over a line of their own. When the search ends, the server sees the end of its own line and
kills what is left. Should the search be killed, the kernel kills the server and the children.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

from seawall.wal.torture.processes import die_with_parent, process_state

Message = dict[str, Any]

LONGEST_MESSAGE_BYTES = 16 << 20
LONGEST_REQUEST_BYTES = 64 << 10
PATIENCE_S = 60.0  # for a process that has been killed, or a server that has to fork
PAUSE_S = 0.001


class Silent(Exception):
    """A process did not say or do in time what it should have."""


class ChildFailed(Exception):
    """What a child's work raised, with its traceback; or it died."""


class Line:
    """One end of a connection between two processes; messages are JSON objects."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    def say(self, message: Message) -> None:
        """Send a message. An other end that is closed is no error: its owner is gone."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, timeout_s: float | None = None) -> Message | None:
        """The next message, None when the other end is closed. Raises `Silent`."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            left_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            if not select.select([self._connection], [], [], left_s)[0]:
                raise Silent(f"nothing was heard for {timeout_s} s")
            try:
                data = self._connection.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._rest += data
            if len(self._rest) > LONGEST_MESSAGE_BYTES:
                raise ChildFailed(f"a message of more than {LONGEST_MESSAGE_BYTES} bytes")
        line, _, self._rest = self._rest.partition(b"\n")
        message: Message = json.loads(line)
        return message

    def close(self) -> None:
        """Close this end."""
        self._connection.close()


Work = Callable[..., None]
"""A module's function; it is given a `Line` and what else `Children.start` was given."""


class Child:
    """A process that was started. `status` is what it ended with, negative a signal."""

    def __init__(self, children: Children, pid: int, line: Line) -> None:
        self._children = children
        self.pid = pid
        self.line = line
        self.status: int | None = None

    def say(self, message: Message) -> None:
        """Tell it something; nothing if it has ended."""
        if self.status is None:
            self.line.say(message)

    def hear(self, timeout_s: float) -> Message | None:
        """What it says next, None once it is gone.

        Raises `Silent`, and `ChildFailed` with what its work raised.
        """
        message = self.line.hear(timeout_s)
        if message is not None and "failed" in message:
            raise ChildFailed(message["failed"])
        return message

    def signal(self, number: int) -> None:
        """Send it a signal; nothing if it has ended."""
        if self.status is None:
            os.kill(self.pid, number)

    def is_stopped(self) -> bool:
        """Whether all of it has been stopped by SIGSTOP."""
        return process_state(self.pid) == "T"

    def wait(self, timeout_s: float) -> int:
        """Its status, once it has ended. Raises `Silent`."""
        if self.status is None:
            status = self._children.request("wait", self.pid, timeout_s)
            if status is None:
                raise Silent(f"process {self.pid} has not ended within {timeout_s} s")
            self.status = status
            self.line.close()
            self._children.forget(self)
        return self.status

    def kill(self) -> int:
        """Kill it if it has not ended, and return its status."""
        self.signal(signal.SIGKILL)
        return self.wait(PATIENCE_S)


class Children:
    """The processes of one search. Make it before anything is open; close it at the end."""

    def __init__(self, prepare: Callable[[], None] = lambda: None) -> None:
        """`prepare` runs in the server before all else, so that the children find what it
        did, such as a mount. Raises `ChildFailed` with what it raises.
        """
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._living: list[Child] = []
        parent_pid = os.getpid()
        with warnings.catch_warnings():
            # Python 3.12 warns of a fork beside threads. The server takes no lock that one
            # of them might have held.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._server = os.fork()
        if self._server == 0:
            self._requests.close()
            _serve(theirs, prepare, parent_pid)
        theirs.close()
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def start(self, work: Work, *arguments: object) -> Child:
        """Run a module's function in a process of its own."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = self.request("start", work, arguments, descriptor=theirs.fileno())
            except BaseException:
                ours.close()
                raise
        if pid is None:
            ours.close()
            raise ChildFailed("no process could be started")
        child = Child(self, pid, Line(ours))
        self._living.append(child)
        return child

    def request(self, *request: object, descriptor: int | None = None) -> int | None:
        """Have the server do something; its answer."""
        data = pickle.dumps(request)
        if len(data) > LONGEST_REQUEST_BYTES:
            raise ValueError(f"a request of {len(data)} bytes")
        descriptors = [] if descriptor is None else [descriptor]
        try:
            socket.send_fds(self._requests, [data], descriptors)
            return self._answer()
        except ConnectionError as error:
            raise ChildFailed("the server that starts processes is gone") from error

    def _answer(self) -> int | None:
        if not select.select([self._requests], [], [], 2 * PATIENCE_S)[0]:
            raise Silent("the server that starts processes does not answer")
        answer = self._requests.recv(LONGEST_REQUEST_BYTES)
        if not answer:
            raise ChildFailed("the server that starts processes is gone")
        found: int | str | None = pickle.loads(answer)
        if isinstance(found, str):
            raise ChildFailed(found)
        return found

    def forget(self, child: Child) -> None:
        """It has ended."""
        self._living.remove(child)

    def kill(self) -> None:
        """Kill all that have not ended."""
        for child in list(self._living):
            child.kill()

    def close(self) -> None:
        """End the server, and with it every process that was started. Safe to call twice."""
        if self._server:
            for child in self._living:
                child.line.close()
            self._living.clear()
            self._requests.close()
            os.waitpid(self._server, 0)
            self._server = 0

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


# -- in the server -----------------------------------------------------------------------


def _serve(requests: socket.socket, prepare: Callable[[], None], parent_pid: int) -> None:
    """Start and reap children until nobody is left who could ask for it. Never returns."""
    status = 1
    living: set[int] = set()
    try:
        # Ctrl-C reaches everyone at the terminal; what becomes of us the search decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        logging.disable(logging.CRITICAL)
        if not die_with_parent(parent_pid):
            return
        requests.send(pickle.dumps(_prepared(prepare)))
        while True:
            data, descriptors, _, _ = socket.recv_fds(requests, LONGEST_REQUEST_BYTES, 1)
            if not data:
                break
            kind, *rest = pickle.loads(data)
            if kind == "start":
                pid = _start(requests, descriptors[0], *rest)
                living.add(pid)
                answer: int | None = pid
            else:
                answer = _reap(*rest)
                if answer is not None:
                    living.discard(rest[0])
            requests.send(pickle.dumps(answer))
        status = 0
    except BaseException:  # noqa: BLE001 - there is nobody above to raise it to
        traceback.print_exc()
    finally:
        for pid in living:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        os._exit(status)


def _prepared(prepare: Callable[[], None]) -> str | None:
    try:
        prepare()
    except Exception as error:  # noqa: BLE001 - told to the search
        return f"{type(error).__name__}: {error}"
    return None


def _start(
    requests: socket.socket, descriptor: int, work: Work, arguments: tuple[object, ...]
) -> int:
    server_pid = os.getpid()
    pid = os.fork()
    if pid:
        os.close(descriptor)
        return pid
    status = 1
    line = Line(socket.socket(fileno=descriptor))
    try:
        requests.close()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not die_with_parent(server_pid):
            return 0
        work(line, *arguments)
        status = 0
    except BaseException:  # noqa: BLE001 - told to the search
        line.say({"failed": traceback.format_exc()})
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(status)


def _reap(pid: int, timeout_s: float) -> int | None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline_s:
            return None
        time.sleep(PAUSE_S)
