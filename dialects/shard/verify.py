"""Checks of grid axes and of the shapes of collectives."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ShapedType,
    SymbolRefAttr,
)
from xdsl.dialects.shard import (
    CollectiveCommunicationOp,
)
from xdsl.ir import Operation
from xdsl.utils.exceptions import VerifyException

from ..sharding import Grid
from .grids import find_grid, grid_ops


def declared_grid(op: Operation, symbol: SymbolRefAttr) -> Grid:
    """The grid that an op names; VerifyException where the module declares none of the name."""
    name = symbol.string_value()
    grid = find_grid(op, name)
    if grid is None:
        known = ", ".join(f"@{g.sym_name.data}" for g in grid_ops(op)) or "none"
        raise VerifyException(
            f"'{op.name}' op names grid @{name}, which is not declared (declared: {known})"
        )
    return grid


def check_axes(op: Operation, grid: Grid, axes: Sequence[int], field: str) -> None:
    """VerifyException where axes are none of the grid's, or one is named twice."""
    for axis in axes:
        if not 0 <= axis < len(grid.axes):
            named = ", ".join(f'{i}: "{n}"={s}' for i, (n, s) in enumerate(grid.axes))
            raise VerifyException(
                f"'{op.name}' op {field} = {list(axes)}: grid @{grid.name} has no axis {axis} "
                f"(its axes: {named})"
            )
        if list(axes).count(axis) > 1:
            raise VerifyException(
                f"'{op.name}' op {field} = {list(axes)}: grid axis {axis} "
                f'("{grid.axis_names[axis]}") is used twice'
            )


def collective_axes(op: CollectiveCommunicationOp) -> tuple[Grid, tuple[int, ...]]:
    """The grid and the axes of a collective; VerifyException where they are wrong."""
    grid = declared_grid(op, op.grid)
    axes = op.grid_axes.get_values()
    check_axes(op, grid, axes, "grid_axes")
    return grid, axes


def check_collective(op: CollectiveCommunicationOp, **dims: tuple[int, int, int]) -> None:
    """VerifyException where grid, axes, or the result's shape are wrong.

    `dims`: for each named tensor dimension (dim, m, d): with n devices in a group the result's size
    is the operand's times n**m divided by n**d.
    """
    grid, axes = collective_axes(op)
    source, target = op.operands[0].type, op.results[0].type
    if not isinstance(source, ShapedType) or not isinstance(target, ShapedType):
        return
    sizes = [grid.shape[axis] for axis in axes]
    is_known = all(size > 0 for size in sizes)
    group = prod(sizes)
    expected = list(source.get_shape())
    if len(expected) != target.get_num_dims():
        raise VerifyException(
            f"'{op.name}' op: operand {source} and result {target} differ in rank"
        )
    over = f"the {group} devices of grid axes {list(axes)} of @{grid.name} {grid.shape}"
    for field, (dim, times, divided) in dims.items():
        if not 0 <= dim < len(expected):
            raise VerifyException(
                f"'{op.name}' op {field} = {dim}: operand {source} has no such dimension"
            )
        if expected[dim] == DYNAMIC_INDEX or not is_known:
            if times or divided:
                expected[dim] = DYNAMIC_INDEX
            continue
        if divided and expected[dim] % group:
            raise VerifyException(
                f"'{op.name}' op {field} = {dim}: dimension of size {expected[dim]} of {source} is "
                f"not divisible by {over}; pad it first"
            )
        if times:
            expected[dim] *= group
        if divided:
            expected[dim] //= group
    for dim, (want, have) in enumerate(zip(expected, target.get_shape(), strict=True)):
        if want != have and DYNAMIC_INDEX not in (want, have):
            raise VerifyException(
                f"'{op.name}' op: result dimension {dim} has size {have}, expected {want} from "
                f"operand {source} over {over}"
            )


def check_root(op: CollectiveCommunicationOp, field: str, root: Sequence[int]) -> None:
    """VerifyException where the device that a collective names is none of a group."""
    grid, axes = collective_axes(op)
    if len(root) != len(axes):
        raise VerifyException(
            f"'{op.name}' op {field} = {list(root)}: expected {len(axes)} coordinates, one for "
            f"each of grid_axes = {list(axes)}"
        )
    for axis, index in zip(axes, root, strict=True):
        size = grid.shape[axis]
        if index != DYNAMIC_INDEX and (index < 0 or 0 < size <= index):
            raise VerifyException(
                f"'{op.name}' op {field} = {list(root)}: coordinate {index} is out of range for "
                f"grid axis {axis} of size {size}"
            )
