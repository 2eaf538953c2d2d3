"""How ops may be split, and what that costs by itself: compute, traffic with memory, what devices
fetch of each other's parts, slices that are written to memory first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.ir import Block, BlockArgument, Operation, OpResult, SSAValue

from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.rules.access import operands_of
from autopar.dialects.rules.core import ShardingRule
from autopar.dialects.tensors import num_bytes
from autopar.passes.cost.flops import compute_type, convolution_holes, op_flops, output_features
from autopar.passes.cost.fusion import Fusion, Fusions
from autopar.passes.cost.op_kinds import DOTS, cuts_out
from autopar.passes.cost.prices import CostModel
from autopar.passes.partition.reshard_plan import ReshardPlanner
from autopar.passes.partition.specs import AxisTable, Spec
from autopar.passes.partition.strategy import Splittable, Strategy, StrategyChooser

from .demands import Demands
from .exchange_prices import Fetch, fetches, may_exchange
from .joins import Cut
from .places import Order, even_splits, slicing
from .reshard_prices import Floats


class OpPrices:
    """Strategies of ops and their seconds; equal questions are answered from a cache."""

    def __init__(
        self,
        table: AxisTable,
        prices: CostModel,
        demands: Demands,
        fusion: Fusions,
        orders: Sequence[Order],
    ) -> None:
        """`orders`: of the axes, in which several may split one factor."""
        self._orders = orders
        self._table, self._prices, self._demands, self._fusion = table, prices, demands, fusion
        self._chooser = StrategyChooser(table, ReshardPlanner(table))
        self._strategies: dict[tuple[int, Splittable, bool], list[Strategy]] = {}
        self._found: dict[tuple[Any, ...], Floats] = {}
        self._keep: list[object] = []  # rules whose identity is a key

    def strategies(
        self, op: Operation, rule: ShardingRule, splittable: Splittable, *, uneven: bool = False
    ) -> list[Strategy]:
        """All that the demands allow; `uneven`: those that leave a little padding, too."""
        found = self._every_strategy(rule, splittable, uneven=uneven)
        if op.name in DOTS and not self._demands.allow_replicated_compute:
            return self._on_all_devices(op, found)
        return found

    def _on_all_devices(self, op: Operation, strategies: list[Strategy]) -> list[Strategy]:
        """The strategies by which each device does a part of its own."""
        devices = self._table.parts(range(len(self._table.sizes)))
        found = [
            strategy
            for strategy in strategies
            if self._table.parts(a for axes in strategy.factors for a in axes) == devices
        ]
        if not found:
            raise DiagnosticError(
                op,
                f"auto-shard: allow-replicated-compute=false: '{op.name}' cannot be split over all "
                f"{devices} devices: no dimensions that they divide",
            )
        return found

    def _every_strategy(
        self, rule: ShardingRule, splittable: Splittable, *, uneven: bool
    ) -> list[Strategy]:
        """All assignments of grid axes to factors that split evenly."""
        key = (id(rule), splittable, uneven)
        found = self._strategies.get(key)
        if found is None:
            self._keep.append(rule)
            may = [f for f, allowed in enumerate(splittable.allowed) if allowed]
            mappings = (*rule.operands, *rule.results)
            flatten = self._demands.flatten_axes
            splits = even_splits(
                rule.factor_sizes, may, self._table, self._orders, flatten=flatten, uneven=uneven
            )
            made = dict.fromkeys(self._chooser.repaired(rule, mappings, own) for own in splits)
            found = [self._chooser.complete(rule, splittable, factors) for factors in made]
            self._strategies[key] = found
        return found

    def seconds(
        self,
        op: Operation,
        rule: ShardingRule,
        splittable: Splittable,
        strategies: list[Strategy],
        sizes: Sequence[float],
        *,
        uneven: bool = False,
    ) -> Floats:
        """(strategies,): compute of an op, or its traffic if it computes nothing; `sizes`: bytes
        of each operand and result that it moves; `uneven`: as the strategies were asked for."""
        values = (*operands_of(op), *op.results)
        flops = op_flops(op)
        types = (v.type for v in values)
        key = "op", id(rule), splittable, uneven, op.name, flops, *types, *sizes
        found = self._found.get(key)
        if found is None:
            features = output_features(op)
            dtype = compute_type(op)
            found = np.zeros(len(strategies))
            for index, strategy in enumerate(strategies):
                parts = self._table.parts(a for axes in strategy.factors for a in axes)
                specs = (*strategy.operands, *strategy.results)
                moved = sum(self._local_bytes(op, sizes, specs))
                own = self._local_features(features, rule, strategy)
                local = self._filled(op, rule, strategy) * flops / parts
                found[index] = (
                    self._prices.compute_seconds(local, moved, dtype, own)
                    if flops
                    else self._prices.memory_seconds(moved)
                )
            self._found[key] = found
        return found

    def _local_bytes(
        self, op: Operation, sizes: Sequence[float], specs: Sequence[Spec]
    ) -> list[float]:
        """The bytes of each operand and result that one device moves; of what an op cuts something
        out of no more than it gives, which may be split otherwise (the rows that are gathered)."""
        parts = [self._table.parts(spec.dim_axes) for spec in specs]
        local = [size / own for size, own in zip(sizes, parts, strict=True)]
        if cuts_out(op) and sizes[0]:
            source, result = operands_of(op)[0], op.results[0]
            local[0] = min(num_bytes(source.type) / parts[0], num_bytes(result.type) / parts[-1])
        return local

    def _local_features(
        self, features: int | None, rule: ShardingRule, strategy: Strategy
    ) -> float | None:
        """Output features of a convolution's group on one device; splitting groups leaves them."""
        if features is None:
            return None
        groups = {factor for dim in rule.operands[0] for factor in dim}
        own = {factor for dim in rule.results[0] for factor in dim} - groups
        return features / self._table.parts(a for factor in own for a in strategy.factors[factor])

    def _filled(self, op: Operation, rule: ShardingRule, strategy: Strategy) -> int:
        """How much more a convolution computes for the holes between its elements: where devices
        share its windows or taps, what they fetch has zeros there (`localize/window_ops.py`)."""
        if op.name != "stablehlo.convolution":
            return 1
        more = 1
        for out, kernel, apart in convolution_holes(op):
            factors = {*rule.results[0][out], *rule.operands[1][kernel]}
            if any(strategy.factors[factor] for factor in factors):
                more *= apart
        return more

    def fetches(
        self, op: Operation, rule: ShardingRule, strategies: list[Strategy], cuts: Sequence[Cut]
    ) -> list[list[Fetch]]:
        """Of each strategy what devices fetch of each other's parts, as for halos of windows;
        `cuts`: what a concatenation takes of values that it joins slices of."""
        if not may_exchange(op, rule):
            return []
        terms = self._table, self._prices, cuts
        return [[*fetches(op, rule, strategy, *terms)] for strategy in strategies]

    def slices(self, sources: Sequence[Spec], needs: Sequence[Spec], value: SSAValue) -> Floats:
        """(sources, needs): seconds of slicing a value that lies in memory, for ops that do not
        do it themselves."""
        fusion = self._fusion_at(value)
        if fusion is None or fusion.name(value) is None:
            return np.zeros((len(sources), len(needs)))
        return self._copies("slices", sources, needs, value)

    def stored(
        self, sources: Sequence[Spec], needs: Sequence[Spec], value: SSAValue
    ) -> Floats | float:
        """(sources, needs): seconds of writing a value that is computed inside its readers, and of
        reading it, where devices send it to each other."""
        fusion = self._fusion_at(value)
        if fusion is None or fusion.is_in_order(value):
            return 0.0
        return self._copies("stored", sources, needs, value)

    def lies(self, value: SSAValue) -> tuple[bool, bool]:
        """What the seconds of slicing and storing a value hang on beside its type: whether it lies
        as its type has it, and whether it is in memory at all."""
        fusion = self._fusion_at(value)
        if fusion is None:
            return True, False
        return fusion.is_in_order(value), fusion.name(value) is not None

    def _fusion_at(self, value: SSAValue) -> Fusion | None:
        """Of the block that a value belongs to."""
        assert isinstance(value, BlockArgument | OpResult)
        block = value.owner if isinstance(value.owner, Block) else value.owner.parent
        return None if block is None else self._fusion(block)

    def _copies(
        self, which: str, sources: Sequence[Spec], needs: Sequence[Spec], value: SSAValue
    ) -> Floats:
        """(sources, needs): seconds of writing and reading a value where it is only sliced, as it
        is needed; or where it is sent, as it lies and as it is needed."""
        key = which, tuple(sources), tuple(needs), value.type
        found = self._found.get(key)
        if found is None:
            seconds = self._prices.memory_seconds(num_bytes(value.type))
            lies, read = (
                seconds / np.array([self._table.parts(spec.dim_axes) for spec in specs], np.float64)
                for specs in (sources, needs)
            )
            is_sliced = slicing(sources, needs)
            if which == "slices":
                copied = 2 * read[None, :] * is_sliced
            else:
                copied = (lies[:, None] + read[None, :]) * ~is_sliced
            other = np.array([[one != two for two in needs] for one in sources])
            found = self._found[key] = copied * other
        return found
