"""What a partitioned program moves: its collectives with ring bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Any, cast

from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, ModuleOp
from xdsl.ir import Operation

from autopar.dialects.constants import constant_array
from autopar.dialects.shard import (
    AllGatherOp,
    AllReduceOp,
    AllToAllOp,
    PermuteOp,
    ReduceScatterOp,
    grid_of,
)
from autopar.dialects.sharding import AxisRef, Grid
from autopar.dialects.tensors import item_bytes, shape_of
from autopar.passes.walk import inner_ops

from .collectives import (
    all_gather_bytes,
    all_reduce_bytes,
    all_to_all_bytes,
    permute_bytes,
    reduce_scatter_bytes,
)
from .loops import times

_BYTES: dict[type[Operation], Callable[[float, int], float]] = {
    AllGatherOp: all_gather_bytes,
    AllReduceOp: all_reduce_bytes,
    AllToAllOp: all_to_all_bytes,
    ReduceScatterOp: reduce_scatter_bytes,
}

_WRITTEN = {
    "stablehlo.all_gather": all_gather_bytes,
    "stablehlo.all_reduce": all_reduce_bytes,
    "stablehlo.all_to_all": all_to_all_bytes,
    "stablehlo.reduce_scatter": reduce_scatter_bytes,
}
"""Those of manual computations (shard_map): the user wrote them, and they stay as they are."""
_KINDS = {"stablehlo.collective_permute": "permute"}


@dataclass(frozen=True)
class CollectiveUse:
    """One collective of a partitioned program."""

    kind: str
    axes: tuple[str, ...]
    group: int
    """Devices that take part in one instance."""
    num_bytes: float
    """Ring bytes a device sends."""
    in_loop: bool
    """Inside a loop body: the bytes are those of one iteration."""
    times: int = 1
    """How often it runs: the trips of the loops around it, where these are plain to see."""


def collectives_of(module: ModuleOp) -> Iterator[CollectiveUse]:
    """The collectives of a module after shard-partition, in program order."""
    grid = grid_of(module)
    loops: dict[Operation, int] = {}
    for op in inner_ops(module):
        axes: tuple[int, ...] = ()
        if isinstance(op, PermuteOp) or op.name == "stablehlo.collective_permute":
            group, num_bytes = grid.num_devices, permute_bytes(_local_bytes(op))
        elif op.name in _WRITTEN:
            axes, group = _groups(op, grid)
            num_bytes = _WRITTEN[op.name](_local_bytes(op), group)
        else:
            formula = _BYTES.get(type(op))
            if formula is None:
                continue
            axes = tuple(int(axis) for axis in op.grid_axes.get_values())  # pyright: ignore
            group = prod(grid.shape[axis] for axis in axes)
            num_bytes = formula(_local_bytes(op), group)
        yield CollectiveUse(
            _KINDS.get(op.name, op.name.split(".")[1]),
            tuple(grid.axis_names[axis] for axis in axes),
            group,
            num_bytes,
            _in_loop(op),
            times(op, loops),
        )


def _local_bytes(op: Operation) -> float:
    return sum(item_bytes(v.type) * prod(shape_of(v.type)) for v in op.operands)


def _groups(op: Operation, grid: Grid) -> tuple[tuple[int, ...], int]:
    """The grid axes that the replica groups of a StableHLO collective run over (none where they
    are those of no axes), and the size of a group."""
    dense = op.properties.get("replica_groups")
    if not isinstance(dense, DenseIntOrFPElementsAttr):
        return (), grid.num_devices
    groups = constant_array(cast("DenseIntOrFPElementsAttr[Any]", dense))
    found = {frozenset(group) for group in groups.tolist()}
    every = range(len(grid.axes))
    for count in range(1, len(grid.axes) + 1):
        for axes in combinations(every, count):
            refs = [AxisRef(grid.axis_names[axis]) for axis in axes]
            if found == {frozenset(group) for group in grid.groups(refs)}:
                return axes, groups.shape[1]
    return (), groups.shape[1]


def _in_loop(op: Operation) -> bool:
    parent = op.parent_op()
    while parent is not None:
        if parent.name == "stablehlo.while":
            return True
        parent = parent.parent_op()
    return False
