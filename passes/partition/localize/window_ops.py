"""Local forms of windowed ops and contractions: halos, group counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from xdsl.dialects.builtin import (
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    IntegerAttr,
    TensorType,
    i64,
)
from xdsl.ir import Attribute, Block, Operation, SSAValue

from autopar.dialects import stablehlo
from autopar.dialects.constants import constant_array, dense_attr
from autopar.dialects.reductions import COMBINERS
from autopar.dialects.rules.access import body_reducer
from autopar.dialects.shard import AllGatherOp, make_collective
from autopar.dialects.tensors import element_type, shape_of

from ..exchange import cut
from ..local_builder import LocalBuilder, i64_array, resized
from ..splats import is_neutral
from ..windows import block_starts, fetch_window
from .core import LocalOp, localizer


def _ints(attr: Attribute | None, default: list[int]) -> list[int]:
    if attr is None:
        return list(default)
    if isinstance(attr, DenseArrayBase):
        return [int(v) for v in attr.get_values()]
    assert isinstance(attr, DenseIntOrFPElementsAttr)
    elements = cast("DenseIntOrFPElementsAttr[Any]", attr)
    return [int(v) for v in constant_array(elements).reshape(-1)]


def _padding_attr(pairs: list[list[int]]) -> Attribute:
    return dense_attr(np.array(pairs, np.int64).reshape(-1, 2))


def _spread_window(
    builder: LocalBuilder,
    local: LocalOp,
    value: SSAValue,
    operand: int,
    dim: int,
    dilation: int,
    starts: list[int],
    width: int,
    fill: SSAValue,
) -> SSAValue:
    """`width` positions from starts[d] of the dimension dilated by `dilation` (filled between)."""
    size = local.operand_shapes[operand][dim]
    axes = local.operand_specs[operand].dims[dim]
    if dilation == 1:
        return fetch_window(builder, value, dim, axes, size, starts, width, fill)
    # Element e stands at position e * dilation: the first at or after the window's start.
    elements = [-(-start // dilation) for start in starts]
    leads = [e * dilation - start for e, start in zip(elements, starts, strict=True)]
    count = -(-width // dilation)
    window = fetch_window(builder, value, dim, axes, size, elements, count, fill)
    spread = builder.pad(window, dim, dilation - 1, width, dilation - 1, fill)
    begin = builder.per_device([dilation - 1 - lead for lead in leads])
    return builder.dynamic_slice(spread, dim, begin, width)


@localizer("stablehlo.convolution")
def _convolution(local: LocalOp) -> None:
    op = local.op
    numbers: Any = op.properties["dimension_numbers"]
    rank = len(numbers.input_spatial_dimensions)
    strides = _ints(op.properties.get("window_strides"), [1] * rank)
    padding_values = _ints(op.properties.get("padding"), [0] * (2 * rank))
    padding = [padding_values[2 * i : 2 * i + 2] for i in range(rank)]
    lhs_dilation = _ints(op.properties.get("lhs_dilation"), [1] * rank)
    rhs_dilation = _ints(op.properties.get("rhs_dilation"), [1] * rank)
    is_reversed = _ints(op.properties.get("window_reversal"), [0] * rank)
    local.mask_reduced()
    out_shape = local.local_result_shape()
    for index in range(rank):
        out_dim: int = numbers.output_spatial_dimensions[index]
        in_dim: int = numbers.input_spatial_dimensions[index]
        kernel_dim: int = numbers.kernel_spatial_dimensions[index]
        window_axes = local.result_specs[0].dims[out_dim]
        tap_axes = local.operand_specs[1].dims[kernel_dim]
        if not (window_axes or tap_axes):
            continue
        builder = local.builder()
        total, taps = local.operand_shapes[1][kernel_dim], shape_of(op.operands[1].type)[kernel_dim]
        span = (taps - 1) * rhs_dilation[index] + 1
        low, stride = padding[index][0], strides[index]
        windows = block_starts(builder, window_axes, local.result_shapes[0][out_dim])
        offsets = block_starts(builder, tap_axes, total)
        if is_reversed[index]:
            offsets = [total - taps - offset for offset in offsets]
        value = op.operands[0]
        zero = builder.zeros(TensorType(element_type(value.type), []))
        op.operands[0] = _spread_window(
            builder,
            local,
            value,
            0,
            in_dim,
            lhs_dilation[index],
            [
                window * stride + offset * rhs_dilation[index] - low
                for window, offset in zip(windows, offsets, strict=True)
            ],
            (out_shape[out_dim] - 1) * stride + span,
            zero,
        )
        padding[index] = [0, 0]
        lhs_dilation[index] = 1
    if "padding" in op.properties:
        op.properties["padding"] = _padding_attr(padding)
    if "lhs_dilation" in op.properties:
        op.properties["lhs_dilation"] = i64_array(lhs_dilation)
    _set_group_count(local, "feature_group_count", 1, numbers.kernel_output_feature_dimension)
    _set_group_count(local, "batch_group_count", 0, numbers.input_batch_dimension)
    local.set_local_types()


def _set_group_count(local: LocalOp, name: str, operand: int, dim: int) -> None:
    """Divides the number of groups by how often the groups are split."""
    attr = local.op.properties.get(name)
    if not isinstance(attr, IntegerAttr) or attr.value.data == 1:
        return
    groups = attr.value.data
    factors = local.rule.operands[operand][dim]
    for factor in factors:
        if local.rule.factor_sizes[factor] == groups and local.factors[factor]:
            parts = local.table.parts(local.factors[factor])
            local.op.properties[name] = IntegerAttr(groups // parts, i64)
            return


@dataclass
class _Windows:
    """The attributes of a reduce_window, one entry a dimension, to be changed and written back."""

    sizes: list[int]
    strides: list[int]
    base_dilations: list[int]
    window_dilations: list[int]
    padding: list[list[int]]

    @staticmethod
    def of(op: Operation, rank: int) -> _Windows:
        ones = [1] * rank
        padding = _ints(op.properties.get("padding"), [0] * (2 * rank))
        return _Windows(
            _ints(op.properties.get("window_dimensions"), ones),
            _ints(op.properties.get("window_strides"), ones),
            _ints(op.properties.get("base_dilations"), ones),
            _ints(op.properties.get("window_dilations"), ones),
            [padding[2 * i : 2 * i + 2] for i in range(rank)],
        )

    def write(self, op: Operation) -> None:
        """Writes what may have changed, where it was stated."""
        if "padding" in op.properties:
            op.properties["padding"] = _padding_attr(self.padding)
        if "base_dilations" in op.properties:
            op.properties["base_dilations"] = i64_array(self.base_dilations)
        op.properties["window_dimensions"] = i64_array(self.sizes)

    def is_identity(self, dim: int) -> bool:
        """Whether each element of the dimension is a window of its own."""
        return (
            self.sizes[dim] == 1
            and self.strides[dim] == 1
            and self.base_dilations[dim] == 1
            and self.padding[dim] == [0, 0]
        )

    def is_cumulative(self, dim: int, size: int) -> bool:
        """Whether the windows hold all elements before (after) each of the `size` of a dimension,
        as JAX writes cumsum and the like."""
        return (
            self.sizes[dim] == size > 1
            and self.strides[dim] == self.base_dilations[dim] == self.window_dilations[dim] == 1
            and self.padding[dim] in ([size - 1, 0], [0, size - 1])
        )


@localizer("stablehlo.reduce_window")
def _reduce_window(local: LocalOp) -> None:
    """Cumulative dimensions are reduced by blocks, then the blocks combined; in other dimensions a
    device fetches the rows that its windows reach (the halo)."""
    op = local.op
    windows = _Windows.of(op, len(local.operand_shapes[0]))
    kind = body_reducer(op.regions[0])
    has_blocks = kind in _CUMULATIVE and len(op.results) == 1 and is_neutral(op.operands[1], [kind])
    cumulative: list[tuple[int, bool]] = []
    for dim, axes in enumerate(local.result_specs[0].dims):
        if not axes:
            continue
        if has_blocks and windows.is_cumulative(dim, local.result_shapes[0][dim]):
            assert kind is not None
            cumulative.append((dim, _cut_into_blocks(local, windows, dim, kind)))
        elif not windows.is_identity(dim):
            _fetch_halo(local, windows, dim)
    windows.write(op)
    local.set_local_types()
    value: SSAValue = op.results[0]
    for dim, is_reverse in cumulative:
        assert kind is not None
        value = _with_other_blocks(local, value, dim, kind, is_reverse=is_reverse)


def _cut_into_blocks(local: LocalOp, windows: _Windows, dim: int, kind: str) -> bool:
    """Makes the windows of a cumulative dimension end with each device's block; whether it runs
    in reverse."""
    is_reverse = windows.padding[dim][0] == 0
    if is_reverse:
        local.mask_padding(0, dim, kind)
    block = local.local_result_shape()[dim]
    windows.sizes[dim] = block
    windows.padding[dim] = [0, block - 1] if is_reverse else [block - 1, 0]
    return is_reverse


def _fetch_halo(local: LocalOp, windows: _Windows, dim: int) -> None:
    """Gives each device the rows that its windows reach, padding and base dilation written out."""
    op, builder = local.op, local.builder()
    stride, count = windows.strides[dim], len(op.results)
    span = (windows.sizes[dim] - 1) * windows.window_dilations[dim] + 1
    first = block_starts(builder, local.result_specs[0].dims[dim], local.result_shapes[0][dim])
    starts = [row * stride - windows.padding[dim][0] for row in first]
    width = (local.local_result_shape()[dim] - 1) * stride + span
    for index in range(count):
        op.operands[index] = _spread_window(
            builder,
            local,
            op.operands[index],
            index,
            dim,
            windows.base_dilations[dim],
            starts,
            width,
            op.operands[count + index],
        )
    windows.padding[dim] = [0, 0]
    windows.base_dilations[dim] = 1


@localizer("stablehlo.select_and_scatter")
def _select_and_scatter(local: LocalOp) -> None:
    """A device takes all windows that reach its block, and drops what they scatter elsewhere."""
    op, builder = local.op, local.builder()
    rank = len(local.operand_shapes[0])
    sizes = _ints(op.properties.get("window_dimensions"), [1] * rank)
    strides = _ints(op.properties.get("window_strides"), [1] * rank)
    kind = body_reducer(op.regions[1])
    blocks = local.local_result_shape()
    operand, source, init = op.operands[:3]
    fill = op.operands[3] if local.padding else None
    crops: list[tuple[int, list[int]]] = []
    for dim, axes in enumerate(local.result_specs[0].dims):
        size, stride, block = sizes[dim], strides[dim], blocks[dim]
        low, high = local.padding[dim] if local.padding else (0, 0)
        if not axes or (size == stride == 1 and low == high == 0):
            if low or high:
                operand = builder.pad(operand, dim, low, high, fill=fill)
                crops.append((dim, [low]))
            continue
        assert kind is not None
        begins = [low + start for start in block_starts(builder, axes, local.result_shapes[0][dim])]
        first = [min(-((size - 1 - begin) // stride), begin // stride) for begin in begins]
        skipped = [begin - window * stride for begin, window in zip(begins, first, strict=True)]
        count = max(-(-(skip + block - min(size, stride)) // stride) for skip in skipped) + 1
        zero = builder.neutral(kind, TensorType(element_type(source.type), []))
        whole = local.operand_shapes[1][dim]
        source_axes = local.operand_specs[1].dims[dim]
        source = fetch_window(builder, source, dim, source_axes, whole, first, count, zero)
        starts = [window * stride - low for window in first]
        width = (count - 1) * stride + size
        whole = local.operand_shapes[0][dim]
        operand = fetch_window(builder, operand, dim, axes, whole, starts, width, fill)
        crops.append((dim, skipped))
    result = builder.insert(
        stablehlo.SelectAndScatterOp.create(
            operands=[operand, source, init],
            result_types=[operand.type],
            properties=op.properties,
            regions=[region.clone() for region in op.regions],
        )
    )
    for dim, skipped in crops:
        result = cut(builder, result, dim, skipped, blocks[dim])
    local.replace([result])


_CUMULATIVE = ("sum", "product", "max", "min")


def _with_other_blocks(
    local: LocalOp, value: SSAValue, dim: int, kind: str, *, is_reverse: bool
) -> SSAValue:
    """`value` is cumulative within each block of `dim`: combines it with the totals of all blocks
    before (after, in reverse), which are one row a device."""
    op = local.op
    anchor = op.next_op if isinstance(value.owner, Block) else value.owner.next_op
    assert anchor is not None
    uses = list(value.uses)
    builder = LocalBuilder(local.table, anchor)
    axes = local.result_specs[0].dims[dim]
    block = shape_of(value.type)[dim]
    last = 0 if is_reverse else block - 1
    total = builder.slice(value, dim, last, last + 1)
    shape = list(shape_of(total.type))
    shape[dim] = local.table.parts(axes)
    grid = local.table.refined.name
    totals = builder.insert(make_collective(AllGatherOp, total, grid, axes, shape, gather_axis=dim))
    part = builder.per_device(builder.part_index(axes))
    part = builder.broadcast(part, shape, [])
    direction = "GT" if is_reverse else "LT"
    counts = builder.compare(builder.iota(shape, dim), direction, part)
    totals = builder.select(counts, totals, builder.neutral(kind, totals.type))
    init = builder.neutral(kind, resized(value.type, []))
    rest = [size for d, size in enumerate(shape) if d != dim]
    reduce = stablehlo.ReduceOp(
        [totals], [init], [dim], op.regions[0].clone(), [resized(value.type, rest)]
    )
    others = builder.broadcast(
        builder.insert(reduce), shape_of(value.type), [d for d in range(len(shape)) if d != dim]
    )
    combined = builder.op(COMBINERS[kind].removeprefix("stablehlo."), [value, others], value.type)
    for use in uses:
        use.operation.operands[use.index] = combined
    return combined
