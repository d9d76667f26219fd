"""The table of system calls, and the filter that is made of it, run step by step."""

from __future__ import annotations

import os
import struct

import pytest

from seawall.wal.torture.calls import (
    ARCHITECTURES,
    SHAPES,
    filter_program,
    shapes_by_number,
)

ALLOWED, ASKED = "allowed", "asked"
X86_64, AARCH64 = 0xC000003E, 0xC00000B7


def judge(program: bytes, architecture: int, number: int, arguments: tuple[int, ...] = ()) -> str:
    """What the kernel would do with a call: classic BPF on struct seccomp_data."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=iIQ6Q", number, architecture, 0, *padded)
    steps = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x15:
            at += yes if accumulator == value else no
        elif code == 0x45:
            at += yes if accumulator & value else no
        elif code == 0x06:
            return {0x7FFF0000: ALLOWED, 0x7FC00000: ASKED}[value]
        else:
            raise AssertionError(f"no such instruction: {code:#x}")


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_every_call_of_the_table_is_asked_for(machine: str) -> None:
    program = filter_program(machine)
    for number, shape in shapes_by_number(machine).items():
        arguments = [0] * 6
        if shape.flags >= 0:
            arguments[shape.flags] = os.O_CREAT | os.O_RDWR
        assert judge(program, ARCHITECTURES[machine], number, tuple(arguments)) == ASKED, shape


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_nothing_else_is(machine: str) -> None:
    program = filter_program(machine)
    known = shapes_by_number(machine)
    for number in set(range(512)) - known.keys():
        assert judge(program, ARCHITECTURES[machine], number) == ALLOWED, number


@pytest.mark.parametrize("machine", ARCHITECTURES)
@pytest.mark.parametrize(
    ("flags", "verdict"),
    [
        (os.O_RDONLY, ALLOWED),
        (os.O_RDWR | os.O_CLOEXEC, ALLOWED),
        (os.O_RDWR | os.O_CREAT, ASKED),
        (os.O_WRONLY | os.O_TRUNC, ASKED),
    ],
)
def test_opens_are_looked_into(machine: str, flags: int, verdict: str) -> None:
    openat = next(shape for shape in SHAPES if shape.name == "openat").number(machine)
    arguments = (2**64 - 100, 0x7F0000000000, flags)
    assert judge(filter_program(machine), ARCHITECTURES[machine], openat, arguments) == verdict


def test_calls_of_another_architecture_are_left_alone() -> None:
    assert judge(filter_program("x86_64"), AARCH64, 64) == ALLOWED
    assert judge(filter_program("x86_64"), X86_64, 0x40000000 | 1) == ALLOWED  # x32
    assert judge(filter_program("aarch64"), X86_64, 1) == ALLOWED


def test_names_and_numbers_are_unique() -> None:
    names = [shape.name for shape in SHAPES]
    assert len(set(names)) == len(names)
    for machine in ARCHITECTURES:
        numbers = [shape.number(machine) for shape in SHAPES if shape.number(machine) >= 0]
        assert len(set(numbers)) == len(numbers)
