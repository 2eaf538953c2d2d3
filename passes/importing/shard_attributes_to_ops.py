"""shard-attributes-to-ops: autopar's attribute form of shardings becomes upstream's op form.

Each annotated value gets `shard.sharding` + `shard.shard` behind it, each constraint becomes a
`shard.shard … annotate_for_users`, and a function result's sharding stands directly on the returned
value. `shard_ops_to_attributes` is the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, StringAttr, SymbolRefAttr, UnitAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.dialects.shard import ShardAxesArrayAttr, ShardingType
from xdsl.ir import Attribute, Block, Operation, SSAValue
from xdsl.passes import ModulePass

from autopar.dialects.autopar import (
    PARTIAL,
    SHARDING,
    ConstraintOp,
    result_sharding,
    set_arg_shardings,
    set_op_shardings,
    set_result_shardings,
    sharding_of,
)
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.shard import ShardingOp, ShardOp, axes_attr, grid_of
from autopar.dialects.sharding import AxisRef, Grid, Sharding
from autopar.dialects.tensors import is_tensor

from .annotations import check_shardings


@dataclass(frozen=True)
class ShardAttributesToOpsPass(ModulePass):
    """Turns autopar.sharding attributes and constraints into shard.sharding and shard.shard.

    Needs: an annotated program (L1) without sub-axes. Guarantees: no autopar.sharding on functions
    and ops and no autopar.constraint is left; mlir-opt reads the annotations.
    """

    name = "shard-attributes-to-ops"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        shard_attributes_to_ops(op)


def shard_attributes_to_ops(module: ModuleOp) -> None:
    """Replaces autopar.sharding attributes in `module` by shard ops."""
    check_shardings(module)
    ops = list(module.walk())
    for op in ops:
        if isinstance(op, FuncOp):
            _arguments(op)
        elif isinstance(op, ConstraintOp):
            _constraint(op)
        elif SHARDING in op.attributes and op.results and op.parent is not None:
            shardings = [sharding_of(result) for result in op.results]
            set_op_shardings(op, None)
            after = op
            for result, sharding in zip(op.results, shardings, strict=True):
                if sharding is not None and is_tensor(result.type):  # upstream annotates no others
                    after = _annotate(result, sharding, op, op.parent, after)
    for op in ops:
        if isinstance(op, FuncOp):
            _results(op)


def _annotate(
    value: SSAValue, sharding: Sharding, place: Operation, block: Block, after: Operation | None
) -> Operation:
    """Puts an annotation on `value` behind `after` (None: first in the block)."""
    definition, shard = _shard(value, sharding, place, None)
    value.replace_uses_with_if(shard.result, lambda use: use.operation is not shard)
    for new in (definition, shard):
        if after is not None:
            block.insert_op_after(new, after)
        elif block.first_op is not None:
            block.insert_op_before(new, block.first_op)
        else:
            block.add_op(new)
        after = new
    return shard


def _arguments(func: FuncOp) -> None:
    block = func.body.first_block
    if block is None:
        return
    shardings = [sharding_of(argument) for argument in func.args]
    if any(shardings):
        set_arg_shardings(func, [None] * len(shardings))
    after: Operation | None = None
    for argument, sharding in zip(func.args, shardings, strict=True):
        if sharding is not None and is_tensor(argument.type):
            after = _annotate(argument, sharding, func, block, after)


def _results(func: FuncOp) -> None:
    shardings = [result_sharding(func, i) for i in range(len(func.function_type.outputs.data))]
    if func.body.first_block is None or not any(shardings):
        return
    set_result_shardings(func, [None] * len(shardings))
    for terminator in (block.last_op for block in func.body.blocks):
        if isinstance(terminator, ReturnOp):
            _annotate_returned(terminator, shardings)


def _annotate_returned(terminator: ReturnOp, results: Sequence[Sharding | None]) -> None:
    block = terminator.parent
    assert block is not None
    for index, sharding in enumerate(results):
        value = terminator.operands[index]
        if sharding is None or not is_tensor(value.type):
            continue
        definition, shard = _shard(value, sharding, terminator, None)
        if isinstance(value.owner, ShardOp) and _says_the_same(value.owner, definition):
            continue
        block.insert_op_before(definition, terminator)
        block.insert_op_before(shard, terminator)
        terminator.operands[index] = shard.result


def _says_the_same(shard: ShardOp, definition: ShardingOp) -> bool:
    other = shard.sharding.owner
    return (
        isinstance(other, ShardingOp)
        and other.properties == definition.properties
        and other.attributes == definition.attributes
    )


def _constraint(op: ConstraintOp) -> None:
    block = op.parent
    assert block is not None
    definition, shard = _shard(op.input, op.sharding.data, op, UnitAttr())
    shard.attributes.update(op.attributes)
    block.insert_op_before(definition, op)
    block.insert_op_before(shard, op)
    shard.result.name_hint = op.result.name_hint
    op.result.replace_all_uses_with(shard.result)
    op.detach()
    op.erase()


def _shard(
    value: SSAValue, sharding: Sharding, place: Operation, for_users: UnitAttr | None
) -> tuple[ShardingOp, ShardOp]:
    grid = grid_of(place, sharding.grid)
    properties: dict[str, Attribute] = {
        "grid": SymbolRefAttr(sharding.grid),
        "split_axes": ShardAxesArrayAttr(
            ArrayAttr(
                [axes_attr(_numbers(place, grid, dim.axes)) for dim in sharding.dims]
                or [axes_attr([])]  # upstream has no empty list
            )
        ),
    }
    definition = ShardingOp.build(operands=[[], []], properties=properties, result_types=[_TYPE])
    if sharding.partial:
        kinds = (f"{p.kind}{_numbers(place, grid, p.axes)}" for p in sharding.partial)
        definition.attributes[PARTIAL] = StringAttr(", ".join(kinds))
    if sharding.closed() != sharding or sharding.replicated:
        definition.attributes[SHARDING] = StringAttr(str(sharding))
    shard = ShardOp(value, definition.result, for_users)
    definition.location = shard.location = place.location
    return definition, shard


def _numbers(place: Operation, grid: Grid, axes: Sequence[AxisRef]) -> list[int]:
    for axis in axes:
        if not axis.is_whole:
            raise DiagnosticError(
                place,
                f"shard's op form has no sub-axes, and a sharding uses {axis}: refine the grid",
            )
        if axis.name not in grid.sizes:
            raise DiagnosticError(
                place, f"a sharding uses axis {axis}, which grid @{grid.name} does not have"
            )
    return [grid.axis_names.index(axis.name) for axis in axes]


_TYPE = ShardingType()
