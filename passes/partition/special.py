"""Which factors of an op partitioning can split, beyond what the kind of the factor says.

Pass-through factors and reductions with a known reducer can always be split. For the ops below
`localize/` knows a routine for more: windows of other devices' data (slice, pad, concatenate,
reverse, convolution, reduce_window, select_and_scatter), masked access with offset indices
(gather, scatter), or a choice among what the devices chose (reduce).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from xdsl.ir import Operation

from autopar.dialects.autopar import StrategyAttr
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.rules.core import FactorKind, ShardingRule
from autopar.dialects.tensors import is_bool, shape_of
from autopar.passes.importing.meshes import axis_problem, overlap

from .localize.core import localizer_of, splits_permutations
from .specs import AxisTable
from .strategy import Splittable, splittable_by_kind

WINDOWED = frozenset(
    {
        "stablehlo.slice",
        "stablehlo.pad",
        "stablehlo.concatenate",
        "stablehlo.reverse",
    }
)
"""Ops whose permutation factors are split by fetching windows."""


_SplittableFunction = Callable[[Operation, ShardingRule, list[bool], list[str | None]], None]


def splittable_factors(op: Operation, rule: ShardingRule) -> Splittable:
    """The factors of `op` that may be split, and the reducers of those that leave partials."""
    base = splittable_by_kind(rule)
    is_call = op.name == "stablehlo.custom_call"
    if localizer_of(op) is None if is_call else rule.is_custom:
        base = base._replace(allowed=_of_opaque(rule, base.allowed))
    extend = _windows if splits_permutations(op) else _EXTENSIONS.get(op.name)
    if extend is None:
        return base
    allowed, reducers = list(base.allowed), list(base.reducers)
    extend(op, rule, allowed, reducers)
    return Splittable(tuple(allowed), tuple(reducers))


def _of_opaque(rule: ShardingRule, allowed: tuple[bool, ...]) -> tuple[bool, ...]:
    """Nothing tells an opaque op which part of a dimension to make: what no operand brings in parts
    (the matrix dimensions of JAX's LAPACK calls, whose rules name them apart) it makes whole."""
    brought = {factor for mapping in rule.operands for dim in mapping for factor in dim}
    return tuple(may and factor in brought for factor, may in enumerate(allowed))


def given_factors(
    op: Operation, rule: ShardingRule | None, strategy: StrategyAttr, table: AxisTable
) -> tuple[tuple[int, ...], ...]:
    """The axes of each factor that the op's strategy says; DiagnosticError if it does not fit."""
    if rule is None or len(strategy.data) != rule.num_factors:
        expected = "the op has no sharding rule" if rule is None else f"its rule {rule.num_factors}"
        raise DiagnosticError(
            op,
            f"'{op.name}' has a strategy of {len(strategy.data)} factors, {expected}: "
            "the attribute autopar.strategy does not belong to this op",
        )
    problem = _strategy_problem(op, rule, strategy, table)
    if problem is not None:
        raise DiagnosticError(op, f"the strategy of '{op.name}' is not possible: {problem}")
    return tuple(table.indices(axes) for axes in strategy.data)


def _strategy_problem(
    op: Operation, rule: ShardingRule, strategy: StrategyAttr, table: AxisTable
) -> str | None:
    every = [axis for axes in strategy.data for axis in axes]
    for axis in every:
        problem = axis_problem(axis, table.grid.axes)
        if problem is not None:
            return problem
    twice = overlap(every, table.grid.axes)
    if twice is not None:
        return f"an axis splits one factor, once, and axis {twice[0]} is there twice"
    allowed = splittable_factors(op, rule).allowed
    for factor, (axes, may) in enumerate(zip(strategy.data, allowed, strict=True)):
        if axes and not may:
            return f"factor {factor} cannot be split, leave its axes out"
    return None


def _windows(
    op: Operation, rule: ShardingRule, allowed: list[bool], reducers: list[str | None]
) -> None:
    for factor, kind in enumerate(rule.kinds):
        if kind is FactorKind.PERMUTATION:
            allowed[factor] = True


def _gather(
    op: Operation, rule: ShardingRule, allowed: list[bool], reducers: list[str | None]
) -> None:
    """Indexed operand dimensions are masked by zeros: on bool, `or` puts the parts together."""
    if is_bool(op.results[0].type):
        for factor, reducer in enumerate(reducers):
            reducers[factor] = "bitwise_or" if reducer is not None else None


def _scatter(
    op: Operation, rule: ShardingRule, allowed: list[bool], reducers: list[str | None]
) -> None:
    """Indexed dimensions may be split where an update is one element of them."""
    numbers: Any = op.properties["scatter_dimension_numbers"]
    num_inputs = len(op.results)
    windows = [
        dim
        for dim in range(len(rule.results[0]))
        if dim not in numbers.inserted_window_dims and dim not in numbers.input_batching_dims
    ]
    updates = shape_of(op.operands[num_inputs + 1].type)
    whole = shape_of(op.results[0].type)
    update_dims: Sequence[int] = numbers.update_window_dims
    sizes = {dim: updates[d] for dim, d in zip(windows, update_dims, strict=True)}
    for dim in range(len(whole)):
        if dim in numbers.input_batching_dims or sizes.get(dim) == whole[dim]:
            continue
        if sizes.get(dim, 1) != 1 or dim not in numbers.scatter_dims_to_operand_dims:
            for factor in rule.results[0][dim]:
                allowed[factor] = False


def _reshape(
    op: Operation, rule: ShardingRule, allowed: list[bool], reducers: list[str | None]
) -> None:
    """A factor of one side alone cannot be split: both sides have the same elements."""
    shared = {f for dim in rule.operands[0] for f in dim}
    for factor in range(rule.num_factors):
        allowed[factor] = allowed[factor] and factor in shared


def _whole(
    op: Operation, rule: ShardingRule, allowed: list[bool], reducers: list[str | None]
) -> None:
    """A generator's bits depend on their place in the whole tensor: every device makes them all
    and keeps its part."""
    allowed[:] = [False] * len(allowed)


_EXTENSIONS: dict[str, _SplittableFunction] = {
    **dict.fromkeys(WINDOWED, _windows),
    **dict.fromkeys(
        (
            "stablehlo.reduce",
            "stablehlo.reduce_window",
            "stablehlo.select_and_scatter",
            "stablehlo.convolution",
        ),
        _windows,
    ),
    "stablehlo.gather": _gather,
    "stablehlo.scatter": _scatter,
    "stablehlo.reshape": _reshape,
    **dict.fromkeys(("stablehlo.rng", "stablehlo.rng_bit_generator"), _whole),
}
