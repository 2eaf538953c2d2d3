"""Emitting a resharding plan as `shard` collectives on local shapes."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects import arith
from xdsl.dialects.builtin import IndexType, IntegerAttr
from xdsl.ir import Operation, SSAValue

from autopar.dialects.constants import numpy_dtype, splat_attr
from autopar.dialects.reductions import neutral_value
from autopar.dialects.shard import (
    AllGatherOp,
    AllReduceOp,
    AllSliceOp,
    AllToAllOp,
    PermuteOp,
    ProcessMultiIndexOp,
    ReduceScatterOp,
    make_collective,
)
from autopar.dialects.sharding import local_dim
from autopar.dialects.tensors import element_type, shape_of, tensor_type

from .local_builder import LocalBuilder, is_dynamic_slice
from .reshard_plan import Step
from .specs import Spec
from .windows import block_starts, fetch_window


def emit_steps(
    builder: LocalBuilder,
    value: SSAValue,
    source: Spec,
    steps: Sequence[Step],
    shape: Sequence[int],
) -> SSAValue:
    """Applies `steps` to the local `value` of a tensor of global `shape` that lies as `source`."""
    if steps and 0 in shape:  # nothing to move, and collectives of nothing are not legal
        return builder.empty(value.type, builder.table.local_shape(shape, steps[-1].after))
    for step in steps:
        value = _EMITTERS[step.kind](builder, value, source, step, shape)
        source = step.after
    return value


def _padded_to(
    builder: LocalBuilder, value: SSAValue, dim: int, parts: int, block: int
) -> SSAValue:
    """Pads `dim` to `parts` whole blocks, as a collective that splits it evenly wants."""
    have = shape_of(value.type)[dim]
    return builder.pad(value, dim, 0, parts * block - have)


def _block(builder: LocalBuilder, spec: Spec, dim: int, shape: Sequence[int]) -> int:
    return local_dim(shape[dim], builder.table.parts(spec.dims[dim]))


def _resize(value: SSAValue, dim: int, size: int) -> list[int]:
    shape = list(shape_of(value.type))
    shape[dim] = size
    return shape


def _all_slice(
    builder: LocalBuilder, value: SSAValue, source: Spec, step: Step, shape: Sequence[int]
) -> SSAValue:
    block = _block(builder, step.after, step.dim, shape)
    if is_dynamic_slice(value):
        # XLA makes one slice of a slice of a slice, and clamps the inner start to the wrong bound.
        value = builder.barrier(value)
    value = _padded_to(builder, value, step.dim, builder.table.parts(step.axes), block)
    grid = builder.table.refined.name
    return builder.insert(
        make_collective(
            AllSliceOp,
            value,
            grid,
            step.axes,
            _resize(value, step.dim, block),
            slice_axis=step.dim,
        )
    )


def _all_gather(
    builder: LocalBuilder, value: SSAValue, source: Spec, step: Step, shape: Sequence[int]
) -> SSAValue:
    group = builder.table.parts(step.axes)
    have = shape_of(value.type)[step.dim]
    gathered = builder.insert(
        make_collective(
            AllGatherOp,
            value,
            builder.table.refined.name,
            step.axes,
            _resize(value, step.dim, have * group),
            gather_axis=step.dim,
        )
    )
    return builder.slice(gathered, step.dim, 0, _block(builder, step.after, step.dim, shape))


def _all_to_all(
    builder: LocalBuilder, value: SSAValue, source: Spec, step: Step, shape: Sequence[int]
) -> SSAValue:
    group = builder.table.parts(step.axes)
    block = _block(builder, step.after, step.target_dim, shape)
    have = value.type.get_shape()[step.target_dim]  # pyright: ignore
    value = _padded_to(builder, value, step.target_dim, group, block)
    if (group - 1) * block >= have:
        # Parts of nothing but padding are constants to XLA, which lays these out differently and
        # then refuses its own operation.
        value = builder.barrier(value)
    after = _resize(value, step.target_dim, block)
    after[step.dim] *= group
    moved = builder.insert(
        make_collective(
            AllToAllOp,
            value,
            builder.table.refined.name,
            step.axes,
            after,
            split_axis=step.target_dim,
            concat_axis=step.dim,
        )
    )
    return builder.slice(moved, step.dim, 0, _block(builder, step.after, step.dim, shape))


def _reduce_scatter(
    builder: LocalBuilder, value: SSAValue, source: Spec, step: Step, shape: Sequence[int]
) -> SSAValue:
    block = _block(builder, step.after, step.dim, shape)
    value = _padded_to(builder, value, step.dim, builder.table.parts(step.axes), block)
    return builder.insert(
        make_collective(
            ReduceScatterOp,
            value,
            builder.table.refined.name,
            step.axes,
            _resize(value, step.dim, block),
            reduction=step.reduction,
            scatter_axis=step.dim,
        )
    )


def _all_reduce(
    builder: LocalBuilder, value: SSAValue, source: Spec, step: Step, shape: Sequence[int]
) -> SSAValue:
    return builder.insert(
        make_collective(
            AllReduceOp, value, builder.table.refined.name, step.axes, reduction=step.reduction
        )
    )


def _permute(
    builder: LocalBuilder, value: SSAValue, source: Spec, step: Step, shape: Sequence[int]
) -> SSAValue:
    grid = builder.table.refined
    still = tuple(axis for axis in range(len(grid.axes)) if axis not in step.axes)
    holders: dict[tuple[int, ...], list[int]] = {}
    for device, key in enumerate(_part_keys(builder, source, still)):
        holders.setdefault(key, []).append(device)
    pairs: list[tuple[int, int]] = []
    served: dict[tuple[int, ...], int] = {}
    for device, key in enumerate(_part_keys(builder, step.after, still)):
        nth = served.get(key, 0)
        served[key] = nth + 1
        pairs.append((holders[key][nth], device))
    return builder.insert(
        make_collective(PermuteOp, value, grid.name, range(len(grid.axes)), pairs=pairs)
    )


def _part_keys(builder: LocalBuilder, spec: Spec, still: tuple[int, ...]) -> list[tuple[int, ...]]:
    """For each device which block it holds (and which summand, of a partial), and where it is on
    the axes over which nothing moves."""
    columns = [builder.part_index(axes) for axes in spec.dims]
    columns.append(builder.part_index(tuple(sorted(spec.partial_axes))))
    columns.append(builder.part_index(still))
    return list(zip(*columns, strict=True))


def _to_partial(
    builder: LocalBuilder, value: SSAValue, source: Spec, step: Step, shape: Sequence[int]
) -> SSAValue:
    """Kept on the devices of index 0 along the axes, the neutral element elsewhere."""
    if not _is_stablehlo(builder.anchor):
        return _to_partial_in_arith(builder, value, step)
    neutral = builder.neutral(step.reduction, value.type)
    index = builder.per_device(builder.part_index(step.axes))
    is_first = builder.compare(index, "EQ", builder.index(0))
    flags = builder.broadcast(is_first, shape_of(value.type), [])
    return builder.select(flags, value, neutral)


def _is_stablehlo(op: Operation) -> bool:
    """Whether the program around an op is written in StableHLO: a program of linalg or tosa stays
    one that upstream's tools read."""
    func = op
    while (parent := func.parent_op()) is not None and func.name != "func.func":
        func = parent
    is_foreign = False
    for inner in func.walk():
        dialect = inner.name.partition(".")[0]
        if dialect in ("stablehlo", "chlo"):
            return True
        is_foreign = is_foreign or dialect in ("arith", "linalg", "tensor", "tosa")
    return not is_foreign


def _to_partial_in_arith(builder: LocalBuilder, value: SSAValue, step: Step) -> SSAValue:
    dtype = numpy_dtype(element_type(value.type))
    neutral = splat_attr(neutral_value(step.reduction, dtype).item(), tensor_type(value.type))
    fill = builder.insert(arith.ConstantOp(neutral))
    indices = ProcessMultiIndexOp(builder.table.refined.name, step.axes)
    builder.insert(indices)
    zero = builder.insert(arith.ConstantOp(IntegerAttr(0, IndexType())))
    is_first: SSAValue | None = None
    for index in indices.results:
        here = builder.insert(arith.CmpiOp(index, zero, "eq"))
        is_first = here if is_first is None else builder.insert(arith.AndIOp(is_first, here))
    assert is_first is not None
    return builder.insert(arith.SelectOp(is_first, value, fill))


def _window(
    builder: LocalBuilder, value: SSAValue, source: Spec, step: Step, shape: Sequence[int]
) -> SSAValue:
    size = shape[step.dim]
    starts = block_starts(builder, step.after.dims[step.dim], size)
    width = _block(builder, step.after, step.dim, shape)
    return fetch_window(builder, value, step.dim, source.dims[step.dim], size, starts, width)


_EMITTERS = {
    "all_slice": _all_slice,
    "all_gather": _all_gather,
    "all_to_all": _all_to_all,
    "reduce_scatter": _reduce_scatter,
    "all_reduce": _all_reduce,
    "permute": _permute,
    "to_partial": _to_partial,
    "window": _window,
}
