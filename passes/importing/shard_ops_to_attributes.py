"""shard-ops-to-attributes: upstream's op form of shardings becomes autopar's attribute form.

`shard.sharding` + `shard.shard` annotate a value: without `annotate_for_users` the value as it is
made, with it the value as the users of the annotation take it.
- On an op result, without annotate_for_users: `autopar.sharding` on the op.
- On a function argument whose only use it is, or without annotate_for_users: on the argument.
- Everything else (a second annotation in a chain, one for users): `autopar.constraint`.
- A function result takes the spec of an annotation that stands directly on the returned value.
The discardable attribute `autopar.partial = "sum[1]"` says over which grid axes the value is
partial; `autopar.sharding = "…"` holds what upstream cannot say (open dimensions, priorities,
explicitly replicated axes), as shard-attributes-to-ops writes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, ShapedType, StringAttr
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import BlockArgument, Operation, OpResult, SSAValue
from xdsl.parser import Parser
from xdsl.passes import ModulePass
from xdsl.utils.exceptions import ParseError

from autopar.dialects.autopar import (
    PARTIAL,
    SHARDING,
    ConstraintOp,
    result_sharding,
    set_result_sharding,
    set_sharding,
    sharding_of,
)
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.reductions import REDUCTION_KINDS
from autopar.dialects.shard import ShardingOp, ShardOp, adopt_xdsl_ops, grid_of, named_dims
from autopar.dialects.sharding import AxisRef, DimSharding, Grid, Partial, Sharding
from autopar.dialects.sharding_syntax import parse_sharding
from autopar.passes.walk import ops_of


@dataclass(frozen=True)
class ShardOpsToAttributesPass(ModulePass):
    """Turns shard.sharding and shard.shard into autopar.sharding attributes and constraints.

    Needs: any module. Guarantees: no shard.shard is left, and no shard.sharding that only they
    used; programs without them are not touched.
    """

    name = "shard-ops-to-attributes"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        shard_ops_to_attributes(op)


def shard_ops_to_attributes(module: ModuleOp) -> None:
    """Replaces shard.shard in `module` by attributes and constraints."""
    adopt_xdsl_ops(module)
    shards = [cast(ShardOp, op) for op in ops_of(module, ShardOp)]
    if not shards:
        return
    specs = {op: _spec_of(op) for op in shards}
    for op in shards:
        _annotate_result(op, specs[op])
    chained = {op for op in shards if isinstance(op.src.owner, ShardOp)}
    shardings: list[Operation] = []
    for op in shards:
        if isinstance(op.sharding.owner, ShardingOp):
            shardings.append(op.sharding.owner)
        _replace(op, specs[op], op in chained)
    for sharding in dict.fromkeys(shardings):
        if sharding.results[0].first_use is None:
            sharding.detach()
            sharding.erase()


def _annotate_result(op: ShardOp, spec: Sharding) -> None:
    for use in op.result.uses:
        func = use.operation.parent_op()
        if isinstance(use.operation, ReturnOp) and isinstance(func, FuncOp):
            if result_sharding(func, use.index) is None:
                set_result_sharding(func, use.index, spec)


def _replace(op: ShardOp, spec: Sharding, chained: bool) -> None:
    source = op.src
    block = op.parent
    assert block is not None
    if not chained and _may_take(source, op) and sharding_of(source) in (None, spec):
        set_sharding(source, spec)
    if sharding_of(source) == spec:
        op.result.replace_all_uses_with(source)
    else:
        new = ConstraintOp(source, spec)
        new.location = op.location
        block.insert_op_before(new, op)
        new.result.name_hint = op.result.name_hint
        op.result.replace_all_uses_with(new.result)
    op.detach()
    op.erase()


def _may_take(source: SSAValue, op: ShardOp) -> bool:
    """Whether the annotation says how the value itself is made."""
    if isinstance(source, BlockArgument):
        func = source.block.parent_op()
        if not isinstance(func, FuncOp) or func.body.first_block is not source.block:
            return False
        return op.annotate_for_users is None or source.has_one_use()
    return isinstance(source, OpResult) and op.annotate_for_users is None


# ---- Reading shard.sharding ----------------------------------------------------------------------


def _spec_of(op: ShardOp) -> Sharding:
    """The sharding that an annotation states."""
    definition = op.sharding.owner
    if not isinstance(definition, ShardingOp):
        raise DiagnosticError(
            op, "'shard.shard' op: its sharding must be made by a shard.sharding op"
        )
    grid = grid_of(definition, definition.grid.string_value())
    if definition.static_halo_sizes.get_values() or definition.dynamic_halo_sizes:
        raise DiagnosticError(definition, "'shard.sharding' op: halo_sizes are not supported")
    if definition.static_sharded_dims_offsets.get_values() or (
        definition.dynamic_sharded_dims_offsets
    ):
        raise DiagnosticError(
            definition, "'shard.sharding' op: sharded_dims_offsets are not supported"
        )
    type = op.src.type
    rank = type.get_num_dims() if isinstance(type, ShapedType) else 0
    axes = named_dims(definition.split_axes)
    if len(axes) > rank:
        raise DiagnosticError(
            op,
            f"'shard.shard' op: split_axes names {len(axes)} dimensions, the value of type "
            f"{type} has {rank}",
        )
    text = definition.attributes.get(SHARDING)
    if isinstance(text, StringAttr):
        return _parse(definition, text.data)
    partial = op.attributes.get(PARTIAL) or definition.attributes.get(PARTIAL)
    spec = Sharding(
        grid.name,
        tuple(DimSharding(tuple(_axis(definition, grid, axis) for axis in dim)) for dim in axes)
        + (DimSharding(),) * (rank - len(axes)),
        partial=() if partial is None else _partials(op, grid, partial),
    )
    used = list(spec.used_axes())
    for axis in used:
        if used.count(axis) > 1:
            raise DiagnosticError(op, f"'shard.shard' op: sharding <{spec}> uses axis {axis} twice")
    return spec


def _axis(op: Operation, grid: Grid, axis: int) -> AxisRef:
    if not 0 <= axis < len(grid.axes):
        raise DiagnosticError(
            op,
            f"'{op.name}' op names grid axis {axis}; grid @{grid.name} has "
            f"{len(grid.axes)} axes, 0 to {len(grid.axes) - 1}",
        )
    return AxisRef(grid.axis_names[axis])


def _partials(op: Operation, grid: Grid, attr: object) -> tuple[Partial, ...]:
    """Reads `sum[1]` or `sum[0, 1], max[2]`."""
    text = attr.data if isinstance(attr, StringAttr) else ""
    if not re.fullmatch(r"\s*\w+\s*\[[\d,\s]*\]\s*(,\s*\w+\s*\[[\d,\s]*\]\s*)*", text):
        raise DiagnosticError(
            op, f"'{op.name}' op: {PARTIAL} = {attr}; write it as \"sum[1]\" (grid axes)"
        )
    found: list[Partial] = []
    for kind, axes in re.findall(r"(\w+)\s*\[([\d,\s]*)\]", text):
        if kind not in REDUCTION_KINDS:
            raise DiagnosticError(
                op,
                f"'{op.name}' op: unknown reduction kind {kind} in {PARTIAL}, expected one of "
                + ", ".join(REDUCTION_KINDS),
            )
        numbers = [int(axis) for axis in axes.replace(",", " ").split()]
        if numbers:
            found.append(Partial(kind, tuple(_axis(op, grid, axis) for axis in numbers)))
    return tuple(found)


def _parse(op: Operation, text: str) -> Sharding:
    try:
        return parse_sharding(Parser(Context(), text))
    except ParseError as error:
        raise DiagnosticError(op, f"'{op.name}' op: {SHARDING} = {text!r}: {error}") from error
