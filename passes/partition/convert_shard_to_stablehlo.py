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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from xdsl.context import Context
from xdsl.dialects.builtin import (
    IntegerAttr,
    ModuleOp,
    i32,
)
from xdsl.dialects.func import FuncOp
from xdsl.dialects.shard import GridOp as XdslGridOp
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.passes import ModulePass

from autopar.dialects import sdy, shard, stablehlo
from autopar.dialects.autopar import (
    COMBINE,
    GRID,
    SHARDING,
    STRATEGY,
    grid_attribute,
    refuse_unpartitioned,
)
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.stablehlo import ChannelHandle
from autopar.passes.collector import collector_off
from autopar.passes.walk import inner_ops

from .combining import COMBINABLE
from .to_stablehlo import collectives, device_index
from .to_stablehlo.combined import combined
from .to_stablehlo.layouts import write_layouts
from .to_stablehlo.lowering import DeviceLowering, Form


@dataclass(frozen=True)
class ConvertShardToStablehloPass(ModulePass):
    """Turns a partitioned program (L2) into StableHLO for one device of N (L3).

    Needs: local shapes and shard collectives (shard-partition). Guarantees: only stablehlo, chlo
    and func ops (and ops that nobody knows); module attributes mhlo.num_replicas,
    mhlo.num_partitions, autopar.grid; autopar.layout on arguments and results of public functions.
    """

    name = "convert-shard-to-stablehlo"

    form: Literal["replica", "partition"] = "replica"
    """replica for the raw client, partition for a splice into jit(shard_map)."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
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
    refuse_unpartitioned(module, "convert-shard-to-stablehlo")
    user_grid = shard.user_grid(module)
    found = _find(module)
    _check_ops(found.first.values())
    lowering = DeviceLowering(grid, form, found.last_channel + 1)
    groups = _combined(found.lowered)
    for op in found.annotated:
        op.attributes.pop(SHARDING, None)
        op.attributes.pop(STRATEGY, None)
    for op in found.lowered:
        if groups and (members := groups.get(op)) is not None:
            if op is members[-1]:
                values = combined(lowering, members)
                for member, value in zip(members, values, strict=True):
                    lowering.replace(member, [value])
            continue
        lower = _LOWERINGS.get(op.name)
        if lower is not None:
            lowering.replace(op, lower(lowering, op))
        else:
            _adapt(op, lowering)
    for op in list(module.body.block.ops):
        if isinstance(op, FuncOp):
            write_layouts(op)
        elif isinstance(op, XdslGridOp | sdy.MeshOp):
            op.detach()
            op.erase()
    replicas, partitions = (grid.num_devices, 1) if form == "replica" else (1, grid.num_devices)
    module.attributes["mhlo.num_replicas"] = IntegerAttr(replicas, i32)
    module.attributes["mhlo.num_partitions"] = IntegerAttr(partitions, i32)
    module.attributes[GRID] = grid_attribute(user_grid)


class _Found(NamedTuple):
    """What one walk finds."""

    first: dict[type[Operation], Operation]
    """The first op of each class."""
    lowered: list[Operation]
    """The ops that are not StableHLO yet, or depend on the form, in program order."""
    annotated: list[Operation]
    """The ops with discardable attributes."""
    last_channel: int
    """The last channel handle that is taken (bodies of shard_map bring their own)."""


def _find(module: ModuleOp) -> _Found:
    first: dict[type[Operation], Operation] = {}
    concerned: set[type[Operation]] = set()
    lowered: list[Operation] = []
    annotated: list[Operation] = []
    last_channel = 0
    for op in inner_ops(module):
        kind = type(op)
        if kind not in first:
            first[kind] = op
            if op.name in _LOWERINGS or op.name in _FORM_DEPENDENT:
                concerned.add(kind)
        if kind in concerned:
            lowered.append(op)
        if op.attributes:
            annotated.append(op)
        if "channel_handle" in op.properties:
            handle = op.properties["channel_handle"]
            if isinstance(handle, ChannelHandle):
                last_channel = max(last_channel, handle.handle)
    return _Found(first, lowered, annotated, last_channel)


# ---- What may stand in the module ----------------------------------------------------------------

_NOT_STABLEHLO = {
    "tosa": "`mlir-opt --tosa-to-linalg-named` converts it",
    "linalg": "`mlir-opt --convert-linalg-to-loops` converts it",
    "arith": "`mlir-opt --convert-arith-to-llvm` converts it",
    "tensor": "`mlir-opt --one-shot-bufferize` converts it",
    "scf": "`mlir-opt --convert-scf-to-cf` converts it",
}
_NOT_PARTITIONED = ("autopar", "sdy", "mesh", "mpmd")
_ANNOTATIONS = ("shard.shard", "shard.sharding", "shard.get_sharding")


def _check_ops(ops: Iterable[Operation]) -> None:
    """Refuses ops that no StableHLO program for one device can hold."""
    for op in ops:
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


def _combined(ops: Sequence[Operation]) -> dict[Operation, list[Operation]]:
    """For each collective that optimize-collectives has combined its group, in program order."""
    by_number: dict[tuple[Attribute, str], list[Operation]] = {}
    for op in ops:
        if type(op) in COMBINABLE and COMBINE in op.attributes:
            number = op.attributes[COMBINE]
            by_number.setdefault((number, op.name), []).append(op)
    return {op: members for members in by_number.values() for op in members}


# ---- Ops -----------------------------------------------------------------------------------------

_LOWERINGS: dict[str, Callable[[DeviceLowering, Operation], list[SSAValue]]] = {
    "shard.all_gather": collectives.all_gather,
    "shard.all_reduce": collectives.all_reduce,
    "shard.all_slice": collectives.all_slice,
    "shard.all_to_all": collectives.all_to_all,
    "shard.broadcast": collectives.broadcast,
    "shard.gather": collectives.all_gather,
    "shard.grid_shape": device_index.grid_shape,
    "shard.permute": collectives.permute,
    "shard.process_linear_index": device_index.process_linear_index,
    "shard.process_multi_index": device_index.process_multi_index,
    "shard.reduce": collectives.all_reduce,
    "shard.reduce_scatter": collectives.reduce_scatter,
    "shard.scatter": collectives.scatter,
    "shard.shift": collectives.shift,
}

_FORM_DEPENDENT = {
    kind.name
    for kind in (
        stablehlo.ReplicaIdOp,
        stablehlo.PartitionIdOp,
        stablehlo.AllToAllOp,
        stablehlo.CollectivePermuteOp,
    )
}


def _adapt(op: Operation, lowering: DeviceLowering) -> None:
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
