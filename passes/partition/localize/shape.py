"""Local forms of ops that cut, join, pad, reverse or number elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from xdsl.dialects.builtin import IntegerAttr, IntegerType, i64
from xdsl.ir import SSAValue

from autopar.dialects.rules.access import ints
from autopar.dialects.tensors import shape_of

from ..exchange import Exchange, Held, Piece, Sent, Source, Transfers, plan_transfers
from ..local_builder import LocalBuilder, i64_array
from ..specs import AxisTable
from ..windows import block_starts, fetch_window, window_permutes, window_rows
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
    sources: list[Source] = []
    takes: list[Taken] = []
    offset = 0
    for index, operand in enumerate(op.operands):
        size = local.operand_shapes[index][dim]
        start, length = local.cuts[index] if local.cuts else (0, size)
        if length:
            source = Source(operand, local.operand_specs[index].dims[dim], size)
            if source not in sources:
                sources.append(source)
            held = Held(source.axes, size, shape_of(operand.type)[dim])
            takes.append(Taken(sources.index(source), held, start, length, offset))
        offset += length
    found = plan_join(builder.table, takes, shape[dim], first)
    if found is None:  # windows move no more
        joined = _fetched(builder, sources, takes, dim, shape, first)
    else:
        (joined,) = Exchange(builder, sources, dim, found).run([shape[dim]])
    local.replace([joined])


class Taken(NamedTuple):
    """What a concatenation takes of a source, as that is held."""

    source: int
    held: Held
    start: int
    length: int
    offset: int
    """Where it lies in the result."""

    def starts(self, first: Sequence[int]) -> list[int]:
        """The element of the source that would lie at the beginning of each device's block."""
        return [r - self.offset + self.start for r in first]


def plan_join(
    table: AxisTable, takes: Sequence[Taken], width: int, first: Sequence[int]
) -> Transfers | None:
    """The one exchange that puts together each device's block; None where windows of each source
    move no more."""
    held = {take.source: take.held for take in takes}
    wanted: list[list[Piece]] = []
    for begin in first:
        pieces: list[Piece] = []
        for take in takes:
            low = max(begin, take.offset)
            high = min(begin + width, take.offset + take.length)
            if low < high:
                start = take.start + low - take.offset
                pieces.append(Piece(take.source, start, high - low, 0, low - begin))
        wanted.append(pieces)
    found = plan_transfers(table, [held[index] for index in range(len(held))], wanted)
    if found is None:
        return None
    rows = sum(window_rows(table, take.held, take.starts(first), width) for take in takes)
    return found if found.rows < rows else None


def join_permutes(
    table: AxisTable, takes: Sequence[Taken], width: int, first: Sequence[int]
) -> list[tuple[int, list[Sent] | None]]:
    """What a concatenation sends: of each exchange a source, and its permutes, None where that is
    gathered."""
    found = plan_join(table, takes, width, first)
    if found is not None:
        return [(takes[0].source, found.sent)]
    return [
        (take.source, window_permutes(table, take.held, take.starts(first), width)[0])
        for take in takes
    ]


def _fetched(
    builder: LocalBuilder,
    sources: Sequence[Source],
    takes: Sequence[Taken],
    dim: int,
    shape: Sequence[int],
    first: Sequence[int],
) -> SSAValue:
    """Each device's block, put together from a window of each operand."""
    result: SSAValue | None = None
    for take in takes:
        value, axes, size = sources[take.source]
        window = fetch_window(builder, value, dim, axes, size, take.starts(first), shape[dim])
        if result is None:
            result = window
        else:
            start = builder.per_device([r - take.offset for r in first])
            position = builder.positions(shape, dim, start, take.length)
            result = builder.select(builder.in_range(position, 0, take.length), window, result)
    assert result is not None
    return result


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
