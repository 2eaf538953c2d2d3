"""Sums of sums: what each device has of them is added there first, and reduced once.

The square of a global norm adds up one number for each gradient, partial over the axes that this is
split over. Each set of axes would have a message of its own, and the next one would wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.rewriter import Rewriter

from autopar.dialects.rules.access import operands_of
from autopar.dialects.shard import AllReduceOp, make_collective
from autopar.dialects.tensors import shape_of
from autopar.passes.importing.grid_option import find_grid_op

from .local_builder import LocalBuilder
from .specs import AxisTable

_ADD = "stablehlo.add"


def add_before_reducing(
    module: ModuleOp, block: Block, ops: Sequence[Operation]
) -> list[Operation]:
    """Scalar all_reduces whose results are only added up: one of what the devices add up
    themselves, over all their axes. Gives the collectives that are there then."""
    sums: dict[Operation, list[AllReduceOp]] = {}
    for op in ops:
        if isinstance(op, AllReduceOp) and _is_scalar_sum(op) and (last := _last_add(op, block)):
            sums.setdefault(last, []).append(op)
    gone: set[Operation] = set()
    new: list[Operation] = []
    for last, parts in sums.items():
        if len(parts) > 1:
            new.append(_reduce_once(module, last, parts))
            gone.update(parts)
    return [*(op for op in ops if op not in gone), *new]


def _is_scalar_sum(op: AllReduceOp) -> bool:
    is_sum = str(op.reduction.data.value) == "sum" and op.input.type == op.result.type
    return is_sum and not shape_of(op.result.type)


def _last_add(op: Operation, block: Block) -> Operation | None:
    """The last one of the additions that a value goes through."""
    last: Operation | None = None
    while (use := op.results[0].get_unique_use()) is not None:
        op = use.operation
        if op.name != _ADD or op.parent is not block:
            break
        last = op
    return last


def _reduce_once(module: ModuleOp, last: Operation, parts: Sequence[AllReduceOp]) -> Operation:
    """Puts one all_reduce in the place of `parts`, in front of the addition that ends their sum."""
    grid_op = find_grid_op(module)
    assert grid_op is not None, "there is a collective"
    builder = LocalBuilder(AxisTable(grid_op.to_grid(), ()), last)
    over = sorted({axis for part in parts for axis in part.grid_axes.get_values()})
    own = [_once(builder, part, over) for part in parts]
    additions, leaves = _tree(last)
    whole = [leaf for leaf in leaves if leaf.owner not in parts]
    new = make_collective(
        AllReduceOp, reduce(builder.add, own), parts[0].grid.string_value(), over, reduction="sum"
    )
    total = reduce(builder.add, whole, builder.insert(new))
    last.results[0].replace_all_uses_with(total)
    for op in (*additions, *parts):
        Rewriter.erase_op(op)
    return new


def _once(builder: LocalBuilder, part: AllReduceOp, over: Sequence[int]) -> SSAValue:
    """What a device has of a sum over some of the axes `over`; of those that have the same the
    first one, the others -0.0."""
    others = [axis for axis in over if axis not in part.grid_axes.get_values()]
    if not others:
        return part.input
    index = builder.per_device(builder.part_index(others))
    is_first = builder.compare(index, "EQ", builder.index(0))
    return builder.select(is_first, part.input, builder.neutral("sum", part.input.type))


def _tree(last: Operation) -> tuple[list[Operation], list[SSAValue]]:
    """The additions of a sum, each behind what reads it, and what they add up."""
    additions, leaves, waiting = [last], list[SSAValue](), [*reversed(operands_of(last))]
    while waiting:
        value = waiting.pop()
        maker = value.owner
        if (
            isinstance(maker, Operation)
            and maker.name == _ADD
            and maker.parent is last.parent
            and value.has_one_use()
        ):
            additions.append(maker)
            waiting += reversed(operands_of(maker))
        else:
            leaves.append(value)
    return additions, leaves
