"""jaxlib's in-memory modules into xDSL: which ops there are is read from their bytecode.

To ask jaxlib's bindings for the name, operands, results, types, attributes and location of an op
takes longer than to build it. In bytecode, which jaxlib writes quickly, all these are numbers; only
what a number stands for is asked of the bindings, when it comes for the first time.
Operations are built directly, without xDSL's constructors and verification (several times slower),
with the garbage collector off (a module is one large cyclic graph that only grows).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, NoneType, StringAttr
from xdsl.ir import (
    Attribute,
    Block,
    BlockArgument,
    Operation,
    OpResult,
    Region,
    SSAValue,
    SSAValues,
    Use,
)
from xdsl.irdl import IRDLOperation
from xdsl.parser.core import ForwardDeclaredValue

from autopar.dialects import make_context
from autopar.dialects.diagnostics import DiagnosticError
from autopar.passes.collector import collector_off

from .bytecode import (
    HAS_ATTRIBUTES,
    HAS_OPERANDS,
    HAS_REGIONS,
    HAS_RESULTS,
    HAS_SUCCESSORS,
)
from .bytecode_reader import (
    module_bytecode,
    numbers_everywhere,
    operations_section,
    strings_are_utf8,
)
from .native_attributes import Attributes
from .native_text import Native, is_known, op_name, unknown_ops


class _OpClass(NamedTuple):
    """What is the same for all ops of a name."""

    name: str
    type: type[Operation]
    property_names: frozenset[str] | None
    """None: we do not know the op."""
    unknown: bool
    """Whether jaxlib does not."""


_RegionPlace = tuple[Native, int]
"""An operation of jaxlib's and the index of one of its regions."""
_BlockPlace = tuple[Native, int, int]
"""And the index of a block in it."""


def _native_blocks(place: _RegionPlace) -> Native:
    operation, region = place
    return operation.regions[region].blocks


def _native_argument(place: _BlockPlace, index: int) -> Native:
    operation, region, block = place
    return _native_blocks((operation, region))[block].arguments[index]


class _Importer:
    def __init__(self, context: Context, module: Native, filename: str) -> None:
        self.context = context
        self.module_operation = module
        bytecode = module_bytecode(module)
        self._utf8 = strings_are_utf8(bytecode)
        self._found = Attributes(context, module, filename, utf8=self._utf8)
        self._code = operations_section(bytecode)
        self._numbers, self._after = numbers_everywhere(self._code)
        self._natives = _operations(module)
        # by the number in the bytecode
        self._values: dict[int, SSAValue] = {}
        self._forward: dict[int, ForwardDeclaredValue] = {}
        self._classes: dict[int, _OpClass] = {}
        self._dictionaries: dict[
            tuple[int, int], tuple[dict[str, Attribute], dict[str, Attribute]]
        ] = {}
        self._types: dict[int, Attribute] = {}
        self._locations: dict[int, Any] = {}
        self._blocks: dict[Native, Block] = {}
        self._unknown_texts: list[str] | None = None

    def _class_of(self, native: Native) -> _OpClass:
        name = native.name if self._utf8 else op_name(native)
        cls = self.context.get_op(name)
        names = None
        if issubclass(cls, IRDLOperation):
            names = frozenset(cls.get_irdl_definition().properties)
        unknown = not is_known(self.module_operation.context, name)
        return _OpClass(name, cls, names, unknown)

    def _attributes_of(
        self, native: Native, op_class: _OpClass, key: tuple[int, int]
    ) -> tuple[dict[str, Attribute], dict[str, Attribute]]:
        """The properties and the other attributes of an operation.

        `key`: its name and dictionary in the bytecode; ops that share them share the result, but
        for those with properties that jaxlib does not know: only the op's text tells these.
        """
        attributes = self._found.named(native, known=not op_class.unknown)
        properties: dict[str, Attribute] = {}
        shared = True
        if op_class.unknown and (texts := self._unknown_ops()):
            properties = self._found.properties(native, texts.pop())
            shared = False
        if op_class.property_names is None:
            if "op_name__" in attributes:
                raise self._refused(native, "the attribute 'op_name__' is xDSL's own, its name")
            attributes["op_name__"] = StringAttr(op_class.name)
        else:
            for name in properties:
                if name in attributes:
                    raise self._refused(native, f"a property and an attribute named '{name}'")
            both = {**properties, **attributes}
            properties = {
                name: both.pop(name) for name in [*both] if name in op_class.property_names
            }
            attributes = both
        if shared:
            self._dictionaries[key] = properties, attributes
        return properties, attributes

    def _unknown_ops(self) -> list[str]:
        """The texts of the ops that jaxlib does not know and that are yet to be built, the next
        one last; none if none of them has properties."""
        if self._unknown_texts is None:
            self._unknown_texts = unknown_ops(self.module_operation)[::-1]
        return self._unknown_texts

    def _refused(self, native: Native, problem: str) -> DiagnosticError:
        location = self._found.location(native.location)
        return DiagnosticError(location, f"reading: {problem} cannot be kept")

    def _fill(
        self, block: Block, length: int, position: int, value_number: int, inner: int
    ) -> tuple[int, int]:
        """Build the operations of a block from the numbers at a position; gives the one after.

        `value_number` is that of the next value, also given after; values in the operations'
        regions are numbered from `inner`.

        The hot path, about 8 us an operation: it sets an Operation's fields as
        `Operation.create` and `Block.add_ops` would, with everything in local variables.
        """
        numbers, after, natives = self._numbers, self._after, self._natives
        classes, dictionaries = self._classes, self._dictionaries
        types, locations = self._types, self._locations
        values, new, none = self._values, object.__new__, SSAValues()
        previous: Operation | None = None
        for _ in range(length):
            native = next(natives)
            name = numbers[position]
            position = after[position]
            mask = self._code[position]
            position += 1
            found = classes.get(name)
            if found is None:
                found = classes[name] = self._class_of(native)
            op: Any = new(found.type)
            op.parent = block
            op._prev_op = previous
            op._next_op = None
            if previous is None:
                block._first_op = op  # pyright: ignore[reportPrivateUsage]
            else:
                previous._next_op = op  # pyright: ignore[reportPrivateUsage]
            previous = op
            number = numbers[position]
            position = after[position]
            location = locations.get(number)
            if location is None:
                location = locations[number] = self._found.location(native.location)
            op.location = location
            number = -1
            if mask & HAS_ATTRIBUTES:
                number = numbers[position]
                position = after[position]
            attributes = dictionaries.get((name, number))
            if attributes is None:
                attributes = self._attributes_of(native, found, (name, number))
            op.properties, op.attributes = attributes[0].copy(), attributes[1].copy()
            if mask & HAS_RESULTS:
                results: list[OpResult] = []
                for index in range(numbers[position]):
                    position = after[position]
                    type_ = types.get(numbers[position])
                    if type_ is None:
                        type_ = self._found.type(native.results[index].type)
                        types[numbers[position]] = type_
                    values[value_number] = result = OpResult(type_, op, index)
                    value_number += 1
                    results.append(result)
                position = after[position]
                op.results = SSAValues(results)
            else:
                op.results = none
            if mask & HAS_OPERANDS:
                operands: list[SSAValue] = []
                uses: list[Use] = []
                for index in range(numbers[position]):
                    position = after[position]
                    try:
                        value = values[numbers[position]]
                    except KeyError:
                        value = self._forward_value(numbers[position])
                    first = value.first_use
                    use: Any = new(Use)
                    use._operation = op
                    use._index = index
                    use._prev_use = None
                    use._next_use = first
                    value.first_use = use
                    if first is not None:
                        first._prev_use = use  # pyright: ignore[reportPrivateUsage]
                    operands.append(value)
                    uses.append(use)
                position = after[position]
                op._operands = SSAValues(operands)
                op._operand_uses = tuple(uses)
            else:
                op._operands = none
                op._operand_uses = ()
            op._successors = op._successor_uses = op.regions = ()
            if mask & HAS_SUCCESSORS:
                targets = native.successors
                op.successors = [self._blocks[target] for target in targets]
                for _ in range(len(targets) + 1):
                    position = after[position]
            if mask & HAS_REGIONS:
                position = self._fill_regions(op, native, position, inner)
        block._last_op = previous  # pyright: ignore[reportPrivateUsage]
        return position, value_number

    def _forward_value(self, number: int) -> SSAValue:
        """What stands for a value that is used before it is built: in a block before its own, or
        where order does not matter."""
        value = ForwardDeclaredValue(NoneType())
        self._values[number] = self._forward[number] = value
        return value

    def _fill_regions(self, op: Operation, native: Native, position: int, first: int) -> int:
        """Build the regions of an operation, values numbered from `first`."""
        count, isolated = divmod(self._numbers[position], 2)
        position = self._after[position]
        around = self._values, self._forward
        if isolated:
            self._values, self._forward, first = {}, {}, 0
        for index in range(count):
            region, position = self._region((native, index), position, first)
            op.add_region(region)
        self._values, self._forward = around
        return position

    def _region(self, place: _RegionPlace, position: int, first: int) -> tuple[Region, int]:
        """Build a region, its values numbered from `first`; gives the position after it."""
        numbers, after, values = self._numbers, self._after, self._values
        blocks = [Block() for _ in range(numbers[position])]
        region = Region(blocks)
        position = after[position]
        if not blocks:
            return region, position
        if len(blocks) > 1:
            self._blocks.update(zip(_native_blocks(place), blocks, strict=True))
        start, inner = first, first + numbers[position]
        position = after[position]
        for index, block in enumerate(blocks):
            length, has_arguments = divmod(numbers[position], 2)
            position = after[position]
            if has_arguments:
                position = self._fill_arguments(block, (*place, index), position)
                for value in block.args:
                    values[first] = value
                    first += 1
            position, first = self._fill(block, length, position, first, inner)
        for number in [number for number in self._forward if start <= number < first]:
            self._forward.pop(number).replace_all_uses_with(values[number])
        for number in range(start, first):  # other regions use them again
            del values[number]
        return region, position

    def _fill_arguments(self, block: Block, place: _BlockPlace, position: int) -> int:
        """Build the arguments of a block; gives the position after them."""
        numbers, after = self._numbers, self._after
        arguments: list[BlockArgument] = []
        count = numbers[position]
        position = after[position]
        for index in range(count):
            number = numbers[position]
            position = after[position]
            type_ = self._types.get(number)
            if type_ is None:
                native = _native_argument(place, index)
                type_ = self._types[number] = self._found.type(native.type)
            number = numbers[position]
            position = after[position]
            location = self._locations.get(number)
            if location is None:
                native = _native_argument(place, index)
                location = self._locations[number] = self._found.location(native.location)
            arguments.append(BlockArgument(type_, block, index, location))
        block._args = tuple(arguments)  # pyright: ignore[reportPrivateUsage]
        return position

    def module(self) -> ModuleOp:
        """The module of the top-level operation."""
        native = self.module_operation
        attributes = self._found.named(native)
        name = attributes.pop("sym_name", None)
        module = ModuleOp([], attributes)
        module.detach_region(0)
        if name is not None:
            module.properties["sym_name"] = name
        module.location = self._found.location(native.location)
        position = self._after[self._after[0]]  # of a block with one operation; its name
        has_attributes = self._code[position] & HAS_ATTRIBUTES
        position = self._after[position + 1]
        if has_attributes:
            position = self._after[position]
        self._fill_regions(module, native, position, 0)
        return module


def _operations(module: Native) -> Iterator[Native]:
    """The operations in a module, in the order in which bytecode has them."""
    from jaxlib.mlir import ir

    found: list[Native] = []

    def visit(operation: Native) -> Any:
        found.append(operation)
        return ir.WalkResult.ADVANCE

    module.walk(visit, ir.WalkOrder.PRE_ORDER)
    return iter(found[1:])


def import_module(
    module: Native, context: Context | None = None, *, filename: str = "-"
) -> ModuleOp:
    """The xDSL module of a jaxlib module: the same operations, attributes, constants, locations.

    `filename` replaces the `-` that jaxlib's parser writes into locations.
    """
    with collector_off():
        context = make_context() if context is None else context
        return _Importer(context, module.operation, filename).module()
