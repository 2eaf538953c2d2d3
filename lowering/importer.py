"""jaxlib's in-memory modules into xDSL, object by object.

Types, attributes and locations are converted once: equal jaxlib objects give the same xDSL object.
Operations are built directly, without xDSL's constructors and verification (several times slower),
with the garbage collector off (a module is one large cyclic graph that only grows).
Constants are taken as bytes, never through float text.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    BytesAttr,
    CallSiteLoc,
    DenseIntOrFPElementsAttr,
    DictionaryAttr,
    FileLineColLoc,
    FunctionType,
    FusedLoc,
    IntAttr,
    ModuleOp,
    NameLoc,
    NoneAttr,
    StringAttr,
    TensorType,
    UnknownLoc,
)
from xdsl.ir import Attribute, Block, Operation, OpResult, Region, SSAValue, SSAValues, Use
from xdsl.irdl import IRDLOperation

from autopar.dialects import make_context
from autopar.dialects.locations import FileLineColRange
from autopar.dialects.text import IRParser, parse_attribute_text

Native = Any
"""An object of jaxlib's MLIR bindings (they have no usable types across versions)."""

UNKNOWN = UnknownLoc()


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Switch the cyclic collector off while many long-lived objects are made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _build(cls: type[Attribute], **fields: Any) -> Any:
    """An attribute without verification (its fields come from a verified module)."""
    attribute = object.__new__(cls)
    attribute.__dict__.update(fields)
    return attribute


class _Locations:
    """jaxlib locations -> xDSL locations, interned."""

    def __init__(self) -> None:
        self._cache: dict[Native, Attribute] = {}
        self._strings: dict[str, StringAttr] = {}
        self._ints: dict[int, IntAttr] = {}

    def _string(self, text: str) -> StringAttr:
        found = self._strings.get(text)
        if found is None:
            found = self._strings[text] = StringAttr(text)
        return found

    def _int(self, value: int) -> IntAttr:
        found = self._ints.get(value)
        if found is None:
            found = self._ints[value] = IntAttr(value)
        return found

    def __call__(self, location: Native) -> Any:
        key = location.attr  # Location objects hash by identity, their attributes by content
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = self._convert(location)
        return found

    def _convert(self, location: Native) -> Attribute:
        kind = type(location).__name__
        if kind == "NameLoc":
            child = self(location.child_loc)
            return _build(
                NameLoc,
                desc=self._string(location.name_str),
                location=NoneAttr() if child is UNKNOWN else child,
            )
        if kind == "CallSiteLoc":
            return _build(
                CallSiteLoc, callee=self(location.callee), caller=self(location.caller)
            )
        if kind == "FileLineColLoc":
            start, end = location.start_line, location.end_line
            column, end_column = location.start_col, location.end_col
            fields: dict[str, Attribute] = {
                "filename": self._string(location.filename),
                "line": self._int(start),
                "column": self._int(column),
            }
            if (start, column) == (end, end_column):
                return _build(FileLineColLoc, **fields)
            return _build(
                FileLineColRange,
                **fields,
                end_line=self._int(end),
                end_column=self._int(end_column),
            )
        if kind == "FusedLoc":
            parts = ArrayAttr([self(part) for part in location.locations])
            metadata = location.metadata
            parsed = NoneAttr() if metadata is None else StringAttr(str(metadata))
            return FusedLoc(parts, parsed)
        return UNKNOWN


def import_location(location: Native) -> Attribute:
    """One jaxlib location."""
    return _Locations()(location)


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


class _Importer:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.location = _Locations()
        self._types: dict[Native, Attribute] = {}
        self._attributes: dict[Native, Attribute] = {}
        self._values: dict[Native, SSAValue] = {}
        self._blocks: dict[Native, Block] = {}
        self._classes: dict[str, tuple[type[Operation], frozenset[str] | None]] = {}

    # ---- types and attributes

    def type(self, native: Native) -> Attribute:
        found = self._types.get(native)
        if found is None:
            if type(native).__name__ == "FunctionType":
                found = FunctionType.from_lists(
                    [self.type(item) for item in native.inputs],
                    [self.type(item) for item in native.results],
                )
            else:
                found = IRParser(self.context, str(native)).parse_type()
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
                data = _storage(native, dense.element_type)
                if data is not None:
                    return DenseIntOrFPElementsAttr(dense, BytesAttr(data))
        elif kind == "StringAttr":
            return StringAttr(native.value)
        elif kind == "TypeAttr":
            return self.type(native.value)
        elif kind in ("ArrayAttr", "DictAttr"):
            try:
                if kind == "ArrayAttr":
                    return ArrayAttr([self.attribute(item) for item in native])
                return DictionaryAttr({item.name: self.attribute(item.attr) for item in native})
            except TypeError:  # an element without a Python class: see `attributes_of`
                pass
        return parse_attribute_text(self.context, str(native))

    def attributes_of(self, op: Native) -> dict[str, Attribute]:
        """All attributes of an operation, inherent and discardable."""
        attributes = op.attributes
        try:
            return {name: self.attribute(value) for name, value in attributes.items()}
        except TypeError:
            # jaxlib has no Python class for complex constants: read them from the text
            text = op.get_asm(
                print_generic_op_form=True, skip_regions=True, use_local_scope=True
            )
            return _attributes_from_text(self.context, text)

    def class_of(self, name: str) -> tuple[type[Operation], frozenset[str] | None]:
        """The operation class and its property names (None: an unregistered operation)."""
        found = self._classes.get(name)
        if found is None:
            cls = self.context.get_op(name)
            names = None
            if issubclass(cls, IRDLOperation):
                names = frozenset(cls.get_irdl_definition().properties)
            found = self._classes[name] = (cls, names)
        return found

    # ---- operations

    def operation(self, native: Native, parent: Block | None) -> Operation:
        # The hot path: about 15 us an operation. It fills an Operation's fields as
        # `Operation.create` and `Block.add_ops` would.
        name = native.name
        known = self._classes.get(name)
        cls, property_names = known if known is not None else self.class_of(name)
        op = object.__new__(cls)
        op.parent = parent
        op._prev_op = op._next_op = None  # pyright: ignore[reportPrivateUsage]
        values = self._values
        operands: list[SSAValue] = []
        uses: list[Use] = []
        for index, native_value in enumerate(native.operands):
            value = values[native_value]
            use = Use(op, index)
            first = value.first_use
            use._next_use = first  # pyright: ignore[reportPrivateUsage]
            if first is not None:
                first._prev_use = use  # pyright: ignore[reportPrivateUsage]
            value.first_use = use
            operands.append(value)
            uses.append(use)
        op._operands = SSAValues(operands)  # pyright: ignore[reportPrivateUsage]
        op._operand_uses = tuple(uses)  # pyright: ignore[reportPrivateUsage]
        op._successors = op._successor_uses = ()  # pyright: ignore[reportPrivateUsage]
        types = self._types
        results: list[OpResult] = []
        for index, native_value in enumerate(native.results):
            native_type = native_value.type
            type_ = types.get(native_type)
            if type_ is None:
                type_ = self.type(native_type)
            result = values[native_value] = OpResult(type_, op, index)
            results.append(result)
        op.results = SSAValues(results)
        op.properties = {}
        op.attributes = {}
        if len(native.attributes):
            attributes = self.attributes_of(native)
            if property_names is None:
                op.attributes = attributes
            else:
                for key, value in attributes.items():
                    (op.properties if key in property_names else op.attributes)[key] = value
        if property_names is None:
            op.attributes["op_name__"] = StringAttr(name)
        op.location = self.location(native.location)
        op.regions = ()
        for region in native.regions:
            op.add_region(self.region(region))
        if len(native.successors):
            op.successors = [self._blocks[block] for block in native.successors]
        return op

    def region(self, native: Native) -> Region:
        region = Region()
        pairs: list[tuple[Native, Block]] = []
        for native_block in native.blocks:
            arguments = native_block.arguments
            block = Block(arg_types=[self.type(value.type) for value in arguments])
            for native_value, value in zip(arguments, block.args, strict=True):
                self._values[native_value] = value
                value.location = self.location(native_value.location)
            pairs.append((native_block, block))
        region.add_block([block for _, block in pairs])
        if len(pairs) > 1:
            self._blocks.update(pairs)
        for native_block, block in pairs:
            previous: Operation | None = None
            for native_op in native_block.operations:
                op = self.operation(native_op.operation, block)
                op._prev_op = previous  # pyright: ignore[reportPrivateUsage]
                if previous is None:
                    block._first_op = op  # pyright: ignore[reportPrivateUsage]
                else:
                    previous._next_op = op  # pyright: ignore[reportPrivateUsage]
                previous = op
            block._last_op = previous  # pyright: ignore[reportPrivateUsage]
        return region


_REGIONS = re.compile(r"\(\{\.\.\.\}(, \{\.\.\.\})*\) ?")


def _attributes_from_text(context: Context, text: str) -> dict[str, Attribute]:
    """The attributes in the generic form of one operation, printed without its regions."""
    after_operands = text[text.index(")", text.index('"(')) + 1 :]
    parser = IRParser(context, _REGIONS.sub("", after_operands, count=1))
    return {**parser.parse_optional_properties_dict(), **parser.parse_optional_attr_dict()}


def import_module(module: Native, context: Context | None = None) -> ModuleOp:
    """The xDSL module of a jaxlib module: the same operations, attributes, constants, locations."""
    importer = _Importer(make_context() if context is None else context)
    with no_garbage_collection():
        result = importer.operation(module.operation, None)
    assert isinstance(result, ModuleOp), f"expected a builtin.module, found {result.name}"
    return result

