"""Deciding, op by op, how each is split, and making reshardings explicit.

One walk in program order. For every value the walk knows where it lies (its spec); for every op it
chooses the strategy that moves the fewest bytes (strategy.py), reshards the operands that lie
elsewhere and resolves partial results, each once, where it is cheapest. What is read and written on
the way has files of its own:

- grid_refinement.py: the axes that specs speak of;
- value_specs.py: where values lie, and where the program says that they are to;
- partials.py: which partial values stay partial through an op or a loop; anything else is resolved
  where it is made, straight to the sharding that the value is to have (so a sharded one is
  reduce-scattered);
- resharder.py: the reshards themselves;
- regions.py: loops, branches and manual computations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from xdsl.dialects.builtin import ArrayAttr, ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, Operation

from autopar.dialects.autopar import (
    SHARDING,
    STRATEGY,
    ShardingAttr,
    StrategyAttr,
    result_sharding,
    set_arg_shardings,
    set_result_shardings,
)
from autopar.dialects.diagnostics import DiagnosticError, remark
from autopar.dialects.rules.access import op_label, operands_of
from autopar.dialects.rules.core import FactorKind, ShardingRule
from autopar.dialects.rules.registry import NO_RULE, get_rule
from autopar.dialects.tensors import is_splittable, num_bytes, shape_of
from autopar.passes.importing.inline import inline
from autopar.passes.importing.shard_ops_to_attributes import shard_ops_to_attributes

from .grid_refinement import find_grid_op, refine_grid, refinement
from .hints import drop_propagation_ops
from .partials import Partials
from .regions import RegionDecider
from .reshard_plan import ReshardPlanner
from .resharder import Resharder
from .special import depends_on_properties, given_factors, splittable_factors
from .specs import AxisTable, PartialAxes, Spec, merge_partial
from .splats import CONSTANTS, splat_of
from .strategy import Strategy, StrategyChooser, TensorUse
from .value_specs import ValueSpecs


def insert_reshards(module: ModuleOp) -> None:
    """Decides the whole module in place (see the pass)."""
    grid_op = find_grid_op(module)
    if grid_op is None:
        remedy = 'give --shard-partition="grid=2x4" or a shard.grid (sdy.mesh) in the module'
        for older, name in (("mesh.mesh", "convert-mesh-to-shard"), ("sdy.mesh", "import-sdy")):
            if any(op.name == older for op in module.ops):
                remedy = f"run {name} first, which makes one of {older}"
        raise DiagnosticError(
            module,
            f"partitioning needs a device grid, and the module declares none: {remedy}",
        )
    inline(module)  # Calls that are still there: local shapes differ from call to call.
    shard_ops_to_attributes(module)  # Either spelling is taken.
    drop_propagation_ops(module)
    table = refinement(module, grid_op.to_grid())
    for op in module.ops:
        if isinstance(op, FuncOp) and op.body.blocks:
            FunctionDecider(op, table).run()
    refine_grid(module, grid_op, table)


_Settled = tuple[StrategyAttr, "ArrayAttr[ShardingAttr]", tuple[Spec, ...]]
"""What was decided of an op: its two attributes, and where its results lie."""


class FunctionDecider:
    """Decides one function: walks it, and chooses the strategy of each op."""

    def __init__(self, func: FuncOp, table: AxisTable) -> None:
        self._func = func
        self._table = table
        self._planner = ReshardPlanner(table)
        self._chooser = StrategyChooser(table, self._planner)
        self._specs = ValueSpecs(table)
        self._partials = Partials(self._specs)
        self._reshards = Resharder(self._specs, self._partials, self._planner)
        self._strategy_attrs: dict[tuple[tuple[int, ...], ...], StrategyAttr] = {}
        self._settled: dict[tuple[object, ...], _Settled] = {}
        self._keep: list[Attribute | None] = []  # attributes whose identity is a key
        regions = RegionDecider(self._specs, self._partials, self._reshards, self._block)
        self._handlers: dict[str, Callable[[Any], None]] = {
            **regions.handlers(),
            "autopar.constraint": self._reshards.constrain,
            "autopar.reshard": self._reshards.constrain,
            **dict.fromkeys(CONSTANTS, self._constant),
            "stablehlo.optimization_barrier": self._barrier,
        }
        """Ops that are decided in another way than by their sharding rule."""

    # ---- the walk ----

    def run(self) -> None:
        func, specs = self._func, self._specs
        entry = func.body.block
        for arg in entry.args:
            specs.of[arg] = specs.annotated(arg)
        self._block(entry)
        terminator = entry.last_op
        assert terminator is not None
        wanted: list[Spec] = []
        for index, value in enumerate(terminator.operands):
            stated = result_sharding(func, index)
            spec = specs.resolved(value) if stated is None else self._table.spec(stated)
            wanted.append(spec)
            self._reshards.bring(terminator, index, spec)
        set_arg_shardings(func, [self._table.sharding(specs.of[arg]) for arg in entry.args])
        set_result_shardings(func, [self._table.sharding(spec) for spec in wanted])

    def _block(self, block: Block) -> None:
        """Decides the ops of a block; its terminator belongs to whoever asks for the walk."""
        handlers, compute = self._handlers, self._compute
        op = block.first_op
        while op is not None:
            following = op.next_op
            if following is not None or op.results:
                handlers.get(op.name, compute)(op)
            op = following

    # ---- ops ----

    def _compute(self, op: Operation) -> None:
        """Any op with a sharding rule. `_settled` answers for ops that need no resharding and are
        like one before (same rule, layouts and annotation): nearly all of a program's."""
        rule = get_rule(op)
        attributes = op.attributes
        annotation = attributes.get(SHARDING)
        spec_of = self._specs.of
        key = (id(rule), id(annotation), *map(spec_of.__getitem__, operands_of(op)))
        settled = self._settled.get(key)
        if settled is not None and STRATEGY not in attributes:
            attributes[STRATEGY], attributes[SHARDING], specs = settled
            for result, spec in zip(op.results, specs, strict=True):
                spec_of[result] = spec
        elif rule is None or not all(
            is_splittable(v.type) or not shape_of(v.type) for v in (*op.operands, *op.results)
        ):
            self._replicate(op, rule)
        else:
            found = self._choose(op, rule)
            if found is not None:
                self._keep.append(annotation)
                self._settled[key] = found

    def _choose(self, op: Operation, rule: ShardingRule) -> _Settled | None:
        """Chooses a strategy and makes the reshards that it needs. What holds for every such op:
        the outcome where it needed none."""
        specs = self._specs
        before = operands_of(op)
        carried = self._partials.carried(op, rule)
        operand_uses = [specs.use(value, specs.of[value]) for value in before]
        result_uses = [specs.use(r, specs.annotated(r)) for r in op.results]
        if self._partials.has_accumulators and any(rule.reducers):
            result_uses = [
                use._replace(is_added_up=self._partials.is_added_up(r))
                for use, r in zip(result_uses, op.results, strict=True)
            ]
        splittable = splittable_factors(op, rule)
        given = op.attributes.get(STRATEGY)
        if isinstance(given, StrategyAttr):
            factors = given_factors(op, rule, given, self._table)
            strategy = self._chooser.complete(rule, splittable, factors, carried)
        else:
            strategy = self._chooser.choose(rule, splittable, operand_uses, result_uses, carried)
        self._bring_operands(op, rule, strategy, carried)
        self._remark_gathered(op, rule, strategy, operand_uses)
        attr = self._strategy_attrs.get(strategy.factors)
        if attr is None:
            attr = StrategyAttr(tuple(self._table.axes(f) for f in strategy.factors))
            self._strategy_attrs[strategy.factors] = attr
        op.attributes[STRATEGY] = attr
        wanted = [use.spec for use in result_uses]
        demands = [specs.demanded_partial(r) for r in op.results]
        specs.record(op, strategy.results)
        self._reshards.bring_results(op, strategy.results, wanted, demands)
        if (
            list(strategy.results) == wanted
            and before == operands_of(op)
            and not isinstance(given, StrategyAttr)
            and not depends_on_properties(op)
        ):
            return attr, specs.result_attr(strategy.results), strategy.results
        return None

    def _bring_operands(
        self, op: Operation, rule: ShardingRule, strategy: Strategy, carried: PartialAxes
    ) -> None:
        members: frozenset[int] = frozenset()
        if carried:
            members = self._partials.carrying_operands(op, rule, carried)
        for index, spec in enumerate(strategy.operands):
            if index in members:
                spec = spec.with_partial(merge_partial(spec.partial, carried))
            self._reshards.bring(op, index, spec)

    def _constant(self, op: Operation) -> None:
        """A splat is the same under any sharding; other constants are made whole and sliced."""
        result = op.results[0]
        wanted = self._specs.annotated(result)
        if not any(wanted.dims) or splat_of(result) is not None:
            self._specs.record(op, [wanted])
            return
        natural = self._specs.replicated(result)
        self._specs.record(op, [natural])
        self._reshards.bring_results(op, [natural], [wanted])

    def _barrier(self, op: Operation) -> None:
        """Each operand passes through to a result: it is brought to where that is to lie."""
        specs = [self._specs.annotated(r) for r in op.results]
        for index, spec in enumerate(specs):
            self._reshards.bring(op, index, spec)
        self._specs.record(op, specs)

    def _replicate(self, op: Operation, rule: ShardingRule | None) -> None:
        """An op that cannot be split: whole operands in, whole results out."""
        if rule is None and op.name not in NO_RULE:
            self._remark_replicated(op)
        for index, value in enumerate(op.operands):
            self._reshards.bring(op, index, self._specs.replicated(value))
        wanted = [self._specs.annotated(r) for r in op.results]
        natural = [self._specs.replicated(r) for r in op.results]
        if op.results:
            self._specs.record(op, natural)
            self._reshards.bring_results(op, natural, wanted)

    # ---- remarks ----

    def _remark_replicated(self, op: Operation) -> None:
        result_bytes = sum(num_bytes(r.type) for r in op.results)
        remark(
            op,
            f"{op_label(op)} has no sharding rule: it is replicated on all "
            f"{self._table.grid.num_devices} devices ({result_bytes} result bytes each); "
            f"{_registration(op)} gives it one",
        )

    def _remark_gathered(
        self,
        op: Operation,
        rule: ShardingRule,
        strategy: Strategy,
        operands: Sequence[TensorUse],
    ) -> None:
        """Says which sharded dimensions of operands could not be kept."""
        for index, (use, required) in enumerate(zip(operands, strategy.operands, strict=True)):
            for dim, (have, need) in enumerate(zip(use.spec.dims, required.dims, strict=True)):
                if not have or need[: len(have)] == have:
                    continue
                kinds = {rule.kinds[f] for f in rule.operands[index][dim]}
                if kinds <= {FactorKind.PASS_THROUGH, FactorKind.REDUCTION}:
                    continue
                cost = self._planner.cost(use.spec, required, use.shape, use.item_bytes)
                remark(
                    op,
                    f"{op_label(op)} cannot keep dimension {dim} of operand {index} sharded: "
                    f"it is gathered ({int(cost)} bytes a device)",
                )


def _registration(op: Operation) -> str:
    is_call = op.name == "stablehlo.custom_call"
    return "register_custom_call_rule" if is_call else "register_sharding_rule"
