"""The grid that a program is partitioned over, refined so that every sub-axis in use is an axis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from xdsl.dialects.builtin import (
    ModuleOp,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation
from xdsl.rewriter import Rewriter

from autopar.dialects.autopar import (
    GRID,
    SHARDING,
    STRATEGY,
    StrategyAttr,
    grid_attribute,
)
from autopar.dialects.diagnostics import DiagnosticError, remark
from autopar.dialects.shard import GridOp, make_grid_op, user_grid
from autopar.dialects.sharding import AxisRef, Grid, Sharding
from autopar.dialects.tensors import num_bytes, shape_of
from autopar.passes.importing.annotations import (
    STATED,
    ShardingChecker,
    Stated,
    of_results,
    stated_by,
)
from autopar.passes.importing.meshes import axis_problem
from autopar.passes.walk import sharded_ops

from .specs import AxisTable
from .survey import Survey


def refinement(module: ModuleOp, found: Survey, grid: Grid) -> AxisTable:
    """The refinement of the grid that the module's shardings and strategies ask for.

    Sub-axes of one axis need not nest (6 rows over an axis of 6, reshaped to 2 x 3 and to 3 x 2).
    Then those of arguments, results, partial sums and strategies hold, of the others those that are
    on more bytes; dimensions that want the rest are not split by it, and a remark says so.
    DiagnosticError for a sharding that does not fit the grid or its tensor.
    """
    cuts = {name: {1, size} for name, size in grid.axes}
    taken: dict[AxisRef, None] = {}
    wishes: dict[AxisRef, None] = {}
    """Axes of which sub-axes may be left out."""
    stated = list(_checked(found.stating, grid))
    for use in stated:
        is_binding = isinstance(use.op, FuncOp)
        for axis in (axis for dim in use.sharding.dims for axis in dim.axes):
            if not is_binding:
                wishes[axis] = None
            elif not _nests(axis, cuts, taken):
                raise _does_not_nest(use.op, use.what, axis, taken)
        for axis in use.sharding.partial_axes:
            if not _nests(axis, cuts, taken):
                raise _does_not_nest(use.op, use.what, axis, taken)
    for op, axis in _sub_axes_of_strategies(found.planned, grid):
        if not _nests(axis, cuts, taken):
            raise _does_not_nest(op, f"the strategy of '{op.name}'", axis, taken)
    bound = {name: set(own) for name, own in cuts.items()}, dict(taken)
    if not all([_nests(axis, cuts, taken) for axis in wishes]):
        cuts, taken = bound
        split = _split_bytes(module)
        order = sorted(wishes, key=lambda axis: -split[axis])
        left_out = {axis for axis in order if not _nests(axis, cuts, taken)}
        _remark_left_out(stated, left_out, taken)
    return AxisTable(grid, taken)


def _split_bytes(module: ModuleOp) -> Counter[AxisRef]:
    """For each axis the bytes of the tensors that it splits."""
    split: Counter[AxisRef] = Counter()
    for op in sharded_ops(module):
        for sharding, value_type, _ in stated_by(op):
            for dim in () if sharding is None else sharding.dims:
                split.update(dict.fromkeys(dim.axes, num_bytes(value_type)))
    return split


class _Use(NamedTuple):
    """A sharding that the module states."""

    sharding: Sharding
    type: Attribute
    op: Operation
    what: str
    """How messages call the value that it is for."""


def _nests(axis: AxisRef, cuts: dict[str, set[int]], taken: dict[AxisRef, None]) -> bool:
    """Takes an axis, and the cuts that a sub-axis makes, unless it does not nest in those taken."""
    if axis.size:
        own = cuts[axis.name]
        bounds = (axis.pre, axis.pre * axis.size)
        if any(a % b and b % a for a in bounds for b in own):
            return False
        own.update(bounds)
    taken[axis] = None
    return True


def _others(axis: AxisRef, taken: Iterable[AxisRef]) -> str:
    return ", ".join(str(other) for other in taken if other.name == axis.name and other.size)


def _sub_axes_of_strategies(
    ops: Iterable[Operation], grid: Grid
) -> Iterator[tuple[Operation, AxisRef]]:
    """Those that the grid has; the others are refused where the op is decided."""
    for op in ops:
        strategy = op.attributes[STRATEGY]
        for axes in strategy.data if isinstance(strategy, StrategyAttr) else ():
            for axis in axes:
                if axis.size and axis_problem(axis, grid.axes) is None:
                    yield op, axis


def _does_not_nest(
    op: Operation, what: str, axis: AxisRef, taken: Iterable[AxisRef]
) -> DiagnosticError:
    return DiagnosticError(
        op,
        f"{what} is sharded by the sub-axis {axis}, which does not nest with "
        f"{_others(axis, taken)} of others: cut the axis in one way only",
    )


def _remark_left_out(
    stated: Iterable[_Use], left_out: Iterable[AxisRef], taken: Iterable[AxisRef]
) -> None:
    for use in stated:
        for index, dim in enumerate(use.sharding.dims):
            axis = next((axis for axis in dim.axes if axis in left_out), None)
            if axis is not None:
                remark(
                    use.op,
                    f"{use.what} cannot have dimension {index} sharded by the sub-axis {axis}, "
                    f"which does not nest with {_others(axis, taken)}: it is not split by it",
                )


def refine_grid(module: ModuleOp, grid_op: GridOp, table: AxisTable) -> None:
    """Puts the refined grid in the place of the user's, which is kept as `autopar.grid`."""
    module.attributes[GRID] = grid_attribute(user_grid(module))
    if table.refined.axes != table.grid.axes:
        Rewriter.replace_op(grid_op, make_grid_op(table.refined), [])


def _checked(stating: Iterable[Operation], grid: Grid) -> Iterator[_Use]:
    """The shardings of the module; DiagnosticError where one is wrong. (Of ops that share an
    attribute the first; the rank of each value is looked at where deciding reaches it.)"""
    check = ShardingChecker({grid.name: grid})
    seen: set[int] = set()
    for op in stating:
        stated: list[Stated] = []
        attr = op.attributes.get(SHARDING)
        if attr is not None and id(attr) not in seen:
            seen.add(id(attr))
            stated += of_results(op, attr)
        if type(op) in STATED:
            stated += STATED[type(op)](op)
        for sharding, type_, what in stated:
            if sharding is not None:
                shape = shape_of(type_)
                check(sharding, len(shape), op, what)
                for index, (dim, size) in enumerate(zip(sharding.dims, shape, strict=True)):
                    if dim.axes and size < 0:
                        raise DiagnosticError(
                            op,
                            f"{what}: sharding <{sharding}> splits dimension {index} of {type_}, "
                            "whose size is not known: only dimensions of known size can be split",
                        )
                yield _Use(sharding, type_, op, what)
