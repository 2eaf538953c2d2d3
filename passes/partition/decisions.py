"""Deciding one op: its strategy, and what has to be moved for it.

Nothing is changed here. Programs repeat themselves: a decision is kept for all ops that are alike,
so that deciding an op costs little more than the comparison with those before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from xdsl.dialects.builtin import ArrayAttr, UnregisteredOp
from xdsl.ir import Operation

from autopar.dialects.autopar import SHARDING, STRATEGY, ShardingAttr, StrategyAttr
from autopar.dialects.rules.access import op_name, operands_of, type_of
from autopar.dialects.rules.core import ShardingRule
from autopar.dialects.rules.registry import get_rule, partitioned_rule
from autopar.dialects.tensors import is_splittable, shape_of

from .partials import Partials
from .reshard_plan import ReshardPlanner
from .special import given_factors, splittable_factors
from .specs import PartialAxes, Spec, axes_of_partial, merge_partial
from .strategy import Splittable, Strategy, StrategyChooser, TensorUse, splittable_by_kind
from .value_specs import ValueSpecs

_UNREGISTERED = UnregisteredOp.name


class Decision(NamedTuple):
    """How an op is split, and what that takes: the same for all ops that are alike."""

    strategy: StrategyAttr
    shardings: ArrayAttr[ShardingAttr]
    results: tuple[Spec, ...]
    moved: tuple[tuple[int, Spec], ...]
    """The operands that lie elsewhere, and where they are to lie."""
    gathered: tuple[tuple[int, int, int], ...]
    """(operand, dimension, bytes) of sharded dimensions that could not be kept."""
    wanted: tuple[Spec, ...]
    """Where the results are annotated to lie, partial as far as they may stay so; () where all lie
    so already."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing has to be moved."""
        return not (self.moved or self.wanted or self.gathered)


class _Surroundings(NamedTuple):
    """What makes an op's operands and reads its results, as far as a decision depends on it."""

    carried: PartialAxes = ()
    """The partial axes that pass through the op."""
    added_up: tuple[bool, ...] = ()
    """Of each result whether a loop adds it up and nothing else; () where that does not matter."""


_NOTHING = _Surroundings()


class Decisions:
    """The decisions for the ops of one function, each question answered once."""

    def __init__(self, specs: ValueSpecs, partials: Partials, planner: ReshardPlanner) -> None:
        self._table = specs.table
        self._specs = specs
        self._spec_at = specs.of.__getitem__
        self._partials = partials
        self._planner = planner
        self._chooser = StrategyChooser(self._table, planner)
        self._strategy_attrs: dict[tuple[tuple[int, ...], ...], StrategyAttr] = {}
        self._decisions: dict[tuple[object, ...], Decision] = {}
        """By all that an op says and where its operands lie, see `_key`."""
        self._settled: dict[tuple[object, ...], Decision] = {}
        """By rule, annotation and where the operands lie: decisions that move nothing, which hold
        for ops of other names and element types as well."""
        self._keep: list[object] = []  # objects whose identity is a key

    def of(self, op: Operation) -> Decision | None:
        """The decision for an op; None where it cannot be split. Most ops are like one before."""
        key = self._key(op)
        decision = self._decisions.get(key)
        return self._decide(op, key) if decision is None else decision

    def _key(self, op: Operation) -> tuple[object, ...]:
        """All that a decision depends on, attributes by identity. The rule itself, which takes
        longer to find, is a part of it only where more than types and properties make it."""
        operands, attributes = operands_of(op), op.attributes
        annotation = attributes.get(SHARDING)
        parts = (
            op.name,
            self._partials.has_accumulators,
            id(annotation),
            *map(id, map(type_of, op.results)),
            *map(id, map(type_of, operands)),
            *map(self._spec_at, operands),
        )
        properties = op.properties
        if properties:
            parts += (*properties, *map(id, properties.values()))
        if len(attributes) > 1 or annotation is None or op.regions or op.name == _UNREGISTERED:
            parts += (op_name(op), id(get_rule(op)), id(attributes.get(STRATEGY)))
        return parts

    def _decide(self, op: Operation, key: tuple[object, ...]) -> Decision | None:
        """A decision that is kept for the ops that are like this one."""
        rule = partitioned_rule(op)
        if rule is None:
            return None
        around = self._surroundings(op, rule)
        if around is not _NOTHING:
            key = (*self._key(op), around)
            decision = self._decisions.get(key)
            if decision is not None:
                return decision
        values = (*operands_of(op), *op.results)
        if not all(is_splittable(v.type) or not shape_of(v.type) for v in values):
            return None
        attributes = op.attributes
        annotation, given = attributes.get(SHARDING), attributes.get(STRATEGY)
        splittable = splittable_factors(op, rule)
        decision = rule_key = None
        if around is _NOTHING and given is None and splittable == splittable_by_kind(rule):
            places = map(self._spec_at, operands_of(op))
            rule_key = (id(rule), id(annotation), *places)
            decision = self._settled.get(rule_key)
        if decision is None:
            decision = self._choose(op, rule, splittable, around)
            if rule_key is not None and decision.is_settled:
                self._settled[rule_key] = decision
        self._keep += (rule, annotation, given, *op.properties.values(), *map(type_of, values))
        self._decisions[key] = decision
        return decision

    def _surroundings(self, op: Operation, rule: ShardingRule) -> _Surroundings:
        """What a decision depends on beyond the op and where its operands lie. A loop carry that an
        op adds partial sums to may turn partial here."""
        partials, spec_of = self._partials, self._specs.of
        has_partials = any([spec_of[value].partial for value in operands_of(op)])
        is_reduced_in_loop = partials.has_accumulators and any(rule.reducers)
        if not (has_partials or is_reduced_in_loop):
            return _NOTHING
        return _Surroundings(
            partials.carried(op, rule) if has_partials else (),
            tuple(map(partials.is_added_up, op.results)) if is_reduced_in_loop else (),
        )

    def _choose(
        self,
        op: Operation,
        rule: ShardingRule,
        splittable: Splittable,
        around: _Surroundings,
    ) -> Decision:
        """Chooses a strategy, and says what it moves."""
        specs = self._specs
        operands = operands_of(op)
        carried = around.carried
        operand_uses = [specs.use(value, specs.of[value]) for value in operands]
        result_uses = [specs.use(r, specs.annotated(r)) for r in op.results]
        if around.added_up:
            result_uses = [
                use._replace(is_added_up=is_added_up)
                for use, is_added_up in zip(result_uses, around.added_up, strict=True)
            ]
        given = op.attributes.get(STRATEGY)
        if isinstance(given, StrategyAttr):
            factors = given_factors(op, rule, given, self._table)
            if not axes_of_partial(carried).isdisjoint(axis for axes in factors for axis in axes):
                carried = ()  # what is to be split over their axes is reduced before
            strategy = self._chooser.complete(rule, splittable, factors, carried)
        else:
            strategy = self._chooser.choose(rule, splittable, operand_uses, result_uses, carried)
        attr = self._strategy_attrs.get(strategy.factors)
        if attr is None:
            attr = StrategyAttr(tuple(self._table.axes(f) for f in strategy.factors))
            self._strategy_attrs[strategy.factors] = attr
        needed = self._needed(op, rule, strategy, carried)
        wanted = tuple(use.spec for use in result_uses)
        if wanted == strategy.results:
            wanted = ()
        else:
            wanted = tuple(
                spec.with_partial(specs.demanded_partial(result))
                for spec, result in zip(wanted, op.results, strict=True)
            )
        return Decision(
            attr,
            specs.result_attr(strategy.results),
            strategy.results,
            tuple(
                (index, spec)
                for index, (value, spec) in enumerate(zip(operands, needed, strict=True))
                if specs.of[value] != spec
            ),
            tuple(self._gathered(rule, splittable, strategy, operand_uses)),
            wanted,
        )

    def _needed(
        self, op: Operation, rule: ShardingRule, strategy: Strategy, carried: PartialAxes
    ) -> Sequence[Spec]:
        """Where the operands are to lie, partial where the op carries partial sums."""
        if not carried:
            return strategy.operands
        members = self._partials.carrying_operands(op, rule, carried)
        return [
            spec.with_partial(merge_partial(spec.partial, carried)) if index in members else spec
            for index, spec in enumerate(strategy.operands)
        ]

    def _gathered(
        self,
        rule: ShardingRule,
        splittable: Splittable,
        strategy: Strategy,
        operands: Sequence[TensorUse],
    ) -> Iterator[tuple[int, int, int]]:
        """Which sharded dimensions of operands could not be kept, with the bytes that it costs.
        Where another operand, or the result, wanted something else, the op could have."""
        for index, (use, required) in enumerate(zip(operands, strategy.operands, strict=True)):
            lost = [
                dim
                for dim, (have, need) in enumerate(zip(use.spec.dims, required.dims, strict=True))
                if need[: len(have)] != have
            ]
            kept = self._chooser.kept(rule, splittable, index, use.spec) if lost else use.spec
            for dim in lost:
                if kept.dims[dim] != use.spec.dims[dim]:
                    cost = self._planner.cost(use.spec, required, use.shape, use.item_bytes)
                    yield index, dim, int(cost)
