"""Rules of matrix products: batch, row and column factors pass through, contracting ones reduce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from xdsl.ir import Operation

from .access import attribute, operand_shapes, result_shapes
from .core import FactorKind, RuleBuilder, ShardingRule
from .registry import sharding_rule

if TYPE_CHECKING:
    from ..stablehlo.attributes import DotDimensionNumbers


def dot_rule(
    op: Operation,
    batching: Sequence[tuple[int, int]],
    contracting: Sequence[tuple[int, int]],
) -> ShardingRule:
    """A product whose result is batch dimensions, left's free ones, right's free ones."""
    shapes = operand_shapes(op)
    left, right = shapes[0], shapes[1]
    rest: list[int | None] = [None] * (len(shapes) - 2)
    builder = RuleBuilder(shapes, result_shapes(op))
    out = 0
    for left_dim, right_dim in batching:
        builder.factor([left_dim, right_dim, *rest], [out], left[left_dim])
        out += 1
    taken = {d for d, _ in batching} | {d for d, _ in contracting}
    for dim, size in enumerate(left):
        if dim not in taken:
            builder.factor([dim, None, *rest], [out], size)
            out += 1
    taken = {d for _, d in batching} | {d for _, d in contracting}
    for dim, size in enumerate(right):
        if dim not in taken:
            builder.factor([None, dim, *rest], [out], size)
            out += 1
    for left_dim, right_dim in contracting:
        builder.reduction([left_dim, right_dim, *rest], left[left_dim])
    return builder.build(linear=((0,), (1,)))


@sharding_rule("stablehlo.dot_general")
def dot_general(op: Operation) -> ShardingRule:
    numbers = cast("DotDimensionNumbers", attribute(op, "dot_dimension_numbers"))
    return dot_rule(
        op,
        list(zip(numbers.lhs_batching_dimensions, numbers.rhs_batching_dimensions, strict=True)),
        list(
            zip(
                numbers.lhs_contracting_dimensions,
                numbers.rhs_contracting_dimensions,
                strict=True,
            )
        ),
    )


@sharding_rule("stablehlo.dot")
def dot(op: Operation) -> ShardingRule:
    return dot_rule(op, [], [(len(operand_shapes(op)[0]) - 1, 0)])


@sharding_rule("chlo.ragged_dot")
def ragged_dot(op: Operation) -> ShardingRule | None:
    """Rows of [m, k] in groups, each times its own [k, n] of [g, k, n]; else no rule."""
    shapes, (out,) = operand_shapes(op), result_shapes(op)
    if list(map(len, shapes)) != [2, 3, 1]:
        return None
    (rows, inner), (groups, _, columns) = shapes[0], shapes[1]
    if shapes[1][1] != inner or out != (rows, columns):
        return None
    builder = RuleBuilder(shapes, [out])
    builder.factor([0, None, None], [0], rows, FactorKind.NEED_REPLICATION)
    builder.factor([None, 0, 0], [None], groups, FactorKind.NEED_REPLICATION)
    builder.factor([None, 2, None], [1], columns)
    builder.reduction([1, 1, None], inner)
    return builder.build(linear=((0,), (1,)))


@sharding_rule("tosa.matmul")
def tosa_matmul(op: Operation) -> ShardingRule:
    """[b, i, k] x [b, k, j] -> [b, i, j]; the optional zero points hold no factor."""
    return dot_rule(op, [(0, 0)], [(2, 1)])


@sharding_rule("linalg.matmul")
def linalg_matmul(op: Operation) -> ShardingRule:
    """[i, k] x [k, j] added to the third operand [i, j]; only the plain indexing maps."""
    shapes = operand_shapes(op)
    (rows, inner), columns = shapes[0], shapes[1][1]
    results = result_shapes(op)
    into = [0] * len(results)
    builder = RuleBuilder(shapes, results)
    builder.factor([0, None, 0], into, rows)
    builder.factor([None, 1, 1], [1] * len(results), columns)
    builder.reduction([1, 0, None], inner)
    # A sum over a sharded k adds the third operand once: on one device of the group only.
    return builder.build(linear=((0, 2), (1, 2)), accumulated=(2,))
