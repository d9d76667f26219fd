"""The CRC-32C of any stretch of a file, in time that does not depend on its length.

Whoever looks for a batch behind damage meets bytes that only look like one, and each such
header names a length of its own: to compute the CRC of every candidate anew would take
time quadratic in the bytes searched, and a record's value may be made so that it does.

So the bytes are gone through once. Let ``C(i)`` be the CRC of all bytes from the start up
to ``i``. As a CRC is linear, that of the bytes from a to b is ``C(b)`` xor ``C(a)``
multiplied by x to the power of 8 (b - a), modulo the CRC's polynomial (as in zlib's
``crc32_combine``). ``C`` is remembered at every `STRIDE_BYTES`.
"""

from __future__ import annotations

from array import array
from functools import cache

import google_crc32c

from seawall.wal.files import Files
from seawall.wal.sectors import read_anyway

STRIDE_BYTES = 4096
BLOCK_BYTES = 1 << 20

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, its bits reversed: bit 31 is the power 0
_ONE = 1 << 31


@cache
def _products(exponent: int) -> tuple[list[int], ...]:
    """What each of the four bytes of a CRC becomes when 2 ** exponent bytes follow."""
    if exponent:
        product = _times(_products(exponent - 1), _times(_products(exponent - 1), _ONE))
    else:
        product = _ONE >> 8
    of_bits = [0] * 32
    for bit in range(31, -1, -1):
        of_bits[bit] = product
        product = product >> 1 ^ _POLYNOMIAL if product & 1 else product >> 1
    tables: tuple[list[int], ...] = ([0], [0], [0], [0])
    for number, table in enumerate(tables):
        for bit in range(8):
            table += [entry ^ of_bits[8 * number + bit] for entry in table]
    return tables


def _times(products: tuple[list[int], ...], crc: int) -> int:
    first, second, third, fourth = products
    return first[crc & 255] ^ second[crc >> 8 & 255] ^ third[crc >> 16 & 255] ^ fourth[crc >> 24]


def shifted(crc: int, count: int) -> int:
    """What a CRC contributes when `count` bytes follow."""
    exponent = 0
    while count:
        if count & 1:
            crc = _times(_products(exponent), crc)
        count >>= 1
        exponent += 1
    return crc


class StretchCrc:
    """The CRCs of stretches of an open file, none of which begins before `start`."""

    def __init__(self, files: Files, descriptor: int, start: int) -> None:
        self._files = files
        self._descriptor = descriptor
        self._start = start
        self._known = array("I", [0])

    def value(self, position: int, end: int) -> int:
        """The CRC-32C of the bytes from `position` to `end`, which are in the file."""
        return self._up_to(end) ^ shifted(self._up_to(position), end - position)

    def _up_to(self, position: int) -> int:
        number, rest = divmod(position - self._start, STRIDE_BYTES)
        while len(self._known) <= number:
            self._go_on(number)
        crc = self._known[number]
        if rest:
            piece = read_anyway(self._files, self._descriptor, rest, position - rest)
            crc = google_crc32c.extend(crc, piece)
        return crc

    def _go_on(self, number: int) -> None:
        """Remember more of them, at most up to that of stride `number`."""
        done = len(self._known) - 1
        size_bytes = min(BLOCK_BYTES, (number - done) * STRIDE_BYTES)
        block = read_anyway(
            self._files, self._descriptor, size_bytes, self._start + done * STRIDE_BYTES
        )
        crc = self._known[-1]
        for at in range(0, size_bytes, STRIDE_BYTES):
            # A file that shrinks meanwhile has other CRCs, and so no batch that is valid.
            crc = google_crc32c.extend(crc, block[at : at + STRIDE_BYTES])
            self._known.append(crc)
