"""Pass `optimize-collectives`: fewer and cheaper collectives, none of them in another place of the
program's meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from autopar.dialects.autopar import refuse_unpartitioned
from autopar.dialects.rules.access import ints, operands_of
from autopar.dialects.shard import (
    AllGatherOp,
    AllReduceOp,
    AllSliceOp,
    AllToAllOp,
    PermuteOp,
    ReduceScatterOp,
    make_collective,
)
from autopar.dialects.stablehlo.shape import TransposeOp
from autopar.dialects.tensors import shape_of
from autopar.passes.walk import ops_of

from .adding import add_before_reducing
from .combining import combine_collectives

_PURE = (AllGatherOp, AllReduceOp, AllSliceOp, AllToAllOp, PermuteOp, ReduceScatterOp)


@dataclass(frozen=True)
class OptimizeCollectivesPass(ModulePass):
    """Merge equal collectives, make reduce-scatters of slices, combine small gathers and scatters.

    Needs: a partitioned module (shard-partition). Guarantees: the same values; every rewrite lowers
    the ring bytes or the number of collectives and never raises either:
    - a collective that repeats an earlier one of the same value in the same block is dropped (a
      permute also of equal slices of it), unless they belong to different phases
      (`autopar.phase`: parameters gathered again);
    - an all_reduce whose only user slices along the same axes becomes a reduce_scatter;
    - what a reduce_scatter gives is transposed rather than what it takes;
    - scalars that are reduced, be it over several axes, and only added up are added first, and
      reduced once;
    - independent all_gathers or reduce_scatters over the same axes, of at most `small-bytes` each
      and `group-bytes` in all, are moved together and marked to be lowered as one
      (`autopar.combine`; all_reduces XLA makes one itself, without copies); what only converts or
      reshapes the result of one moves down to its use; what only converts or reshapes the operand
      of one moves up to where that is made, and what only scales an argument for one to the front.
    """

    name = "optimize-collectives"

    small_bytes: int = 256 * 2**10
    """The largest collective (bytes of its full buffer) that is combined with others."""
    group_bytes: int = 4 * 2**20
    """The most bytes of collectives that run as one."""

    def __post_init__(self) -> None:
        for name, size in (("small", self.small_bytes), ("group", self.group_bytes)):
            if size < 0:
                raise ValueError(f"{name}-bytes={size}: expected bytes, at least 0")

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        refuse_unpartitioned(op, self.name)
        counter = 0
        for block, ops in collective_blocks(op):
            ops = merge_equal(ops)
            ops = transpose_parts(block, scatter_sliced(block, ops))
            ops = add_before_reducing(op, block, ops)
            counter = combine_collectives(block, ops, self.small_bytes, self.group_bytes, counter)


def collective_blocks(op: Operation) -> list[tuple[Block, list[Operation]]]:
    """The blocks that hold collectives, with those, in program order."""
    found: dict[Block, list[Operation]] = {}
    for inner in ops_of(op, *_PURE):
        if inner.parent is not None:
            found.setdefault(inner.parent, []).append(inner)
    return list(found.items())


def merge_equal(ops: Sequence[Operation]) -> list[Operation]:
    """Drops collectives that repeat an earlier one of the same value; gives those that are left."""
    seen: dict[SSAValue, list[Operation]] = {}
    slices: dict[tuple[object, ...], SSAValue] = {}
    left: list[Operation] = []
    for op in ops:
        (value,) = operands_of(op)
        if type(op) is PermuteOp:  # of equal rows, as a convolution and its gradient fetch them
            value = op.operands[0] = _same_slice(value, slices)
        of_value = seen.setdefault(value, [])
        for earlier in of_value:
            if _is_same(op, earlier):
                Rewriter.replace_op(op, [], earlier.results)
                break
        else:
            of_value.append(op)
            left.append(op)
    return left


def _same_slice(value: SSAValue, seen: dict[tuple[object, ...], SSAValue]) -> SSAValue:
    """The first value of a block that slices the same as this one does."""
    maker = value.owner
    if not isinstance(maker, Operation) or maker.name != "stablehlo.slice":
        return value
    key = maker.parent, maker.operands[0], value.type, *maker.properties.items()
    return seen.setdefault(key, value)


def _is_same(op: Operation, other: Operation) -> bool:
    """Whether collectives of one value do the same."""
    (result,), (other_result,) = op.results, other.results
    return (
        op.name == other.name
        and op.properties == other.properties
        and op.attributes == other.attributes
        and result.type == other_result.type
    )


def scatter_sliced(block: Block, ops: Sequence[Operation]) -> list[Operation]:
    """all_reduce with one user, an all_slice along the same axes: reduce_scatter, in the slice's
    place. Gives the collectives that are there then."""
    became: dict[Operation, list[Operation]] = {}
    for op in ops:
        if type(op) is not AllReduceOp or not op.result.has_one_use():
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
        became[op], became[user] = [], [scatter]
        Rewriter.replace_op(user, scatter)
        Rewriter.erase_op(op)
    return [new for op in ops for new in became.get(op, [op])]


def transpose_parts(block: Block, ops: Sequence[Operation]) -> list[Operation]:
    """reduce_scatter of a transposed value: what it gives, a part, is transposed instead.

    JAX transposes every weight's gradient. XLA:CPU transposes whole operands of the dot for that,
    which has no fast kernel then. Gives the collectives that are there then.
    """
    left: list[Operation] = []
    for op in ops:
        while isinstance(op, ReduceScatterOp) and (earlier := _scatter_earlier(block, op)):
            op = earlier
        left.append(op)
    return left


def _scatter_earlier(block: Block, op: ReduceScatterOp) -> Operation | None:
    """The reduce_scatter in front of the transpose that it followed."""
    value = op.operands[0]
    transpose = value.owner
    if (
        not isinstance(transpose, TransposeOp)
        or transpose.parent is not block
        or not value.has_one_use()
    ):
        return None
    order, shape = ints(transpose, "permutation"), shape_of(op.result.type)
    scatter = make_collective(
        ReduceScatterOp,
        transpose.operands[0],
        op.grid.string_value(),
        op.grid_axes.get_values(),
        [shape[order.index(dim)] for dim in range(len(order))],
        reduction=str(op.reduction.data.value),
        scatter_axis=order[op.scatter_axis.value.data],
    )
    part = TransposeOp(scatter.results[0], order)
    scatter.attributes.update(op.attributes)
    scatter.location, part.location = op.location, transpose.location
    Rewriter.replace_op(op, [scatter, part], [part.results[0]])
    Rewriter.erase_op(transpose)
    return scatter
