"""The shardings that the user wrote: where they stand, and that they fit grid and tensor.

Every pass that reads them calls `take_annotations` (or `check_shardings`) first; deciding, which
surveys a program by itself, looks at the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from xdsl.dialects.builtin import ArrayAttr, ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation

from autopar.dialects.autopar import SHARDING, ConstraintOp, ReshardOp, ShardingAttr, entries_of
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.sdy import ManualComputationOp
from autopar.dialects.shard import GridOp
from autopar.dialects.sharding import Grid, Sharding
from autopar.dialects.tensors import shape_of
from autopar.passes.walk import sharded_ops

from .meshes import axis_problem, overlap
from .shard_ops_to_attributes import shard_ops_to_attributes


def stated_shardings(op: Operation, attr: Attribute) -> Sequence[ShardingAttr]:
    """What an op's `autopar.sharding` says of its results; DiagnosticError where it does not."""
    items = cast("ArrayAttr[Attribute]", attr).data if isinstance(attr, ArrayAttr) else None
    if items is None or not all(isinstance(item, ShardingAttr) for item in items):
        raise DiagnosticError(op, f"'{op.name}' op: {SHARDING} is no list of shardings: {attr}")
    if len(items) != len(op.results):
        raise DiagnosticError(
            op, f"'{op.name}' op has {len(items)} shardings for {len(op.results)} results"
        )
    return cast("Sequence[ShardingAttr]", items)


def rank_problem(sharding: Sharding, rank: int) -> str | None:
    """What is wrong with a sharding for a tensor of this rank; None: it fits."""
    if sharding.rank == rank:
        return None
    return f"has {sharding.rank} dimensions, the tensor has {rank}"


Stated = tuple[Sharding | None, Attribute, str]
"""A sharding, the type of the value that it is for, and how errors call that value."""


def of_results(op: Operation, attr: Attribute) -> Iterator[Stated]:
    """What an op's `autopar.sharding` says."""
    for result, item in zip(op.results, stated_shardings(op, attr), strict=True):
        yield item.data, result.type, f"'{op.name}' op"


def _of_copy(op: ConstraintOp | ReshardOp) -> Iterator[Stated]:
    yield op.sharding.data, op.result.type, f"'{op.name}' op"


def _of_function(op: FuncOp) -> Iterator[Stated]:
    """Of arguments (results) of one type that share an attribute the first."""
    types = op.function_type
    for what, attrs, values in (
        ("argument", op.arg_attrs, types.inputs.data if op.body.blocks else ()),
        ("result", op.res_attrs, types.outputs.data),
    ):
        seen: set[tuple[int, int]] = set()
        entries = zip(entries_of(attrs, len(values)), values, strict=False)
        for index, (entry, type) in enumerate(entries):
            attr = entry.data.get(SHARDING)
            if isinstance(attr, ShardingAttr) and (id(attr), id(type)) not in seen:
                seen.add((id(attr), id(type)))
                yield attr.data, type, f"{what} {index} of @{op.sym_name.data}"


def _of_manual(op: ManualComputationOp) -> Iterator[Stated]:
    values = (*op.operands, *op.results)
    items = (*op.in_shardings.data, *op.out_shardings.data)
    for value, item in zip(values, items, strict=True):
        if not item.sharding.grid:  # a mesh that is written out
            raise DiagnosticError(
                op, f"'{op.name}' op: <{item}> is on no grid of the module: run import-sdy first"
            )
        yield item.sharding, value.type, f"'{op.name}' op"


STATED: dict[type[Operation], Callable[[Any], Iterator[Stated]]] = {
    ConstraintOp: _of_copy,
    ReshardOp: _of_copy,
    FuncOp: _of_function,
    ManualComputationOp: _of_manual,
}
"""Ops that state shardings elsewhere than in `autopar.sharding`."""


def stated_by(op: Operation) -> Iterator[Stated]:
    """All shardings that an op states."""
    attr = op.attributes.get(SHARDING)
    if attr is not None:
        yield from of_results(op, attr)
    stated = STATED.get(type(op))
    if stated is not None:
        yield from stated(op)


class ShardingChecker:
    """Checks the shardings that the user wrote; each sharding once."""

    def __init__(self, grids: Mapping[str, Grid]) -> None:
        self._grids = grids
        self._passed: set[tuple[Sharding, int]] = set()

    def __call__(self, sharding: Sharding, rank: int, op: Operation, what: str) -> None:
        """Raises DiagnosticError where `sharding` cannot lie on a tensor of this rank."""
        if (sharding, rank) not in self._passed:
            problem = self._problem(sharding, rank)
            if problem is not None:
                raise DiagnosticError(op, f"{what}: sharding <{sharding}> {problem}")
            self._passed.add((sharding, rank))

    def _problem(self, sharding: Sharding, rank: int) -> str | None:
        grid = self._grids.get(sharding.grid)
        if grid is None:
            known = ", ".join(f"@{name}" for name in self._grids)
            return f"names grid @{sharding.grid}, which is not declared (declared: {known})"
        if sharding.rank != rank:
            return rank_problem(sharding, rank)
        used = tuple(sharding.used_axes())
        for axis in used:
            problem = axis_problem(axis, grid.axes)
            if problem is not None:
                return f"is not possible on grid @{grid.name}: {problem}"
        # axes of one device split nothing, as often as they stand there
        twice = overlap([axis for axis in used if grid.axis_size(axis) > 1], grid.axes)
        return None if twice is None else f"uses axis {twice[1]} twice"


def grids_of(module: ModuleOp) -> dict[str, Grid]:
    """The device grids that a module declares, by name."""
    return {
        op.sym_name.data: op.to_grid() for op in module.body.block.ops if isinstance(op, GridOp)
    }


def check_shardings(module: ModuleOp, ops: Iterable[Operation] | None = None) -> None:
    """DiagnosticError for the first sharding of the module (of these ops of it) that does not fit.
    Without a grid there is nothing to fit: who needs one says so."""
    grids = grids_of(module)
    if not grids:
        return
    check = ShardingChecker(grids)
    seen: set[tuple[int, ...]] = set()
    for op in sharded_ops(module) if ops is None else ops:
        attr = op.attributes.get(SHARDING) if op.attributes else None
        if type(op) not in STATED:
            if attr is None:
                continue
            key = (id(attr), *[id(result.type) for result in op.results])
            if key in seen:  # most are like one before
                continue
            seen.add(key)
        for sharding, type_, what in stated_by(op):
            if sharding is not None:
                check(sharding, len(shape_of(type_)), op, what)


def take_annotations(module: ModuleOp) -> None:
    """The user's shardings as attributes, either spelling is taken; DiagnosticError where one does
    not fit."""
    shard_ops_to_attributes(module)
    check_shardings(module)
