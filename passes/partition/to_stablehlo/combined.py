"""Several small gathers or scatters as a single one, over one flat buffer.

A collective of several operands would copy nothing, but XLA:CPU (jaxlib 0.10.2) fails to lay out a
variadic one that has a channel. The buffer is a matrix with a row for each device of the group
where that dimension is scattered (one row where it is gathered), so that any dimension will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from xdsl.ir import Attribute, Operation, SSAValue

from autopar.dialects import stablehlo
from autopar.dialects.stablehlo.shape import tensor_type

from ..local_builder import i64_array
from . import collectives
from .lowering import DeviceLowering


def combined(lowering: DeviceLowering, ops: Sequence[Operation]) -> list[SSAValue]:
    """The results of collectives that stand next to each other and differ in their tensors only.

    They have the same name, grid axes, reduction and element type (the user of `autopar.combine`
    sees to it); where they cannot run as one, each is lowered by itself.
    """
    last = ops[-1]
    alone, together = _LOWERINGS[last.name]
    types = [collectives.tensor_of(op.operands[0], op) for op in ops]
    if (
        len({type.element_type for type in types}) > 1
        or any(0 in type.get_shape() for type in types)
        or len(lowering.groups(last)[0]) == 1
        or not collectives.is_plain_reduction(last)
    ):
        return [alone(lowering, op)[0] for op in ops]
    return together(lowering, ops, types[0].element_type)


def _all_gather(
    lowering: DeviceLowering, ops: Sequence[Operation], element: Attribute
) -> list[SSAValue]:
    last = ops[-1]
    parts = len(lowering.groups(last)[0])
    shapes = [_shape(op.operands[0], op) for op in ops]
    buffer = _joined(lowering, [op.operands[0] for op in ops], 1, last)
    width = sum(map(prod, shapes))
    whole = tensor_type(collectives.tensor_of(buffer, last), [parts, width])
    groups, channel = lowering.groups_attr(last), lowering.next_channel()
    new = stablehlo.AllGatherOp([buffer], 0, groups, [whole], channel)
    rows = [[parts, *shape] for shape in shapes]
    stacked = _parted(lowering, lowering.insert(new, last), rows, parts, last)
    values: list[SSAValue] = []
    for op, value, shape in zip(ops, stacked, shapes, strict=True):
        dim = collectives.dim_of(op, "gather_axis")
        order = [*range(1, dim + 1), 0, *range(dim + 1, len(shape) + 1)]
        result = [size * parts if d == dim else size for d, size in enumerate(shape)]
        moved = _transposed(lowering, value, order, last)
        values.append(_reshaped(lowering, moved, result, last))
    return values


def _reduce_scatter(
    lowering: DeviceLowering, ops: Sequence[Operation], element: Attribute
) -> list[SSAValue]:
    last = ops[-1]
    parts = len(lowering.groups(last)[0])
    shapes = [_shape(op.results[0], op) for op in ops]
    stacked: list[SSAValue] = []
    for op, shape in zip(ops, shapes, strict=True):
        dim = collectives.dim_of(op, "scatter_axis")
        cut = [*shape[:dim], parts, *shape[dim:]]
        value = _reshaped(lowering, op.operands[0], cut, last)
        order = [dim, *range(dim), *range(dim + 1, len(cut))]
        stacked.append(_transposed(lowering, value, order, last))
    buffer = _joined(lowering, stacked, parts, last)
    own = tensor_type(collectives.tensor_of(buffer, last), [1, sum(map(prod, shapes))])
    region, groups = collectives.reducer(last, element), lowering.groups_attr(last)
    new = stablehlo.ReduceScatterOp(buffer, 0, groups, region, own, lowering.next_channel())
    return _parted(lowering, lowering.insert(new, last), shapes, 1, last)


def _shape(value: SSAValue, op: Operation) -> list[int]:
    return list(collectives.tensor_of(value, op).get_shape())


def _joined(
    lowering: DeviceLowering, values: Sequence[SSAValue], rows: int, last: Operation
) -> SSAValue:
    """A matrix of `rows` rows with the values, each cut into as many, side by side."""
    flat: list[SSAValue] = []
    for value in values:
        size = prod(_shape(value, last))
        flat.append(_reshaped(lowering, value, [rows, size // rows], last))
    return lowering.insert(stablehlo.ConcatenateOp(flat, 1), last)


def _parted(
    lowering: DeviceLowering,
    buffer: SSAValue,
    shapes: Sequence[Sequence[int]],
    rows: int,
    last: Operation,
) -> list[SSAValue]:
    """The tensors that stand side by side in a matrix of `rows` rows."""
    values: list[SSAValue] = []
    start = 0
    for shape in shapes:
        stop = start + prod(shape) // rows
        part = lowering.make(
            stablehlo.SliceOp,
            [buffer],
            collectives.shaped(buffer, [rows, stop - start]),
            last,
            start_indices=i64_array([0, start]),
            limit_indices=i64_array([rows, stop]),
            strides=i64_array([1, 1]),
        )
        values.append(_reshaped(lowering, part, shape, last))
        start = stop
    return values


def _reshaped(
    lowering: DeviceLowering, value: SSAValue, shape: Sequence[int], last: Operation
) -> SSAValue:
    return lowering.make(stablehlo.ReshapeOp, [value], collectives.shaped(value, shape), last)


def _transposed(
    lowering: DeviceLowering, value: SSAValue, order: Sequence[int], last: Operation
) -> SSAValue:
    if list(order) == sorted(order):
        return value
    shape = _shape(value, last)
    return lowering.make(
        stablehlo.TransposeOp,
        [value],
        collectives.shaped(value, [shape[dim] for dim in order]),
        last,
        permutation=i64_array(order),
    )


_LOWERINGS = {
    "shard.all_gather": (collectives.all_gather, _all_gather),
    "shard.reduce_scatter": (collectives.reduce_scatter, _reduce_scatter),
}
