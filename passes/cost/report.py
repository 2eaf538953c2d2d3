"""What a partitioned program moves: its collectives with ring bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from xdsl.dialects.builtin import DenseArrayBase, ModuleOp
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

_BYTES = {
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


def collectives_of(module: ModuleOp) -> Iterator[CollectiveUse]:
    """The collectives of a module after shard-partition, in program order."""
    grid = grid_of(module)
    for op in inner_ops(module):
        local = item_bytes(op.operands[0].type) if op.operands else 0
        if isinstance(op, PermuteOp):
            for size in shape_of(op.operands[0].type):
                local *= size
            yield CollectiveUse(
                "permute", (), grid.num_devices, permute_bytes(local), _in_loop(op)
            )
            continue
        formula = _BYTES.get(type(op))  # pyright: ignore[reportArgumentType]
        if formula is None:
            continue
        for size in shape_of(op.operands[0].type):
            local *= size
        axes = cast("DenseArrayBase[Any]", op.properties["grid_axes"]).get_values()
        group = 1
        for axis in axes:
            group *= grid.shape[axis]
        yield CollectiveUse(
            op.name.removeprefix("shard."),
            tuple(grid.axis_names[a] for a in axes),
            group,
            formula(local, group),
            _in_loop(op),
        )


def _in_loop(op: Operation) -> bool:
    parent = op.parent_op()
    while parent is not None:
        if parent.name == "stablehlo.while":
            return True
        parent = parent.parent_op()
    return False
