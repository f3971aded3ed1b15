"""A checksum that covers a whole file, and what is raised when a file is not what it should be.

The checksum is a CRC-32 (that of zlib and PNG) over all bytes with the eight digits of the checksum
itself read as zeros. It finds every change of up to 32 neighbouring bits, and others but for one in
four thousand million; it is no protection against who means to deceive.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from isal.isal_zlib import crc32

CHECKSUM_DIGITS: Final = 8
NO_CHECKSUM: Final = b"0" * CHECKSUM_DIGITS

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class BadFile(Exception):
    """A file is damaged, or is not what its name says."""


def sign(raw: Bytes, place: int) -> None:
    """Write the checksum into the eight digits at `place`, which are zeros."""
    digits = f"{crc32(raw.data):08x}".encode()
    raw[place : place + CHECKSUM_DIGITS] = np.frombuffer(digits, np.uint8)


def check(raw: Bytes, place: int, rest: Iterable[Bytes] = ()) -> None:
    """Compare the checksum, and set its digits back to zeros.

    Args:
        raw: The file, or its beginning with the checksum in it.
        rest: What follows, part by part.

    Raises:
        BadFile: It is another one.
    """
    stated = raw[place : place + CHECKSUM_DIGITS].tobytes()
    raw[place : place + CHECKSUM_DIGITS] = np.frombuffer(NO_CHECKSUM, np.uint8)
    found = crc32(raw.data)
    for part in rest:
        found = crc32(part.data, found)
    if stated != f"{found:08x}".encode():
        raise BadFile("the checksum does not match")
