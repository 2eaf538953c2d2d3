"""convert-shard-to-stablehlo: shard collectives become StableHLO's, with device groups.

A device's index is the row-major grid id. Two forms of the result (facts of XLA, measured):
- replica (default; run by the raw client): num_replicas = N, the index is `replica_id`. all_reduce,
  all_gather and reduce_scatter have a channel of type 1 and use_global_device_ids; all_to_all and
  collective_permute have no channel (with one XLA fails or aborts).
- partition (spliced into jit(shard_map)): num_partitions = N, the index is `partition_id`, and all
  collectives have a channel.
Channels are distinct: XLA merges equal collectives of one channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal, cast

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    BoolAttr,
    DenseArrayBase,
    DictionaryAttr,
    IntegerAttr,
    IntegerType,
    ModuleOp,
    Signedness,
    StringAttr,
    TensorType,
    i1,
    i32,
    i64,
)
from xdsl.dialects.func import FuncOp
from xdsl.dialects.shard import GridOp as XdslGridOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.utils.hints import isa

from autopar.dialects import sdy, shard, stablehlo
from autopar.dialects.autopar import SHARDING, STRATEGY, ShardingAttr, entries_of
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.sharding import Axes, AxisRef, Grid
from autopar.dialects.stablehlo import ChannelHandle
from autopar.dialects.stablehlo.elementwise import convert
from autopar.dialects.stablehlo.shape import tensor_type
from autopar.passes.collector import collector_off

GLOBAL = "autopar.global"
LAYOUT = "autopar.layout"
GRID = "autopar.grid"

Form = Literal["replica", "partition"]


@dataclass(frozen=True)
class ConvertShardToStablehloPass(ModulePass):
    """Turns a partitioned program (L2) into StableHLO for one device of N (L3).

    Needs: local shapes and shard collectives (shard-partition). Guarantees: only stablehlo, chlo
    and func ops (and ops that nobody knows); module attributes mhlo.num_replicas,
    mhlo.num_partitions, autopar.grid; autopar.layout on arguments and results of public functions.
    Option `form`: "replica" for the raw client, "partition" for a splice into jit(shard_map).
    """

    name = "convert-shard-to-stablehlo"

    form: str = "replica"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        if self.form not in ("replica", "partition"):
            raise DiagnosticError(op, f"form={self.form}: expected replica or partition")
        convert_shard_to_stablehlo(op, self.form)


def convert_shard_to_stablehlo(module: ModuleOp, form: Form = "replica") -> None:
    """Lowers the shard ops of `module`; see the pass."""
    with collector_off():
        _convert(module, form)


def _convert(module: ModuleOp, form: Form) -> None:
    grids = [op for op in module.body.block.ops if isinstance(op, XdslGridOp)]
    if not grids:
        raise DiagnosticError(
            module, "convert-shard-to-stablehlo needs a partitioned module, with its shard.grid"
        )
    if len(grids) > 1:
        names = ", ".join(f"@{op.sym_name.data}" for op in grids)
        raise DiagnosticError(grids[1], f"a program for one device has one grid, found {names}")
    grid = shard.grid_of(module, grids[0].sym_name.data)
    ops = list(module.walk())
    _check_ops(ops)
    lowering = _Lowering(grid, form, _next_channel(ops))
    for op in ops:
        if (lower := _LOWERINGS.get(op.name)) is not None:
            lowering.replace(op, lower(lowering, op))
            continue
        if op.attributes:
            op.attributes.pop(SHARDING, None)
            op.attributes.pop(STRATEGY, None)
        if op.name in _FORM_DEPENDENT:
            _adapt(op, lowering)
    for op in list(module.body.block.ops):
        if isinstance(op, FuncOp):
            _write_layouts(op)
        elif isinstance(op, XdslGridOp | sdy.MeshOp):
            op.detach()
            op.erase()
    replicas, partitions = (grid.num_devices, 1) if form == "replica" else (1, grid.num_devices)
    module.attributes["mhlo.num_replicas"] = IntegerAttr(replicas, i32)
    module.attributes["mhlo.num_partitions"] = IntegerAttr(partitions, i32)
    if GRID not in module.attributes:
        module.attributes[GRID] = DictionaryAttr(
            {
                "axes": ArrayAttr([StringAttr(name) for name in grid.axis_names]),
                "shape": DenseArrayBase.from_list(i64, grid.shape),
            }
        )


################################################################################
# What may stand in the module                                                 #
################################################################################

_NOT_STABLEHLO = {
    "tosa": "`mlir-opt --tosa-to-linalg-named` converts it",
    "linalg": "`mlir-opt --convert-linalg-to-loops` converts it",
    "arith": "`mlir-opt --convert-arith-to-llvm` converts it",
    "tensor": "`mlir-opt --one-shot-bufferize` converts it",
    "scf": "`mlir-opt --convert-scf-to-cf` converts it",
}
_NOT_PARTITIONED = ("autopar", "sdy", "mesh", "mpmd")
_ANNOTATIONS = ("shard.shard", "shard.sharding", "shard.get_sharding")


def _check_ops(ops: Sequence[Operation]) -> None:
    """Refuses ops that no StableHLO program for one device can hold."""
    fine: set[str] = set()
    for op in ops:
        if op.name in fine:
            continue
        fine.add(op.name)
        dialect = op.name.partition(".")[0]
        if (how := _NOT_STABLEHLO.get(dialect)) is not None:
            if dialect in ("arith", "tensor") and _is_index_use(op):
                continue
            raise DiagnosticError(
                op,
                f"'{op.name}' op is not StableHLO, and autopar does not convert it: {how} (and "
                "`mlir-opt --convert-shard-to-mpi` the shard collectives)",
            )
        if op.name in _ANNOTATIONS or (dialect in _NOT_PARTITIONED and op.name != "sdy.mesh"):
            raise DiagnosticError(
                op, f"'{op.name}' op is left: run shard-partition before convert-shard-to-stablehlo"
            )
        if dialect == "shard" and op.name != "shard.grid" and op.name not in _LOWERINGS:
            raise DiagnosticError(
                op,
                f"'{op.name}' op has no form in StableHLO; shard-partition makes all_gather, "
                "all_slice, all_reduce, reduce_scatter, all_to_all, shift and permute",
            )


def _is_index_use(op: Operation) -> bool:
    return op.name in ("arith.index_cast", "tensor.from_elements")


def _next_channel(ops: Sequence[Operation]) -> int:
    """The first channel handle that is free (bodies of shard_map bring their own)."""
    last = 0
    for op in ops:
        handle = op.properties.get("channel_handle")
        if isinstance(handle, ChannelHandle):
            last = max(last, handle.handle)
    return last + 1


################################################################################
# Ops                                                                          #
################################################################################

_REDUCERS: dict[str, type[Operation]] = {
    "sum": stablehlo.AddOp,
    "average": stablehlo.AddOp,
    "max": stablehlo.MaxOp,
    "min": stablehlo.MinOp,
    "product": stablehlo.MulOp,
    "bitwise_and": stablehlo.AndOp,
    "bitwise_or": stablehlo.OrOp,
    "bitwise_xor": stablehlo.XorOp,
}


@dataclass
class _Lowering:
    grid: Grid
    form: Form
    channel: int
    indices: dict[tuple[Block, Axes], SSAValue] = field(
        default_factory=dict[tuple[Block, Axes], SSAValue]
    )
    groups_of: dict[tuple[int, ...], list[list[int]]] = field(
        default_factory=dict[tuple[int, ...], list[list[int]]]
    )

    def axes(self, op: Operation) -> tuple[int, ...]:
        attr = op.properties["grid_axes"]
        assert isinstance(attr, DenseArrayBase)
        axes: tuple[int, ...] = tuple(attr.get_values())  # pyright: ignore
        if any(not 0 <= axis < len(self.grid.axes) for axis in axes):
            raise DiagnosticError(
                op, f"'{op.name}' op: grid @{self.grid.name} has no axes {list(axes)}"
            )
        return axes

    def refs(self, axes: Sequence[int]) -> Axes:
        return tuple(AxisRef(self.grid.axis_names[axis]) for axis in axes)

    def groups(self, op: Operation) -> list[list[int]]:
        axes = self.axes(op)
        groups = self.groups_of.get(axes)
        if groups is None:
            groups = self.groups_of[axes] = self.grid.groups(self.refs(axes))
        return groups

    def next_channel(self) -> ChannelHandle:
        self.channel += 1
        return ChannelHandle(handle=self.channel - 1, type=1)

    def maybe_channel(self) -> ChannelHandle | None:
        """The channel of the ops that have one in the partition form only."""
        return self.next_channel() if self.form == "partition" else None

    def insert(self, new: Operation, before: Operation) -> SSAValue:
        assert before.parent is not None
        new.location = before.location
        before.parent.insert_op_before(new, before)
        return new.results[0]

    def replace(self, op: Operation, values: Sequence[SSAValue]) -> None:
        for result, value in zip(op.results, values, strict=True):
            result.replace_all_uses_with(value)
        op.detach()
        op.erase()

    def constant(self, value: int, before: Operation) -> SSAValue:
        return self.insert(stablehlo.scalar_constant(value, i32), before)

    def device_index(self, before: Operation) -> SSAValue:
        """This device's row-major index, tensor<i32>; made once a block (regions capture none)."""
        block = before.parent
        assert block is not None
        value = self.indices.get((block, ()))
        if value is None:
            kind = stablehlo.ReplicaIdOp if self.form == "replica" else stablehlo.PartitionIdOp
            first = block.first_op
            assert first is not None
            value = self.insert(convert(self.insert(kind(), first), i32), first)
            self.indices[(block, ())] = value
        return value

    def coordinate(self, axes: Axes, before: Operation) -> SSAValue:
        """This device's row-major index along `axes`, tensor<i32>."""
        block = before.parent
        assert block is not None
        axes = tuple(axis for axis in axes if self.grid.axis_size(axis) > 1)
        if not axes:
            return self.constant(0, before)
        value = self.indices.get((block, axes))
        if value is not None:
            return value
        device = self.device_index(before)
        place = device.owner.next_op  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
        assert isinstance(place, Operation)
        for axis in axes:
            part = self._axis_coordinate(device, axis, place)
            if value is not None:
                size = self.constant(self.grid.axis_size(axis), place)
                scaled = self.insert(stablehlo.MulOp(value, size), place)
                part = self.insert(stablehlo.AddOp(scaled, part), place)
            value = part
        assert value is not None
        self.indices[(block, axes)] = value
        return value

    def _axis_coordinate(self, device: SSAValue, axis: AxisRef, place: Operation) -> SSAValue:
        stride, size = self.grid.axis_stride(axis), self.grid.axis_size(axis)
        value = device
        if stride > 1:
            value = self.insert(stablehlo.DivOp(value, self.constant(stride, place)), place)
        if stride * size < self.grid.num_devices:
            value = self.insert(stablehlo.RemOp(value, self.constant(size, place)), place)
        return value


def _dim(op: Operation, name: str) -> int:
    attr = op.properties[name]
    assert isinstance(attr, IntegerAttr)
    return attr.value.data


def _kind(op: Operation) -> str:
    """The reduction of a collective."""
    attr = op.properties.get("reduction")
    return str(attr.data) if isinstance(attr, shard.ReductionKindAttr) else "sum"


def _reducer(op: Operation, element_type: Attribute) -> Region:
    kind = _kind(op)
    if kind not in _REDUCERS:
        raise DiagnosticError(op, f"'{op.name}' op: reduction {kind} has no form in StableHLO")
    scalar = TensorType(element_type, [])
    block = Block(arg_types=[scalar, scalar])
    combined = _REDUCERS[kind](block.args[0], block.args[1])  # pyright: ignore[reportCallIssue]
    block.add_ops([combined, stablehlo.ReturnOp(combined.results[0])])
    for inner in block.ops:
        inner.location = op.location
    return Region(block)


def _stacked(lowering: _Lowering, op: Operation) -> SSAValue:
    """The operands of all devices of the group, along a new first dimension."""
    value = op.operands[0]
    type = _tensor(value, op)
    shape, groups = list(type.get_shape()), lowering.groups(op)
    row = lowering.insert(stablehlo.ReshapeOp(value, [1, *shape]), op)
    result = tensor_type(type, [len(groups[0]), *shape])
    new = stablehlo.AllGatherOp([row], 0, groups, [result], lowering.next_channel())
    return lowering.insert(new, op)


def _must_gather(op: Operation, element_type: Attribute) -> bool:
    """Whether XLA's collectives do not know the reduction: the bitwise ones, but on predicates."""
    kind = _kind(op)
    return kind in _IDENTITIES and (element_type != i1 or kind == "bitwise_xor")


_IDENTITIES = {"bitwise_and": -1, "bitwise_or": 0, "bitwise_xor": 0}


def _gathered_reduction(lowering: _Lowering, op: Operation) -> SSAValue:
    """All-reduce as all-gather and a reduction on each device."""
    value = op.operands[0]
    element_type = _tensor(value, op).element_type
    stacked = _stacked(lowering, op)
    identity = _IDENTITIES[_kind(op)]
    if element_type == i1:
        identity = bool(identity)
    elif isa(element_type, IntegerType) and (
        identity < 0 and element_type.signedness.data is Signedness.UNSIGNED
    ):
        identity += 1 << element_type.width.data
    init = lowering.insert(stablehlo.scalar_constant(identity, element_type), op)
    new = stablehlo.ReduceOp([stacked], [init], [0], _reducer(op, element_type), [value.type])
    return lowering.insert(new, op)


def _averaged(lowering: _Lowering, op: Operation, value: SSAValue) -> SSAValue:
    if _kind(op) != "average":
        return value
    count = stablehlo.splat_constant(len(lowering.groups(op)[0]), value.type)
    return lowering.insert(stablehlo.DivOp(value, lowering.insert(count, op)), op)


def _tensor(value: SSAValue, op: Operation) -> TensorType[Attribute]:
    type = value.type
    if not isinstance(type, TensorType):
        raise DiagnosticError(op, f"'{op.name}' op: StableHLO has tensors only, found {type}")
    type = cast(TensorType[Attribute], type)
    if op.results and isinstance(result := op.results[0].type, TensorType):
        result = cast(TensorType[Attribute], result)
        if result.element_type != type.element_type:
            raise DiagnosticError(
                op,
                f"'{op.name}' op changes the element type ({type.element_type} to "
                f"{result.element_type}), which StableHLO's collectives do not: convert it apart",
            )
    return type


def _all_reduce(lowering: _Lowering, op: Operation) -> list[SSAValue]:
    value = op.operands[0]
    element_type = _tensor(value, op).element_type
    groups = lowering.groups(op)
    if len(groups[0]) == 1:
        return [value]
    if _must_gather(op, element_type):
        return [_gathered_reduction(lowering, op)]
    new = stablehlo.AllReduceOp(
        [value], groups, _reducer(op, element_type), lowering.next_channel()
    )
    return [_averaged(lowering, op, lowering.insert(new, op))]


def _all_gather(lowering: _Lowering, op: Operation) -> list[SSAValue]:
    value = op.operands[0]
    _tensor(value, op)
    groups = lowering.groups(op)
    if len(groups[0]) == 1:
        return [value]
    new = stablehlo.AllGatherOp(
        [value], _dim(op, "gather_axis"), groups, [op.results[0].type], lowering.next_channel()
    )
    return [lowering.insert(new, op)]


def _all_slice(lowering: _Lowering, op: Operation) -> list[SSAValue]:
    return [_own_part(lowering, op, op.operands[0], _dim(op, "slice_axis"))]


def _own_part(lowering: _Lowering, op: Operation, value: SSAValue, dim: int) -> SSAValue:
    """This device's part of `value` along `dim`, split over the op's grid axes."""
    shape = list(_tensor(value, op).get_shape())
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
    shape[dim] //= group
    index = lowering.coordinate(lowering.refs(axes), op)
    if shape[dim] > 1:
        size = lowering.constant(shape[dim], op)
        index = lowering.insert(stablehlo.MulOp(index, size), op)
    zero = lowering.constant(0, op) if len(shape) > 1 else index
    start = [index if i == dim else zero for i in range(len(shape))]
    return lowering.insert(stablehlo.DynamicSliceOp(value, start, shape), op)


def _reduce_scatter(lowering: _Lowering, op: Operation) -> list[SSAValue]:
    value = op.operands[0]
    element_type = _tensor(value, op).element_type
    groups = lowering.groups(op)
    if len(groups[0]) == 1:
        return [value]
    if _must_gather(op, element_type):
        whole = _gathered_reduction(lowering, op)
        return [_own_part(lowering, op, whole, _dim(op, "scatter_axis"))]
    new = stablehlo.ReduceScatterOp(
        value,
        _dim(op, "scatter_axis"),
        groups,
        _reducer(op, element_type),
        op.results[0].type,
        lowering.next_channel(),
    )
    return [_averaged(lowering, op, lowering.insert(new, op))]


def _all_to_all(lowering: _Lowering, op: Operation) -> list[SSAValue]:
    value = op.operands[0]
    _tensor(value, op)
    groups = lowering.groups(op)
    if len(groups[0]) == 1:
        return [value]
    new = stablehlo.AllToAllOp(
        value,
        _dim(op, "split_axis"),
        _dim(op, "concat_axis"),
        groups,
        op.results[0].type,
        lowering.maybe_channel(),
    )
    return [lowering.insert(new, op)]


def _send(
    lowering: _Lowering, op: Operation, target_of: Callable[[int], int | None]
) -> list[SSAValue]:
    """A permutation: `target_of` gives for each place in a group where its value goes."""
    value = op.operands[0]
    _tensor(value, op)
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


def _permute(lowering: _Lowering, op: Operation) -> list[SSAValue]:
    assert isinstance(op, shard.PermuteOp)
    return _send(lowering, op, dict(op.source_target_pairs()).get)


def _shift(lowering: _Lowering, op: Operation) -> list[SSAValue]:
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


################################################################################
# Collectives with a root                                                      #
################################################################################


def _from_root(lowering: _Lowering, op: Operation) -> SSAValue:
    """The operand of the root of each group, on every device (XLA:CPU has no broadcast)."""
    value = op.operands[0]
    type = _tensor(value, op)
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


def _broadcast(lowering: _Lowering, op: Operation) -> list[SSAValue]:
    return [_from_root(lowering, op)]


def _scatter(lowering: _Lowering, op: Operation) -> list[SSAValue]:
    whole = _from_root(lowering, op)
    return [_own_part(lowering, op, whole, _dim(op, "scatter_axis"))]


################################################################################
# Device indices                                                               #
################################################################################


def _process_linear_index(lowering: _Lowering, op: Operation) -> list[SSAValue]:
    return [_as_index(op, 0, lowering.device_index(op))]


def _process_multi_index(lowering: _Lowering, op: Operation) -> list[SSAValue]:
    attr = op.properties.get("axes")
    axes: Sequence[int] = attr.get_values() if isinstance(attr, DenseArrayBase) else ()  # pyright: ignore
    axes = axes or range(len(lowering.grid.axes))
    return [
        _as_index(op, i, lowering.coordinate(lowering.refs([axis]), op))
        for i, axis in enumerate(axes)
    ]


def _grid_shape(lowering: _Lowering, op: Operation) -> list[SSAValue]:
    attr = op.properties.get("axes")
    axes: Sequence[int] = attr.get_values() if isinstance(attr, DenseArrayBase) else ()  # pyright: ignore
    axes = axes or range(len(lowering.grid.axes))
    return [
        _as_index(op, i, lowering.constant(lowering.grid.shape[axis], op))
        for i, axis in enumerate(axes)
    ]


def _as_index(op: Operation, result: int, value: SSAValue) -> SSAValue:
    """Makes the users of an `index` result use the tensor<i32> `value`: StableHLO has no index.

    Users may be arith.index_cast and tensor.from_elements of one element, which go.
    """
    stack = [op.results[result]]
    while stack:
        index = stack.pop()
        for use in list(index.uses):
            user = use.operation
            if user.name == "arith.index_cast":
                stack.append(user.results[0])
            elif user.name == "tensor.from_elements" and len(user.operands) == 1:
                _replace_from_elements(user, value)
            else:
                raise DiagnosticError(
                    user,
                    f"'{user.name}' op uses a device index; in StableHLO that is a tensor: make "
                    "it one by arith.index_cast and tensor.from_elements",
                )
        if index is not op.results[result]:
            index.owner.detach()
            index.owner.erase(safe_erase=False)
    return value


def _replace_from_elements(user: Operation, value: SSAValue) -> None:
    type = user.results[0].type
    assert isa(type, TensorType[Attribute]) and user.parent is not None
    element_type = type.element_type
    if element_type != i32:
        new = convert(value, element_type)
        user.parent.insert_op_before(new, user)
        value = new.results[0]
    if type.get_num_dims():
        reshape = stablehlo.ReshapeOp(value, type.get_shape())
        user.parent.insert_op_before(reshape, user)
        value = reshape.results[0]
    user.results[0].replace_all_uses_with(value)
    user.detach()
    user.erase()


################################################################################
# StableHLO that is there already (bodies of shard_map)                        #
################################################################################


_FORM_DEPENDENT = {
    kind.name
    for kind in (
        stablehlo.ReplicaIdOp,
        stablehlo.PartitionIdOp,
        stablehlo.AllToAllOp,
        stablehlo.CollectivePermuteOp,
    )
}


def _adapt(op: Operation, lowering: _Lowering) -> None:
    """Puts a StableHLO op that depends on the form into the one wanted."""
    wanted = stablehlo.ReplicaIdOp if lowering.form == "replica" else stablehlo.PartitionIdOp
    if isinstance(op, stablehlo.ReplicaIdOp | stablehlo.PartitionIdOp):
        if op.name != wanted.name:
            lowering.replace(op, [lowering.insert(wanted(), op)])
    elif isinstance(op, stablehlo.AllToAllOp | stablehlo.CollectivePermuteOp):
        if lowering.form == "replica":
            op.properties.pop("channel_handle", None)
        elif op.channel_handle is None:
            op.properties["channel_handle"] = lowering.next_channel()


_LOWERINGS: dict[str, Callable[[_Lowering, Operation], list[SSAValue]]] = {
    "shard.all_gather": _all_gather,
    "shard.all_reduce": _all_reduce,
    "shard.all_slice": _all_slice,
    "shard.all_to_all": _all_to_all,
    "shard.broadcast": _broadcast,
    "shard.gather": _all_gather,
    "shard.grid_shape": _grid_shape,
    "shard.permute": _permute,
    "shard.process_linear_index": _process_linear_index,
    "shard.process_multi_index": _process_multi_index,
    "shard.reduce": _all_reduce,
    "shard.reduce_scatter": _reduce_scatter,
    "shard.scatter": _scatter,
    "shard.shift": _shift,
}


################################################################################
# Layouts                                                                      #
################################################################################


def _write_layouts(func: FuncOp) -> None:
    """Turns autopar.sharding and autopar.global of a function's boundary into autopar.layout."""
    is_public = func.sym_visibility is None or func.sym_visibility.data != "private"
    inputs, outputs = func.function_type.inputs.data, func.function_type.outputs.data
    for key, attrs, types in (
        ("arg_attrs", func.arg_attrs, inputs),
        ("res_attrs", func.res_attrs, outputs),
    ):
        entries: list[DictionaryAttr] = []
        for entry, type in zip(entries_of(attrs, len(types)), types, strict=True):
            data = {k: v for k, v in entry.data.items() if k not in (SHARDING, GLOBAL, LAYOUT)}
            if is_public:
                data[LAYOUT] = _layout(entry.data.get(SHARDING), entry.data.get(GLOBAL, type))
            alias = data.get("tf.aliasing_output")
            if isinstance(alias, IntegerAttr) and outputs[alias.value.data] != type:
                # XLA refuses an alias of buffers of different size; the donation itself stays.
                del data["tf.aliasing_output"]
                data["jax.buffer_donor"] = BoolAttr.from_bool(True)
            entries.append(DictionaryAttr(data))
        if types:
            func.properties[key] = ArrayAttr(entries)


def _layout(sharding: Attribute | None, whole: Attribute) -> DictionaryAttr:
    if not isinstance(whole, TensorType):
        return DictionaryAttr({})
    if not isinstance(sharding, ShardingAttr):
        dims: list[Axes] = [()] * whole.get_num_dims()
        partial = ()
    else:
        dims = [dim.axes for dim in sharding.data.dims]
        partial = sharding.data.partial
    layout: dict[str, Attribute] = {
        "dims": ArrayAttr([_names(axes) for axes in dims]),
        "global": whole,
    }
    if partial:
        layout["partial"] = DictionaryAttr({p.kind: _names(p.axes) for p in partial})
    return DictionaryAttr(layout)


def _names(axes: Axes) -> ArrayAttr[StringAttr]:
    return ArrayAttr([StringAttr(axis.spelled) for axis in axes])
