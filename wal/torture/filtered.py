"""A forked child that puts itself under a filter of system calls, and reports to its parent.

What runs between fork() and exit is little on purpose: the parent may have threads whose
locks nobody in the child will ever release.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from seawall.wal.torture.processes import die_with_parent

# A packet must fit in a socket's buffer, of which 208 KiB is Linux's default.
PACKET_BYTES = 128 << 10
# The first byte of each packet that a child sends: the descriptor to watch it by, why
# there is none, a mark, the traceback that it ended with.
LISTENER, REFUSED, MARK, FAILED = b"l", b"u", b"m", b"f"

_TRACEBACK_CHARACTERS = 20_000

# linux/prctl.h, linux/seccomp.h
_PR_SET_NO_NEW_PRIVS = 38
_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER = 1
_NEW_LISTENER = 8
# Without it a signal that the child handles would have its call asked for twice.
_WAIT_KILLABLE = 32

Mark = Mapping[str, Any]
Child = Callable[[Callable[[Mark], None]], None]


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))


def be_the_child(
    child: Child, parent: socket.socket, program: bytes, machine: str, parent_pid: int
) -> NoReturn:
    """Run `child` under the filter, and leave without any of the interpreter's cleaning."""
    status = 1
    try:
        library = ctypes.CDLL(None, use_errno=True)
        # Nobody answers when the parent is gone.
        if die_with_parent(parent_pid):
            os.setpgid(0, 0)
            listener = install_filter(library, program, machine)
            if listener < 0:
                parent.send(REFUSED + os.strerror(-listener).encode())
            else:
                socket.send_fds(parent, [LISTENER], [listener])
                os.close(listener)
                child(_sender(parent))
                status = 0
    except BaseException:  # noqa: BLE001 - the parent raises it
        text = traceback.format_exc()[-_TRACEBACK_CHARACTERS:]
        parent.send(FAILED + text.encode("utf-8", "backslashreplace"))
    finally:
        os._exit(status)


def install_filter(library: ctypes.CDLL, program: bytes, machine: str) -> int:
    """Put the filter on this thread and those it starts; a descriptor, or minus an errno."""
    if library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return -ctypes.get_errno()
    steps = ctypes.create_string_buffer(program, len(program))
    argument = _Program(len(program) // 8, ctypes.addressof(steps))
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
        listener: int = library.syscall(
            _SYS_SECCOMP[machine], _SET_MODE_FILTER, flags, ctypes.byref(argument)
        )
        if listener >= 0:
            return listener
    return -ctypes.get_errno()


def _sender(parent: socket.socket) -> Callable[[Mark], None]:
    def send(mark: Mark) -> None:
        packet = MARK + json.dumps(mark, separators=(",", ":")).encode()
        if len(packet) > PACKET_BYTES:
            raise ValueError(f"a mark of {len(packet)} bytes, of {PACKET_BYTES} at the most")
        # send(2) is not among the calls that wait for the parent, and a packet is whole.
        parent.send(packet)

    return send
