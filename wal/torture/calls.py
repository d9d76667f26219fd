"""The system calls that change files: their numbers, what their arguments mean, a filter.

The filter is a program for seccomp(2), in the kernel's classic BPF: it lets everything
through but these calls, for each of which it asks whoever listens. Two are looked into
there: an open is of interest only if it may create or truncate.

What a process writes through a memory map is no system call and is not seen; neither is
io_uring, which neither Python, LMDB nor SQLite uses.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

# linux/audit.h; what the kernel calls the table of system calls that a thread uses.
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# linux/seccomp.h
_ALLOW = 0x7FFF0000
_NOTIFY = 0x7FC00000

# linux/bpf_common.h: load a word of struct seccomp_data, compare, test bits, return.
_LOAD = 0x20
_IF_EQUAL = 0x15
_IF_ANY_BIT = 0x45
_RETURN = 0x06
_INSTRUCTION = struct.Struct("=HBBI")

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6].
_NUMBER_AT = 0
_ARCHITECTURE_AT = 4
_ARGUMENTS_AT = 16

_CREATES = os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What one system call's arguments mean; each field is an argument's place, or -1.

    ``file``: a descriptor. ``path`` and ``folder``: a path, and the descriptor of the
    directory that a relative one begins at (the working directory if there is none).
    ``to`` and ``to_folder``: a second path. ``size`` and ``position``: numbers of bytes.
    ``buffers``: an array of buffers, whose count is the argument after it.
    ``address``: memory that is mapped from a file. ``flags``: those of an open.
    """

    name: str
    x86_64: int = -1
    aarch64: int = -1
    file: int = -1
    folder: int = -1
    path: int = -1
    to_folder: int = -1
    to: int = -1
    size: int = -1
    position: int = -1
    buffers: int = -1
    address: int = -1
    flags: int = -1

    def number(self, machine: str) -> int:
        """Its number on that machine (as ``platform.machine`` has it), -1 if it has none."""
        return self.x86_64 if machine == "x86_64" else self.aarch64


SHAPES = (
    Shape(name="write", x86_64=1, aarch64=64, file=0, size=2),
    Shape(name="pwrite64", x86_64=18, aarch64=68, file=0, size=2, position=3),
    Shape(name="writev", x86_64=20, aarch64=66, file=0, buffers=1),
    Shape(name="pwritev", x86_64=296, aarch64=70, file=0, buffers=1, position=3),
    Shape(name="pwritev2", x86_64=328, aarch64=287, file=0, buffers=1, position=3),
    Shape(name="sendfile", x86_64=40, aarch64=71, file=0, size=3),
    Shape(name="copy_file_range", x86_64=326, aarch64=285, file=2, size=4),
    Shape(name="fallocate", x86_64=285, aarch64=47, file=0, position=2, size=3),
    Shape(name="ftruncate", x86_64=77, aarch64=46, file=0, size=1),
    Shape(name="truncate", x86_64=76, aarch64=45, path=0, size=1),
    Shape(name="fsync", x86_64=74, aarch64=82, file=0),
    Shape(name="fdatasync", x86_64=75, aarch64=83, file=0),
    Shape(name="sync_file_range", x86_64=277, aarch64=84, file=0, position=1, size=2),
    Shape(name="msync", x86_64=26, aarch64=227, address=0, size=1),
    Shape(name="open", x86_64=2, path=0, flags=1),
    Shape(name="openat", x86_64=257, aarch64=56, folder=0, path=1, flags=2),
    Shape(name="creat", x86_64=85, path=0),
    Shape(name="rename", x86_64=82, path=0, to=1),
    Shape(name="renameat", x86_64=264, aarch64=38, folder=0, path=1, to_folder=2, to=3),
    Shape(name="renameat2", x86_64=316, aarch64=276, folder=0, path=1, to_folder=2, to=3),
    Shape(name="unlink", x86_64=87, path=0),
    Shape(name="unlinkat", x86_64=263, aarch64=35, folder=0, path=1),
    Shape(name="mkdir", x86_64=83, path=0),
    Shape(name="mkdirat", x86_64=258, aarch64=34, folder=0, path=1),
    Shape(name="rmdir", x86_64=84, path=0),
    Shape(name="link", x86_64=86, path=0, to=1),
    Shape(name="linkat", x86_64=265, aarch64=37, folder=0, path=1, to_folder=2, to=3),
    Shape(name="symlink", x86_64=88, path=1),
    Shape(name="symlinkat", x86_64=266, aarch64=36, folder=1, path=2),
)


def shapes_by_number(machine: str) -> dict[int, Shape]:
    """The table of one machine."""
    return {shape.number(machine): shape for shape in SHAPES if shape.number(machine) >= 0}


def filter_program(machine: str) -> bytes:
    """The filter for a machine that is in `ARCHITECTURES`: an array of ``sock_filter``."""
    # Jumps to the two returns at the end are noted as these, and put right at last.
    allow, notify = "allow", "notify"
    steps: list[tuple[int, int | str, int | str, int]] = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_IF_EQUAL, 0, allow, ARCHITECTURES[machine]),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for number, shape in shapes_by_number(machine).items():
        if shape.flags < 0:
            steps.append((_IF_EQUAL, notify, 0, number))
        else:
            # Both machines are little endian: the low half of an argument comes first.
            steps.append((_IF_EQUAL, 0, 2, number))
            steps.append((_LOAD, 0, 0, _ARGUMENTS_AT + 8 * shape.flags))
            steps.append((_IF_ANY_BIT, notify, allow, _CREATES))
    ends = {allow: len(steps), notify: len(steps) + 1}
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _NOTIFY)]

    def jump(to: int | str, at: int) -> int:
        return to if isinstance(to, int) else ends[to] - at - 1

    return b"".join(
        _INSTRUCTION.pack(code, jump(yes, at), jump(no, at), value)
        for at, (code, yes, no, value) in enumerate(steps)
    )
