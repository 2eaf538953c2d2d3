"""How often loop bodies run."""

from __future__ import annotations

from xdsl.dialects.builtin import DenseIntOrFPElementsAttr
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue

from autopar.dialects.tensors import shape_of


def trip_count(loop: Operation) -> int | None:
    """How often the body of a `stablehlo.while` runs; None if that is not plain to see.

    Plain: the condition is `counter < limit` with a constant limit, the counter starts at a
    constant, and the body adds a constant to it. `lax.scan` and `fori_loop` are lowered so.
    """
    condition, body = loop.regions[0].block, loop.regions[1].block
    terminator = condition.last_op
    compare = terminator.operands[0].owner if terminator is not None else None
    if not isinstance(compare, Operation) or compare.name != "stablehlo.compare":
        return None
    if "LT" not in str(compare.properties.get("comparison_direction")):
        return None
    counter = compare.operands[0]
    if not isinstance(counter, BlockArgument) or counter.block is not condition:
        return None
    limit = _constant(_outside(compare.operands[1], loop))
    start = _constant(loop.operands[counter.index])
    last = body.last_op
    step = _step(last.operands[counter.index], body.args[counter.index]) if last else None
    if limit is None or start is None or not step:
        return None
    return max(0, -(-(limit - start) // step))


def _outside(value: SSAValue, loop: Operation) -> SSAValue:
    """What a condition's argument was before the loop (limits are carried unchanged)."""
    if isinstance(value, BlockArgument) and value.block is loop.regions[0].block:
        last = loop.regions[1].block.last_op
        if (
            last is not None
            and last.operands[value.index] is loop.regions[1].block.args[value.index]
        ):
            return loop.operands[value.index]
    return value


def _step(value: SSAValue, counter: SSAValue) -> int | None:
    add = value.owner
    if not isinstance(add, Operation) or add.name != "stablehlo.add":
        return None
    if add.operands[0] is counter:
        return _constant(add.operands[1])
    return _constant(add.operands[0]) if add.operands[1] is counter else None


def _constant(value: SSAValue) -> int | None:
    op = value.owner
    if isinstance(op, Operation) and op.name in ("stablehlo.convert", "stablehlo.reshape"):
        return _constant(op.operands[0])
    if not isinstance(op, Operation) or op.name != "stablehlo.constant":
        return None
    data: Attribute | None = op.properties.get("value")
    if not isinstance(data, DenseIntOrFPElementsAttr) or shape_of(op.results[0].type) != ():
        return None
    return int(next(iter(data.get_values())))


def known_trips(loop: Operation) -> int:
    """The same; once where it is not known."""
    found = trip_count(loop)
    return 1 if found is None else found


def times(op: Operation, known: dict[Operation, int] | None = None) -> int:
    """How often an op runs: the product of the trip counts of the loops around it (1 for those
    that are not plain). `known` keeps the counts of loops between calls."""
    product = 1
    parent = op.parent_op()
    while parent is not None:
        if parent.name == "stablehlo.while":
            count = known.get(parent) if known is not None else None
            if count is None:
                count = known_trips(parent)
                if known is not None:
                    known[parent] = count
            product *= count
        parent = parent.parent_op()
    return product


def times_planned(op: Operation, known: dict[Operation, int] | None = None) -> int:
    """The same, at least 1: what a plan may not do is infinitely dear in a loop that never runs,
    too."""
    return max(1, times(op, known))
