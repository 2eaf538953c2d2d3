"""Grids: the op, and the way to the plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import TypeVar

from xdsl.dialects import shard as xdsl_shard
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ArrayAttr,
    DenseArrayBase,
    ModuleOp,
    StringAttr,
    i16,
    i64,
)
from xdsl.dialects.shard import (
    ShardAxesAttr,
)
from xdsl.ir import Attribute, Operation
from xdsl.irdl import (
    IRDLOperation,
)
from xdsl.utils.exceptions import VerifyException
from xdsl.utils.hints import isa

from ..autopar import DEVICE_IDS, GRID, stated_grid
from ..sharding import Grid, parse_axis

AXIS_NAMES = "axis_names"
"""Name of the attribute of a grid that names its axes."""

OpT = TypeVar("OpT", bound=IRDLOperation)

_OURS: dict[type[Operation], type[Operation]] = {}
"""Our class for each of xDSL's that is extended."""


def extends_xdsl(cls: type[OpT]) -> type[OpT]:
    """Finishes a subclass of one of xDSL's ops that adds methods only.

    xDSL's declarative formats look operands and results up in the class's own `__dict__`, so that
    inherited ones are not found; and a second irdl_op_definition refuses inherited fields.
    """
    base = cls.__mro__[1]
    for name, field in vars(base).items():
        if name not in vars(cls) and not name.startswith("_"):
            setattr(cls, name, field)
    _OURS[base] = cls
    return cls


def adopt_xdsl_ops(module: Operation) -> None:
    """Makes xDSL's own shard ops ours, in place: they differ in methods only.

    A module that xdsl-opt or another compiler has parsed holds xDSL's, whose dialect has the name.
    """
    if any(type(op) in _OURS for op in grid_ops(module)):
        for op in module.walk():
            if type(op) in _OURS:
                op.__class__ = _OURS[type(op)]


def _strings(attr: Attribute | None) -> tuple[str, ...] | None:
    """The strings of a list of strings; None for anything else."""
    if not isa(attr, ArrayAttr[StringAttr]):
        return None
    return tuple(string.data for string in attr.data)


@extends_xdsl
class GridOp(xdsl_shard.GridOp):
    """A named grid of devices: `shard.grid @mesh(shape = 2x4) {axis_names = ["data", "model"]}`.

    Discardable attributes that are read: `axis_names`, and `autopar.device_ids` (the order of
    devices that the program was written with; it never renumbers anything).
    Made by import-sdy or written by the user; gone after convert-shard-to-stablehlo.
    """

    def axis_names(self) -> tuple[str, ...]:
        names = _strings(self.attributes.get(AXIS_NAMES))
        return tuple(str(i) for i in range(len(self.shape))) if names is None else names

    def to_grid(self) -> Grid:
        """The grid as plain data. DiagnosticError where the size of an axis is `?`."""
        grid = self.as_written()
        for name, size in grid.axes:
            if size == DYNAMIC_INDEX:
                from ..diagnostics import DiagnosticError

                raise DiagnosticError(
                    self,
                    f"grid @{grid.name}: the size of axis {name!r} is not known (?); a program is "
                    "partitioned for a fixed number of devices: write it",
                )
        return grid

    def as_written(self) -> Grid:
        """The grid as plain data; an unknown size (`?`) is DYNAMIC_INDEX."""
        ids = self.attributes.get(DEVICE_IDS)
        return Grid(
            self.sym_name.data,
            tuple(zip(self.axis_names(), self.shape.get_values(), strict=True)),
            tuple(ids.get_values()) if isinstance(ids, DenseArrayBase) else None,  # pyright: ignore
        )

    def verify_(self) -> None:
        super().verify_()
        what = f"'{self.name}' op @{self.sym_name.data}"
        shape = self.shape.get_values()
        for axis, size in enumerate(shape):
            if size < 1 and size != DYNAMIC_INDEX:
                raise VerifyException(f"{what}: axis {axis} has size {size}, expected at least 1")
        found = self.attributes.get(AXIS_NAMES)
        names = _strings(found)
        if names is None and found is not None:
            raise VerifyException(f"{what}: axis_names must be strings, found {found}")
        if names is not None:
            if len(names) != len(shape):
                raise VerifyException(
                    f"{what}: {len(names)} axis_names for {len(shape)} axes of the shape"
                )
            for name in names:
                if names.count(name) > 1:
                    raise VerifyException(f'{what}: axis name "{name}" is used twice')
        ids = self.attributes.get(DEVICE_IDS)
        if isinstance(ids, DenseArrayBase):
            values: list[int] = list(ids.get_values())  # pyright: ignore
            if sorted(values) != list(range(prod(shape))):
                raise VerifyException(
                    f"{what}: {DEVICE_IDS} must be a permutation of 0 to {prod(shape) - 1}, "
                    f"found {values}"
                )


def make_grid_op(grid: Grid) -> GridOp:
    """The `shard.grid` op of a grid."""
    op = GridOp(
        properties={
            "sym_name": StringAttr(grid.name),
            "shape": DenseArrayBase.from_list(i64, grid.shape),
        }
    )
    op.attributes[AXIS_NAMES] = ArrayAttr([StringAttr(name) for name in grid.axis_names])
    if grid.device_ids is not None:
        op.attributes[DEVICE_IDS] = DenseArrayBase.from_list(i64, grid.device_ids)
    return op


def grid_ops(op: Operation) -> Iterator[xdsl_shard.GridOp]:
    """The `shard.grid` ops that `op` sees, the nearest enclosing module's first."""
    scope: Operation | None = op
    while scope is not None:
        for region in scope.regions:
            block = region.first_block
            if block is not None and scope.name == "builtin.module":
                yield from (o for o in block.ops if isinstance(o, xdsl_shard.GridOp))
        scope = scope.parent_op()


def find_grid(op: Operation, name: str | None = None) -> Grid | None:
    """The grid called `name` (any, where None) that `op` sees; None where there is none.

    The size of an axis may be unknown: DYNAMIC_INDEX.
    """
    found = _find_op(op, name)
    return None if found is None else found.as_written()


def _find_op(op: Operation, name: str | None) -> GridOp | None:
    for grid in grid_ops(op):
        if name is None or grid.sym_name.data == name:
            if isinstance(grid, GridOp):
                return grid
            return GridOp(properties=dict(grid.properties), attributes=dict(grid.attributes))
    return None


def grid_of(op: Operation, name: str | None = None) -> Grid:
    """The grid that `op` (a module, or an op in it) sees, all of its sizes known. An error where
    there is none."""
    grid = _find_op(op, name)
    if grid is None:
        from ..diagnostics import DiagnosticError

        called = "" if name is None else f" @{name}"
        raise DiagnosticError(
            op, f"'{op.name}' op needs a device grid, and the module declares no shard.grid{called}"
        )
    return grid.to_grid()


def user_grid(module: ModuleOp) -> Grid:
    """The grid of a module as the user gave it: partitioning may have cut its axes into smaller
    ones. DiagnosticError where what the module says of it is of another grid."""
    grid = grid_of(module)
    stated = stated_grid(module, grid.name)
    if stated is None:
        return grid
    parts = [(parse_axis(name), size) for name, size in grid.axes]
    if grid.num_devices != stated.num_devices or not all(
        axis.name in stated.sizes and stated.axis_size(axis) == size for axis, size in parts
    ):
        from ..diagnostics import DiagnosticError

        raise DiagnosticError(
            module,
            f"{GRID} = {module.attributes[GRID]} is not the grid @{grid.name} "
            f"({', '.join(f'{name}={size}' for name, size in grid.axes)}): leave the attribute "
            "out, insert-reshards writes it",
        )
    return stated


def axes_attr(axes: Sequence[int]) -> ShardAxesAttr:
    """`grid_axes` from integers."""
    return _axes_attr(tuple(axes))


@lru_cache(maxsize=1000)  # a program has few, and many of each
def _axes_attr(axes: tuple[int, ...]) -> ShardAxesAttr:
    return DenseArrayBase.from_list(i16, axes)
