"""recognize-batching-dims: gathers and scatters of each example's own row say so.

`logits[jnp.arange(batch), labels]` reaches StableHLO as a gather whose index vectors hold the
position in the batch. As positions are data, each device would look for its rows among all rows.
A batching dimension (StableHLO's specification of gather and scatter) says the same, and the batch
passes through it: no communication, whichever way the batch is split.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple, cast

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from autopar.dialects.autopar import STRATEGY
from autopar.dialects.constants import constant_array
from autopar.dialects.rules.access import attribute, integer, integer_width, ints
from autopar.dialects.stablehlo.shape import ConcatenateOp
from autopar.dialects.tensors import element_type, shape_of
from autopar.passes.walk import inner_ops


class _Fields(NamedTuple):
    """How an op's dimension numbers call what gathers and scatters have in common."""

    collapsed: str
    batching: str
    index_batching: str
    index_map: str


_FIELDS = {
    "stablehlo.gather": _Fields(
        "collapsed_slice_dims",
        "operand_batching_dims",
        "start_indices_batching_dims",
        "start_index_map",
    ),
    "stablehlo.scatter": _Fields(
        "inserted_window_dims",
        "input_batching_dims",
        "scatter_indices_batching_dims",
        "scatter_dims_to_operand_dims",
    ),
}


@dataclass(frozen=True)
class RecognizeBatchingDimsPass(ModulePass):
    """Turns index columns that count positions into batching dimensions of gathers and scatters.

    Needs: nothing; sees more after inline. Guarantees: the same meaning. A column becomes one where
    it is an iota (or a constant of 0, 1, 2, …) along a dimension of the indices as long as the
    operand's dimension that it points into, of which each slice takes one element, and where
    another column stays. Ops with a strategy, which counts their factors, stay as they are.
    """

    name = "recognize-batching-dims"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for inner in [inner for inner in inner_ops(op) if inner.name in _FIELDS]:
            if STRATEGY not in inner.attributes:
                _rewrite(inner, _FIELDS[inner.name])


def _rewrite(op: Operation, fields: _Fields) -> None:
    name = next(n for n in op.properties if n.endswith("dimension_numbers"))
    numbers = cast(Any, op.properties[name])
    vector: int = numbers.index_vector_dim
    place = 1 if op.name == "stablehlo.gather" else len(op.results)
    indices = op.operands[place]
    columns = _columns(indices, vector)
    if len(columns) == 1:  # and no other would stay
        return
    collapsed: set[int] = set(getattr(numbers, fields.collapsed))
    batching: dict[int, int] = dict(
        zip(getattr(numbers, fields.batching), getattr(numbers, fields.index_batching), strict=True)
    )
    kept: list[tuple[SSAValue, Sequence[int]]] = []
    dims: list[int] = list(getattr(numbers, fields.index_map))
    sizes = shape_of(op.operands[0].type)
    for column in columns:
        pointed = [dims.pop(0) for _ in range(shape_of(column.type)[vector])]
        along = None
        if len(pointed) == 1 and pointed[0] in collapsed:
            taken = {vector, *batching.values()}
            along = _counted_dim(column, sizes[pointed[0]], taken)
        if along is None:
            kept.append((column, pointed))
        else:
            collapsed.remove(pointed[0])
            batching[pointed[0]] = along
    if not kept or len(kept) == len(columns):
        return
    op.operands[place] = _joined([column for column, _ in kept], vector, op)
    changes: dict[str, Iterable[int]] = {
        fields.collapsed: sorted(collapsed),
        fields.batching: sorted(batching),
        fields.index_batching: (batching[dim] for dim in sorted(batching)),
        fields.index_map: (dim for _, pointed in kept for dim in pointed),
    }
    op.properties[name] = replace(
        numbers, **{field: tuple(found) for field, found in changes.items()}
    )
    op.properties.pop("indices_are_sorted", None)  # were it by columns that are gone


def _columns(indices: SSAValue, vector: int) -> Sequence[SSAValue]:
    """The parts that index vectors are put together from."""
    op = indices.owner
    if (
        isinstance(op, Operation)
        and op.name == "stablehlo.concatenate"
        and integer(op, "dimension") == vector
    ):
        return op.operands
    return [indices]


def _joined(columns: Sequence[SSAValue], vector: int, user: Operation) -> SSAValue:
    if len(columns) == 1:
        return columns[0]
    joined = ConcatenateOp(columns, vector)
    joined.location = user.location
    Rewriter.insert_op(joined, InsertPoint.before(user))
    return joined.result


# ---- Positions -----------------------------------------------------------------------------------


def _counted_dim(value: SSAValue, size: int, taken: Collection[int]) -> int | None:
    """The dimension of this size along which a value is the position; none of those taken."""
    for dim, length in enumerate(shape_of(value.type)):
        if length == size and dim not in taken and _is_position(value, dim):
            return dim
    return None


def _is_position(value: SSAValue, dim: int) -> bool:
    """Whether a value is, along `dim`, the position: an iota, and negative positions made good."""
    while isinstance(value.owner, Operation):
        op = value.owner
        width = integer_width(element_type(value.type))
        if width is None or shape_of(value.type)[dim] > 1 << width - 1:  # positions that wrap
            return False
        if op.name == "stablehlo.iota":
            return integer(op, "iota_dimension") == dim
        if op.name == "stablehlo.constant":
            return _counts(op, dim)
        if op.name == "stablehlo.convert":
            value = op.operands[0]
        elif op.name == "stablehlo.broadcast_in_dim":
            found = _broadcast_from(op, dim)
            if found is None:
                return False
            dim, value = found, op.operands[0]
        elif op.name == "stablehlo.reshape":
            found = _reshaped_from(op, dim)
            if found is None:
                return False
            dim, value = found, op.operands[0]
        elif op.name == "stablehlo.select":
            negative = op.operands[0]
            if not (_is_zero(negative) or _is_below_zero(negative, dim)):
                return False
            value = op.operands[2]
        else:
            return False
    return False


def _broadcast_from(op: Operation, dim: int) -> int | None:
    """The operand's dimension that becomes the result's."""
    dims = ints(op, "broadcast_dimensions")
    if dim not in dims:
        return None
    source = dims.index(dim)
    same = shape_of(op.operands[0].type)[source] == shape_of(op.results[0].type)[dim]
    return source if same else None


def _reshaped_from(op: Operation, dim: int) -> int | None:
    """The operand's dimension that is the result's, with as many elements before it."""
    before, after = shape_of(op.operands[0].type), shape_of(op.results[0].type)
    for source, size in enumerate(before):
        if size == after[dim] and prod(before[:source]) == prod(after[:dim]):
            return source
    return None


def _counts(op: Operation, dim: int) -> bool:
    array = _constant(op)
    if array is None:
        return False
    along = [-1 if axis == dim else 1 for axis in range(array.ndim)]
    positions = np.arange(array.shape[dim], dtype=np.int64).reshape(along)
    return bool((array == positions).all())


def _constant(op: Operation) -> np.ndarray[Any, Any] | None:
    data = attribute(op, "value")
    is_dense = isinstance(data, DenseIntOrFPElementsAttr)
    return constant_array(cast(DenseIntOrFPElementsAttr[Any], data)) if is_dense else None


def _is_below_zero(value: SSAValue, dim: int) -> bool:
    """Whether a value is `position < 0`."""
    op = value.owner
    return (
        isinstance(op, Operation)
        and op.name == "stablehlo.compare"
        and "LT" in str(attribute(op, "comparison_direction"))
        and _is_position(op.operands[0], dim)
        and _is_zero(op.operands[1])
    )


def _is_zero(value: SSAValue) -> bool:
    op = value.owner
    while isinstance(op, Operation) and op.name in (
        "stablehlo.broadcast_in_dim",
        "stablehlo.convert",
    ):
        op = op.operands[0].owner
    if not isinstance(op, Operation) or op.name != "stablehlo.constant":
        return False
    array = _constant(op)
    return array is not None and not array.any()
