"""Refuses shardings that do not fit their grid or their tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from xdsl.dialects.builtin import ArrayAttr
from xdsl.ir import Attribute, Operation

from autopar.dialects.autopar import SHARDING, ShardingAttr
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.sharding import AxisRef, Grid, Sharding
from autopar.passes.importing.meshes import axis_problem

from .axes import AxisAlgebra


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
        algebra = AxisAlgebra(grid)
        seen: list[AxisRef] = []
        for axis in sharding.used_axes():
            problem = axis_problem(axis, grid.axes)
            if problem is not None:
                return f"is not possible on grid @{grid.name}: {problem}"
            for other in seen:
                if algebra.overlaps(axis, other):
                    return f"uses axis {axis} twice"
            seen.append(axis)
        return None
