"""Rules of reductions and of ops along windows or a sorted dimension."""

from __future__ import annotations

from dataclasses import replace

from xdsl.ir import Operation

from .access import (
    CHOICE,
    body_kind,
    body_reducer,
    integer,
    ints,
    operand_shapes,
    result_shapes,
)
from .core import FactorKind, RuleBuilder, ShardingRule
from .registry import sharding_rule


@sharding_rule("stablehlo.reduce")
def reduce(op: Operation) -> ShardingRule:
    """Reduced dimensions give partial results by the body's reducer.

    A body that is no known reducer (argmax) needs its dimension whole. Where it chooses among the
    elements, partitioning lets each device choose among its own first, in their order: the blocks
    of the major reduced dimension.
    """
    shapes, results = operand_shapes(op), result_shapes(op)
    count = len(results)
    reduced = set(ints(op, "dimensions"))
    reducer = body_reducer(op.regions[0])
    inits: list[int | None] = [None] * count
    builder = RuleBuilder(shapes, results)
    out = 0
    for dim, size in enumerate(shapes[0]):
        operands: list[int | None] = [*([dim] * count), *inits]
        if dim not in reduced:
            builder.factor(operands, [out] * count, size)
            out += 1
        elif reducer is None:
            builder.factor(operands, [None] * count, size, FactorKind.NEED_REPLICATION)
        else:
            builder.reduction(operands, size, reducer)
    linear = (tuple(range(2 * count)),) if reducer == "sum" else ()
    rule = builder.build(linear=linear, accumulated=tuple(range(count, 2 * count)))
    if reducer is not None or body_kind(op.regions[0]) != CHOICE:
        return rule
    major = next((dim for dim in sorted(reduced) if shapes[0][dim] > 1), None)
    kinds = list(rule.kinds)
    if major is not None:
        kinds[major] = FactorKind.PERMUTATION
    return replace(rule, partitioned=replace(rule, kinds=tuple(kinds)))


@sharding_rule("stablehlo.reduce_window")
def reduce_window(op: Operation) -> ShardingRule:
    """Each dimension is one factor; where windows overlap or the size changes it needs halos."""
    shapes, results = operand_shapes(op), result_shapes(op)
    count = len(results)
    rank = len(shapes[0])
    windows = ints(op, "window_dimensions", (1,) * rank)
    inits: list[int | None] = [None] * count
    builder = RuleBuilder(shapes, results)
    for dim, size in enumerate(results[0]):
        plain = size == shapes[0][dim] and windows[dim] == 1
        kind = FactorKind.PASS_THROUGH if plain else FactorKind.PERMUTATION
        builder.factor([*([dim] * count), *inits], [dim] * count, size, kind)
    is_sum = body_reducer(op.regions[0]) == "sum"
    return builder.build(linear=(tuple(range(2 * count)),) if is_sum else ())


@sharding_rule("stablehlo.select_and_scatter")
def select_and_scatter(op: Operation) -> ShardingRule:
    """Operand and result share a factor a dimension, the source too where no windows are formed.

    Elsewhere the parts of the operand need windows of their neighbours, and a source of their own:
    partitioning splits it as the operand, unless windows reach into padding (what they select there
    no element of an operand can stand for).
    """
    operand, source, init = operand_shapes(op)
    builder = RuleBuilder([operand, source, init], result_shapes(op))
    windows = ints(op, "window_dimensions", (1,) * len(operand))
    for dim, (size, own) in enumerate(zip(operand, source, strict=True)):
        if size == own:
            kind = FactorKind.PASS_THROUGH if windows[dim] == 1 else FactorKind.PERMUTATION
            builder.factor([dim, dim, None], [dim], size, kind)
        else:
            builder.factor([dim, None, None], [dim], size, FactorKind.PERMUTATION)
            builder.factor([None, dim, None], [None], own, FactorKind.NEED_REPLICATION)
    # Linear in what is scattered: the operand only selects.
    reducer = body_reducer(op.regions[1]) if len(op.regions) > 1 else None
    rule = builder.build(linear=((1, 2),) if reducer == "sum" else ())
    kinds, mapping = list(rule.kinds), rule.operands[0]
    padding = ints(op, "padding", (0, 0) * len(operand))
    for dim, (factor,) in enumerate(mapping):
        moves = kinds[factor] is FactorKind.PERMUTATION
        if moves and (reducer is None or any(padding[2 * dim : 2 * dim + 2])):
            kinds[factor] = FactorKind.NEED_REPLICATION
    return replace(
        rule, partitioned=replace(rule, operands=(mapping, mapping, ()), kinds=tuple(kinds))
    )


@sharding_rule("stablehlo.sort")
def sort(op: Operation) -> ShardingRule:
    shapes, results = operand_shapes(op), result_shapes(op)
    dimension = integer(op, "dimension", -1) % max(len(shapes[0]), 1)
    alone = all(size == 1 for dim, size in enumerate(shapes[0]) if dim != dimension)
    builder = RuleBuilder(shapes, results)
    for dim, size in enumerate(shapes[0]):
        sorted_ = dim == dimension
        builder.factor(
            [dim] * len(shapes),
            [dim] * len(results),
            size,
            FactorKind.NEED_REPLICATION if sorted_ else FactorKind.PASS_THROUGH,
            blocked=sorted_ and alone,
        )
    return builder.build()


def last_dim_rule(op: Operation) -> ShardingRule:
    """Batch dimensions pass; the last one needs replication and spreads nothing."""
    shapes, results = operand_shapes(op), result_shapes(op)
    rank = len(shapes[0])
    builder = RuleBuilder(shapes, results)
    scalars: list[int | None] = [None] * (len(shapes) - 1)
    for dim, size in enumerate(shapes[0]):
        last = dim == rank - 1
        builder.factor(
            [dim, *scalars],
            [dim] * len(results),
            size,
            FactorKind.NEED_REPLICATION if last else FactorKind.PASS_THROUGH,
            blocked=last,
        )
    return builder.build()


@sharding_rule("chlo.top_k")
def top_k(op: Operation) -> ShardingRule:
    return last_dim_rule(op)


@sharding_rule("stablehlo.all_gather", "stablehlo.reduce_scatter", "stablehlo.all_to_all")
def resizing_collective(op: Operation) -> ShardingRule:
    """Collectives inside a manual computation: dimensions that change need replication."""
    touched = {
        integer(op, name, -1)
        for name in ("all_gather_dim", "scatter_dimension", "split_dimension", "concat_dimension")
    }
    shapes, results = operand_shapes(op), result_shapes(op)
    builder = RuleBuilder(shapes, results)
    for dim, size in enumerate(shapes[0]):
        if dim not in touched:
            builder.factor([dim] * len(shapes), [dim] * len(results), size)
    return builder.build()
