"""xDSL's attributes, types and locations as entries of the tables of a module's bytecode.

Looked up by identity first: passes share most of them, and to hash one takes about as long as to
write it. What is not common goes as text, which jaxlib parses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any, cast

import numpy as np
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ArrayAttr,
    BytesAttr,
    CallSiteLoc,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    DictionaryAttr,
    FileLineColLoc,
    FunctionType,
    FusedLoc,
    IntegerAttr,
    IntegerType,
    NameLoc,
    NoneAttr,
    StringAttr,
    TensorType,
    UnitAttr,
    i32,
    i64,
)
from xdsl.ir import Attribute, TypeAttribute

from autopar.dialects.constants import UnsupportedElementType, storage_dtype
from autopar.dialects.locations import FileLineColRange
from autopar.dialects.text import IRPrinter

from .bytecode import AttributeCode, ModuleTables, TypeCode, counted


class Entries:
    """The number of each type, attribute and location in a module's tables."""

    def __init__(self, tables: ModuleTables) -> None:
        self.types: dict[int, int] = {}
        """By identity; where an object is missing, `type` gives its number."""
        self.attributes: dict[int, int] = {}
        """By identity, locations too; where one is missing, `attribute` or `location`."""
        self.no_attributes = tables.attributes.add(AttributeCode.DICTIONARY, 0)
        self._unknown = tables.attributes.add(AttributeCode.UNKNOWN)
        self._tables = tables
        self._equal: dict[Attribute, int] = {}
        self._kept: list[Attribute] = []  # alive, so that no identity is used again
        self._stream = StringIO()
        self._printer = IRPrinter(self._stream)
        # what is common, in builtin's own encoding; what is missing or gives None goes as text
        self._attribute_kinds: dict[type[Attribute], Callable[[Any], int | None]] = {
            StringAttr: self._add_string,
            BytesAttr: self._add_string,
            ArrayAttr: self._add_array,
            DictionaryAttr: self._add_dictionary,
            IntegerAttr: self._add_integer,
            DenseArrayBase: self._add_dense_array,
            DenseIntOrFPElementsAttr: self._add_dense_elements,
            UnitAttr: self._add_unit,
        }
        self._location_kinds: dict[type[Attribute], Callable[[Any], int]] = {
            NameLoc: self._add_name,
            CallSiteLoc: self._add_call_site,
            FileLineColLoc: self._add_file,
            FileLineColRange: self._add_range,
            FusedLoc: self._add_fused,
        }

    def _text(self, attribute: Attribute) -> str:
        self._stream.seek(0)
        self._stream.truncate()
        self._printer.print_attribute(attribute)
        return self._stream.getvalue()

    # ---- types

    def type(self, type_: Attribute) -> int:
        found = self.types.get(id(type_))
        if found is None:
            found = self.types[id(type_)] = self._add_type(type_)
            self._kept.append(type_)
        return found

    def _add_type(self, type_: Attribute) -> int:
        add = self._tables.types.add
        if isinstance(type_, TensorType):
            tensor = cast("TensorType[Attribute]", type_)
            shape = [size.data << 1 for size in tensor.shape.data]  # 1 would mean: negative
            if DYNAMIC_INDEX << 1 not in shape and isinstance(tensor.encoding, NoneAttr):
                return add(TypeCode.TENSOR, len(shape), *shape, self.type(tensor.element_type))
        if isinstance(type_, FunctionType):
            inputs = counted([self.type(item) for item in type_.inputs])
            outputs = counted([self.type(item) for item in type_.outputs])
            return add(TypeCode.FUNCTION, *inputs, *outputs)
        key = cast(Attribute, type_)
        found = self._equal.get(key)
        if found is None:
            found = self._equal[key] = self._tables.types.add_text(self._text(key))
        return found

    # ---- attributes

    def attribute(self, attribute: Attribute) -> int:
        found = self.attributes.get(id(attribute))
        if found is None:
            add = self._attribute_kinds.get(type(attribute))
            found = None if add is None else add(attribute)
            if found is None:
                found = self._add_text(attribute)
            self.attributes[id(attribute)] = found
            self._kept.append(attribute)
        return found

    def _add_text(self, attribute: Attribute) -> int:
        if isinstance(attribute, TypeAttribute):
            return self._tables.attributes.add(AttributeCode.TYPE, self.type(attribute))
        found = self._equal.get(attribute)
        if found is None:
            found = self._tables.attributes.add_text(self._text(attribute))
            self._equal[attribute] = found
        return found

    def _add_string(self, attribute: StringAttr | BytesAttr) -> int:
        return self._tables.string_attribute(attribute.data)  # bytes: one that is not UTF-8

    def _add_array(self, attribute: ArrayAttr[Attribute]) -> int:
        items = [self.attribute(item) for item in attribute.data]
        return self._tables.attributes.add(AttributeCode.ARRAY, *counted(items))

    def _add_dictionary(self, attribute: DictionaryAttr) -> int:
        return self.dictionary(attribute.data)

    def dictionary(self, items: Mapping[str, Attribute]) -> int:
        """The number of a new dictionary."""
        numbers: list[int] = [AttributeCode.DICTIONARY, len(items)]
        for name, item in items.items():
            numbers += (self._tables.string_attribute(name), self.attribute(item))
        return self._tables.attributes.add(*numbers)

    def _add_integer(self, attribute: IntegerAttr) -> int | None:
        type_, value = attribute.type, attribute.value.data
        if type_ not in (i32, i64) or not 0 <= value < 1 << 31:
            return None
        return self._tables.attributes.add(AttributeCode.INTEGER, self.type(type_), value << 1)

    def _add_unit(self, attribute: UnitAttr) -> int:
        return self._tables.attributes.add(AttributeCode.UNIT)

    def _add_dense_array(self, attribute: DenseArrayBase[Any]) -> int | None:
        if attribute.elt_type != i64:
            return None
        data = attribute.data.data
        numbers = self.type(i64), len(data) // 8, len(data)
        return self._tables.attributes.add_data(data, AttributeCode.DENSE_ARRAY, *numbers)

    def _add_dense_elements(self, attribute: DenseIntOrFPElementsAttr) -> int | None:
        data = _dense_data(attribute)
        if data is None or not isinstance(attribute.type, TensorType):
            return None
        numbers = self.type(attribute.type), len(data)
        return self._tables.attributes.add_data(data, AttributeCode.DENSE_ELEMENTS, *numbers)

    # ---- locations

    def location(self, location: Attribute) -> int:
        found = self.attributes.get(id(location))
        return self.new_location(location) if found is None else found

    def new_location(self, location: Attribute) -> int:
        """The number of a location that had none. It lives as long as its op."""
        add = self._location_kinds.get(type(location))
        found = self._unknown if add is None else add(location)
        self.attributes[id(location)] = found
        return found

    def _add_name(self, location: NameLoc) -> int:
        inner = location.location
        place = self.attributes.get(id(inner))
        if place is None:
            place = self.new_location(inner)
        name = self._tables.string_attribute(location.desc.data)
        return self._tables.attributes.add(AttributeCode.NAME, name, place)

    def _add_call_site(self, location: CallSiteLoc) -> int:
        places = self.location(location.callee), self.location(location.caller)
        return self._tables.attributes.add(AttributeCode.CALL_SITE, *places)

    def _add_file(self, location: FileLineColLoc) -> int:
        name = self._tables.string_attribute(location.filename.data)
        place = location.line.data, location.column.data
        return self._tables.attributes.add(AttributeCode.FILE_LINE_COLUMN, name, *place)

    def _add_range(self, location: FileLineColRange) -> int:
        name = self._tables.string_attribute(location.filename.data)
        line, end_line = location.line.data, location.end_line.data
        end = (
            [location.end_column.data] if line == end_line else [end_line, location.end_column.data]
        )
        numbers = counted([line, location.column.data, *end])
        return self._tables.attributes.add(AttributeCode.FILE_LINE_COLUMN_RANGE, name, *numbers)

    def _add_fused(self, location: FusedLoc) -> int:
        """As MLIR makes it: each part once; without metadata, none unknown, and no fusion of a
        single one."""
        locations = cast("ArrayAttr[Attribute]", location.locations)
        parts = dict.fromkeys(self.location(part) for part in locations.data)
        if not isinstance(location.metadata, NoneAttr):
            metadata = self.attribute(location.metadata)
            numbers = *counted(parts), metadata
            return self._tables.attributes.add(AttributeCode.FUSED_WITH_METADATA, *numbers)
        parts.pop(self._unknown, None)
        if len(parts) < 2:
            return next(iter(parts), self._unknown)
        return self._tables.attributes.add(AttributeCode.FUSED, *counted(parts))


def _dense_data(attribute: DenseIntOrFPElementsAttr) -> bytes | None:
    """The elements as MLIR keeps them; None where we do not know how it does."""
    element_type, data = attribute.get_element_type(), attribute.data.data
    try:
        storage = storage_dtype(element_type)
    except UnsupportedElementType:
        return None
    if not data:
        return None
    if not isinstance(element_type, IntegerType) or (width := element_type.width.data) % 8 == 0:
        return data
    raw = np.frombuffer(data, storage).view(np.uint8)
    if width > 1:  # in a byte each, without their sign
        return (raw & (1 << width) - 1).tobytes()
    if raw.min() == raw.max():
        return b"\xff" if raw[0] else b"\0"
    return np.packbits(raw & 1, bitorder="little").tobytes()
