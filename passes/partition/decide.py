"""Deciding, op by op, how each is split, and making reshardings explicit.

One walk in program order. For every value the walk knows where it lies (its spec); for every op it
chooses the strategy that moves the fewest bytes (strategy.py), reshards the operands that lie
elsewhere and resolves partial results, each once, where it is cheapest:

- a partial result with one user that is linear in it, and whose result is no larger, stays partial
  (so an all-reduce is paid late, and once for a sum of several);
- a loop carry that is only added to is partial where what is added is: gradients accumulated over
  microbatches are reduced once, after the loop;
- anything else is resolved where it is made, straight to the sharding that the value is to have
  (so a sharded one is reduce-scattered).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    DictionaryAttr,
    ModuleOp,
    StringAttr,
    i64,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, BlockArgument, Operation, OpResult, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from autopar.dialects.autopar import (
    SHARDING,
    STRATEGY,
    ConstraintOp,
    ReshardOp,
    ShardingAttr,
    StrategyAttr,
    result_sharding,
    set_arg_shardings,
    set_result_shardings,
    sharding_of,
)
from autopar.dialects.diagnostics import DiagnosticError, remark
from autopar.dialects.rules.access import op_name
from autopar.dialects.rules.core import FactorKind, ShardingRule
from autopar.dialects.rules.registry import get_rule
from autopar.dialects.sdy import ManualComputationOp
from autopar.dialects.shard import GridOp, adopt_xdsl_ops, make_grid_op
from autopar.dialects.sharding import AxisRef, Grid, Sharding
from autopar.dialects.stablehlo import ConstantOp
from autopar.passes.importing.inline import inline
from autopar.passes.importing.phases import REDUCE_IN_LOOP
from autopar.passes.importing.shard_ops_to_attributes import shard_ops_to_attributes
from autopar.passes.sharding.propagation.check import ShardingChecker
from autopar.passes.walk import sharded_ops

from .hints import drop_propagation_ops
from .reshard_plan import ReshardPlanner
from .special import depends_on_properties, given_factors, splittable_factors
from .specs import AxisTable, Spec, merge_partial, without_axes
from .splats import is_neutral, splat_of
from .strategy import Strategy, StrategyChooser, TensorUse
from .tensors import is_splittable, item_bytes, num_bytes, shape_of

GRID = "autopar.grid"

_Settled = tuple[StrategyAttr, "ArrayAttr[ShardingAttr]", tuple[Spec, ...]]

Carried = tuple[tuple[str, tuple[int, ...]], ...]


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
    grid = grid_op.to_grid()
    inline(module)  # Calls that are still there: local shapes differ from call to call.
    shard_ops_to_attributes(module)  # Either spelling is taken.
    drop_propagation_ops(module)
    table = AxisTable(grid, _used_axes(module, grid))
    for op in module.ops:
        if isinstance(op, FuncOp) and op.body.blocks:
            FunctionDecider(op, table).run()
    _refine_grid(module, grid_op, table)


def find_grid_op(module: ModuleOp) -> GridOp | None:
    """The module's grid; an error where it has several (import-sdy unifies them)."""
    adopt_xdsl_ops(module)
    grids = [op for op in module.ops if isinstance(op, GridOp)]
    if len(grids) > 1:
        names = ", ".join(f"@{g.sym_name.data}" for g in grids)
        raise DiagnosticError(
            grids[1], f"a program is partitioned over one grid, but the module has {names}"
        )
    return grids[0] if grids else None


def _refine_grid(module: ModuleOp, grid_op: GridOp, table: AxisTable) -> None:
    module.attributes.setdefault(
        GRID,
        DictionaryAttr(
            {
                "axes": ArrayAttr([StringAttr(name) for name in table.grid.axis_names]),
                "shape": DenseArrayBase.from_list(i64, table.grid.shape),
            }
        ),
    )
    if table.refined.axes != table.grid.axes:
        Rewriter.replace_op(grid_op, make_grid_op(table.refined), [])


def _used_axes(module: ModuleOp, grid: Grid) -> set[AxisRef]:
    """Every axis that some sharding of the module names, sub-axes included.

    DiagnosticError for a sharding that does not fit the grid or its tensor.
    """
    check = ShardingChecker({grid.name: grid})
    axes: set[AxisRef] = set()

    def use(sharding: Sharding | None, value: Attribute, op: Operation, what: str) -> None:
        if sharding is not None:
            check(sharding, len(shape_of(value)), op, what)
            axes.update(sharding.used_axes())

    seen: set[int] = set()
    for op in sharded_ops(module):
        attr = op.attributes.get(SHARDING)
        if attr is not None and id(attr) not in seen:
            seen.add(id(attr))
            items = cast("ArrayAttr[Attribute]", attr).data if isinstance(attr, ArrayAttr) else ()
            for result, item in zip(op.results, items, strict=False):
                if isinstance(item, ShardingAttr):
                    use(item.data, result.type, op, f"'{op.name}' op")
        if isinstance(op, ConstraintOp | ReshardOp):
            use(op.sharding.data, op.result.type, op, f"'{op.name}' op")
        elif isinstance(op, FuncOp):
            name = op.sym_name.data
            for arg in op.body.block.args if op.body.blocks else ():
                use(sharding_of(arg), arg.type, op, f"argument {arg.index} of @{name}")
            for index, type in enumerate(op.function_type.outputs.data):
                use(result_sharding(op, index), type, op, f"result {index} of @{name}")
        elif isinstance(op, ManualComputationOp):
            for value, item in zip(op.operands, op.in_shardings.data, strict=True):
                use(item.sharding, value.type, op, f"'{op.name}' op")
            for value, item in zip(op.results, op.out_shardings.data, strict=True):
                use(item.sharding, value.type, op, f"'{op.name}' op")
    return axes


class FunctionDecider:
    """Decides one function. `specs` says where each value lies as the walk goes."""

    def __init__(self, func: FuncOp, table: AxisTable) -> None:
        self._func = func
        self._table = table
        self._planner = ReshardPlanner(table)
        self._chooser = StrategyChooser(table, self._planner)
        self._specs: dict[SSAValue, Spec] = {}
        self._versions: dict[SSAValue, list[SSAValue]] = {}
        """For a value what it was resharded to."""
        self._accumulators: dict[SSAValue, tuple[Operation, int]] = {}
        """Loop carries that may become partial: body argument -> (while op, index)."""
        self._sharding_attrs: dict[Spec, ShardingAttr] = {}
        self._result_attrs: dict[tuple[Spec, ...], ArrayAttr[ShardingAttr]] = {}
        self._strategy_attrs: dict[tuple[tuple[int, ...], ...], StrategyAttr] = {}
        self._uses: dict[tuple[Spec, int], TensorUse] = {}
        self._settled: dict[tuple[object, ...], _Settled] = {}
        self._annotations: dict[int, tuple[Spec, ...]] = {}
        """By the identity of a sharding attribute: the specs that it states, without partials."""
        self._keep: list[object] = []  # objects whose identity is a key

        self._handlers: dict[str, Callable[[Any], None]] = {
            "autopar.constraint": self._constraint,
            "autopar.reshard": self._constraint,
            "sdy.manual_computation": self._manual,
            "stablehlo.case": self._control_flow,
            "stablehlo.constant": self._constant,
            "stablehlo.if": self._control_flow,
            "stablehlo.optimization_barrier": self._barrier,
            "stablehlo.while": self._control_flow,
        }

    # ---- the walk ----

    def run(self) -> None:
        func = self._func
        entry = func.body.block
        for arg in entry.args:
            self._specs[arg] = self._annotated(arg)
        self._block(entry)
        terminator = entry.last_op
        assert terminator is not None
        wanted: list[Spec] = []
        for index, value in enumerate(terminator.operands):
            annotated = result_sharding(func, index)
            spec = self._table.spec(annotated) if annotated is not None else self._resolved(value)
            wanted.append(spec)
            self._bring(terminator, index, spec)
        set_arg_shardings(func, [self._sharding(self._specs[a]) for a in entry.args])
        set_result_shardings(func, [self._sharding(s) for s in wanted])

    def _block(self, block: Block) -> None:
        op = block.first_op
        while op is not None:
            following = op.next_op
            self._op(op)
            op = following

    def _op(self, op: Operation) -> None:
        if op.next_op is None and not op.results:
            return  # terminators belong to whoever walks the block
        handler = self._handlers.get(op.name, self._compute)
        handler(op)

    # ---- shardings of values ----

    def _annotated(self, value: SSAValue) -> Spec:
        """What the IR says of a value, without partials; replicated where it says nothing."""
        if isinstance(value, OpResult):
            attr = value.op.attributes.get(SHARDING)
            if attr is not None and is_splittable(value.type):
                specs = self._annotations.get(id(attr))
                if specs is None:
                    specs = tuple(
                        self._table.spec(item.data).with_partial(())
                        for item in cast("ArrayAttr[ShardingAttr]", attr).data
                    )
                    self._annotations[id(attr)] = specs
                    self._keep.append(attr)
                return specs[value.index]
        sharding = sharding_of(value)
        if sharding is None or not is_splittable(value.type):
            return self._table.replicated(len(shape_of(value.type)))
        return self._table.spec(sharding).with_partial(())

    def _demanded_partial(self, value: SSAValue) -> Carried:
        """What the annotation of a value wants to stay partial."""
        sharding = sharding_of(value)
        if sharding is None or not sharding.partial:
            return ()
        return self._table.spec(sharding).partial

    def _resolved(self, value: SSAValue) -> Spec:
        """Where a value is to lie once it is no longer partial."""
        spec = self._specs[value]
        return spec if not spec.partial else self._annotated_or(value, spec)

    def _annotated_or(self, value: SSAValue, spec: Spec) -> Spec:
        if isinstance(value, BlockArgument) or sharding_of(value) is None:
            return spec.with_partial(())
        return self._annotated(value)

    def _sharding(self, spec: Spec) -> Sharding:
        return self._table.sharding(spec)

    def _sharding_attr(self, spec: Spec) -> ShardingAttr:
        attr = self._sharding_attrs.get(spec)
        if attr is None:
            attr = self._sharding_attrs[spec] = ShardingAttr(self._table.sharding(spec))
        return attr

    def _record(self, op: Operation, specs: Sequence[Spec]) -> None:
        """Writes the shardings of the results and remembers them."""
        key = tuple(specs)
        attr = self._result_attrs.get(key)
        if attr is None:
            attr = self._result_attrs[key] = ArrayAttr([self._sharding_attr(s) for s in key])
        op.attributes[SHARDING] = attr
        for result, spec in zip(op.results, key, strict=True):
            self._specs[result] = spec

    def _use(self, value: SSAValue, spec: Spec) -> TensorUse:
        key = (spec, id(value.type))
        use = self._uses.get(key)
        if use is None:
            use = TensorUse(spec, shape_of(value.type), item_bytes(value.type))
            self._uses[key] = use
        return use

    # ---- reshardings ----

    def _bring(self, op: Operation, index: int, spec: Spec) -> None:
        """Makes operand `index` of `op` lie as `spec` says, by a reshard if it does not."""
        value = op.operands[index]
        if self._specs[value] != spec:
            op.operands[index] = self._resharded(value, spec, op)

    def _resharded(self, value: SSAValue, spec: Spec, before: Operation) -> SSAValue:
        """`value` laid out by `spec`: an earlier reshard of it, or a new one before `before`."""
        if splat_of(value) is not None and is_neutral(value, [k for k, _ in spec.partial]):
            return self._constant_copy(value, spec, before)
        best: SSAValue = value
        best_cost = self._reshard_cost(value, value, spec)
        for version in self._versions.get(value, ()):
            if not _is_visible(version, before):
                continue
            if self._specs[version] == spec:
                return version
            cost = self._reshard_cost(version, value, spec)
            if cost < best_cost:
                best, best_cost = version, cost
        op = ReshardOp(best, self._sharding_attr(spec))
        op.location = before.location
        Rewriter.insert_op(op, InsertPoint.before(before))
        self._specs[op.result] = spec
        self._versions.setdefault(value, []).append(op.result)
        return op.result

    def _constant_copy(self, value: SSAValue, spec: Spec, before: Operation) -> SSAValue:
        """A splat is the same under any sharding: a copy of it instead of a reshard."""
        for version in self._versions.get(value, ()):
            if self._specs[version] == spec and _is_visible(version, before):
                return version
        dense = splat_of(value)
        assert dense is not None
        copy = ConstantOp(DenseIntOrFPElementsAttr(value.type, dense.data))  # pyright: ignore
        copy.location = before.location
        Rewriter.insert_op(copy, InsertPoint.before(before))
        self._record(copy, [spec])
        self._versions.setdefault(value, []).append(copy.results[0])
        return copy.results[0]

    def _reshard_cost(self, version: SSAValue, value: SSAValue, spec: Spec) -> float:
        return self._planner.cost(
            self._specs[version], spec, shape_of(value.type), item_bytes(value.type)
        )

    def _constraint(self, op: ConstraintOp | ReshardOp) -> None:
        """A demand: the value is resharded to it here, on its own (never a shared reshard)."""
        spec = self._table.spec(op.sharding.data)
        source = op.input
        if self._specs[source] == spec:
            self._specs[op.result] = spec
            op.result.replace_all_uses_with(source)
            Rewriter.erase_op(op)
            return
        new = ReshardOp(source, self._sharding_attr(spec))
        new.location = op.location
        new.attributes.update(op.attributes)
        new.attributes.pop(SHARDING, None)
        Rewriter.replace_op(op, new)
        self._specs[new.result] = spec

    # ---- ops ----

    def _compute(self, op: Operation) -> None:
        """Any op with a sharding rule. `_settled` answers for ops that need no resharding and are
        like one before (same rule, layouts and annotation): nearly all of a program's."""
        rule = get_rule(op)
        annotation = op.attributes.get(SHARDING)
        specs = self._specs
        key = (id(rule), id(annotation), *[specs[v] for v in op.operands])
        settled = self._settled.get(key)
        if settled is not None and STRATEGY not in op.attributes:
            strategy_attr, result_attr, result_specs = settled
            op.attributes[STRATEGY] = strategy_attr
            op.attributes[SHARDING] = result_attr
            for result, spec in zip(op.results, result_specs, strict=True):
                specs[result] = spec
            return
        if rule is None or not all(
            is_splittable(v.type) or not shape_of(v.type) for v in (*op.operands, *op.results)
        ):
            self._replicate(op, rule)
            return
        before = tuple(op.operands)
        carried = self._carried(op, rule)
        operand_uses = [self._use(v, self._specs[v]) for v in op.operands]
        result_uses = [self._use(r, self._annotated(r)) for r in op.results]
        if self._accumulators and any(rule.reducers):
            result_uses = [
                use._replace(is_added_up=self._is_added_up(r))
                for use, r in zip(result_uses, op.results, strict=True)
            ]
        splittable = splittable_factors(op, rule)
        given = op.attributes.get(STRATEGY)
        if isinstance(given, StrategyAttr):
            factors = given_factors(op, rule, given, self._table)
            strategy = self._chooser.complete(rule, splittable, factors, carried)
        else:
            strategy = self._chooser.choose(rule, splittable, operand_uses, result_uses, carried)
        self._operands(op, rule, strategy, carried)
        self._remark_gathered(op, rule, strategy, operand_uses)
        attr = self._strategy_attrs.get(strategy.factors)
        if attr is None:
            attr = StrategyAttr(tuple(self._table.axes(f) for f in strategy.factors))
            self._strategy_attrs[strategy.factors] = attr
        op.attributes[STRATEGY] = attr
        wanted = [use.spec for use in result_uses]
        demands = [self._demanded_partial(r) for r in op.results]
        self._record(op, strategy.results)
        self._results(op, strategy.results, wanted, demands)
        if (
            list(strategy.results) == wanted
            and before == tuple(op.operands)
            and not isinstance(given, StrategyAttr)
            and not depends_on_properties(op)
        ):
            self._keep.append(annotation)
            result_attr = self._result_attrs[tuple(strategy.results)]
            self._settled[key] = (attr, result_attr, strategy.results)

    def _operands(
        self, op: Operation, rule: ShardingRule, strategy: Strategy, carried: Carried
    ) -> None:
        members = self._carrying_operands(op, rule, carried) if carried else frozenset[int]()
        for index, spec in enumerate(strategy.operands):
            if index in members:
                spec = spec.with_partial(merge_partial(spec.partial, carried))
            if self._specs[op.operands[index]] != spec:
                self._bring(op, index, spec)

    def _results(
        self,
        op: Operation,
        natural: Sequence[Spec],
        wanted: Sequence[Spec],
        demands: Sequence[Carried] | None = None,
    ) -> None:
        """Resolves partials and reshards results to what they are wanted as, or defers it.

        `demands`: what the results' own annotations want to stay partial.
        """
        demands = demands or [()] * len(natural)
        for result, have, want, demanded in zip(op.results, natural, wanted, demands, strict=True):
            if have.partial:
                want = want.with_partial(_common_partial(have.partial, demanded))
            if have == want or (have.partial and self._defers(result, have)):
                continue
            if result.first_use is None:
                continue
            after = op.next_op
            assert after is not None
            new = ReshardOp(result, self._sharding_attr(want))
            new.location = op.location
            for use in list(result.uses):
                if use.operation is not new:
                    use.operation.operands[use.index] = new.result
            Rewriter.insert_op(new, InsertPoint.before(after))
            self._specs[new.result] = want

    def _constant(self, op: Operation) -> None:
        """A splat is the same under any sharding; other constants are made whole and sliced."""
        result = op.results[0]
        wanted = self._annotated(result)
        if not wanted.dim_axes or splat_of(result) is not None:
            self._record(op, [wanted])
            return
        natural = self._table.replicated(len(shape_of(result.type)))
        self._record(op, [natural])
        self._results(op, [natural], [wanted])

    def _replicate(self, op: Operation, rule: ShardingRule | None) -> None:
        """An op that cannot be split: whole operands in, whole results out."""
        if rule is None:
            self._remark_replicated(op)
        for index, value in enumerate(op.operands):
            self._bring(op, index, self._table.replicated(len(shape_of(value.type))))
        wanted = [self._annotated(r) for r in op.results]
        natural = [self._table.replicated(len(shape_of(r.type))) for r in op.results]
        if op.results:
            self._record(op, natural)
            self._results(op, natural, wanted)

    # ---- partial results ----

    def _carried(self, op: Operation, rule: ShardingRule) -> Carried:
        """The partial axes that pass through `op`, resolving here what cannot pass."""
        partials = [
            (index, self._specs[value].partial)
            for index, value in enumerate(op.operands)
            if self._specs[value].partial
        ]
        if not partials:
            return ()
        for group in rule.linear:
            members = [(i, p) for i, p in partials if i in group]
            if not members or any(i not in group for i, _ in partials):
                continue
            wanted = members[0][1]
            if any(p != wanted for _, p in members):
                continue
            if not rule.moves_data and any(kind != "sum" for kind, _ in wanted):
                continue
            axes = {axis for _, partial_axes in wanted for axis in partial_axes}
            if any(
                axes & self._specs[value].dim_axes
                for index, value in enumerate(op.operands)
                if index not in group
            ):
                continue
            others = [
                v for i, v in enumerate(op.operands) if i in group and not self._specs[v].partial
            ]
            others = [v for v in others if not is_neutral(v, [k for k, _ in wanted])]
            if not others or self._accumulates(others, wanted):
                return wanted
        return ()

    def _carrying_operands(
        self, op: Operation, rule: ShardingRule, carried: Carried
    ) -> frozenset[int]:
        for group in rule.linear:
            if any(self._specs[op.operands[i]].partial == carried for i in group):
                return frozenset(group)
        return frozenset()

    def _accumulates(self, others: Sequence[SSAValue], wanted: Carried) -> bool:
        """Whether the `other` operands of a sum are loop carries that may be partial as well.

        If so they become partial from here on (their only use is this sum).
        """
        if not all(value in self._accumulators for value in others):
            return False
        axes = frozenset(axis for _, partial_axes in wanted for axis in partial_axes)
        for value in others:
            # Axes that would split the carry are those to be reduced over: it is whole in the loop.
            self._specs[value] = without_axes(self._specs[value], axes).with_partial(wanted)
        return True

    def _defers(self, value: SSAValue, spec: Spec) -> bool:
        """Whether a partial value is better resolved after its (only) user."""
        use = value.first_use
        if use is None:
            return True
        if not value.has_one_use():
            return False
        user = use.operation
        if len(user.results) != 1:
            return self._defers_to_terminator(user, use.index, spec)
        rule = get_rule(user)
        if rule is None or isinstance(user, ConstraintOp | ReshardOp):
            return False
        group = next((g for g in rule.linear if use.index in g), None)
        if group is None or (
            not rule.moves_data and any(kind != "sum" for kind, _ in spec.partial)
        ):
            return False
        result = user.results[0]
        grows = num_bytes(result.type) > num_bytes(value.type)
        if grows and not any(user.operands[i] in self._accumulators for i in group):
            return False
        for index, other in enumerate(user.operands):
            known = self._specs.get(other)
            if index == use.index or other is value or known is None:
                continue  # not known: made later, it may turn out partial as well
            if index not in group:
                if known.dim_axes & spec.partial_axes or known.partial:
                    return False
            elif known.partial != spec.partial and not (
                other in self._accumulators or is_neutral(other, [k for k, _ in spec.partial])
            ):
                return False
        return True

    def _defers_to_terminator(self, user: Operation, index: int, spec: Spec) -> bool:
        """A loop's body may return a partial for a carry that is partial."""
        parent = user.parent_op()
        if parent is None or parent.name != "stablehlo.while" or user.next_op is not None:
            return False
        body = parent.regions[1].block
        return self._specs[body.args[index]].partial == spec.partial

    # ---- regions ----

    def _control_flow(self, op: Operation) -> None:
        if op.name == "stablehlo.while":
            self._while(op)
            return
        for index, value in enumerate(op.operands):
            self._bring(op, index, self._table.replicated(len(shape_of(value.type))))
        specs = [self._annotated(r) for r in op.results]
        for region in op.regions:
            self._block(region.block)
            terminator = region.block.last_op
            assert terminator is not None
            for index, spec in enumerate(specs):
                self._bring(terminator, index, spec)
        self._record(op, specs)

    def _while(self, op: Operation) -> None:
        condition, body = op.regions
        specs = [self._annotated(r) for r in op.results]
        for block in (condition.block, body.block):
            for arg, spec in zip(block.args, specs, strict=True):
                self._specs[arg] = spec
        eager = REDUCE_IN_LOOP in op.attributes
        for index, arg in enumerate(body.block.args):
            if eager and specs[index].dim_axes:
                continue  # a sharded buffer
            if condition.block.args[index].first_use is not None:
                continue
            chain = _accumulation(arg, index)
            if chain == "adds" or (chain == "stores" and self._is_added_up(op.results[index])):
                self._accumulators[arg] = (op, index)
        self._block(condition.block)
        predicate = condition.block.last_op
        assert predicate is not None
        for index in range(len(predicate.operands)):
            self._bring(predicate, index, self._table.replicated(0))
        self._block(body.block)
        terminator = body.block.last_op
        assert terminator is not None
        for index, arg in enumerate(body.block.args):
            specs[index] = self._specs[arg]
            self._specs[condition.block.args[index]] = specs[index]
            self._bring(terminator, index, specs[index])
        for index, spec in enumerate(specs):
            self._bring(op, index, spec)
        wanted = [self._annotated(r) for r in op.results]
        self._record(op, specs)
        self._results(op, specs, wanted)

    def _is_added_up(self, value: SSAValue) -> bool:
        """Whether all that happens to a value is that an accumulator of an outer loop adds it."""
        while (use := value.first_use) is not None and value.has_one_use():
            user = use.operation
            if any(other in self._accumulators for other in user.operands):
                return user.name == "stablehlo.add"
            rule = get_rule(user) if len(user.results) == 1 else None
            group = next((g for g in rule.linear if use.index in g), None) if rule else None
            if group is None or not all(
                i == use.index or is_neutral(user.operands[i], ["sum"]) for i in group
            ):
                return False
            value = user.results[0]
        return False

    def _barrier(self, op: Operation) -> None:
        specs = [self._annotated(r) for r in op.results]
        for index, spec in enumerate(specs):
            self._bring(op, index, spec)
        self._record(op, specs)

    def _manual(self, op: ManualComputationOp) -> None:
        """A body on shapes local to its manual axes: the other axes are decided inside."""
        ins, outs = manual_specs(op, self._table)
        manual = frozenset(self._table.indices(AxisRef(name) for name in op.manual_axes.data))
        for index, spec in enumerate(ins):
            self._bring(op, index, spec)
        block = op.body.block
        for arg, spec in zip(block.args, ins, strict=True):
            self._specs[arg] = without_axes(spec, manual)
        self._block(block)
        terminator = block.last_op
        assert terminator is not None
        for index, spec in enumerate(outs):
            self._bring(terminator, index, without_axes(spec, manual))
        wanted = [self._annotated(r) for r in op.results]
        self._record(op, outs)
        self._results(op, outs, wanted)

    # ---- remarks ----

    def _remark_replicated(self, op: Operation) -> None:
        result_bytes = sum(num_bytes(r.type) for r in op.results)
        remark(
            op,
            f"'{op_name(op)}' has no sharding rule: it is replicated on all "
            f"{self._table.grid.num_devices} devices ({result_bytes} result bytes each)",
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
                    f"'{op.name}' cannot keep dimension {dim} of operand {index} sharded: "
                    f"it is gathered ({int(cost)} bytes a device)",
                )


def manual_specs(op: ManualComputationOp, table: AxisTable) -> tuple[list[Spec], list[Spec]]:
    """How operands and results of a manual computation lie outside it."""
    return (
        [table.spec(s.sharding) for s in op.in_shardings.data],
        [table.spec(s.sharding) for s in op.out_shardings.data],
    )


def _common_partial(have: Carried, demanded: Carried) -> Carried:
    if not demanded:
        return ()
    wanted = dict(demanded)
    return merge_partial(
        (kind, [a for a in axes if a in wanted.get(kind, ())]) for kind, axes in have
    )


def _is_visible(value: SSAValue, op: Operation) -> bool:
    """Whether `value`, defined earlier in the walk, dominates `op` (its block encloses it)."""
    block = value.owner.parent if isinstance(value.owner, Operation) else value.owner
    current = op.parent
    while current is not None:
        if current is block:
            return True
        parent = current.parent_op()
        current = None if parent is None else parent.parent
    return False


def _accumulation(arg: BlockArgument, index: int) -> str | None:
    """How a loop carry comes from itself: "adds" where it is only added to, "stores" where parts of
    it are also overwritten (the stacked gradients of a scan over layers); None: in another way."""
    value: SSAValue = arg
    found = "adds"
    while value.has_one_use():
        use = value.first_use
        assert use is not None
        user = use.operation
        if user.next_op is None and not user.results:
            return found if use.index == index and value is not arg else None
        if user.parent is not arg.block:
            return None
        if user.name == "stablehlo.dynamic_update_slice" and use.index == 0:
            found = "stores"
        elif user.name not in ("stablehlo.add", "arith.addf", "arith.addi"):
            return None
        value = user.results[0]
    return None
