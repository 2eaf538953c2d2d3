"""Pass `optimize-collectives`: fewer and cheaper collectives, none of them in another place of the
program's meaning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from autopar.dialects.shard import (
    AllGatherOp,
    AllReduceOp,
    AllSliceOp,
    AllToAllOp,
    PermuteOp,
    ReduceScatterOp,
    make_collective,
)

from .tensors import item_bytes, shape_of

COMBINE = "autopar.combine"
"""Attribute of adjacent all_reduces: those with the same number are lowered as one."""

_PURE = (AllGatherOp, AllReduceOp, AllSliceOp, AllToAllOp, PermuteOp, ReduceScatterOp)


@dataclass(frozen=True)
class OptimizeCollectivesPass(ModulePass):
    """Merge equal collectives, turn all-reduce and slice into reduce-scatter, combine all-reduces.

    Needs a partitioned module (shard-partition). Every rewrite lowers the ring bytes or the number
    of collectives and never raises either:
    - a collective that repeats an earlier one of the same value in the same block is dropped,
      unless they belong to different phases (`autopar.phase`: parameters gathered again);
    - an all_reduce whose only user slices along the same axes becomes a reduce_scatter;
    - independent all_reduces over the same axes are moved together, up to
      `combine-bytes` in all, and marked to be lowered as one operation (`autopar.combine`).
    """

    name = "optimize-collectives"

    combine_bytes: int = 32 * 2**20

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        counter = 0
        for block in list(_blocks(op)):
            merge_equal(block)
            scatter_sliced(block)
            counter = combine_all_reduces(block, self.combine_bytes, counter)


def _blocks(op: Operation) -> Iterator[Block]:
    for region in op.regions:
        for block in region.blocks:
            if any(isinstance(inner, _PURE) or inner.regions for inner in block.ops):
                yield block
                for inner in block.ops:
                    if inner.regions:
                        yield from _blocks(inner)


def merge_equal(block: Block) -> None:
    """Drops collectives that repeat an earlier one of the same value in the block."""
    seen: dict[tuple[object, ...], Operation] = {}
    for op in list(block.ops):
        if not isinstance(op, _PURE):
            continue
        key = (
            op.name,
            op.operands[0],
            op.results[0].type,
            *sorted(op.properties.items(), key=lambda item: item[0]),
            *sorted(op.attributes.items(), key=lambda item: item[0]),
        )
        earlier = seen.setdefault(key, op)
        if earlier is not op:
            Rewriter.replace_op(op, [], [earlier.results[0]])


def scatter_sliced(block: Block) -> None:
    """all_reduce with one user, an all_slice along the same axes: reduce_scatter."""
    for op in list(block.ops):
        if not isinstance(op, AllReduceOp) or not op.result.has_one_use():
            continue
        use = op.result.first_use
        assert use is not None
        user = use.operation
        if (
            not isinstance(user, AllSliceOp)
            or user.parent is not block
            or user.grid_axes != op.grid_axes
        ):
            continue
        scatter = make_collective(
            ReduceScatterOp,
            op.input,
            op.grid.string_value(),
            op.grid_axes.get_values(),
            shape_of(user.result.type),
            reduction=str(op.reduction.data.value),
            scatter_axis=user.slice_axis.value.data,
        )
        scatter.location = op.location
        Rewriter.replace_op(user, scatter)
        Rewriter.erase_op(op)


def combine_all_reduces(block: Block, limit: int, counter: int) -> int:
    """Moves independent all_reduces together; returns the next free group number.

    A group stands where its last member stood: every member before is moved down to there, which
    is possible as long as none of their users comes earlier and no member depends on another.
    """
    order = {op: index for index, op in enumerate(block.ops)}
    groups: dict[tuple[Attribute, ...], list[AllReduceOp]] = {}
    sizes: dict[tuple[Attribute, ...], int] = {}
    deadline: dict[tuple[Attribute, ...], int] = {}

    def close(key: tuple[Attribute, ...]) -> None:
        nonlocal counter
        members = groups.pop(key, [])
        if len(members) > 1:
            last = members[-1]
            for member in members:
                member.attributes[COMBINE] = IntegerAttr(counter, i64)
                if member is not last:
                    member.detach()
                    block.insert_op_before(member, last)
            counter += 1

    for op in list(block.ops):
        if not isinstance(op, AllReduceOp):
            continue
        key = (op.grid, op.grid_axes, op.reduction)
        num_bytes = item_bytes(op.input.type)
        for size in shape_of(op.input.type):
            num_bytes *= size
        position = order[op]
        if key in groups and (deadline[key] < position or sizes[key] + num_bytes > limit):
            close(key)
        if key not in groups:
            groups[key], sizes[key], deadline[key] = [], 0, 1 << 60
        groups[key].append(op)
        sizes[key] += num_bytes
        deadline[key] = min(deadline[key], _first_user(op.result, block, order))
    for key in list(groups):
        close(key)
    return counter


def _first_user(value: SSAValue, block: Block, order: dict[Operation, int]) -> int:
    """Position in the block of the first op that uses the value (itself or in a region of it)."""
    first = 1 << 60
    for use in value.uses:
        op: Operation | None = use.operation
        while op is not None and op.parent is not block:
            op = op.parent_op()
        if op is not None:
            first = min(first, order[op])
    return first
