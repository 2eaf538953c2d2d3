"""xDSL modules into jaxlib's: written as MLIR bytecode, which jaxlib reads and verifies.

To make an op through jaxlib's bindings takes longer than to write one, read it and verify it.
"""

from __future__ import annotations

from typing import Any

from xdsl.dialects.builtin import DictionaryAttr, ModuleOp, UnregisteredOp
from xdsl.ir import Block, Operation, Region

from autopar.dialects.diagnostics import DiagnosticError
from autopar.passes.collector import collector_off

from .bytecode import (
    HAS_ATTRIBUTES,
    HAS_OPERANDS,
    HAS_PROPERTIES,
    HAS_REGIONS,
    HAS_RESULTS,
    HAS_SUCCESSORS,
    ZERO_BYTE,
    ModuleTables,
    block_header,
    counted,
)
from .bytecode_entries import Entries
from .mlir_context import diagnostic_of, make_mlir_context, parse_in
from .native_text import Native

_PLAIN = (HAS_ATTRIBUTES | HAS_RESULTS | HAS_OPERANDS) >> 1
"""The number for what a plain op has: see `_Writer._operation`."""


class _Writer:
    """Writes ops, as the numbers of what they refer to."""

    def __init__(self, tables: ModuleTables) -> None:
        self.tables = tables
        self.entries = Entries(tables)
        self._names: dict[type[Operation], int] = {}
        self._dictionaries: dict[tuple[str | int, ...], int] = {}
        self._values: dict[int, int] = {}  # by identity, those in scope, innermost last
        self._blocks: dict[Block, int] = {}
        self._forward: list[tuple[int, Operation, int]] = []  # place, and operand

    def _name(self, op: Operation) -> int:
        if isinstance(op, UnregisteredOp):
            return self.tables.op_name(op.op_name.data)
        found = self._names[type(op)] = self.tables.op_name(op.name)
        return found

    def _dictionary(self, op: Operation) -> int:
        """The number of the dictionary of an op's properties and attributes.

        Most ops have the same as another: the very objects, under the same names.
        """
        properties, attributes = op.properties, op.attributes
        key = (*properties, *map(id, properties.values()))
        if attributes:
            key = (*key, *attributes, *map(id, attributes.values()))
        found = self._dictionaries.get(key)
        if found is None:
            found = self._dictionaries[key] = self._new_dictionary(op)
        return found

    def _new_dictionary(self, op: Operation) -> int:
        properties, attributes = op.properties, op.attributes
        if isinstance(op, UnregisteredOp):  # of which properties go for themselves
            items = dict(attributes)
            del items["op_name__"]
        else:
            items = {**properties, **attributes}
            if len(items) < len(properties) + len(attributes):
                name = next(name for name in properties if name in attributes)
                raise DiagnosticError(op, f"'{op.name}' op has '{name}' twice: as property too")
        return self.entries.dictionary(items)

    def _properties(self, op: Operation) -> int | None:
        """The number of the properties of an op that nobody knows."""
        if not isinstance(op, UnregisteredOp) or not op.properties:
            return None
        return self.tables.properties(self.entries.attribute(DictionaryAttr(op.properties)))

    def module(self, module: ModuleOp) -> list[int]:
        """The numbers of a module."""
        out: list[int] = []
        holders: list[tuple[int, Operation]] = []
        self._operations(module, module.next_op, out, 0, holders)
        return self._with_regions(out, holders, 0)

    def _region(self, region: Region, first: int) -> list[int]:
        """The numbers of a region, the values that it defines numbered from `first`."""
        block = region.first_block
        if block is None:
            return [0]
        blocks = (block,)
        if block.next_block is not None:
            blocks = tuple(region.blocks)
            self._blocks.update(zip(blocks, range(len(blocks)), strict=True))
        out = [len(blocks), 0]
        holders: list[tuple[int, Operation]] = []
        number = first
        values, entries = self._values, self.entries
        types, attributes = entries.types, entries.attributes
        for block in blocks:
            header = len(out)
            out.append(0)
            arguments = block.args
            if arguments:
                out.append(len(arguments))
                for value in arguments:
                    type_ = types.get(id(value.type))
                    if type_ is None:
                        type_ = entries.type(value.type)
                    place = attributes.get(id(value.location))
                    if place is None:
                        place = entries.new_location(value.location)
                    out += (type_ << 1 | 1, place)  # 0 would mean: unknown location
                    values[id(value)] = number
                    number += 1
                out.append(ZERO_BYTE)  # no order of their uses
            length, number = self._operations(block.first_op, None, out, number, holders)
            out[header] = block_header(length, bool(arguments))
        out[1] = number - first
        if self._forward:
            self._number_forward_uses(out)
        if holders:
            out = self._with_regions(out, holders, number)
        # out of scope: the next region uses their numbers again
        for _ in range(number - first):
            self._values.popitem()
        return out

    def _number_forward_uses(self, out: list[int]) -> None:
        """Put in the numbers of values that were used before those in a region were all counted."""
        for place, op, index in self._forward:
            number = self._values.get(id(op.operands[index]))
            if number is None:
                message = f"'{op.name}' op operand #{index} is not in scope"
                raise DiagnosticError(op, message)
            out[place] = number
        self._forward.clear()

    def _with_regions(
        self, out: list[int], holders: list[tuple[int, Operation]], first: int
    ) -> list[int]:
        """The numbers of ops, with those of their regions at the places where they belong.

        Values inside are numbered on from those around them, so these had to be counted first.
        """
        whole: list[int] = []
        start = 0
        for place, op in holders:
            whole += out[start:place]
            for region in op.regions:
                whole += self._region(region, first)
            start = place
        return whole + out[start:]

    def _operations(
        self,
        op: Any,  # Operation | None, whose private fields are read
        end: Operation | None,
        out: list[int],
        number: int,
        holders: list[tuple[int, Operation]],
    ) -> tuple[int, int]:
        """Write an op and those after it: the hot path, about 2 us an op.

        `number` is that of the next value. Gives the number of the ops, and of the next value then.
        To `holders` go the ops with regions, and the places of these.
        """
        entries, names, values = self.entries, self._names, self._values
        types, attributes, empty = entries.types, entries.attributes, entries.no_attributes
        single = self._dictionaries
        length = 0
        while op is not end:
            length += 1
            place = attributes.get(id(op.location))
            if place is None:
                place = entries.new_location(op.location)
            properties = op.properties
            if op.attributes or len(properties) > 1:
                dictionary = self._dictionary(op)
            elif properties:
                ((key, item),) = properties.items()  # the key that `_dictionary` makes of one
                dictionary = single.get((key, id(item)))
                if dictionary is None:
                    dictionary = self._dictionary(op)
            else:
                dictionary = empty
            results = op.results
            if len(results) != 1 or op.regions or op._successors:
                number = self._operation(op, place, dictionary, out, number)
                if op.regions:
                    holders.append((len(out), op))
                op = op._next_op
                continue
            (value,) = results
            operands = op._operands
            count = len(operands)
            try:  # all known but for the first of its kind, and what is used before it is defined
                name, type_ = names[type(op)], types[id(value._type)]
                # as literals: to unpack a list of operands takes twice the time
                if count == 2:
                    left, right = operands
                    left, right = values[id(left)], values[id(right)]
                    out += (name, _PLAIN, place, dictionary, 1, type_, 2, left, right)
                elif count == 1:
                    (only,) = operands
                    out += (name, _PLAIN, place, dictionary, 1, type_, 1, values[id(only)])
                elif count == 0:
                    out += (name, _PLAIN, place, dictionary, 1, type_, 0)
                else:
                    used = [values[id(operand)] for operand in operands]
                    out += (name, _PLAIN, place, dictionary, 1, type_, count, *used)
            except KeyError:
                number = self._operation(op, place, dictionary, out, number)
            else:
                values[id(value)] = number
                number += 1
            op = op._next_op
        return length, number

    def _operation(
        self, op: Operation, place: int, dictionary: int, out: list[int], number: int
    ) -> int:
        """Write one op of any form, all but its regions; gives the number of the next value."""
        entries, values = self.entries, self._values
        known = self._names.get(type(op))
        mask = len(out) + 1
        out += (self._name(op) if known is None else known, 0, place, dictionary)
        parts = HAS_ATTRIBUTES  # always, if only empty ones: see below
        if known is None and (properties := self._properties(op)) is not None:
            parts += HAS_PROPERTIES
            out.append(properties)
        if results := op.results:
            parts += HAS_RESULTS
            out.append(len(results))
            for value in results:
                out.append(entries.type(value.type))
                values[id(value)] = number
                number += 1
        if operands := op._operands:  # pyright: ignore[reportPrivateUsage]
            parts += HAS_OPERANDS
            out.append(len(operands))
            for index, value in enumerate(operands):
                used = values.get(id(value))
                if used is None:  # defined below, or nowhere
                    self._forward.append((len(out), op, index))
                    used = 0
                out.append(used)
        if successors := op._successors:  # pyright: ignore[reportPrivateUsage]
            parts += HAS_SUCCESSORS
            out += counted([self._blocks[block] for block in successors])
        if op.regions:
            parts += HAS_REGIONS
            out.append(len(op.regions) << 1)  # 1 would mean: isolated, numbered from 0
        out[mask] = parts >> 1  # the encoding of this number is the odd byte `parts`
        return number


def _refused_entry(tables: ModuleTables, context: Native) -> DiagnosticError | None:
    """The first attribute or type whose text jaxlib refuses."""
    from jaxlib.mlir import ir

    kinds: list[tuple[str, Any, Any]] = [
        ("type", tables.types, ir.Type),
        ("attribute", tables.attributes, ir.Attribute),
    ]
    for kind, table, reader in kinds:
        for text in table.texts.values():
            try:
                reader.parse(text, context)
            except ir.MLIRError as error:
                reason = diagnostic_of(error).message
                return DiagnosticError(None, f"jaxlib refuses the {kind} {text}: {reason}")
            except TypeError:  # fine, only without a Python class
                continue
    return None


def export_module(module: ModuleOp, context: Any = None) -> Native:
    """The jaxlib module of an xDSL module, verified by jaxlib.

    What jaxlib refuses becomes a DiagnosticError at the operation's place. Properties of ops that
    we know and it does not become attributes.
    """
    from jaxlib.mlir import ir

    context = make_mlir_context() if context is None else context
    with collector_off():
        tables = ModuleTables()
        writer = _Writer(tables)
        numbers = writer.module(module)
        code = tables.module(numbers)
        readable = None if tables.is_utf8() else lambda: tables.module(numbers, readable=True)
        try:
            return parse_in(context, code, readable)
        except ir.MLIRError as error:
            raise _refused_entry(tables, context) or diagnostic_of(error) from None
