"""xDSL modules into jaxlib's, object by object: the inverse of `importer`."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from xdsl.dialects.builtin import (
    ArrayAttr,
    BytesAttr,
    CallSiteLoc,
    ComplexType,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    DictionaryAttr,
    FileLineColLoc,
    FunctionType,
    FusedLoc,
    IntegerAttr,
    IntegerType,
    ModuleOp,
    NameLoc,
    NoneAttr,
    StringAttr,
    TensorType,
    UnregisteredOp,
    i32,
    i64,
)
from xdsl.ir import Attribute, Block, Operation, Region, TypeAttribute

from autopar.dialects.constants import UnsupportedElementType, storage_dtype
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.locations import FileLineColRange
from autopar.dialects.text import IRPrinter
from autopar.passes.collector import collector_off

from .importer import PROPERTIES, Native
from .mlir_context import diagnostic_of, make_mlir_context

_UNREGISTERED = "?"
_SIGNLESS = (i32, i64)
"""Types of integer attributes that are made from their value; others go through text."""
_CONTAINERS: frozenset[type[Attribute]] = frozenset({ArrayAttr, DictionaryAttr})


def _text(attribute: Attribute) -> str:
    from io import StringIO

    stream = StringIO()
    IRPrinter(stream).print_attribute(attribute)
    return stream.getvalue()


class _Exporter:
    def __init__(self, context: Native, *, disguise_properties: bool = False) -> None:
        from jaxlib.mlir import ir

        self.ir: Any = ir  # typed loosely: its stubs are partial and change with versions
        self.context = context
        self.disguise_properties = disguise_properties
        self.unknown: Native = self.ir.Location.unknown(context)
        self._types: dict[Attribute, Native] = {}
        self._attributes: dict[Attribute, Native] = {}
        self._values: dict[int, Native] = {}  # by identity; the module keeps them alive
        self._names: dict[type[Operation], str] = {}
        self._blocks: dict[Block, Native] = {}
        # converted by identity first: interned objects skip hashing their whole content
        self._by_id: dict[int, tuple[Attribute, Native]] = {}
        self._types_by_id: dict[int, tuple[Attribute, Native]] = {}

    def type(self, type_: Attribute) -> Native:
        found = self._types_by_id.get(id(type_))
        if found is not None:
            return found[1]
        native = self._types.get(type_)
        if native is None:
            if isinstance(type_, FunctionType):
                native = self.ir.FunctionType.get(
                    [self.type(item) for item in type_.inputs],
                    [self.type(item) for item in type_.outputs],
                    self.context,
                )
            else:
                native = self.ir.Type.parse(_text(type_), self.context)
            self._types[type_] = native
        self._types_by_id[id(type_)] = (type_, native)
        return native

    def attribute(self, attribute: Attribute) -> Native:
        found = self._by_id.get(id(attribute))
        if found is not None:
            return found[1]
        if type(attribute) in _CONTAINERS:
            native = self._convert_attribute(attribute)  # as cheap as hashing all its content
        else:
            native = self._attributes.get(attribute)
            if native is None:
                native = self._attributes[attribute] = self._convert_attribute(attribute)
        self._by_id[id(attribute)] = (attribute, native)
        return native

    def _convert_attribute(self, attribute: Attribute) -> Native:
        match attribute:
            case DenseIntOrFPElementsAttr() if isinstance(attribute.type, TensorType):
                native = self._dense(attribute)
                if native is not None:
                    return native
            case StringAttr():
                return self.ir.StringAttr.get(attribute.data, self.context)
            case BytesAttr():  # a string that is not UTF-8
                return self.ir.StringAttr.get(attribute.data, self.context)
            case ArrayAttr():
                items = [self.attribute(item) for item in attribute.data]
                return self.ir.ArrayAttr.get(items, self.context)
            case DictionaryAttr():
                entries = {name: self.attribute(item) for name, item in attribute.data.items()}
                return self.ir.DictAttr.get(entries, self.context)
            case IntegerAttr() if attribute.type in _SIGNLESS:
                return self.ir.IntegerAttr.get(self.type(attribute.type), attribute.value.data)
            case DenseArrayBase() if attribute.elt_type == i64:
                values = cast("DenseArrayBase[IntegerType]", attribute).get_values()
                return self.ir.DenseI64ArrayAttr.get(list(values), self.context)
            case TypeAttribute():
                return self.ir.TypeAttr.get(self.type(attribute), self.context)
            case _:
                pass
        text = _text(attribute)
        try:
            return self.ir.Attribute.parse(text, self.context)
        except TypeError:  # it has no Python class; as the metadata of a location it needs none
            place = f'module {{}} loc(fused<{text}>["-"])'
            return self.ir.Module.parse(place, self.context).operation.location.metadata
        except self.ir.MLIRError as error:
            raise DiagnosticError(
                None, f"jaxlib refuses the attribute {attribute}: {diagnostic_of(error).message}"
            ) from None

    def _dense(self, attribute: DenseIntOrFPElementsAttr) -> Native | None:
        """From the bytes; None where jaxlib takes no buffer of this element type."""
        element_type = attribute.get_element_type()
        data = attribute.data.data
        if not data and not isinstance(element_type, ComplexType):
            return None
        try:
            raw = np.frombuffer(data, storage_dtype(element_type))
        except UnsupportedElementType:
            return None
        if isinstance(element_type, IntegerType) and (width := element_type.width.data) < 8:
            raw = raw.view(np.uint8) & ((1 << width) - 1)
        elif not isinstance(element_type, IntegerType | ComplexType):
            raw = raw.view(f"u{raw.dtype.itemsize}")
        return self.ir.DenseElementsAttr.get(
            np.ascontiguousarray(raw),
            type=self.type(element_type),
            shape=list(attribute.get_shape()),
            context=self.context,
        )

    def location(self, location: Attribute) -> Native:
        found = self._by_id.get(id(location))
        if found is not None:
            return found[1]
        # not looked up by content: hashing a call stack costs more than making it again
        native = self._convert_location(location)
        self._by_id[id(location)] = (location, native)
        return native

    def _convert_location(self, location: Attribute) -> Native:
        make = self.ir.Location
        match location:
            case FileLineColLoc():
                return make.file(
                    location.filename.data, location.line.data, location.column.data, self.context
                )
            case FileLineColRange():
                return make.file(
                    location.filename.data,
                    location.line.data,
                    location.column.data,
                    location.end_line.data,
                    location.end_column.data,
                    self.context,
                )
            case NameLoc():
                child = location.location
                native = None if isinstance(child, NoneAttr) else self.location(child)
                return make.name(location.desc.data, native, self.context)
            case CallSiteLoc():
                callee, caller = self.location(location.callee), self.location(location.caller)
                return make.callsite(callee, [caller], self.context)
            case FusedLoc() if isinstance(location.locations, ArrayAttr):
                parts = [self.location(part) for part in location.locations]  # pyright: ignore
                return make.fused(parts, None, self.context)
            case _:
                return self.unknown

    # ---- operations

    def _disguised(self, op: Operation) -> dict[str, Native]:
        """The attributes of an op that jaxlib does not know, its properties in one of them."""
        attributes = {key: self.attribute(item) for key, item in op.attributes.items()}
        del attributes["op_name__"]
        attributes[PROPERTIES] = self.attribute(DictionaryAttr(op.properties))
        return attributes

    def fill(self, block: Block, native_block: Native) -> None:
        """Append a block's operations: the hot path, about 5 us an operation.

        Everything that repeats is looked up by identity, in local variables.
        """
        create, append = self.ir.Operation.create, native_block.append
        values, by_id, types_by_id = self._values, self._by_id, self._types_by_id
        names = self._names
        op = block.first_op
        while op is not None:
            cls = type(op)
            name = names.get(cls)
            if name is None:
                name = names[cls] = _UNREGISTERED if issubclass(cls, UnregisteredOp) else op.name
            attributes: dict[str, Native] | None = None
            if op.properties or op.attributes:
                attributes = {}
                for key, item in op.properties.items():
                    found = by_id.get(id(item))
                    attributes[key] = found[1] if found is not None else self.attribute(item)
                for key, item in op.attributes.items():
                    found = by_id.get(id(item))
                    attributes[key] = found[1] if found is not None else self.attribute(item)
                if name is _UNREGISTERED:
                    attributes.pop("op_name__")
                    if self.disguise_properties and op.properties:
                        attributes = self._disguised(op)
            types: list[Native] = []
            result = None
            for result in op.results:
                type_ = result._type  # pyright: ignore[reportPrivateUsage]
                found = types_by_id.get(id(type_))
                types.append(found[1] if found is not None else self.type(type_))
            location = op.location
            found = by_id.get(id(location))
            regions, successors = op.regions, op._successors  # pyright: ignore[reportPrivateUsage]
            native = create(
                op.op_name.data if name is _UNREGISTERED else name,  # pyright: ignore
                types,
                [values[id(value)] for value in op._operands],  # pyright: ignore[reportPrivateUsage]
                attributes,
                [self._blocks[target] for target in successors] if successors else None,
                len(regions),
                found[1] if found is not None else self.location(location),
                False,
            )
            if len(types) == 1:
                values[id(result)] = native.result
            elif types:
                for result, native_result in zip(op.results, native.results, strict=True):
                    values[id(result)] = native_result
            if regions:
                for region, native_region in zip(regions, native.regions, strict=True):
                    self.region(region, native_region)
            append(native)
            op = op._next_op  # pyright: ignore[reportPrivateUsage]

    def region(self, region: Region, native: Native) -> None:
        pairs: list[tuple[Block, Native]] = []
        for block in region.blocks:
            native_block = native.blocks.append(
                *[self.type(value.type) for value in block.args],
                arg_locs=[self.location(value.location) for value in block.args],
            )
            for value, native_value in zip(block.args, native_block.arguments, strict=True):
                self._values[id(value)] = native_value
            pairs.append((block, native_block))
        if len(pairs) > 1:
            self._blocks.update(pairs)
        for block, native_block in pairs:
            self.fill(block, native_block)


def export_module(
    module: ModuleOp,
    context: Any = None,
    *,
    verify: bool = True,
    disguise_properties: bool = False,
) -> Native:
    """The jaxlib module of an xDSL module, verified by jaxlib.

    What jaxlib refuses becomes a DiagnosticError at the operation's place. Properties of ops that
    it does not know become attributes, with `disguise_properties` one attribute (`PROPERTIES`).
    """
    from jaxlib.mlir import ir

    context = make_mlir_context() if context is None else context
    with context, collector_off():
        exporter = _Exporter(context, disguise_properties=disguise_properties)
        result = ir.Module.create(exporter.location(module.location))
        operation = result.operation
        for name, value in {**module.properties, **module.attributes}.items():
            operation.attributes[name] = exporter.attribute(value)
        exporter.fill(module.body.block, result.body)
        if verify:
            try:
                operation.verify()
            except ir.MLIRError as error:
                raise diagnostic_of(error) from None
    return result
