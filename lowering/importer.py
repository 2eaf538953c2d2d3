"""jaxlib's in-memory modules into xDSL, object by object.

Types, attributes and locations are converted once: equal jaxlib objects give the same xDSL object.
Operations are built directly, without xDSL's constructors and verification (several times slower),
with the garbage collector off (a module is one large cyclic graph that only grows).
Constants are taken as bytes, never through float text.
"""

from __future__ import annotations

import re
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
    ModuleOp,
    NameLoc,
    NoneAttr,
    StringAttr,
    SymbolRefAttr,
    TensorType,
    UnknownLoc,
    i64,
)
from xdsl.ir import Attribute, Block, Operation, OpResult, Region, SSAValue, SSAValues, Use
from xdsl.irdl import IRDLOperation

from autopar.dialects import make_context
from autopar.dialects.constants import LiteralError
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.locations import FileLineColRange
from autopar.dialects.text import (
    bracketed,
    mlir_attribute,
    mlir_attributes,
    mlir_type,
    resource_constant,
    split_resources,
)
from autopar.passes.collector import collector_off

Native = Any
"""An object of jaxlib's MLIR bindings (they have no usable types across versions)."""

UNKNOWN = UnknownLoc()


def _build(cls: type[Attribute], **fields: Any) -> Any:
    """An attribute without verification (its fields come from a verified module)."""
    attribute: Any = object.__new__(cls)
    attribute.__dict__.update(fields)
    return attribute


class _Locations:
    """jaxlib locations -> xDSL locations, interned."""

    def __init__(self, filename: str = "-") -> None:
        self.filename = filename
        self.cache: dict[Native, Attribute] = {}
        self._strings: dict[str, StringAttr] = {}
        self._ints: dict[int, IntAttr] = {}

    def _string(self, text: str) -> StringAttr:
        found = self._strings.get(text)
        if found is None:
            found = self._strings[text] = _build(StringAttr, data=text)
        return found

    def _int(self, value: int) -> IntAttr:
        found = self._ints.get(value)
        if found is None:
            found = self._ints[value] = _build(IntAttr, data=value)
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
            return _build(
                NameLoc,
                desc=self._string(location.name_str),
                location=NoneAttr() if child is UNKNOWN else child,
            )
        if kind == "CallSiteLoc":
            return _build(CallSiteLoc, callee=self(location.callee), caller=self(location.caller))
        if kind == "FileLineColLoc":
            start, end = location.start_line, location.end_line
            column, end_column = location.start_col, location.end_col
            name = location.filename
            fields: dict[str, Attribute] = {
                "filename": self._string(self.filename if name == "-" else name),
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
            return _build(FusedLoc, locations=parts, metadata=parsed)  # ranges included
        return UNKNOWN


def import_location(location: Native, filename: str = "-") -> Attribute:
    """One jaxlib location; `filename` names the text that was parsed (jaxlib calls it `-`)."""
    kind = cast(Any, type(location))
    with location.context:  # diagnostics hold locations of the base class: get the exact one
        return _Locations(filename)(kind.from_attr(location.attr))


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


_OpClass = tuple[type[Operation], frozenset[str] | None, bool]
"""Class, property names (None: unregistered), and whether it has neither regions nor successors."""


PROPERTIES = "!properties"
"""The attribute that holds the properties of an op that jaxlib does not know, while jaxlib looks;
no dictionary has one before it."""


def _restore_properties(op: Operation) -> None:
    found = op.attributes.pop(PROPERTIES)
    if isinstance(found, DictionaryAttr):
        op.properties = dict(found.data)


class _Importer:
    def __init__(self, context: Context, filename: str) -> None:
        self.context = context
        self.location = _Locations(filename)
        self._types: dict[Native, Attribute] = {}
        self._attributes: dict[Native, Attribute] = {}
        self._values: dict[Native, SSAValue] = {}
        self._blocks: dict[Native, Block] = {}
        self._classes: dict[str, _OpClass] = {}
        self._module: Native = None
        self._blobs: dict[str, str] | None = None

    # ---- types and attributes

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
        elif kind == "StringAttr":
            try:
                return StringAttr(native.value)
            except (RuntimeError, UnicodeDecodeError):  # not UTF-8
                return BytesAttr(native.value_bytes)
        elif kind == "DenseI64ArrayAttr":
            return DenseArrayBase.from_list(i64, list(native))
        elif kind == "FlatSymbolRefAttr":
            return SymbolRefAttr(native.value)
        elif kind == "TypeAttr":
            return self.type(native.value)
        elif kind in ("ArrayAttr", "DictAttr"):
            try:
                if kind == "ArrayAttr":
                    return ArrayAttr([self.attribute(item) for item in native])
                # not `item.attr`, which ends the process where it has no Python class
                names = [native[index].name for index in range(len(native))]
                return DictionaryAttr({name: self.attribute(native[name]) for name in names})
            except TypeError:  # an element without a Python class: see `attributes_by_text`
                pass
        attribute = mlir_attribute(self.context, str(native))
        if isinstance(attribute, DenseResourceAttr):
            return self._resource_constant(attribute)
        return attribute

    def _resource_constant(self, resource: DenseResourceAttr) -> Attribute:
        if self._blobs is None:  # only the text of the whole module tells them
            text = self._module.get_asm(assume_verified=True)
            _, self._blobs = split_resources(text)
        try:
            return resource_constant(resource, self._blobs)
        except LiteralError as error:
            raise DiagnosticError(self.location(self._module.location), str(error)) from None

    def attributes_by_text(self, op: Native) -> dict[str, Attribute]:
        """All attributes of an operation, where jaxlib has no Python class for one of them.

        (Complex constants raise TypeError as soon as they are touched.)
        """
        text = op.get_asm(print_generic_op_form=True, skip_regions=True, use_local_scope=True)
        return _attributes_from_text(self.context, text)

    def class_of(self, name: str) -> _OpClass:
        """How to build operations of a name."""
        found = self._classes.get(name)
        if found is None:
            cls = self.context.get_op(name)
            names = None
            is_plain = False
            if issubclass(cls, IRDLOperation):
                definition = cls.get_irdl_definition()
                names = frozenset(definition.properties)
                is_plain = not definition.regions and not definition.successors
            found = self._classes[name] = (cls, names, is_plain)
        return found

    # ---- operations

    def fill(self, native_block: Native, block: Block) -> None:
        """Build the operations of a block.

        The hot path, about 10 us an operation: it sets an Operation's fields as
        `Operation.create` and `Block.add_ops` would, with everything in local variables.
        """
        values, types, locations = self._values, self._types, self.location.cache
        attributes_cache, classes, new = self._attributes, self._classes, object.__new__
        previous: Operation | None = None
        for view in native_block.operations:
            native = view.operation
            name = native.name
            cls, property_names, is_plain = classes.get(name) or self.class_of(name)
            op: Any = new(cls)
            op.parent = block
            op._prev_op = previous
            op._next_op = None
            if previous is None:
                block._first_op = op  # pyright: ignore[reportPrivateUsage]
            else:
                previous._next_op = op  # pyright: ignore[reportPrivateUsage]
            previous = op
            operands: list[SSAValue] = []
            uses: list[Use] = []
            index = 0
            for native_value in native.operands:
                value = values[native_value]
                first = value.first_use
                value.first_use = use = Use(op, index, None, first)
                if first is not None:
                    first._prev_use = use  # pyright: ignore[reportPrivateUsage]
                operands.append(value)
                uses.append(use)
                index += 1
            op._operands = SSAValues(operands)
            op._operand_uses = tuple(uses)
            op._successors = op._successor_uses = ()
            results: list[OpResult] = []
            index = 0
            for native_value in native.results:
                native_type = native_value.type
                result = values[native_value] = OpResult(
                    types.get(native_type) or self.type(native_type), op, index
                )
                results.append(result)
                index += 1
            op.results = SSAValues(results)
            op.properties = properties = {}
            op.attributes = discardable = {}
            native_attributes = native.attributes
            if len(native_attributes):
                try:
                    for key, item in native_attributes.items():
                        attribute = attributes_cache.get(item) or self.attribute(item)
                        if property_names is not None and key in property_names:
                            properties[key] = attribute
                        else:
                            discardable[key] = attribute
                except TypeError:
                    for key, attribute in self.attributes_by_text(native).items():
                        if property_names is not None and key in property_names:
                            properties[key] = attribute
                        else:
                            discardable[key] = attribute
            if property_names is None:
                discardable["op_name__"] = StringAttr(name)
                if PROPERTIES in discardable:
                    _restore_properties(op)
            location = native.location
            op.location = locations.get(location.attr) or self.location(location)
            op.regions = ()
            if not is_plain:
                for region in native.regions:
                    op.add_region(self.region(region))
                if len(native.successors):
                    op.successors = [self._blocks[target] for target in native.successors]
        block._last_op = previous  # pyright: ignore[reportPrivateUsage]

    def region(self, native: Native) -> Region:
        region = Region()
        pairs: list[tuple[Native, Block]] = []
        for native_block in native.blocks:
            arguments = list(native_block.arguments)
            block = Block(arg_types=[self.type(value.type) for value in arguments])
            for native_value, value in zip(arguments, block.args, strict=True):
                self._values[native_value] = value
                value.location = self.location(native_value.location)
            pairs.append((native_block, block))
        region.add_block([block for _, block in pairs])
        if len(pairs) > 1:
            self._blocks.update(pairs)
        for native_block, block in pairs:
            self.fill(native_block, block)
        return region

    def module(self, native: Native) -> ModuleOp:
        """The module of the top-level operation."""
        self._module = native
        attributes = {name: self.attribute(item) for name, item in native.attributes.items()}
        name = attributes.pop("sym_name", None)
        module = ModuleOp(self.region(native.regions[0]), attributes)
        if name is not None:
            module.properties["sym_name"] = name
        module.location = self.location(native.location)
        return module


_REGIONS = re.compile(r"\(\{\.\.\.\}(, \{\.\.\.\})*\) ?")


def _attributes_from_text(context: Context, text: str) -> dict[str, Attribute]:
    """The attributes in the generic form of one operation, printed without its regions."""
    after_operands = text[text.index(")", text.index('"(')) + 1 :]
    found: dict[str, Attribute] = {}
    for part in bracketed(_REGIONS.sub("", after_operands, count=1)):
        if part.startswith(("<{", "{")):  # else successors
            found |= mlir_attributes(context, part.strip("<>")[1:-1])
    return found


def import_module(
    module: Native, context: Context | None = None, *, filename: str = "-"
) -> ModuleOp:
    """The xDSL module of a jaxlib module: the same operations, attributes, constants, locations.

    `filename` replaces the `-` that jaxlib's parser writes into locations.
    """
    importer = _Importer(make_context() if context is None else context, filename)
    with collector_off():
        return importer.module(module.operation)
