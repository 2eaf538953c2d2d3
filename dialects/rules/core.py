"""Sharding rules: how the dimensions of an op's operands and results share factors.

A rule is the factor model of Shardy (https://openxla.org/shardy/sharding_propagation), as in
einsum: a matmul is `([i, k], [k, j]) -> ([i, j])`. Each tensor dimension is a list of factors,
major to minor; a grid axis on a factor splits every dimension that holds it. Propagation, strategy
enumeration, cost and partitioning read this one description of an op.

Beyond Shardy, a rule says how *partial* results pass through the op (`linear`, `moves_data`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from math import prod

from xdsl.ir import Operation

from ..reductions import REDUCTION_KINDS


class FactorKind(Enum):
    """What happens when a factor is split over a grid axis (Shardy's kinds)."""

    PASS_THROUGH = "pass_through"
    """Every device computes its part; no communication."""
    REDUCTION = "reduction"
    """Absent from the results: each device has a partial result, to be reduced."""
    PERMUTATION = "permutation"
    """The result's parts need data of other devices (slice, pad, reverse, windows, ...)."""
    NEED_REPLICATION = "need_replication"
    """The op cannot run with this factor split; it is replicated first."""


TensorMapping = tuple[tuple[int, ...], ...]
"""For each dimension of a tensor the indices of its factors, major to minor."""


@dataclass(frozen=True, slots=True)
class ShardingRule:
    """The factors of one op instance."""

    factor_sizes: tuple[int, ...]
    operands: tuple[TensorMapping, ...]
    results: tuple[TensorMapping, ...]
    kinds: tuple[FactorKind, ...]
    """One a factor."""
    reducers: tuple[str | None, ...]
    """For each reduction factor the kind of its partial result (`sum`, `max`, ...), else None."""
    blocked: frozenset[int] = frozenset()
    """Factors along which propagation must not spread (partitioning may still split them)."""
    linear: tuple[tuple[int, ...], ...] = ()
    """How sums pass: groups of operands. The op is linear in each group taken jointly, the others
    held fixed: add ((0, 1),), mul ((0,), (1,)), div ((0,),). A group whose members are all partial
    sums over some axes gives results that are partial sums over them."""
    moves_data: bool = False
    """Only moves or copies elements of operands `linear[0]`: partials of any kind pass."""
    accumulated: tuple[int, ...] = ()
    """Operands that a reduction takes once, beside what it reduces (its initial values): where a
    factor that they lack is split, only one device may count them."""
    is_custom: bool = False
    """Written in the program (`sdy.sharding_rule`)."""
    partitioned: ShardingRule | None = None
    """The rule that partitioning reads instead, where its routine splits more than propagation
    spreads along: the same factors, on other dimensions or of another kind."""

    @property
    def num_factors(self) -> int:
        return len(self.factor_sizes)

    def __str__(self) -> str:
        """Shardy's notation, `([i, k], [k, j])->([i, j]) {i=8, j=4, k=2} reduction={k}`, and
        reducers that are no sums."""
        from ..sdy.attributes import OpShardingRule, factor_symbol

        def of(kind: FactorKind) -> tuple[int, ...]:
            return tuple(factor for factor, own in enumerate(self.kinds) if own is kind)

        written = OpShardingRule(
            self.factor_sizes,
            self.operands,
            self.results,
            of(FactorKind.REDUCTION),
            of(FactorKind.NEED_REPLICATION),
            of(FactorKind.PERMUTATION),
            tuple(sorted(self.blocked)),
            self.is_custom,
        )
        reducers = [
            f"{factor_symbol(factor)}={reducer}"
            for factor, reducer in enumerate(self.reducers)
            if reducer not in (None, "sum")
        ]
        return f"{written}" + (f" reducer={{{', '.join(reducers)}}}" if reducers else "")


class RuleError(ValueError):
    """A sharding rule that cannot be right; `get_rule` says of which op."""


def check_rule(
    rule: ShardingRule,
    operand_shapes: Sequence[Sequence[int]],
    result_shapes: Sequence[Sequence[int]],
) -> None:
    """RuleError where a rule does not fit the tensors of its op.

    In rules that are written in the program (`is_custom`) a factor's size is that of one of its
    dimensions: JAX lets it stand for others of different sizes.
    """
    count = rule.num_factors
    if len(rule.kinds) != count or len(rule.reducers) != count:
        raise RuleError(
            f"has {count} factors, but {len(rule.kinds)} kinds and {len(rule.reducers)} reducers"
        )
    for kind, reducer in zip(rule.kinds, rule.reducers, strict=True):
        _check_reducer(kind, reducer)
    for what, mappings, shapes in (
        ("operand", rule.operands, operand_shapes),
        ("result", rule.results, result_shapes),
    ):
        if len(mappings) != len(shapes):
            raise RuleError(f"is for {len(mappings)} {what}s, the op has {len(shapes)}")
        for index, (mapping, shape) in enumerate(zip(mappings, shapes, strict=True)):
            if len(mapping) != len(shape):
                raise RuleError(
                    f"is for a rank of {len(mapping)} of {what} {index}, whose rank is {len(shape)}"
                )
            for dim, (factors, size) in enumerate(zip(mapping, shape, strict=True)):
                _check_dimension(rule, factors, size, f"dimension {dim} of {what} {index}")
    if rule.is_custom:
        _check_written_sizes(rule, (*operand_shapes, *result_shapes))
    named = {index for group in (*rule.linear, rule.accumulated) for index in group}
    if any(not 0 <= index < len(rule.operands) for index in named):
        raise RuleError(
            f"names operands {sorted(named)} in linear or accumulated, the op has "
            f"{len(rule.operands)}"
        )
    if rule.partitioned is not None:
        if rule.partitioned.factor_sizes != rule.factor_sizes:
            raise RuleError("is partitioned by other factors")
        check_rule(rule.partitioned, operand_shapes, result_shapes)


def _check_written_sizes(rule: ShardingRule, shapes: Sequence[Sequence[int]]) -> None:
    sizes: dict[int, list[int]] = {}
    fitting: set[int] = set()
    for mapping, shape in zip((*rule.operands, *rule.results), shapes, strict=True):
        for factors, size in zip(mapping, shape, strict=True):
            if prod(rule.factor_sizes[factor] for factor in factors) == size:
                fitting.update(factors)
            for factor in factors:
                sizes.setdefault(factor, []).append(size)
    for factor, found in sizes.items():
        if factor not in fitting:
            raise RuleError(
                f"has factor {factor} of size {rule.factor_sizes[factor]}, and the dimensions that "
                f"name it have the sizes {', '.join(map(str, found))}"
            )


def _check_dimension(rule: ShardingRule, factors: Sequence[int], size: int, where: str) -> None:
    unknown = [factor for factor in factors if not 0 <= factor < rule.num_factors]
    if unknown:
        raise RuleError(f"has no factor {unknown[0]}, which {where} names")
    if any(rule.kinds[factor] is not FactorKind.PASS_THROUGH for factor in factors):
        return  # of those that move data, only one side has the factor's size
    found = prod(rule.factor_sizes[factor] for factor in factors)
    if found != size and not rule.is_custom:
        raise RuleError(f"has factors of sizes that make {found} on {where}, which is {size}")


def _check_reducer(kind: FactorKind, reducer: str | None) -> None:
    if reducer is not None and reducer not in REDUCTION_KINDS:
        raise RuleError(f"has the reducer '{reducer}'; there are {', '.join(REDUCTION_KINDS)}")
    if reducer is not None and kind is not FactorKind.REDUCTION:
        raise RuleError(f"has the reducer '{reducer}' on a factor of kind {kind.value}")


class RuleBuilder:
    """Builds a rule factor by factor.

    `operand_shapes` and `result_shapes` are those of the op, a scalar's is ().
    """

    def __init__(
        self, operand_shapes: Sequence[Sequence[int]], result_shapes: Sequence[Sequence[int]]
    ) -> None:
        self._operand_shapes = [tuple(s) for s in operand_shapes]
        self._result_shapes = [tuple(s) for s in result_shapes]
        self._operands: list[list[list[int]]] = [[[] for _ in s] for s in self._operand_shapes]
        self._results: list[list[list[int]]] = [[[] for _ in s] for s in self._result_shapes]
        self._sizes: list[int] = []
        self._kinds: list[FactorKind] = []
        self._reducers: list[str | None] = []
        self._blocked: set[int] = set()

    def factor(
        self,
        operand_dims: Sequence[int | None],
        result_dims: Sequence[int | None],
        size: int,
        kind: FactorKind = FactorKind.PASS_THROUGH,
        *,
        reducer: str | None = None,
        blocked: bool = False,
    ) -> RuleBuilder:
        """Adds a factor to the given dimension of each operand and result (None: not there).

        Factors are appended: on a dimension with several the first added is the most major.
        `reducer`: of a reduction factor; without one it is never split, since nothing is known to
        put the parts together. RuleError where there is no such tensor, dimension, size or
        reducer.
        """
        index = len(self._sizes)
        if size < 0:
            raise RuleError(f"has a factor of size {size}")
        _check_reducer(kind, reducer)
        self._sizes.append(size)
        self._kinds.append(kind)
        self._reducers.append(reducer)
        if blocked:
            self._blocked.add(index)
        for what, dims, mapping in (
            ("operand", operand_dims, self._operands),
            ("result", result_dims, self._results),
        ):
            if len(dims) > len(mapping):
                raise RuleError(f"is for {len(dims)} {what}s, the op has {len(mapping)}")
            for tensor, dim in enumerate(dims):
                if dim is None:
                    continue
                if not 0 <= dim < len(mapping[tensor]):
                    raise RuleError(
                        f"names dimension {dim} of {what} {tensor}, whose rank is "
                        f"{len(mapping[tensor])}"
                    )
                mapping[tensor][dim].append(index)
        return self

    def reduction(
        self, operand_dims: Sequence[int | None], size: int, reducer: str = "sum"
    ) -> RuleBuilder:
        """Adds a factor that the results do not have."""
        return self.factor(
            operand_dims,
            [None] * len(self._result_shapes),
            size,
            FactorKind.REDUCTION,
            reducer=reducer,
        )

    def build(
        self,
        *,
        linear: Sequence[Sequence[int]] = (),
        moves_data: bool = False,
        accumulated: tuple[int, ...] = (),
        leftover: FactorKind = FactorKind.NEED_REPLICATION,
    ) -> ShardingRule:
        """The rule of the factors so far; each dimension without one gets its own, of kind
        `leftover`.

        `linear`: groups of operands through which sums pass: with all operands of a group partial
        sums over some axes, the results are partial sums over them (add ((0, 1),), mul
        ((0,), (1,))). `moves_data`: the op only moves or copies elements of the operands
        `linear[0]`, so that partial results of any kind pass. `accumulated`: operands that a
        reduction takes once, as its initial values: of the devices that share a split reduction
        only one may count them.
        """
        for shapes, mapping, is_operand in (
            (self._operand_shapes, self._operands, True),
            (self._result_shapes, self._results, False),
        ):
            for tensor, shape in enumerate(shapes):
                for dim, size in enumerate(shape):
                    if mapping[tensor][dim]:
                        continue
                    one_hot: list[int | None] = [None] * len(shapes)
                    one_hot[tensor] = dim
                    none_o: list[int | None] = [None] * len(self._operand_shapes)
                    none_r: list[int | None] = [None] * len(self._result_shapes)
                    if is_operand:
                        self.factor(one_hot, none_r, size, leftover)
                    else:
                        self.factor(none_o, one_hot, size, leftover)
        return ShardingRule(
            tuple(self._sizes),
            tuple(tuple(tuple(d) for d in t) for t in self._operands),
            tuple(tuple(tuple(d) for d in t) for t in self._results),
            tuple(self._kinds),
            tuple(self._reducers),
            frozenset(self._blocked),
            _groups(linear),
            moves_data,
            accumulated,
        )


def _groups(linear: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """RuleError where they are none, as in `linear=[0]`."""
    try:
        return tuple(tuple(map(operator.index, group)) for group in linear)
    except TypeError:
        raise RuleError(
            f"has linear={linear!r}: expected groups of operands, as in ((0,), (1,))"
        ) from None


RuleFunction = Callable[[Operation], ShardingRule | None]
"""Gives the rule of an op instance; None where this instance has none (it is replicated)."""
