"""Reading ops for rules: shapes, element types, attributes, reduction bodies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from operator import attrgetter
from typing import Any, cast

from xdsl.dialects.builtin import (
    BFloat16Type,
    ComplexType,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    DictionaryAttr,
    Float16Type,
    Float32Type,
    Float64Type,
    IntegerAttr,
    IntegerType,
    StringAttr,
    SymbolRefAttr,
    UnregisteredOp,
)
from xdsl.ir import Attribute, Operation, OpResult, Region, SSAValue

from ..reductions import KIND_OF_COMBINER
from ..tensors import is_bool, shape_of

Shape = tuple[int, ...]


operands_of: Callable[[Operation], tuple[SSAValue, ...]] = attrgetter("_operands")
"""The operands, for loops over whole programs: `op.operands` makes a view at each access."""
type_of: Callable[[SSAValue], Attribute] = attrgetter("_type")
"""The type of a value, without the call of a property."""


def op_name(op: Operation) -> str:
    """The op's name; for an unregistered op the name it was written with."""
    name = op.name
    if name == UnregisteredOp.name and isinstance(op, UnregisteredOp):
        return op.op_name.data
    return name


def op_label(op: Operation) -> str:
    """An op as messages name it: `'dialect.op'`, `custom_call @target`."""
    name = op_name(op)
    if name == "stablehlo.custom_call":
        return f"custom_call @{string(op, 'call_target_name')}"
    return f"'{name}'"


def operand_shapes(op: Operation) -> list[Shape]:
    """The shape of each operand; () for a scalar, and for what is no tensor."""
    return [shape_of(v.type) for v in op.operands]


def result_shapes(op: Operation) -> list[Shape]:
    """The shape of each result, as `operand_shapes`."""
    return [shape_of(v.type) for v in op.results]


def integer_width(type_: Attribute) -> int | None:
    """Bits of an integer type; None for other types."""
    return type_.bitwidth if isinstance(type_, IntegerType) else None


def is_integer(type_: Attribute) -> bool:
    return isinstance(type_, IntegerType)


def is_complex(type_: Attribute) -> bool:
    return isinstance(type_, ComplexType)


_FLOAT_PRECISION: dict[str, tuple[int, int]] = {
    BFloat16Type.name: (8, 8),
    Float16Type.name: (5, 11),
    Float32Type.name: (8, 24),
    Float64Type.name: (11, 53),
}
"""Bits of exponent and mantissa."""


def keeps_sums(source: Attribute, target: Attribute) -> bool:
    """Whether converting `source` elements to `target` commutes with addition.

    True for float and complex conversions that lose neither exponent nor mantissa, and for integer
    conversions to the same or a smaller width (arithmetic modulo 2^n); never for bool.
    """
    old_width, new_width = integer_width(source), integer_width(target)
    if old_width is not None or new_width is not None:
        return old_width is not None and new_width is not None and 1 < new_width <= old_width
    if isinstance(source, ComplexType) and isinstance(target, ComplexType):
        return keeps_sums(
            cast("ComplexType[Any]", source).element_type,
            cast("ComplexType[Any]", target).element_type,
        )
    old, new = _FLOAT_PRECISION.get(source.name), _FLOAT_PRECISION.get(target.name)
    if old is None or new is None:
        return source == target
    return old[0] <= new[0] and old[1] <= new[1]


def attribute(op: Operation, name: str) -> Attribute | None:
    """An inherent attribute, wherever the form of the op keeps it."""
    found = op.properties.get(name)
    return op.attributes.get(name) if found is None else found


def ints(op: Operation, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
    """An array of integers (dense array, or dense elements, row major)."""
    found = attribute(op, name)
    if isinstance(found, DenseArrayBase):
        return tuple(int(v) for v in found.get_values())
    if isinstance(found, DenseIntOrFPElementsAttr):
        values = [int(v) for v in found.get_values()]
        count = prod(shape_of(cast(Any, found).type))
        return tuple(values * count if len(values) < count else values)  # a splat holds one
    return tuple(default)


def integer(op: Operation, name: str, default: int = 0) -> int:
    """An integer attribute; `default` where the op has none."""
    found = attribute(op, name)
    return int(found.value.data) if isinstance(found, IntegerAttr) else default


def boolean(op: Operation, name: str) -> bool:
    """A bool attribute; False where the op has none."""
    return integer(op, name) != 0


def string(op: Operation, name: str) -> str:
    """A string, or the name of a symbol; empty where the op has none."""
    found = attribute(op, name)
    if isinstance(found, StringAttr):
        return found.data
    if isinstance(found, SymbolRefAttr):
        return found.string_value()
    return ""


def backend_config(call: Operation) -> Mapping[str, Attribute]:
    """The arguments of a custom_call that are a dictionary: JAX leaves them beside the op's own
    attributes, since jaxlib's are text for some versions of the call."""
    for found in (call.properties.get("backend_config"), call.attributes.get(BACKEND_CONFIG)):
        if isinstance(found, DictionaryAttr):
            return found.data
    return {}


BACKEND_CONFIG = "mhlo.backend_config"

_COMPLEMENT_FREE = {"sum": "bitwise_or", "product": "bitwise_and"}


def body_reducer(region: Region) -> str | None:
    """The reduction kind of a reducer body: one known op an accumulator, the same for all.

    None for every other body (argmax and the like, a body that just takes the new value).
    On bool, `add` is `or` and `multiply` is `and`, as StableHLO defines them.
    """
    kind: str | None = None
    for value, first, second in _accumulators(region):
        if type(value) is not OpResult:
            return None
        owner = value.op
        this = KIND_OF_COMBINER.get(op_name(owner))
        if this is None or (kind is not None and this != kind):
            return None
        read = operands_of(owner)
        if read != (first, second) and read != (second, first):
            return None
        if this in _COMPLEMENT_FREE and is_bool(value.type):
            this = _COMPLEMENT_FREE[this]
        kind = this
    return kind


def _accumulators(region: Region) -> list[tuple[SSAValue, SSAValue, SSAValue]]:
    """What a reducer body gives for each accumulator, of itself and the element beside it; [] where
    the body has another form."""
    block = region.first_block
    last = None if block is None else block.last_op
    if block is None or last is None:
        return []
    returned, arguments = operands_of(last), block.args
    count = len(returned)
    if len(arguments) != 2 * count:
        return []
    return list(zip(returned, arguments[:count], arguments[count:], strict=True))


CHOICE = "choice"


def body_kind(region: Region) -> str | None:
    """All that a rule may ask of a reducer body: its reduction kind; CHOICE where each accumulator
    becomes itself or the element beside it (argmax); None for every other body.

    Starting such a reduction anew, from the same initial values, changes nothing.
    """
    kind = body_reducer(region)
    if kind is not None:
        return kind
    accumulators = _accumulators(region)
    for value, first, second in accumulators:
        if type(value) is not OpResult or op_name(value.op) not in _CHOOSING:
            return None
        read = operands_of(value.op)[-2:]
        if read != (first, second) and read != (second, first):
            return None
    return CHOICE if accumulators else None


_CHOOSING = (
    "stablehlo.select",
    "stablehlo.maximum",
    "stablehlo.minimum",
    "stablehlo.and",
    "stablehlo.or",
)
