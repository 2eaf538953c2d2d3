"""What a partitioned program moves: its collectives with ring bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Any, cast

from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, ModuleOp
from xdsl.ir import Operation

from autopar.dialects.constants import constant_array
from autopar.dialects.shard import CollectiveCommunicationOp, PermuteOp, grid_of
from autopar.dialects.sharding import AxisRef, Grid
from autopar.dialects.tensors import num_bytes
from autopar.passes.walk import inner_ops

from .collectives import (
    all_gather_bytes,
    all_reduce_bytes,
    all_to_all_bytes,
    one_root_bytes,
    permute_bytes,
    reduce_scatter_bytes,
)
from .loops import times


def _permuted(local_bytes: float, group: int) -> float:
    return permute_bytes(local_bytes)


RING_BYTES: dict[str, Callable[[float, int], float]] = {
    "shard.all_gather": all_gather_bytes,
    "shard.all_reduce": all_reduce_bytes,
    "shard.all_to_all": all_to_all_bytes,
    "shard.broadcast": all_gather_bytes,
    "shard.gather": all_gather_bytes,
    "shard.permute": _permuted,
    "shard.reduce": all_reduce_bytes,
    "shard.reduce_scatter": reduce_scatter_bytes,
    "shard.scatter": all_gather_bytes,
    "shard.shift": _permuted,
    "stablehlo.all_gather": all_gather_bytes,
    "stablehlo.all_reduce": all_reduce_bytes,
    "stablehlo.all_to_all": all_to_all_bytes,
    "stablehlo.collective_broadcast": one_root_bytes,
    "stablehlo.collective_permute": _permuted,
    "stablehlo.collective_reduce": one_root_bytes,
    "stablehlo.cross-replica-sum": all_reduce_bytes,
    "stablehlo.reduce_scatter": reduce_scatter_bytes,
}
"""The ring bytes of each collective, from the bytes of its operands and the size of a group. Shard
ops with a root pay what convert-shard-to-stablehlo makes of them (no backend has them all); those
of StableHLO are the user's (shard_map), and stay as they are."""

NO_RING_BYTES = {
    "shard.all_slice": "each device cuts out its own part: nothing is sent",
    "shard.recv": "convert-shard-to-stablehlo refuses it",
    "shard.send": "convert-shard-to-stablehlo refuses it",
    "shard.update_halo": "convert-shard-to-stablehlo refuses it",
}
"""Communication that is not counted, with the reason."""

_KINDS = {"stablehlo.collective_permute": "permute"}


def collective_kind(name: str) -> str:
    """What an op of this name is called in plans and prices."""
    return _KINDS.get(name, name.partition(".")[2])


@dataclass(frozen=True)
class CollectiveUse:
    """One collective of a partitioned program."""

    kind: str
    axes: tuple[str, ...]
    """The grid axes that it runs over; none where its groups are those of no axes."""
    group: int
    """Devices that take part in one instance."""
    num_bytes: float
    """Ring bytes a device sends."""
    times: int = 1
    """How often it runs: the trips of the loops around it, where these are plain to see. The bytes
    are those of once."""
    local_bytes: float = 0.0
    """What each device puts in."""

    @property
    def where(self) -> str:
        """Over what it runs, in words."""
        return axes_text(self.axes, self.group)


def axes_text(axes: Sequence[str], group: int) -> str:
    """The axes of a collective; `groups of 2` where its groups are those of no axes."""
    return ", ".join(axes) or f"groups of {group}"


def paid_axes(axes: Sequence[str], group: int, grid: Grid) -> tuple[str, ...]:
    """The axes whose links a collective pays: all, where its groups are those of none."""
    return tuple(axes) or (grid.axis_names if group > 1 else ())


def collectives_of(module: ModuleOp) -> Iterator[CollectiveUse]:
    """The collectives of a module after shard-partition, in program order."""
    grid = grid_of(module)
    loops: dict[Operation, int] = {}
    for op in inner_ops(module):
        use = collective_use(op, grid, loops)
        if use is not None:
            yield use


def collective_use(op: Operation, grid: Grid, loops: dict[Operation, int]) -> CollectiveUse | None:
    """What an op of a partitioned program moves; None if it is no collective. `loops` keeps trip
    counts between calls."""
    formula = RING_BYTES.get(op.name)
    if formula is None:
        return None
    axes, group = _groups(op, grid)
    local_bytes = _local_bytes(op)
    return CollectiveUse(
        collective_kind(op.name),
        tuple(grid.axis_names[axis] for axis in axes),
        group,
        formula(local_bytes, group),
        times(op, loops),
        local_bytes,
    )


def _local_bytes(op: Operation) -> float:
    return sum(num_bytes(value.type) for value in op.operands)


def _groups(op: Operation, grid: Grid) -> tuple[tuple[int, ...], int]:
    """The grid axes that a collective runs over (none where its replica groups are those of no
    axes; of a permutation those along which it moves something), and the size of a group."""
    if isinstance(op, PermuteOp):
        axes = _moved_along(op, grid, tuple(op.grid_axes.get_values()))
        return axes, prod(grid.shape[axis] for axis in axes)
    if isinstance(op, CollectiveCommunicationOp):
        axes = tuple(op.grid_axes.get_values())
        return axes, prod(grid.shape[axis] for axis in axes)
    dense = op.properties.get("replica_groups")
    if not isinstance(dense, DenseIntOrFPElementsAttr):
        return (), grid.num_devices
    groups = constant_array(cast("DenseIntOrFPElementsAttr[Any]", dense))
    if not groups.size:  # all devices in one
        return tuple(range(len(grid.axes))), grid.num_devices
    found = {frozenset(group) for group in groups.tolist()}
    every = range(len(grid.axes))
    for count in range(1, len(grid.axes) + 1):
        for axes in combinations(every, count):
            refs = [AxisRef(grid.axis_names[axis]) for axis in axes]
            if found == {frozenset(group) for group in grid.groups(refs)}:
                return axes, groups.shape[1]
    return (), groups.shape[1]


def _moved_along(op: PermuteOp, grid: Grid, axes: Sequence[int]) -> tuple[int, ...]:
    """The grid axes in which a source and its target differ."""
    refs = [AxisRef(grid.axis_names[axis]) for axis in axes]
    members = grid.groups(refs)[0]
    pairs = [(members[source], members[target]) for source, target in op.source_target_pairs()]
    return tuple(
        axis
        for axis, ref in zip(axes, refs, strict=True)
        if any(grid.coordinate(a, ref) != grid.coordinate(b, ref) for a, b in pairs)
    )
