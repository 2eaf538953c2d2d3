"""The operations in a module's bytecode, as numbers (see `bytecode` for the format).

Read from the first version that marks dialects, which has no sections inside and no use-list
orders; what the numbers of attributes, types and locations stand for is asked of jaxlib's objects,
once for each.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np

from .bytecode import OPERATIONS, STRINGS

_VERSION = 1
_ALIGNED = 1 << 7


def module_bytecode(module: Any) -> bytes:
    """The bytecode of a jaxlib module's operation."""
    stream = BytesIO()
    module.write_bytecode(stream, _VERSION)
    return stream.getvalue()


def _number(data: bytes, start: int) -> tuple[int, int]:
    """A number, and where it ends."""
    lowest = (data[start] & -data[start]).bit_length()  # 0: it takes the next 8 bytes
    end = start + (lowest or 9)
    bits = int.from_bytes(data[start if lowest else start + 1 : end], "little")
    return bits >> lowest, end


def _section(data: bytes, number: int) -> bytes:
    _, position = _number(data, 4)  # the version
    position = data.index(b"\0", position) + 1  # the producer
    while True:
        kind = data[position]
        length, position = _number(data, position + 1)
        if kind & _ALIGNED:
            alignment, position = _number(data, position)
            position += -position % alignment
        if kind & ~_ALIGNED == number:
            return data[position : position + length]
        position += length


def operations_section(data: bytes) -> bytes:
    """The section of a module's bytecode that holds its operations."""
    return _section(data, OPERATIONS)


def strings_are_utf8(data: bytes) -> bool:
    """Whether all strings in a module's bytecode are UTF-8: names, texts, files."""
    section = _section(data, STRINGS)
    count, position = _number(section, 0)
    for _ in range(count):  # the lengths
        position += (section[position] & -section[position]).bit_length() or 9
    try:
        section[position:].decode()
    except UnicodeDecodeError:
        return False
    return True


def numbers_everywhere(data: bytes) -> tuple[list[int], list[int]]:
    """For each byte, the number (below 2^28) that begins there, and where the next one begins."""
    padded = np.frombuffer(data + b"\0\0\0", np.uint8).astype(np.uint32)
    size = len(data)
    words = padded[:size] | padded[1 : size + 1] << 8 | padded[2 : size + 2] << 16
    words |= padded[3 : size + 3] << 24
    first = padded[:size]
    widths = np.ones(size, np.uint32)
    for width in range(1, 4):
        widths += first & ((1 << width) - 1) == 0
    words &= np.array([0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF], np.uint32)[widths]
    return (words >> widths).tolist(), (np.arange(size, dtype=np.uint32) + widths).tolist()
