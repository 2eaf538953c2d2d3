"""jaxlib's attributes, types and locations into xDSL.

Each is converted once: equal jaxlib objects give the same xDSL object. Constants are taken as
bytes, never through float text.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ArrayAttr,
    BytesAttr,
    CallSiteLoc,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    DenseResourceAttr,
    DictionaryAttr,
    FileLineColLoc,
    FunctionType,
    FusedLoc,
    IntAttr,
    NameLoc,
    NoneAttr,
    StringAttr,
    SymbolRefAttr,
    TensorType,
    UnknownLoc,
    i64,
)
from xdsl.ir import Attribute

from autopar.dialects.constants import LiteralError
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.locations import FileLineColRange
from autopar.dialects.text import (
    VerbatimAttr,
    mlir_attribute,
    mlir_type,
    resource_constant,
    split_resources,
)
from autopar.dialects.unverified import dictionary, unverified

from .native_text import (
    Native,
    attributes_in_text,
    generic_text,
    properties_in_text,
    string_in,
)

UNKNOWN = UnknownLoc()
_NONE = NoneAttr()


class _Locations:
    """jaxlib locations -> xDSL locations, interned."""

    def __init__(self, filename: str = "-", *, utf8: bool) -> None:
        self.filename = filename
        self._utf8 = utf8
        self.cache: dict[Native, Attribute] = {}
        self._strings: dict[str, StringAttr] = {}
        self._ints: dict[int, IntAttr] = {}

    def _string(self, text: str) -> StringAttr:
        found = self._strings.get(text)
        if found is None:
            found = self._strings[text] = unverified(StringAttr, data=text)
        return found

    def _int(self, value: int) -> IntAttr:
        found = self._ints.get(value)
        if found is None:
            found = self._ints[value] = unverified(
                IntAttr, data=value & 0xFFFFFFFF
            )  # jaxlib gives -1 for the last
        return found

    def __call__(self, location: Native) -> Any:
        key = location.attr  # Location objects hash by identity, their attributes by content
        found = self.cache.get(key)
        if found is None:
            found = self.cache[key] = self._convert(location)
        return found

    def _convert(self, location: Native) -> Attribute:
        kind = type(location).__name__
        if kind == "NameLoc":
            child = self(location.child_loc)
            return unverified(
                NameLoc,
                desc=self._string(location.name_str if self._utf8 else string_in(location.attr)),
                location=_NONE if child is UNKNOWN else child,
            )
        if kind == "CallSiteLoc":
            return unverified(
                CallSiteLoc, callee=self(location.callee), caller=self(location.caller)
            )
        if kind == "FileLineColLoc":
            start, end = location.start_line, location.end_line
            column, end_column = location.start_col, location.end_col
            name = location.filename if self._utf8 else string_in(location.attr)
            fields: dict[str, Attribute] = {
                "filename": self._string(self.filename if name == "-" else name),
                "line": self._int(start),
                "column": self._int(column),
            }
            if (start, column) == (end, end_column):
                return unverified(FileLineColLoc, **fields)
            return unverified(
                FileLineColRange,
                **fields,
                end_line=self._int(end),
                end_column=self._int(end_column),
            )
        if kind == "FusedLoc":
            parts = ArrayAttr([self(part) for part in location.locations])
            metadata = location.metadata
            kept = _NONE if metadata is None else VerbatimAttr(str(metadata))
            return unverified(FusedLoc, locations=parts, metadata=kept)  # ranges included
        return UNKNOWN


def import_location(location: Native, filename: str = "-") -> Attribute:
    """One jaxlib location; `filename` names the text that was parsed (jaxlib calls it `-`)."""
    kind = cast(Any, type(location))
    with location.context:  # diagnostics hold locations of the base class: get the exact one
        return _Locations(filename, utf8=False)(kind.from_attr(location.attr))


def _dynamic_shape(native: Native) -> list[int]:
    return [
        DYNAMIC_INDEX if native.is_dynamic_dim(i) else native.get_dim_size(i)
        for i in range(native.rank)
    ]


def _storage(attribute: Native, element_type: Attribute) -> bytes | None:
    """The elements' bytes in xDSL's layout, one element for a splat; None: not a plain buffer."""
    try:
        array = np.asarray(memoryview(attribute))
    except (TypeError, BufferError, ValueError):
        return None
    if attribute.is_splat and array.size:
        array = array[(slice(0, 1),) * array.ndim]
    if array.dtype == np.bool_:
        array = -array.astype(np.int8)
    if array.dtype.itemsize != element_type.compile_time_size:  # pyright: ignore
        return None
    return array.tobytes()


class Attributes:
    """The types, attributes and locations of a module; `utf8`: all its strings are."""

    def __init__(self, context: Context, module: Native, filename: str, *, utf8: bool) -> None:
        self.context = context
        self.location = _Locations(filename, utf8=utf8)
        self._utf8 = utf8
        self._types: dict[Native, Attribute] = {}
        self._attributes: dict[Native, Attribute] = {}
        self._module = module
        self._blobs: dict[str, str] | None = None

    def named(self, op: Native, *, known: bool = True) -> dict[str, Attribute]:
        """All attributes of an operation, the properties that jaxlib knows among them."""
        try:
            try:
                return {name: self.attribute(item) for name, item in op.attributes.items()}
            except (TypeError, RuntimeError):
                # jaxlib has no Python class for one of them (complex constants raise TypeError as
                # soon as they are touched), or a name is not UTF-8
                properties, attributes = attributes_in_text(self.context, generic_text(op))
                return self._resolved({**properties, **attributes} if known else attributes)
        except LiteralError as error:
            raise DiagnosticError(self.location(op.location), str(error)) from None

    def properties(self, op: Native, line: str) -> dict[str, Attribute]:
        """The properties of an op, of which `line` is the first in generic form."""
        try:
            return self._resolved(properties_in_text(self.context, line))
        except LiteralError as error:
            raise DiagnosticError(self.location(op.location), str(error)) from None

    def _resolved(self, found: dict[str, Attribute]) -> dict[str, Attribute]:
        """Attributes that were read from text, with constants in place of resources."""
        return {name: self._with_resources(item) for name, item in found.items()}

    def type(self, native: Native) -> Attribute:
        found = self._types.get(native)
        if found is None:
            if type(native).__name__ == "FunctionType":
                found = FunctionType.from_lists(
                    [self.type(item) for item in native.inputs],
                    [self.type(item) for item in native.results],
                )
            elif type(native).__name__ == "RankedTensorType" and native.encoding is None:
                shape = native.shape if native.has_static_shape else _dynamic_shape(native)
                found = TensorType(self.type(native.element_type), shape)
            else:
                found = mlir_type(self.context, str(native))
            self._types[native] = found
        return found

    def attribute(self, native: Native) -> Attribute:
        found = self._attributes.get(native)
        if found is None:
            found = self._attributes[native] = self._convert_attribute(native)
        return found

    def _convert_attribute(self, native: Native) -> Attribute:
        kind = type(native).__name__
        if kind in ("DenseFPElementsAttr", "DenseIntElementsAttr"):
            dense = self.type(native.type)
            if isinstance(dense, TensorType):
                data = _storage(native, cast(TensorType[Attribute], dense).element_type)
                if data is not None:
                    return cast(Any, DenseIntOrFPElementsAttr)(dense, BytesAttr(data))
        elif kind == "StringAttr" and type(native.type).__name__ == "NoneType":
            try:
                return unverified(StringAttr, data=native.value)
            except (RuntimeError, UnicodeDecodeError):  # not UTF-8
                return BytesAttr(native.value_bytes)
        elif kind == "DenseI64ArrayAttr":
            return DenseArrayBase.from_list(i64, list(native))
        elif kind == "FlatSymbolRefAttr":
            if self._utf8:
                return SymbolRefAttr(native.value)
        elif kind == "TypeAttr":
            return self.type(native.value)
        elif kind == "ArrayAttr" or (kind == "DictAttr" and self._utf8):
            try:
                if kind == "ArrayAttr":
                    return ArrayAttr([self.attribute(item) for item in native])
                # not `item.attr`, which ends the process where it has no Python class
                names = [native[index].name for index in range(len(native))]
                return dictionary({name: self.attribute(native[name]) for name in names})
            except TypeError:  # an element without a Python class: see `named`
                pass
        attribute = mlir_attribute(self.context, str(native))
        return self._with_resources(attribute)

    def _with_resources(self, attribute: Attribute) -> Attribute:
        if isinstance(attribute, ArrayAttr):
            items = cast("ArrayAttr[Attribute]", attribute)
            return ArrayAttr([self._with_resources(item) for item in items])
        if isinstance(attribute, DictionaryAttr):
            data = attribute.data
            return DictionaryAttr({name: self._with_resources(data[name]) for name in data})
        if not isinstance(attribute, DenseResourceAttr):
            return attribute
        if self._blobs is None:  # only the text of the whole module tells them
            text = self._module.get_asm(assume_verified=True)
            _, self._blobs = split_resources(text)
        return resource_constant(attribute, self._blobs)
