"""Partitioning a decided module: local types, collectives for reshards, local forms of ops.

Nothing is decided here: the layout of every value and the strategy of every op stand in the IR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from xdsl.dialects.builtin import (
    ArrayAttr,
    BoolAttr,
    DenseIntOrFPElementsAttr,
    DictionaryAttr,
    FunctionType,
    IntegerAttr,
    ModuleOp,
    TensorType,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, Operation
from xdsl.rewriter import Rewriter

from autopar.dialects import stablehlo
from autopar.dialects.autopar import (
    ALIASING_OUTPUT,
    BUFFER_DONOR,
    GLOBAL,
    SHARDING,
    STRATEGY,
    ReshardOp,
    entries_of,
    set_entry,
)
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.rules.access import operands_of
from autopar.dialects.sdy import ManualComputationOp
from autopar.dialects.shard import user_grid
from autopar.dialects.tensors import is_tensor, shape_of
from autopar.passes.importing.grid_option import find_grid_op
from autopar.passes.splice import move_body

from .collectives import emit_steps
from .effects import EFFECTS, is_effect, refuse_ordered, run_once
from .global_program import GlobalProgram
from .local_builder import LocalBuilder, resized
from .localize import localize
from .regions import manual_axes
from .specs import AxisTable, Spec
from .splats import CONSTANTS


def partition(module: ModuleOp) -> None:
    """Partitions every function of the decided module in place (see the pass)."""
    grid_op = find_grid_op(module)
    if grid_op is None:
        raise DiagnosticError(module, "a partitioned program needs a shard.grid in the module")
    user_grid(module)  # refuses that of another program
    table = AxisTable(grid_op.to_grid(), ())
    for op in module.ops:
        if isinstance(op, FuncOp) and op.body.blocks:
            _FunctionPartitioner(op, table).run()


class _FunctionPartitioner:
    """Makes one function local, op by op, once all that has to be known of it is read."""

    def __init__(self, func: FuncOp, table: AxisTable) -> None:
        self._func = func
        self._table = table
        self._global = GlobalProgram(func, table)
        self._manual_axes: frozenset[int] = frozenset()
        """The axes that are manual where the walk is."""
        self._types: dict[tuple[int, int], Attribute] = {}
        self._keep: list[object] = []  # objects whose id is a key
        self._handlers: dict[str, Callable[[Any], bool]] = {
            "autopar.reshard": self._reshard,
            "sdy.manual_computation": self._manual,
            "stablehlo.case": self._control_flow,
            **dict.fromkeys(CONSTANTS, self._constant),
            **dict.fromkeys(EFFECTS, self._effect),
            "stablehlo.if": self._control_flow,
            "stablehlo.while": self._control_flow,
        }
        """Ops that need more than local types; False: go on as with any op."""

    def run(self) -> None:
        func = self._func
        entry = func.body.block
        arg_types = list(func.function_type.inputs.data)
        result_types = list(func.function_type.outputs.data)
        result_specs = self._global.boundary(func.res_attrs, result_types)
        self._global.read()
        for arg, spec in self._global.args.items():
            arg._type = self._local_type(arg.type, spec)  # pyright: ignore[reportPrivateUsage]
        self._block(entry)
        func.properties["function_type"] = FunctionType.from_lists(
            [arg.type for arg in entry.args],
            [self._local_type(t, s) for t, s in zip(result_types, result_specs, strict=True)],
        )
        func.properties["arg_attrs"] = _with_global(_sharing_fits(func), arg_types)
        func.properties["res_attrs"] = _with_global(func.res_attrs, result_types)

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

    # ---- making ops local ----

    def _block(self, block: Block) -> None:
        op = block.first_op
        while op is not None:
            following = op._next_op  # pyright: ignore[reportPrivateUsage]
            self._op(op)
            op = following

    def _op(self, op: Operation) -> None:
        handler = self._handlers.get(op.name)
        if handler is not None and handler(op):
            return
        attributes = op.attributes
        attributes.pop(STRATEGY, None)
        shardings = attributes.pop(SHARDING, None)
        local = self._global.local.get(op)
        if local is not None:
            localize(local)
        elif shardings is not None:
            for result, spec in zip(op.results, self._global.stated(shardings), strict=True):
                result._type = self._local_type(result._type, spec)  # pyright: ignore[reportPrivateUsage]

    def _control_flow(self, op: Operation) -> bool:
        for region in op.regions:
            self._block(region.block)
        return False  # its results are like any other op's

    def _effect(self, op: Operation) -> bool:
        if not is_effect(op):
            return False
        refuse_ordered(op)
        axes = [a for a in range(len(self._table.sizes)) if a not in self._manual_axes]
        if self._table.parts(axes) == 1:
            return False  # every device has its own
        Rewriter.replace_op(op, [], run_once(op, self._table, axes))
        return True

    def _manual(self, op: ManualComputationOp) -> bool:
        """The body takes the op's place: it is local already but for the other axes."""
        block, outer = op.body.block, self._manual_axes
        self._manual_axes = outer | manual_axes(op, self._table)
        self._block(block)
        self._manual_axes = outer
        for inner in block.walk():
            _use_replica_form(inner)
        Rewriter.replace_op(op, [], move_body(block, op.operands, op))
        return True

    def _constant(self, op: Operation) -> bool:
        (result,) = op.results
        (spec,) = self._global.result_specs(op)
        op.attributes.pop(SHARDING, None)
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
        move = self._global.moves[op]
        op.attributes.pop(SHARDING, None)
        builder = LocalBuilder(self._table, op, op.attributes)
        (value,) = operands_of(op)
        value = emit_steps(builder, value, move.source, move.steps, move.shape)
        (result,) = op.results
        result.replace_all_uses_with(value)
        op.detach()
        op.erase()
        return True


def _use_replica_form(op: Operation) -> None:
    """Collectives of a manual computation name partitions, which are replicas here."""
    if op.name == "stablehlo.partition_id":
        new = stablehlo.ReplicaIdOp.create(result_types=[op.results[0].type])
        Rewriter.replace_op(op, new)
    elif op.name in ("stablehlo.all_to_all", "stablehlo.collective_permute"):
        op.properties.pop("channel_handle", None)  # XLA fails on one among replicas


def _sharing_fits(func: FuncOp) -> ArrayAttr[DictionaryAttr] | None:
    """The entries of the arguments; one whose part is not of the type of the result's whose buffer
    it shares is only donated. XLA refuses an alias of buffers of different size."""
    if func.arg_attrs is None:
        return None
    types = func.function_type
    entries: list[DictionaryAttr] = []
    for entry, type in zip(func.arg_attrs, types.inputs, strict=True):
        alias = entry.data.get(ALIASING_OUTPUT)
        if isinstance(alias, IntegerAttr) and types.outputs.data[alias.value.data] != type:
            entry = set_entry(entry, ALIASING_OUTPUT, None)
            entry = set_entry(entry, BUFFER_DONOR, BoolAttr.from_bool(True))
        entries.append(entry)
    return ArrayAttr(entries)


def _with_global(
    attrs: ArrayAttr[DictionaryAttr] | None, types: Sequence[Attribute]
) -> ArrayAttr[DictionaryAttr]:
    made: dict[tuple[int, int], DictionaryAttr] = {}
    entries: list[DictionaryAttr] = []
    for entry, type in zip(entries_of(attrs, len(types)), types, strict=True):
        with_type = made.get((id(entry), id(type)))
        if with_type is None:
            with_type = made[(id(entry), id(type))] = set_entry(entry, GLOBAL, type)
        entries.append(with_type)
    return ArrayAttr(entries)
