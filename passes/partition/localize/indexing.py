"""Local forms of ops that read and write at computed positions.

On a split dimension every device knows the global positions of its block: indices are shifted by
the block's first position, reads outside the block give what a sum ignores (so that the result is
a partial sum), writes outside it are dropped, as StableHLO drops them out of bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from xdsl.dialects.builtin import TensorType, i1
from xdsl.ir import SSAValue

from autopar.dialects.rules.access import ints
from autopar.dialects.tensors import element_type, shape_of

from ..local_builder import LocalBuilder, i64_array, index_type, integer_type, is_dynamic_slice
from ..windows import block_starts
from .core import LocalOp, localizer


@localizer("stablehlo.gather")
def _gather(local: LocalOp) -> None:
    op = local.op
    numbers: Any = op.properties["dimension_numbers"]
    sizes = list(ints(op, "slice_sizes"))
    local_operand = local.table.local_shape(local.operand_shapes[0], local.operand_specs[0])
    masked: list[int] = []
    for dim, axes in enumerate(local.operand_specs[0].dims):
        if not axes:
            continue
        if sizes[dim] == local.operand_shapes[0][dim] and sizes[dim] != 1:
            sizes[dim] = local_operand[dim]
        elif dim not in numbers.operand_batching_dims:
            masked.append(dim)
    op.properties["slice_sizes"] = i64_array(sizes)
    if is_dynamic_slice(op.operands[0]) and is_dynamic_slice(op.results[0]):
        op.operands[0] = local.builder().barrier(op.operands[0])  # see _all_slice in collectives.py
    if not masked:
        local.set_local_types()
        return
    builder = local.builder()
    indices, inside = _local_indices(
        local, builder, op.operands[1], numbers, numbers.start_index_map, masked, clamp=True
    )
    op.operands[1] = indices
    local.set_local_types()
    result = op.results[0]
    shape = local.local_result_shape()
    after = LocalBuilder(local.table, _next(op))
    batch_dims = [d for d in range(len(shape)) if d not in numbers.offset_dims]
    flags = after.broadcast(inside, shape, batch_dims)
    nothing = after.neutral("sum", result.type)
    local.replace_uses(result, after.select(flags, result, nothing))


def _next(op: Any) -> Any:
    assert op.next_op is not None
    return op.next_op


def _local_indices(
    local: LocalOp,
    builder: LocalBuilder,
    indices: SSAValue,
    numbers: Any,
    index_map: Sequence[int],
    dims: Sequence[int],
    *,
    clamp: bool,
) -> tuple[SSAValue, SSAValue]:
    """Indices shifted to the block of each of the split `dims`, and where they fall inside it.

    With `clamp` the global index is clamped first, as gather does; without it what is out of
    bounds stays so. The second result is a tensor of bool of the indices' batch shape.
    """
    shape = shape_of(indices.type)
    vector: int = numbers.index_vector_dim
    has_vector = vector < len(shape)
    length = shape[vector] if has_vector else 1
    batch_shape = [s for d, s in enumerate(shape) if d != vector]
    whole = local.operand_shapes[0]
    blocks = local.table.local_shape(whole, local.operand_specs[0])
    reach = max([whole[dim] + blocks[dim] for dim in index_map], default=0)
    type = index_type(reach)
    is_type = element_type(indices.type) == type
    inside = builder.constant(np.broadcast_to(np.array(True), batch_shape), i1)
    columns: list[SSAValue] = []
    for component in range(length):
        dim = index_map[component]
        column = builder.slice(indices, vector, component, component + 1) if has_vector else indices
        if clamp and (dim in dims or not is_type):
            column = builder.bounded_index(column, 0, whole[dim] - 1, type)
        elif not is_type:
            column = builder.bounded_index(column, -1, whole[dim], type)
        if dim in dims:
            starts = block_starts(builder, local.operand_specs[0].dims[dim], whole[dim])
            start = builder.broadcast(builder.per_device(starts, reach), shape_of(column.type), [])
            column = builder.subtract(column, start)
            flags = builder.in_range(column, 0, blocks[dim])
            if has_vector:
                flags = builder.op("reshape", [flags], TensorType(i1, batch_shape))
            inside = builder.both(inside, flags)
        columns.append(column)
    for dim in dims:
        if dim in index_map:
            continue
        # Not indexed: position 0, which only the first block has.
        starts = block_starts(builder, local.operand_specs[0].dims[dim], whole[dim])
        is_first = builder.per_device([int(start == 0) for start in starts])
        first = builder.compare(is_first, "NE", builder.index(0))
        inside = builder.both(inside, builder.broadcast(first, batch_shape, []))
    result = builder.concatenate(columns, vector) if has_vector else columns[0]
    return result, inside


@localizer("stablehlo.scatter")
def _scatter(local: LocalOp) -> None:
    op = local.op
    numbers: Any = op.properties["scatter_dimension_numbers"]
    count = len(op.results)
    local.mask_reduced()
    held = {factor for dim in local.rule.operands[count + 1] for factor in dim}
    indexed = [
        dim
        for dim, axes in enumerate(local.operand_specs[0].dims)
        if axes
        and dim in numbers.scatter_dims_to_operand_dims
        and not held.intersection(local.rule.operands[0][dim])  # whole windows stay at 0
    ]
    if indexed:
        builder = local.builder()
        # A position in another device's block, or in padding, is out of bounds here; positions
        # that are negative globally stay negative.
        op.operands[count], inside = _local_indices(
            local,
            builder,
            op.operands[count],
            numbers,
            numbers.scatter_dims_to_operand_dims,
            indexed,
            clamp=False,
        )
        if prod(shape_of(inside.type)) == 1:
            # XLA makes one slice of a slice of a slice and forgets that the outer index, out of
            # bounds here, was clamped to the inner one; a scatter of one index becomes slices.
            for index in range(count):
                op.operands[index] = builder.barrier(op.operands[index])
    local.set_local_types()


@localizer("stablehlo.dynamic_slice")
def _dynamic_slice(local: LocalOp) -> None:
    op = local.op
    sizes = list(ints(op, "slice_sizes"))
    for dim, size in enumerate(local.local_result_shape()):
        if local.result_specs[0].dims[dim]:
            sizes[dim] = size
    op.properties["slice_sizes"] = i64_array(sizes)
    local.set_local_types()


@localizer("stablehlo.dynamic_update_slice")
def _dynamic_update_slice(local: LocalOp) -> None:
    """Where a partly updated dimension is split, every device takes what falls in its block."""
    op = local.op
    split = [
        dim
        for dim, axes in enumerate(local.result_specs[0].dims)
        if axes and local.operand_shapes[0][dim] != local.operand_shapes[1][dim]
    ]
    if not split:
        local.set_local_types()
        return
    builder = local.builder()
    operand, update = op.operands[0], op.operands[1]
    shape = list(local.local_result_shape())
    inside: SSAValue | None = None
    for dim in split:
        whole, length = local.operand_shapes[0][dim], local.operand_shapes[1][dim]
        block = shape[dim]
        reach = whole + 2 * block
        type = index_type(reach)
        start = builder.bounded_index(op.operands[2 + dim], 0, whole - length, type)
        starts = block_starts(builder, local.result_specs[0].dims[dim], whole)
        first = builder.per_device(starts, reach)
        shift = builder.subtract(first, start)  # of the block's first element in the update
        padded = builder.pad(update, dim, block, block)
        begin = builder.bounded_index(shift, -block, length, type)
        begin = builder.add(begin, builder.index(block, type))
        update = builder.dynamic_slice(padded, dim, begin, block)
        flags = builder.in_range(builder.positions(shape, dim, shift), 0, length)
        inside = flags if inside is None else builder.both(inside, flags)
    assert inside is not None
    # The other dimensions are updated in place, then the split ones chosen by position.
    zero = builder.index(0, integer_type(op.operands[2]))
    starts = [zero if dim in split else start for dim, start in enumerate(op.operands[2:])]
    updated = builder.op("dynamic_update_slice", [operand, update, *starts], operand.type)
    local.replace([builder.select(inside, updated, operand)])
