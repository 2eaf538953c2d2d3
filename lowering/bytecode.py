"""MLIR bytecode: the tables and sections of a module's binary form.

After https://mlir.llvm.org/docs/BytecodeFormat/ and, for the codes of builtin attributes and types,
mlir/include/mlir/IR/BuiltinDialectBytecode.td. Readers take every older version of the format. In
all of them an op's properties may stand in its attribute dictionary, and every attribute and type
may be its text; so nothing here depends on how a dialect other than builtin encodes anything.
Version 5 is the first with properties for themselves: those of an op that jaxlib does not know are
one attribute, and could not be told from its other attributes else.

Nearly all of it are numbers of varying width: they are gathered in lists and encoded all at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

_MAGIC = b"ML\xefR"
_VERSION = 5
STRINGS, _DIALECTS, _ENTRIES, _ENTRY_SIZES, OPERATIONS = range(5)
"""Numbers of the sections."""
_PROPERTIES = 8
"""That of the section with properties."""

HAS_ATTRIBUTES, HAS_RESULTS, HAS_OPERANDS, HAS_SUCCESSORS, HAS_REGIONS = (1 << i for i in range(5))
HAS_PROPERTIES = 1 << 6
"""What the byte after an op's name says about the rest of it."""


class AttributeCode:
    """First numbers of builtin attributes, locations among them.

    No enumeration: to look up a member of one takes as long as to write the entry.
    """

    ARRAY = 0
    DICTIONARY = 1
    STRING = 2
    TYPE = 6
    UNIT = 7
    INTEGER = 8
    CALL_SITE = 10
    FILE_LINE_COLUMN = 11
    FUSED = 12
    FUSED_WITH_METADATA = 13
    NAME = 14
    UNKNOWN = 15
    DENSE_ARRAY = 17
    DENSE_ELEMENTS = 18
    FILE_LINE_COLUMN_RANGE = 22


class TypeCode:
    """First numbers of builtin types."""

    FUNCTION = 2
    TENSOR = 13


Numbers = np.ndarray[Any, np.dtype[np.integer[Any]]]


ZERO_BYTE = -1
"""Among numbers: no number, but a byte that is 0."""


def _encode_one(number: int) -> bytes:
    if number == ZERO_BYTE:
        return b"\0"
    width = max(1, -(-number.bit_length() // 7))
    if width > 8:
        return b"\0" + number.to_bytes(8, "little")
    return ((number << 1 | 1) << width - 1).to_bytes(width, "little")


def _encode(numbers: list[int] | Numbers) -> tuple[bytes, Numbers]:
    """The numbers, and how many bytes each takes.

    There are 7 bits of a number to a byte. The zeros below the lowest 1 of the first byte tell
    how many bytes follow; 8 after one that is 0, for numbers of 57 to 64 bits.
    """
    try:
        values = np.fromiter(numbers, np.int64, len(numbers))
        limit = int(values.max(initial=0))
    except OverflowError:
        values, limit = np.zeros(0, np.int64), 1 << 63
    if limit >> 56:
        encoded = [_encode_one(int(number)) for number in numbers]
        return b"".join(encoded), np.array([len(code) for code in encoded])
    zero = values < 0
    values = values.astype("<u4" if limit < 1 << 28 else "<u8")
    one = values.dtype.type(1)
    widths = np.ones_like(values)
    for bits in range(7, limit.bit_length(), 7):
        widths += values >= one << bits
    marked = values << widths | one << widths - one
    marked[zero], widths[zero] = 0, 1
    taken = np.empty((values.size, values.itemsize), np.bool_)
    for byte in range(values.itemsize):
        taken[:, byte] = widths > byte
    return marked.view(np.uint8)[taken.reshape(-1)].tobytes(), widths


def varints(numbers: Iterable[int]) -> bytes:
    """Numbers, one after the other."""
    return _encode(list(numbers))[0]


def _section(number: int, content: bytes) -> bytes:
    return bytes([number]) + varints([len(content)]) + content


class EntryTable:
    """The attributes or the types of a module. What is added gets the next number."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}
        """What stands in the table as text, which a reader may refuse."""
        self._numbers: list[int] = []
        self._ends: list[int] = []  # of each entry, in the numbers
        self._data: dict[int, bytes] = {}  # what follows an entry's numbers

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, *numbers: int) -> int:
        """An entry in builtin's own encoding."""
        ends = self._ends
        self._numbers += numbers
        ends.append(len(self._numbers))
        return len(ends) - 1

    def add_data(self, data: bytes, *numbers: int) -> int:
        """An entry in builtin's own encoding, of numbers and then data."""
        self._data[len(self._ends)] = data
        return self.add(*numbers)

    def add_text(self, text: str) -> int:
        """An entry as text: of any dialect."""
        self.texts[len(self._ends)] = text
        return self.add_data(text.encode() + b"\0")

    def encode(self) -> tuple[bytes, bytes]:
        """The entries, and their sizes."""
        encoded, widths = _encode(self._numbers)
        ends = np.append(0, np.cumsum(widths, dtype=np.int64))[self._ends]
        sizes = np.diff(ends, prepend=0)
        entries = np.array(list(self._data), np.int64)
        sizes[entries] += np.array([len(data) for data in self._data.values()], np.int64)
        parts: list[bytes] = []
        start = 0
        for end, data in zip(ends[entries].tolist(), self._data.values(), strict=True):
            parts += (encoded[start:end], data)
            start = end
        is_own_encoding = np.ones_like(sizes)
        is_own_encoding[np.array(list(self.texts), np.int64)] = 0
        return b"".join([*parts, encoded[start:]]), _encode(sizes << 1 | is_own_encoding)[0]


class ModuleTables:
    """All that the ops of a module refer to by number: strings, op names, attributes and types."""

    def __init__(self) -> None:
        self.attributes = EntryTable()
        self.types = EntryTable()
        self._string_attributes: dict[str | bytes, int] = {}
        self._strings: list[str | bytes] = []
        self._op_names: dict[str, int] = {}
        self._properties: dict[int, int] = {}

    def _string(self, text: str | bytes) -> int:
        self._strings.append(text)
        return len(self._strings) - 1

    def string_attribute(self, text: str | bytes) -> int:
        """The number of a string among the attributes."""
        found = self._string_attributes.get(text)
        if found is None:
            self._strings.append(text)
            found = self.attributes.add(AttributeCode.STRING, len(self._strings) - 1)
            self._string_attributes[text] = found
        return found

    def op_name(self, name: str) -> int:
        """The number of an op's name."""
        return self._op_names.setdefault(name, len(self._op_names))

    def properties(self, attribute: int) -> int:
        """The number of an unknown op's properties, given that of the attribute which they are."""
        return self._properties.setdefault(attribute, len(self._properties))

    def _properties_section(self) -> bytes:
        entries = [varints([attribute]) for attribute in self._properties]
        sized = [varints([len(entry)]) + entry for entry in entries]
        return varints([len(entries)]) + b"".join(sized)

    def _dialect_section(self) -> bytes:
        """The dialects, builtin first, and the names of ops, each as a group of one."""
        dialects = {"builtin": 0}
        groups: list[int] = []  # in a name's lowest bit 1 would mean: jaxlib knows the op
        for op_name in self._op_names:
            dialect, _, name = op_name.partition(".")
            groups += (dialects.setdefault(dialect, len(dialects)), 1, self._string(name) << 1)
        names = [self._string(dialect) << 1 for dialect in dialects]  # 1 would mean: has a version
        return varints([len(names), *names, len(self._op_names), *groups])

    def is_utf8(self) -> bool:
        """Whether all strings are UTF-8 (names of which a part is not: see `dialects.strings`)."""
        strings = [text for text in self._strings if isinstance(text, str)]
        if len(strings) < len(self._strings):
            return False
        whole = "".join(strings)
        return whole.isascii() or not any("\udc80" <= char <= "\udcff" for char in whole)

    def _string_section(self, *, readable: bool) -> bytes:
        strings = [
            text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
            for text in self._strings
        ]
        if readable:
            strings = [text.decode(errors="replace").encode() for text in strings]
        lengths = [len(text) + 1 for text in reversed(strings)]
        return varints([len(strings), *lengths]) + b"\0".join((*strings, b""))

    def module(self, operation: list[int], *, readable: bool = False) -> bytes:
        """The bytecode of a module, given its op; `readable`: all strings made UTF-8."""
        dialects = self._dialect_section()  # which adds strings
        attributes, attribute_sizes = self.attributes.encode()
        types, type_sizes = self.types.encode()
        counts = len(self.attributes), len(self.types)
        # all as of builtin, dialect 0; text may be of any
        groups = [varints([0, count] if count else []) for count in counts]
        sizes = groups[0] + attribute_sizes + groups[1] + type_sizes
        sections = {
            STRINGS: self._string_section(readable=readable),
            _DIALECTS: dialects,
            _ENTRIES: attributes + types,
            _ENTRY_SIZES: varints(counts) + sizes,
            OPERATIONS: varints([block_header(1)]) + _encode(operation)[0],
            _PROPERTIES: self._properties_section(),
        }
        header = _MAGIC + varints([_VERSION]) + b"autopar\0"
        return header + b"".join(_section(number, data) for number, data in sections.items())


def block_header(operations: int, has_arguments: bool = False) -> int:
    """How many ops are in a block, and whether it has arguments."""
    return operations << 1 | has_arguments


def counted(numbers: Collection[int]) -> tuple[int, ...]:
    """A list: how many numbers, then these."""
    return len(numbers), *numbers
