"""Constants with one value everywhere: the same under any sharding."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, cast

import numpy as np
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr
from xdsl.ir import Operation, OpResult, SSAValue

from autopar.dialects.constants import Array, constant_array, is_splat
from autopar.dialects.reductions import neutral_value
from autopar.dialects.rules.access import operands_of
from autopar.dialects.tensors import shape_of

CONSTANTS = ("stablehlo.constant", "arith.constant")


def splat_source(value: SSAValue) -> Operation | None:
    """The splat constant that a value is, or is broadcast from; else None."""
    source = value
    while type(source) is OpResult and source.op.name == "stablehlo.broadcast_in_dim":
        (source,) = operands_of(source.op)
    if type(source) is not OpResult or source.op.name not in CONSTANTS:
        return None
    op = source.op
    dense = op.properties["value"]
    if not isinstance(dense, DenseIntOrFPElementsAttr):
        return None
    dense = cast("DenseIntOrFPElementsAttr[Any]", dense)
    return op if is_splat(dense) and 0 not in shape_of(value.type) else None


def splat_of(value: SSAValue) -> DenseIntOrFPElementsAttr[Any] | None:
    """The one element of a splat constant, or of what a broadcast makes of one; else None."""
    op = splat_source(value)
    return None if op is None else cast("Any", op.properties["value"])


def makes_infinite(op: Operation, group: Collection[int]) -> bool:
    """Whether an op that is linear in the operands of `group` makes infinities of finite values:
    it divides by a constant that is zero, or multiplies by one that is infinite, somewhere."""
    if op.name not in ("stablehlo.divide", "stablehlo.multiply"):
        return False
    for index, value in enumerate(operands_of(op)):
        elements = None if index in group else _constant_elements(value)
        if elements is not None:
            bad = elements == 0 if op.name == "stablehlo.divide" else np.isinf(elements)
            if bad.any():
                return True
    return False


def _constant_elements(value: SSAValue) -> Array | None:
    """The elements of a constant, or of one that is broadcast (one, where all are the same)."""
    while type(value) is OpResult and value.op.name == "stablehlo.broadcast_in_dim":
        (value,) = operands_of(value.op)
    if type(value) is not OpResult or value.op.name not in CONSTANTS:
        return None
    dense = value.op.properties["value"]
    if not isinstance(dense, DenseIntOrFPElementsAttr):
        return None
    dense = cast("DenseIntOrFPElementsAttr[Any]", dense)
    elements = constant_array(dense).reshape(-1)
    return elements[:1] if is_splat(dense) else elements


def copy_splat(value: SSAValue) -> Operation:
    """A constant of its own, of the same kind, that is what the value is."""
    op, dense = splat_source(value), splat_of(value)
    assert op is not None and dense is not None
    content = DenseIntOrFPElementsAttr(cast("Any", value.type), dense.data)
    return type(op).create(
        result_types=[value.type], properties={**op.properties, "value": content}
    )


def is_neutral(value: SSAValue, kinds: Sequence[str]) -> bool:
    """Whether the value is a constant that adds nothing to reductions of these kinds: it may be
    called partial for free."""
    dense = splat_of(value)
    if dense is None:
        return False
    if not kinds:
        return True
    element = constant_array(dense).reshape(-1)[:1].reshape(())
    return all(
        element.tobytes() == neutral_value(kind, element.dtype).tobytes()
        or (kind == "sum" and element == 0)  # of either sign: as many zeros add up to this one
        for kind in kinds
    )
