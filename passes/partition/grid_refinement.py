"""The grid that a program is partitioned over, refined so that every sub-axis in use is an axis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    DictionaryAttr,
    ModuleOp,
    StringAttr,
    i64,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation
from xdsl.rewriter import Rewriter

from autopar.dialects.autopar import (
    GRID,
    SHARDING,
    ConstraintOp,
    ReshardOp,
    ShardingAttr,
    result_sharding,
    sharding_of,
)
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.sdy import ManualComputationOp
from autopar.dialects.shard import GridOp, adopt_xdsl_ops, make_grid_op
from autopar.dialects.sharding import AxisRef, Grid, Sharding
from autopar.dialects.tensors import shape_of
from autopar.passes.sharding.propagation.check import ShardingChecker
from autopar.passes.walk import sharded_ops

from .specs import AxisTable


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


def refinement(module: ModuleOp, grid: Grid) -> AxisTable:
    """The refinement of the grid that the module's shardings ask for.

    DiagnosticError for a sharding that does not fit the grid or its tensor.
    """
    return AxisTable(grid, _used_axes(module, grid))


def refine_grid(module: ModuleOp, grid_op: GridOp, table: AxisTable) -> None:
    """Puts the refined grid in the place of the user's, which is kept as `autopar.grid`."""
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


_Stated = tuple[Sharding | None, Attribute, str]
"""A sharding, the type of the value that it is for, and how errors call that value."""


def _used_axes(module: ModuleOp, grid: Grid) -> set[AxisRef]:
    """Every axis that some sharding of the module names, sub-axes included."""
    check = ShardingChecker({grid.name: grid})
    axes: set[AxisRef] = set()

    def use(stated: Iterable[_Stated], op: Operation) -> None:
        for sharding, type, what in stated:
            if sharding is not None:
                check(sharding, len(shape_of(type)), op, what)
                axes.update(sharding.used_axes())

    seen: set[int] = set()
    for op in sharded_ops(module):
        attr = op.attributes.get(SHARDING)
        if attr is not None and id(attr) not in seen:
            seen.add(id(attr))
            use(_of_results(op, attr), op)
        stated = _STATED.get(op.name)
        if stated is not None:
            use(stated(op), op)
    return axes


def _of_results(op: Operation, attr: Attribute) -> Iterator[_Stated]:
    items = cast("ArrayAttr[Attribute]", attr).data if isinstance(attr, ArrayAttr) else ()
    for result, item in zip(op.results, items, strict=False):
        if isinstance(item, ShardingAttr):
            yield item.data, result.type, f"'{op.name}' op"


def _of_copy(op: ConstraintOp | ReshardOp) -> Iterator[_Stated]:
    yield op.sharding.data, op.result.type, f"'{op.name}' op"


def _of_function(op: FuncOp) -> Iterator[_Stated]:
    name = op.sym_name.data
    for arg in op.body.block.args if op.body.blocks else ():
        yield sharding_of(arg), arg.type, f"argument {arg.index} of @{name}"
    for index, type in enumerate(op.function_type.outputs.data):
        yield result_sharding(op, index), type, f"result {index} of @{name}"


def _of_manual(op: ManualComputationOp) -> Iterator[_Stated]:
    values = (*op.operands, *op.results)
    items = (*op.in_shardings.data, *op.out_shardings.data)
    for value, item in zip(values, items, strict=True):
        yield item.sharding, value.type, f"'{op.name}' op"


_STATED: dict[str, Callable[[Any], Iterator[_Stated]]] = {
    ConstraintOp.name: _of_copy,
    ReshardOp.name: _of_copy,
    FuncOp.name: _of_function,
    ManualComputationOp.name: _of_manual,
}
"""Ops that state shardings elsewhere than in `autopar.sharding`."""
