"""What a partitioned program moves: its collectives with ring bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from autopar.dialects.shard import (
    AllGatherOp,
    AllReduceOp,
    AllToAllOp,
    PermuteOp,
    ReduceScatterOp,
    grid_of,
)
from autopar.passes.partition.tensors import item_bytes, shape_of
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
        if isinstance(op, PermuteOp):
            axes: tuple[int, ...] = ()
            group, num_bytes = grid.num_devices, permute_bytes(_local_bytes(op))
        else:
            formula = _BYTES.get(type(op))
            if formula is None:
                continue
            axes = tuple(int(axis) for axis in op.grid_axes.get_values())  # pyright: ignore
            group = prod(grid.shape[axis] for axis in axes)
            num_bytes = formula(_local_bytes(op), group)
        yield CollectiveUse(
            op.name.removeprefix("shard."),
            tuple(grid.axis_names[axis] for axis in axes),
            group,
            num_bytes,
            _in_loop(op),
            times(op, loops),
        )


def _local_bytes(op: Operation) -> float:
    return item_bytes(op.operands[0].type) * prod(shape_of(op.operands[0].type))


def _in_loop(op: Operation) -> bool:
    parent = op.parent_op()
    while parent is not None:
        if parent.name == "stablehlo.while":
            return True
        parent = parent.parent_op()
    return False
