"""Shard collectives as StableHLO's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from xdsl.dialects.builtin import (
    DenseArrayBase,
    IntegerAttr,
    TensorType,
    i1,
    i32,
)
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from autopar.dialects import shard, stablehlo
from autopar.dialects.constants import numpy_dtype
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.reductions import COMBINERS, neutral_value
from autopar.dialects.stablehlo.elementwise import convert
from autopar.dialects.stablehlo.shape import tensor_type
from autopar.dialects.tensors import element_type, is_tensor, ranked_tensor

from ..local_builder import i64_array, index_type
from .lowering import DeviceLowering

_OPS = {op.name: op for op in stablehlo.StableHLO.operations}


def dim_of(op: Operation, name: str) -> int:
    """The tensor dimension that a property of a collective names."""
    attr = op.properties[name]
    assert isinstance(attr, IntegerAttr)
    return attr.value.data


def _kind(op: Operation) -> str:
    """The reduction of a collective."""
    attr = op.properties.get("reduction")
    return str(attr.data) if isinstance(attr, shard.ReductionKindAttr) else "sum"


def reducer(op: Operation, element_type: Attribute) -> Region:
    """The body that reduces two scalars as the collective says; DiagnosticError: it has no form."""
    kind = _kind(op)
    combiner = COMBINERS.get("sum" if kind == "average" else kind)
    if combiner is None:
        raise DiagnosticError(op, f"'{op.name}' op: reduction {kind} has no form in StableHLO")
    scalar = ranked_tensor(element_type, ())
    block = Block(arg_types=[scalar, scalar])
    location = op.location
    combined = _OPS[combiner].create(operands=block.args, result_types=[scalar], location=location)
    block.add_ops(
        [combined, stablehlo.ReturnOp.create(operands=combined.results, location=location)]
    )
    return Region(block)


def _stacked(lowering: DeviceLowering, op: Operation) -> SSAValue:
    """The operands of all devices of the group, along a new first dimension."""
    value = op.operands[0]
    type = tensor_of(value, op)
    shape, groups = list(type.get_shape()), lowering.groups(op)
    row = lowering.insert(stablehlo.ReshapeOp(value, [1, *shape]), op)
    result = tensor_type(type, [len(groups[0]), *shape])
    new = stablehlo.AllGatherOp([row], 0, groups, [result], lowering.next_channel())
    return lowering.insert(new, op)


def is_plain_reduction(op: Operation) -> bool:
    """Whether XLA's collectives do what the op says as it stands; true where it reduces nothing."""
    return _kind(op) not in (*_BITWISE, "average")


def _must_gather(op: Operation, element_type: Attribute) -> bool:
    """Whether XLA's collectives do not know the reduction: the bitwise ones, but on predicates."""
    kind = _kind(op)
    return kind in _BITWISE and (element_type != i1 or kind == "bitwise_xor")


_BITWISE = ("bitwise_and", "bitwise_or", "bitwise_xor")


def _gathered_reduction(lowering: DeviceLowering, op: Operation) -> SSAValue:
    """All-reduce as all-gather and a reduction on each device."""
    value = op.operands[0]
    element_type = tensor_of(value, op).element_type
    stacked = _stacked(lowering, op)
    identity = neutral_value(_kind(op), numpy_dtype(element_type)).item()
    init = lowering.insert(stablehlo.scalar_constant(identity, element_type), op)
    new = stablehlo.ReduceOp([stacked], [init], [0], reducer(op, element_type), [value.type])
    return lowering.insert(new, op)


def _averaged(lowering: DeviceLowering, op: Operation, value: SSAValue) -> SSAValue:
    if _kind(op) != "average":
        return value
    count = stablehlo.splat_constant(len(lowering.groups(op)[0]), value.type)
    return lowering.insert(stablehlo.DivOp(value, lowering.insert(count, op)), op)


def tensor_of(value: SSAValue, op: Operation) -> TensorType[Attribute]:
    """The type of a collective's operand; DiagnosticError where StableHLO has no collective so."""
    type = value.type
    if not is_tensor(type):
        raise DiagnosticError(op, f"'{op.name}' op: StableHLO has tensors only, found {type}")
    for result in op.results:
        other = result.type
        if is_tensor(other) and other.element_type != type.element_type:
            raise DiagnosticError(
                op,
                f"'{op.name}' op changes the element type ({type.element_type} to "
                f"{other.element_type}), which StableHLO's collectives do not: convert it apart",
            )
    return type


def all_reduce(lowering: DeviceLowering, op: Operation) -> list[SSAValue]:
    """`stablehlo.all_reduce`; gathered and reduced where XLA does not know the reduction."""
    value = op.operands[0]
    element_type = tensor_of(value, op).element_type
    groups = lowering.groups(op)
    if len(groups[0]) == 1:
        return [value]
    if _must_gather(op, element_type):
        return [_gathered_reduction(lowering, op)]
    new = stablehlo.AllReduceOp(
        [value], lowering.groups_attr(op), reducer(op, element_type), lowering.next_channel()
    )
    return [_averaged(lowering, op, lowering.insert(new, op))]


def all_gather(lowering: DeviceLowering, op: Operation) -> list[SSAValue]:
    """`stablehlo.all_gather`; for shard.gather every device gets what the root is to have."""
    value = op.operands[0]
    tensor_of(value, op)
    groups = lowering.groups(op)
    if len(groups[0]) == 1:
        return [value]
    new = stablehlo.AllGatherOp(
        [value],
        dim_of(op, "gather_axis"),
        lowering.groups_attr(op),
        [op.results[0].type],
        lowering.next_channel(),
    )
    return [lowering.insert(new, op)]


def all_slice(lowering: DeviceLowering, op: Operation) -> list[SSAValue]:
    """The device's own part of what it holds already: no data moves."""
    return [_own_part(lowering, op, op.operands[0], dim_of(op, "slice_axis"))]


def _own_part(lowering: DeviceLowering, op: Operation, value: SSAValue, dim: int) -> SSAValue:
    """This device's part of `value` along `dim`, split over the op's grid axes."""
    shape = list(tensor_of(value, op).get_shape())
    axes = lowering.axes(op)
    group = prod(lowering.grid.shape[axis] for axis in axes)
    if group == 1:
        return value
    if shape[dim] % group:
        raise DiagnosticError(
            op,
            f"'{op.name}' op: dimension {dim} of size {shape[dim]} is not divisible by the "
            f"{group} devices of grid axes {list(axes)}; pad it first",
        )
    type = index_type(shape[dim])
    shape[dim] //= group
    index = lowering.coordinate(lowering.refs(axes), op)
    if type != i32:
        index = lowering.insert(convert(index, type), op)
    if shape[dim] > 1:
        size = lowering.constant(shape[dim], op, type)
        index = lowering.make(stablehlo.MulOp, [index, size], size.type, op)
    zero = lowering.constant(0, op, type) if len(shape) > 1 else index
    start = [index if i == dim else zero for i in range(len(shape))]
    return lowering.make(
        stablehlo.DynamicSliceOp,
        [value, *start],
        shaped(value, shape),
        op,
        slice_sizes=i64_array(shape),
    )


def shaped(value: SSAValue, shape: Sequence[int]) -> Attribute:
    """A tensor type of another shape, without an encoding."""
    return ranked_tensor(element_type(value.type), tuple(shape))


def reduce_scatter(lowering: DeviceLowering, op: Operation) -> list[SSAValue]:
    """`stablehlo.reduce_scatter`; a slice of the reduction where XLA does not know it."""
    value = op.operands[0]
    element_type = tensor_of(value, op).element_type
    groups = lowering.groups(op)
    if len(groups[0]) == 1:
        return [value]
    if _must_gather(op, element_type):
        whole = _gathered_reduction(lowering, op)
        return [_own_part(lowering, op, whole, dim_of(op, "scatter_axis"))]
    new = stablehlo.ReduceScatterOp(
        value,
        dim_of(op, "scatter_axis"),
        lowering.groups_attr(op),
        reducer(op, element_type),
        op.results[0].type,
        lowering.next_channel(),
    )
    return [_averaged(lowering, op, lowering.insert(new, op))]


def all_to_all(lowering: DeviceLowering, op: Operation) -> list[SSAValue]:
    """`stablehlo.all_to_all`."""
    value = op.operands[0]
    tensor_of(value, op)
    groups = lowering.groups(op)
    if len(groups[0]) == 1:
        return [value]
    new = stablehlo.AllToAllOp(
        value,
        dim_of(op, "split_axis"),
        dim_of(op, "concat_axis"),
        groups,
        op.results[0].type,
        lowering.maybe_channel(),
    )
    return [lowering.insert(new, op)]


def _send(
    lowering: DeviceLowering, op: Operation, target_of: Callable[[int], int | None]
) -> list[SSAValue]:
    """A permutation: `target_of` gives for each place in a group where its value goes."""
    value = op.operands[0]
    tensor_of(value, op)
    pairs = [
        (device, group[target])
        for group in lowering.groups(op)
        for place, device in enumerate(group)
        if (target := target_of(place)) is not None
    ]
    if not pairs:
        zeros = stablehlo.splat_constant(0, value.type)
        return [lowering.insert(zeros, op)]
    if all(source == target for source, target in pairs) and len(pairs) == (
        lowering.grid.num_devices
    ):
        return [value]
    new = stablehlo.CollectivePermuteOp(value, sorted(pairs), lowering.maybe_channel())
    return [lowering.insert(new, op)]


def permute(lowering: DeviceLowering, op: Operation) -> list[SSAValue]:
    """`stablehlo.collective_permute` by the op's pairs; who receives nothing has zeros."""
    assert isinstance(op, shard.PermuteOp)
    return _send(lowering, op, dict(op.source_target_pairs()).get)


def shift(lowering: DeviceLowering, op: Operation) -> list[SSAValue]:
    """`stablehlo.collective_permute` along one grid axis, round the ring where the op rotates."""
    assert isinstance(op, shard.ShiftOp)
    axes, axis = lowering.axes(op), op.shift_axis.value.data
    size = lowering.grid.shape[axis]
    stride = prod(lowering.grid.shape[a] for a in axes[axes.index(axis) + 1 :])
    offset, rotate = op.offset.value.data, op.rotate is not None

    def target(place: int) -> int | None:
        coordinate = place // stride % size
        moved = coordinate + offset
        if not rotate and not 0 <= moved < size:
            return None
        return place + (moved % size - coordinate) * stride

    return _send(lowering, op, target)


# ---- Collectives with a root ---------------------------------------------------------------------


def _from_root(lowering: DeviceLowering, op: Operation) -> SSAValue:
    """The operand of the root of each group, on every device (XLA:CPU has no broadcast)."""
    value = op.operands[0]
    type = tensor_of(value, op)
    root = op.properties["root"]
    assert isinstance(root, DenseArrayBase)
    where: Sequence[int] = root.get_values()  # pyright: ignore
    if len(op.operands) > 1:
        raise DiagnosticError(op, f"'{op.name}' op: a root known only at run time is not supported")
    groups = lowering.groups(op)
    if len(groups[0]) == 1:
        return value
    place = 0
    for axis, index in zip(lowering.axes(op), where, strict=True):
        place = place * lowering.grid.shape[axis] + index
    shape = list(type.get_shape())
    gathered = _stacked(lowering, op)
    start, limit = [place] + [0] * len(shape), [place + 1, *shape]
    chosen = lowering.insert(stablehlo.SliceOp(gathered, start, limit), op)
    return lowering.insert(stablehlo.ReshapeOp(chosen, shape), op)


def broadcast(lowering: DeviceLowering, op: Operation) -> list[SSAValue]:
    """Every device gets the root's value."""
    return [_from_root(lowering, op)]


def scatter(lowering: DeviceLowering, op: Operation) -> list[SSAValue]:
    """Every device gets its part of the root's value."""
    whole = _from_root(lowering, op)
    return [_own_part(lowering, op, whole, dim_of(op, "scatter_axis"))]
