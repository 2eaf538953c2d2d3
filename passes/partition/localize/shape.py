"""Local forms of ops that cut, join, pad, reverse or number elements."""

from __future__ import annotations

from xdsl.dialects.builtin import IntegerAttr, IntegerType, i64

from autopar.dialects.rules.access import ints
from autopar.dialects.tensors import shape_of

from ..local_builder import i64_array
from ..windows import block_starts, fetch_window
from .core import LocalOp, localizer


@localizer("stablehlo.iota")
def _iota(local: LocalOp) -> None:
    """Iota of the local shape plus the global index of the block's first element."""
    dimension = local.op.properties["iota_dimension"]
    assert isinstance(dimension, IntegerAttr)
    dim = dimension.value.data
    axes = local.result_specs[0].dims[dim]
    if not axes:
        local.set_local_types()
        return
    builder = local.builder()
    type, size = local.local_result_type(), local.result_shapes[0][dim]
    element = type.element_type
    start = builder.per_device(block_starts(builder, axes, size))
    if isinstance(type.element_type, IntegerType):  # sums wrap as the whole iota does
        offset = builder.convert(start, element)
        numbers = builder.op("iota", [], type, iota_dimension=IntegerAttr(dim, i64))
        numbers = builder.add(numbers, builder.broadcast(offset, type.get_shape(), []))
    else:  # rounded once
        positions = builder.positions(type.get_shape(), dim, start, size)
        numbers = builder.convert(positions, element)
    local.replace([numbers])


@localizer("stablehlo.slice")
def _slice(local: LocalOp) -> None:
    op = local.op
    starts = list(ints(op, "start_indices"))
    limits = list(ints(op, "limit_indices"))
    strides = list(ints(op, "strides"))
    shape = local.operand_shapes[0]
    value = op.operands[0]
    builder = local.builder()
    for dim, axes in enumerate(local.result_specs[0].dims):
        if not axes:
            continue
        if starts[dim] == 0 and limits[dim] == shape[dim] and strides[dim] == 1:
            limits[dim] = shape_of(value.type)[dim]
            continue
        block = local.local_result_shape()[dim]
        first = block_starts(builder, axes, local.result_shapes[0][dim])
        width = (block - 1) * strides[dim] + 1
        value = fetch_window(
            builder,
            value,
            dim,
            local.operand_specs[0].dims[dim],
            shape[dim],
            [starts[dim] + strides[dim] * index for index in first],
            width,
        )
        starts[dim], limits[dim] = 0, width
    op.operands[0] = value
    op.properties["start_indices"] = i64_array(starts)
    op.properties["limit_indices"] = i64_array(limits)
    local.set_local_types()


@localizer("stablehlo.pad")
def _pad(local: LocalOp) -> None:
    """Result index r holds operand element (r - low) / (interior + 1), where that is whole."""
    op = local.op
    lows = list(ints(op, "edge_padding_low"))
    highs = list(ints(op, "edge_padding_high"))
    interiors = list(ints(op, "interior_padding"))
    value, fill = op.operands
    builder = local.builder()
    result_shape = local.local_result_shape()
    for dim, axes in enumerate(local.result_specs[0].dims):
        low, high, stride = lows[dim], highs[dim], interiors[dim] + 1
        if not axes or (low == high == 0 and stride == 1):
            continue
        size = local.operand_shapes[0][dim]
        block = result_shape[dim]
        first = block_starts(builder, axes, local.result_shapes[0][dim])
        # Element e stands at low + e * stride: the first at or after the block's start.
        elements = [-((low - r) // stride) for r in first]
        width = -(-block // stride)
        window = fetch_window(
            builder, value, dim, local.operand_specs[0].dims[dim], size, elements, width, fill
        )
        if stride > 1:
            # The first element stands `lead` positions into the block, 0 <= lead < stride.
            leads = [low + e * stride - r for e, r in zip(elements, first, strict=True)]
            spread = builder.pad(window, dim, stride - 1, block, stride - 1, fill)
            begin = builder.per_device([stride - 1 - lead for lead in leads])
            window = builder.dynamic_slice(spread, dim, begin, block)
        value = window
        lows[dim] = highs[dim] = interiors[dim] = 0
    op.operands[0] = value
    op.properties["edge_padding_low"] = i64_array(lows)
    op.properties["edge_padding_high"] = i64_array(highs)
    op.properties["interior_padding"] = i64_array(interiors)
    local.set_local_types()


@localizer("stablehlo.concatenate")
def _concatenate(local: LocalOp) -> None:
    """Along a split dimension each device puts its block together from windows of the operands."""
    op = local.op
    dimension = op.properties["dimension"]
    assert isinstance(dimension, IntegerAttr)
    dim = dimension.value.data
    axes = local.result_specs[0].dims[dim]
    if not axes:
        local.set_local_types()
        return
    builder = local.builder()
    shape = local.local_result_shape()
    first = block_starts(builder, axes, local.result_shapes[0][dim])
    result = None
    offset = 0
    for index, operand in enumerate(op.operands):
        size = local.operand_shapes[index][dim]
        if size == 0:
            continue
        starts = [r - offset for r in first]
        window = fetch_window(
            builder, operand, dim, local.operand_specs[index].dims[dim], size, starts, shape[dim]
        )
        if result is None:
            result = window
        else:
            position = builder.positions(shape, dim, builder.per_device(starts), size)
            result = builder.select(builder.in_range(position, 0, size), window, result)
        offset += size
    assert result is not None
    local.replace([result])


@localizer("stablehlo.reverse")
def _reverse(local: LocalOp) -> None:
    op = local.op
    value = op.operands[0]
    builder = local.builder()
    for dim in ints(op, "dimensions"):
        axes = local.result_specs[0].dims[dim]
        if not axes:
            continue
        size = local.result_shapes[0][dim]
        block = local.local_result_shape()[dim]
        starts = [size - first - block for first in block_starts(builder, axes, size)]
        value = fetch_window(
            builder, value, dim, local.operand_specs[0].dims[dim], size, starts, block
        )
    op.operands[0] = value
    local.set_local_types()
