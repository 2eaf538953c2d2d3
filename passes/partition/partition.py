"""Partitioning a decided module: local types, collectives for reshards, local forms of ops.

Nothing is decided here: the layout of every value and the strategy of every op stand in the IR.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseIntOrFPElementsAttr,
    DictionaryAttr,
    FunctionType,
    ModuleOp,
    TensorType,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, BlockArgument, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from autopar.dialects import stablehlo
from autopar.dialects.autopar import (
    SHARDING,
    STRATEGY,
    ReshardOp,
    ShardingAttr,
    StrategyAttr,
    entries_of,
    result_sharding,
    set_entry,
    sharding_of,
)
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.rules.core import ShardingRule
from autopar.dialects.rules.registry import get_rule
from autopar.dialects.sdy import ManualComputationOp
from autopar.dialects.sharding import AxisRef

from .collectives import emit_steps
from .decide import find_grid_op, manual_specs
from .effects import is_effect, run_once
from .local_builder import LocalBuilder, resized
from .localize import LocalOp, localize
from .reshard_plan import ReshardPlanner
from .special import splittable_factors
from .specs import AxisTable, Spec, without_axes
from .strategy import Splittable
from .tensors import item_bytes, shape_of

GLOBAL = "autopar.global"
"""Attribute of arguments and results of a partitioned function: the global type."""


def partition(module: ModuleOp) -> None:
    """Partitions every function of the decided module in place (see the pass)."""
    grid_op = find_grid_op(module)
    if grid_op is None:
        raise DiagnosticError(module, "a partitioned program needs a shard.grid in the module")
    table = AxisTable(grid_op.to_grid(), ())
    for op in module.ops:
        if isinstance(op, FuncOp) and op.body.blocks:
            _FunctionPartitioner(op, table).run()


class _FunctionPartitioner:
    def __init__(self, func: FuncOp, table: AxisTable) -> None:
        self._func = func
        self._table = table
        self._planner = ReshardPlanner(table)
        self._specs: dict[SSAValue, Spec] = {}
        self._shapes: dict[SSAValue, tuple[int, ...]] = {}
        """Global shapes of values that are split."""
        self._rules: dict[Operation, tuple[ShardingRule, Splittable]] = {}
        """Of every op that is split; read off before any type becomes local."""
        self._op_specs: dict[int, tuple[Spec, ...]] = {}
        self._types: dict[tuple[int, Spec], Attribute] = {}
        self._keep: list[object] = []  # objects whose id is a key

    def run(self) -> None:
        func = self._func
        entry = func.body.block
        for op in func.walk():
            strategy = op.attributes.get(STRATEGY)
            if isinstance(strategy, StrategyAttr) and any(strategy.data):
                self._rules[op] = _checked_rule(op, strategy)
        arg_types = list(func.function_type.inputs.data)
        result_types = list(func.function_type.outputs.data)
        for arg in entry.args:
            sharding = sharding_of(arg)
            self._place(
                arg,
                self._table.spec(sharding)
                if sharding is not None
                else self._table.replicated(len(shape_of(arg.type))),
            )
        self._block(entry)
        result_specs: list[Spec] = []
        for index, type in enumerate(result_types):
            sharding = result_sharding(func, index)
            result_specs.append(
                self._table.spec(sharding)
                if sharding is not None
                else self._table.replicated(len(shape_of(type)))
            )
        func.properties["function_type"] = FunctionType.from_lists(
            [arg.type for arg in entry.args],
            [self._local_type(t, s) for t, s in zip(result_types, result_specs, strict=True)],
        )
        func.properties["arg_attrs"] = _with_global(func.arg_attrs, arg_types)
        func.properties["res_attrs"] = _with_global(func.res_attrs, result_types)

    # ---- values ----

    def _local_type(self, type: Attribute, spec: Spec) -> Attribute:
        if not spec.dim_axes or not isinstance(type, TensorType):
            return type
        key = (id(type), spec)
        local = self._types.get(key)
        if local is None:
            local = resized(type, self._table.local_shape(type.get_shape(), spec))
            self._types[key] = local
            self._keep.append(type)
        return local

    def _place(self, value: SSAValue, spec: Spec) -> None:
        """Records where a value lies and gives it its local type."""
        self._remember(value, spec)
        value._type = self._local_type(value.type, spec)  # pyright: ignore[reportPrivateUsage]

    def _remember(self, value: SSAValue, spec: Spec) -> None:
        self._specs[value] = spec
        self._shapes[value] = shape_of(value.type)

    def _result_specs(self, op: Operation) -> tuple[Spec, ...]:
        attr = op.attributes.get(SHARDING)
        if attr is None:
            return tuple(self._table.replicated(len(shape_of(r.type))) for r in op.results)
        specs = self._op_specs.get(id(attr))
        if specs is None:
            assert isinstance(attr, ArrayAttr)
            specs = tuple(
                self._table.spec(item.data) for item in attr.data if isinstance(item, ShardingAttr)
            )
            self._op_specs[id(attr)] = specs
            self._keep.append(attr)
        return specs

    # ---- ops ----

    def _block(self, block: Block) -> None:
        op = block.first_op
        while op is not None:
            following = op.next_op
            self._op(op)
            op = following

    def _op(self, op: Operation) -> None:
        if isinstance(op, ReshardOp):
            self._reshard(op)
            return
        strategy = op.attributes.pop(STRATEGY, None)
        if is_effect(op):
            self._effect(op)
            return
        if not op.results:
            return
        specs = self._result_specs(op)
        op.attributes.pop(SHARDING, None)
        if isinstance(strategy, StrategyAttr):
            self._strategic(op, strategy, specs)
            return
        for result, spec in zip(op.results, specs, strict=True):
            self._remember(result, spec)
        if isinstance(op, ManualComputationOp):
            self._manual(op)
            return
        if op.name == "stablehlo.constant":
            self._constant(op, specs[0])
            return
        if op.name in ("stablehlo.while", "stablehlo.case", "stablehlo.if"):
            for region in op.regions:
                block = region.block
                for arg, spec in zip(block.args, specs, strict=False):
                    self._place(arg, spec)
                self._block(block)
        for result, spec in zip(op.results, specs, strict=True):
            result._type = self._local_type(result.type, spec)  # pyright: ignore[reportPrivateUsage]

    def _strategic(self, op: Operation, strategy: StrategyAttr, specs: Sequence[Spec]) -> None:
        factors = tuple(self._table.indices(axes) for axes in strategy.data)
        for result, spec in zip(op.results, specs, strict=True):
            self._remember(result, spec)
        if not any(factors):
            return
        rule, splittable = self._rules[op]
        local = LocalOp(
            op,
            self._table,
            rule,
            factors,
            splittable.reducers,
            tuple(self._specs[v] for v in op.operands),
            tuple(self._shapes[v] for v in op.operands),
            tuple(specs),
            tuple(self._shapes[r] for r in op.results),
        )
        localize(local)
        for value, result in local.stands_for.items():
            self._specs[value] = self._specs[result]
            self._shapes[value] = self._shapes[result]

    def _effect(self, op: Operation) -> None:
        op.attributes.pop(SHARDING, None)
        values = run_once(op, self._table)
        for value in values:
            self._remember(value, self._table.replicated(len(shape_of(value.type))))
        Rewriter.replace_op(op, [], values)

    def _manual(self, op: ManualComputationOp) -> None:
        """The body takes the op's place: it is local already but for the other axes."""
        ins, _ = manual_specs(op, self._table)
        manual = frozenset(self._table.indices(AxisRef(name) for name in op.manual_axes.data))
        block = op.body.block
        for arg, spec in zip(block.args, ins, strict=True):
            self._place(arg, without_axes(spec, manual))
        self._block(block)
        for inner in block.walk():
            _use_replica_form(inner)
        terminator = block.last_op
        assert terminator is not None
        results = list(terminator.operands)
        shapes = [self._shapes[r] for r in op.results]
        specs = [self._specs[r] for r in op.results]
        for arg, operand in zip(block.args, op.operands, strict=True):
            arg.replace_all_uses_with(operand)
        results = [
            op.operands[r.index] if isinstance(r, BlockArgument) and r.block is block else r
            for r in results
        ]
        Rewriter.erase_op(terminator)
        for inner in list(block.ops):
            inner.detach()
            Rewriter.insert_op(inner, InsertPoint.before(op))
        for value, spec, shape in zip(results, specs, shapes, strict=True):
            self._specs[value], self._shapes[value] = spec, shape
        Rewriter.replace_op(op, [], results)

    def _constant(self, op: Operation, spec: Spec) -> None:
        result = op.results[0]
        local = self._local_type(result.type, spec)
        if local is not result.type:
            value = op.properties["value"]
            assert isinstance(value, DenseIntOrFPElementsAttr) and isinstance(local, TensorType)
            op.properties["value"] = DenseIntOrFPElementsAttr(local, value.data)
            result._type = local  # pyright: ignore[reportPrivateUsage]

    def _reshard(self, op: ReshardOp) -> None:
        source, shape = self._specs[op.input], self._shapes[op.input]
        target = self._table.spec(op.sharding.data)
        steps = self._planner.plan(source, target, shape, item_bytes(op.input.type))
        op.attributes.pop(SHARDING, None)
        builder = LocalBuilder(self._table, op, op.attributes)
        value = emit_steps(builder, op.input, source, steps, shape)
        self._specs[value] = target
        self._shapes[value] = shape
        Rewriter.replace_op(op, [], [value])


def _use_replica_form(op: Operation) -> None:
    """Collectives of a manual computation name partitions, which are replicas here."""
    if op.name == "stablehlo.partition_id":
        new = stablehlo.ReplicaIdOp.create(result_types=[op.results[0].type])
        Rewriter.replace_op(op, new)
    elif "replica_groups" in op.properties or "source_target_pairs" in op.properties:
        op.properties.pop("channel_handle", None)
        op.properties.pop("use_global_device_ids", None)


def _checked_rule(op: Operation, strategy: StrategyAttr) -> tuple[ShardingRule, Splittable]:
    rule = get_rule(op)
    if rule is None or len(strategy.data) != rule.num_factors:
        expected = "the op has no sharding rule" if rule is None else f"its rule {rule.num_factors}"
        raise DiagnosticError(
            op,
            f"'{op.name}' has a strategy of {len(strategy.data)} factors, {expected}: "
            "the attribute autopar.strategy does not belong to this op",
        )
    return rule, splittable_factors(op, rule)


def _with_global(
    attrs: ArrayAttr[DictionaryAttr] | None, types: Sequence[Attribute]
) -> ArrayAttr[DictionaryAttr]:
    return ArrayAttr(
        [
            set_entry(entry, GLOBAL, type)
            for entry, type in zip(entries_of(attrs, len(types)), types, strict=True)
        ]
    )
