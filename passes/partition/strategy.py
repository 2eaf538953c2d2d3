"""Choosing the strategy of an op: which grid axes split each factor of its sharding rule.

Where operands and result agree there is nothing to choose. Where they differ, every tensor in turn
leads (its layout is kept, the others fill in what is left), and the assignment that moves the
fewest bytes is taken: operands from where they lie to what the op needs, results from what the op
gives to what is wanted. Ties go to the assignment with less work on each device.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from autopar.dialects.rules.core import FactorKind, ShardingRule, TensorMapping
from autopar.dialects.sharding import local_dim

from .reshard_plan import ReshardPlanner
from .specs import AxisTable, Dims, PartialAxes, Spec, axes_of_partial, merge_partial

WORK_COST = 0.02
"""Bytes' worth of one element of the local iteration space (a multiply-add of a dot)."""


class Strategy(NamedTuple):
    """The axes of each factor, and what follows from them."""

    factors: tuple[tuple[int, ...], ...]
    operands: tuple[Spec, ...]
    """What the op needs. Partial where a split reduction takes the operand once (the input of a
    scatter-add is added once, not once a device)."""
    results: tuple[Spec, ...]
    """Natural results: with the partial axes that split reductions leave."""


class Splittable(NamedTuple):
    """Which factors of a rule may be split, as partitioning knows to handle the op."""

    allowed: tuple[bool, ...]
    reducers: tuple[str | None, ...]


def splittable_by_kind(rule: ShardingRule) -> Splittable:
    """Pass-through factors that reach a result, and reductions with a known reducer."""
    reaching = {f for mapping in rule.results for dim in mapping for f in dim}
    return Splittable(
        tuple(
            (kind is FactorKind.PASS_THROUGH and factor in reaching)
            or (kind is FactorKind.REDUCTION and reducer is not None)
            for factor, (kind, reducer) in enumerate(zip(rule.kinds, rule.reducers, strict=True))
        ),
        rule.reducers,
    )


class TensorUse(NamedTuple):
    """A tensor of the op: where it lies (operand) or is wanted (result)."""

    spec: Spec
    shape: tuple[int, ...]
    item_bytes: int
    is_added_up: bool = False
    """A result that a loop only adds up: partial, it costs nothing in the loop."""


class StrategyChooser:
    """Chooses strategies on one refined grid; equal questions are answered from a cache."""

    def __init__(self, table: AxisTable, planner: ReshardPlanner) -> None:
        self._table = table
        self._planner = planner
        self._cache: dict[tuple[object, ...], Strategy] = {}
        self._rules: list[ShardingRule] = []  # keeps the ids in cache keys alive

    def choose(
        self,
        rule: ShardingRule,
        splittable: Splittable,
        operands: Sequence[TensorUse],
        results: Sequence[TensorUse],
        carried: PartialAxes = (),
    ) -> Strategy:
        """The cheapest strategy.

        `carried` are the partial axes that pass through the op: no factor may use them, and they
        are partial axes of every result.
        """
        key = (id(rule), splittable, tuple(operands), tuple(results), carried)
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = self._choose(rule, splittable, operands, results, carried)
            self._rules.append(rule)
        return found

    def _choose(
        self,
        rule: ShardingRule,
        splittable: Splittable,
        operands: Sequence[TensorUse],
        results: Sequence[TensorUse],
        carried: PartialAxes,
    ) -> Strategy:
        mappings = (*rule.operands, *rule.results)
        uses = (*operands, *results)
        carried_axes = axes_of_partial(carried)
        projections = [
            self._project(rule, mapping, use.spec.dims, splittable.allowed, carried_axes)
            for mapping, use in zip(mappings, uses, strict=True)
        ]
        candidates = self._candidates(rule, projections, uses)
        strategies = [
            self.complete(rule, splittable, self.repaired(rule, mappings, c), carried)
            for c in candidates
        ]
        if len(strategies) == 1:
            return strategies[0]
        costs = [
            self._cost(rule, strategy, operands, results, carried_axes) for strategy in strategies
        ]
        return strategies[min(range(len(costs)), key=lambda i: (costs[i], i))]

    def kept(self, rule: ShardingRule, splittable: Splittable, index: int, spec: Spec) -> Spec:
        """What an op could keep of where an operand lies, if this alone mattered."""
        dims, allowed = rule.operands[index], splittable.allowed
        projected = self._project(rule, dims, spec.dims, allowed, frozenset())
        factors = tuple(projected.get(factor, ()) for factor in range(rule.num_factors))
        repaired = self.repaired(rule, (*rule.operands, *rule.results), factors)
        return self.complete(rule, splittable, repaired).operands[index]

    def complete(
        self,
        rule: ShardingRule,
        splittable: Splittable,
        factors: tuple[tuple[int, ...], ...],
        carried: PartialAxes = (),
    ) -> Strategy:
        """Operand and result layouts that follow from the axes of each factor."""
        reduced = [
            (factor, reducer, axes)
            for factor, (axes, reducer) in enumerate(zip(factors, splittable.reducers, strict=True))
            if axes and reducer is not None
        ]
        partial = merge_partial(carried, ((kind, axes) for _, kind, axes in reduced))
        operands = [Spec(dims_of(mapping, factors)) for mapping in rule.operands]
        for index in rule.accumulated:
            own = {f for dim in rule.operands[index] for f in dim}
            added = [(kind, axes) for factor, kind, axes in reduced if factor not in own]
            operands[index] = operands[index].with_partial(merge_partial(added))
        return Strategy(
            factors,
            tuple(operands),
            tuple(Spec(dims_of(mapping, factors), partial) for mapping in rule.results),
        )

    def _project(
        self,
        rule: ShardingRule,
        mapping: TensorMapping,
        dims: Dims,
        allowed: tuple[bool, ...],
        carried_axes: frozenset[int],
    ) -> dict[int, tuple[int, ...]]:
        """The axes of each factor that this tensor's layout asks for."""
        result: dict[int, tuple[int, ...]] = {}
        for factors, axes in zip(mapping, dims, strict=True):
            axes = tuple(a for a in axes if a not in carried_axes)
            if len(factors) == 1:
                result[factors[0]] = axes if allowed[factors[0]] else ()
                continue
            position = 0
            blocked = False
            for factor in factors:
                size = rule.factor_sizes[factor]
                taken = 1
                start = position
                while (
                    not blocked
                    and taken < size
                    and position < len(axes)
                    and size % (taken * self._table.sizes[axes[position]]) == 0
                ):
                    taken *= self._table.sizes[axes[position]]
                    position += 1
                result[factor] = axes[start:position] if allowed[factor] else ()
                if taken < size or not allowed[factor]:
                    blocked = blocked or size > 1
        return result

    def _candidates(
        self,
        rule: ShardingRule,
        projections: Sequence[dict[int, tuple[int, ...]]],
        uses: Sequence[TensorUse],
    ) -> list[tuple[tuple[int, ...], ...]]:
        """Assignments led by each tensor, without repetitions; one where all agree."""
        order = sorted(
            range(len(projections)), key=lambda t: -prod(uses[t].shape) * uses[t].item_bytes
        )
        agreed: dict[int, tuple[int, ...]] = {}
        conflict = False
        for projection in projections:
            for factor, axes in projection.items():
                if agreed.setdefault(factor, axes) != axes:
                    conflict = True
        flat = [a for axes in agreed.values() for a in axes]
        if not conflict and len(flat) == len(set(flat)):
            return [tuple(agreed.get(f, ()) for f in range(rule.num_factors))]
        candidates: dict[tuple[tuple[int, ...], ...], None] = {}
        for leader in order:
            for exact in (True, False):
                assigned: dict[int, tuple[int, ...]] = {}
                used: set[int] = set()
                frozen: frozenset[int] = frozenset(projections[leader]) if exact else frozenset()
                for tensor in (leader, *(t for t in order if t != leader)):
                    for factor, axes in projections[tensor].items():
                        if tensor != leader and factor in frozen:
                            continue
                        have = assigned.get(factor, ())
                        if axes[: len(have)] != have:
                            continue
                        more: list[int] = []
                        for axis in axes[len(have) :]:
                            if axis in used:
                                break
                            more.append(axis)
                            used.add(axis)
                        assigned[factor] = (*have, *more)
                candidates[tuple(assigned.get(f, ()) for f in range(rule.num_factors))] = None
        return list(candidates)

    def repaired(
        self,
        rule: ShardingRule,
        mappings: Sequence[TensorMapping],
        factors: tuple[tuple[int, ...], ...],
    ) -> tuple[tuple[int, ...], ...]:
        """Drops axes where a dimension of several factors would not be split contiguously.

        In a dimension of factors (f0, f1, ...) a factor may be split only where all more major
        ones are split completely, and only evenly.
        """
        result = list(factors)
        for mapping in mappings:
            for dim in mapping:
                if len(dim) < 2:
                    continue
                blocked = False
                for factor in dim:
                    size = rule.factor_sizes[factor]
                    if size == 1:
                        result[factor] = ()
                        continue
                    axes = () if blocked else result[factor]
                    while axes and size % self._table.parts(axes):
                        axes = axes[:-1]
                    result[factor] = axes
                    blocked = blocked or self._table.parts(axes) != size
        if tuple(result) != factors and any(len(dim) > 1 for m in mappings for dim in m):
            # Dropping axes from one factor may uncover another dimension's minor factors.
            return self.repaired(rule, mappings, tuple(result))
        return tuple(result)

    def _cost(
        self,
        rule: ShardingRule,
        strategy: Strategy,
        operands: Sequence[TensorUse],
        results: Sequence[TensorUse],
        carried_axes: frozenset[int],
    ) -> float:
        cost = 0.0
        for use, need in zip(operands, strategy.operands, strict=True):
            through = tuple(
                (kind, axes) for kind, axes in use.spec.partial if carried_axes.issuperset(axes)
            )
            need = need.with_partial(merge_partial(need.partial, through))
            cost += self._planner.cost(use.spec, need, use.shape, use.item_bytes)
        for use, natural in zip(results, strategy.results, strict=True):
            if use.is_added_up and natural.partial:
                continue
            cost += self._planner.cost(natural, use.spec, use.shape, use.item_bytes)
        work = 1.0
        for size, axes in zip(rule.factor_sizes, strategy.factors, strict=True):
            work *= local_dim(size, self._table.parts(axes)) if axes else size
        return cost + WORK_COST * work


def dims_of(mapping: TensorMapping, factors: Sequence[tuple[int, ...]]) -> Dims:
    """The axes of each dimension, given those of each factor."""
    return tuple(
        factors[dim[0]] if len(dim) == 1 else tuple(a for f in dim for a in factors[f])
        for dim in mapping
    )
