"""Partitioning a decided module: local types, collectives for reshards, local forms of ops.

Nothing is decided here: the layout of every value and the strategy of every op stand in the IR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseIntOrFPElementsAttr,
    DictionaryAttr,
    FunctionType,
    ModuleOp,
    TensorType,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.rewriter import Rewriter

from autopar.dialects import stablehlo
from autopar.dialects.autopar import (
    GLOBAL,
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
from autopar.dialects.tensors import is_tensor, item_bytes, shape_of
from autopar.passes.splice import move_body
from autopar.passes.walk import sharded_ops

from .collectives import emit_steps
from .effects import is_effect, run_once
from .grid_refinement import find_grid_op
from .local_builder import LocalBuilder, resized
from .localize import LocalOp, localize, localizer_of
from .regions import manual_specs
from .reshard_plan import ReshardPlanner
from .special import given_factors, splittable_factors
from .specs import AxisTable, Spec, without_axes
from .splats import CONSTANTS
from .strategy import Splittable


def partition(module: ModuleOp) -> None:
    """Partitions every function of the decided module in place (see the pass)."""
    grid_op = find_grid_op(module)
    if grid_op is None:
        raise DiagnosticError(module, "a partitioned program needs a shard.grid in the module")
    table = AxisTable(grid_op.to_grid(), ())
    for op in module.ops:
        if isinstance(op, FuncOp) and op.body.blocks:
            _FunctionPartitioner(op, table).run()


class _Split(NamedTuple):
    """What the local form of an op depends on."""

    rule: ShardingRule
    factors: tuple[tuple[int, ...], ...]
    splittable: Splittable


class _FunctionPartitioner:
    def __init__(self, func: FuncOp, table: AxisTable) -> None:
        self._func = func
        self._table = table
        self._planner = ReshardPlanner(table)
        self._specs: dict[SSAValue, Spec] = {}
        self._globals: dict[SSAValue, Attribute] = {}
        """Global types."""
        self._plain: set[tuple[int, int]] = set()
        """(strategy, rule) of ops that only take local types, by identity."""
        self._split: dict[Operation, _Split] = {}
        """Of every op whose local form is more than local types, from its global types."""
        self._op_specs: dict[int, tuple[Spec, ...]] = {}
        self._types: dict[tuple[int, int], Attribute] = {}
        self._keep: list[object] = []  # objects whose id is a key
        self._handlers: dict[str, Callable[[Any], bool]] = {
            "autopar.reshard": self._reshard,
            "sdy.manual_computation": self._manual,
            "stablehlo.case": self._control_flow,
            **dict.fromkeys(CONSTANTS, self._constant),
            "stablehlo.custom_call": self._effect,
            "stablehlo.if": self._control_flow,
            "stablehlo.while": self._control_flow,
        }
        """Ops that need more than local types; False: go on as with any op."""

    def run(self) -> None:
        func = self._func
        entry = func.body.block
        for op in sharded_ops(func):
            strategy = op.attributes.get(STRATEGY)
            if strategy is not None:
                split = self._split_of(op, cast(StrategyAttr, strategy))
                if split is not None:
                    self._split[op] = split
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

    def _split_of(self, op: Operation, strategy: StrategyAttr) -> _Split | None:
        """What localizing the op takes; None where local types are all that it takes."""
        rule = get_rule(op)
        key = (id(strategy), id(rule))
        needs_routine = localizer_of(op) is not None
        if key in self._plain and not needs_routine:
            return None
        factors = given_factors(op, rule, strategy, self._table)
        if any(factors) and rule is not None:
            splittable = splittable_factors(op, rule)
            reduces = any(a and r for a, r in zip(factors, splittable.reducers, strict=True))
            if needs_routine or reduces:
                return _Split(rule, factors, splittable)
        self._plain.add(key)
        self._keep += (strategy, rule)
        return None

    # ---- values ----

    def _local_type(self, type: Attribute, spec: Spec) -> Attribute:
        key = (id(type), id(spec))
        local = self._types.get(key)
        if local is None:
            local = type
            if spec.dim_axes and is_tensor(type):
                local = resized(type, self._table.local_shape(shape_of(type), spec))
            self._types[key] = local
            self._keep += (type, spec)
        return local

    def _place(self, value: SSAValue, spec: Spec) -> None:
        """Records where a value lies and gives it its local type."""
        self._remember(value, spec)
        value._type = self._local_type(value.type, spec)  # pyright: ignore[reportPrivateUsage]

    def _remember(self, value: SSAValue, spec: Spec) -> None:
        self._specs[value] = spec
        self._globals[value] = value.type

    def _shape(self, value: SSAValue) -> tuple[int, ...]:
        """The global shape of a value."""
        return shape_of(self._globals[value])

    def _stands_for(self, value: SSAValue, result: SSAValue) -> None:
        self._specs[value] = self._specs[result]
        self._globals[value] = self._globals[result]

    def _result_specs(self, op: Operation) -> tuple[Spec, ...]:
        attr = op.attributes.get(SHARDING)
        if attr is None:
            return tuple(self._table.replicated(len(shape_of(r.type))) for r in op.results)
        specs = self._op_specs.get(id(attr))
        if specs is None:
            specs = tuple(
                self._table.spec(item.data) for item in cast("ArrayAttr[ShardingAttr]", attr).data
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
        handler = self._handlers.get(op.name)
        if handler is not None and handler(op):
            return
        attributes = op.attributes
        attributes.pop(STRATEGY, None)
        if not op.results:
            return
        specs = self._result_specs(op)
        attributes.pop(SHARDING, None)
        for result, spec in zip(op.results, specs, strict=True):
            self._remember(result, spec)
        split = self._split.get(op)
        if split is not None:
            self._localize(op, split, specs)
            return
        for result, spec in zip(op.results, specs, strict=True):
            result._type = self._local_type(result.type, spec)  # pyright: ignore[reportPrivateUsage]

    def _localize(self, op: Operation, split: _Split, specs: Sequence[Spec]) -> None:
        local = LocalOp(
            op,
            self._table,
            split.rule,
            split.factors,
            split.splittable.reducers,
            tuple(self._specs[v] for v in op.operands),
            tuple(self._shape(v) for v in op.operands),
            tuple(specs),
            tuple(self._shape(r) for r in op.results),
        )
        localize(local)
        for value, result in local.stands_for.items():
            self._stands_for(value, result)

    def _control_flow(self, op: Operation) -> bool:
        specs = self._result_specs(op)
        for region in op.regions:
            block = region.block
            for arg, spec in zip(block.args, specs, strict=False):
                self._place(arg, spec)
            self._block(block)
        return False  # its results are like any other op's

    def _effect(self, op: Operation) -> bool:
        if not is_effect(op):
            return False
        op.attributes.pop(SHARDING, None)
        values = run_once(op, self._table)
        for value in values:
            self._remember(value, self._table.replicated(len(shape_of(value.type))))
        Rewriter.replace_op(op, [], values)
        return True

    def _manual(self, op: ManualComputationOp) -> bool:
        """The body takes the op's place: it is local already but for the other axes."""
        specs = self._result_specs(op)
        types = [r.type for r in op.results]
        ins, _ = manual_specs(op, self._table)
        manual = frozenset(self._table.indices(AxisRef(name) for name in op.manual_axes.data))
        block = op.body.block
        for arg, spec in zip(block.args, ins, strict=True):
            self._place(arg, without_axes(spec, manual))
        self._block(block)
        for inner in block.walk():
            _use_replica_form(inner)
        results = move_body(block, op.operands, op)
        for value, spec, type in zip(results, specs, types, strict=True):
            self._specs[value], self._globals[value] = spec, type
        Rewriter.replace_op(op, [], results)
        return True

    def _constant(self, op: Operation) -> bool:
        result = op.results[0]
        (spec,) = self._result_specs(op)
        op.attributes.pop(SHARDING, None)
        self._remember(result, spec)
        local = self._local_type(result.type, spec)
        if local is not result.type:
            value = op.properties["value"]
            assert isinstance(value, DenseIntOrFPElementsAttr) and is_tensor(local)
            op.properties["value"] = DenseIntOrFPElementsAttr(
                cast("TensorType[Any]", local), value.data
            )
            result._type = local  # pyright: ignore[reportPrivateUsage]
        return True

    def _reshard(self, op: ReshardOp) -> bool:
        source, shape = self._specs[op.input], self._shape(op.input)
        target = self._table.spec(op.sharding.data)
        steps = self._planner.plan(source, target, shape, item_bytes(op.input.type))
        op.attributes.pop(SHARDING, None)
        builder = LocalBuilder(self._table, op, op.attributes)
        value = emit_steps(builder, op.input, source, steps, shape)
        self._specs[value] = target
        self._globals[value] = self._globals[op.input]
        Rewriter.replace_op(op, [], [value])
        return True


def _use_replica_form(op: Operation) -> None:
    """Collectives of a manual computation name partitions, which are replicas here."""
    if op.name == "stablehlo.partition_id":
        new = stablehlo.ReplicaIdOp.create(result_types=[op.results[0].type])
        Rewriter.replace_op(op, new)
    elif op.name in ("stablehlo.all_to_all", "stablehlo.collective_permute"):
        op.properties.pop("channel_handle", None)  # XLA fails on one among replicas


def _with_global(
    attrs: ArrayAttr[DictionaryAttr] | None, types: Sequence[Attribute]
) -> ArrayAttr[DictionaryAttr]:
    return ArrayAttr(
        [
            set_entry(entry, GLOBAL, type)
            for entry, type in zip(entries_of(attrs, len(types)), types, strict=True)
        ]
    )
