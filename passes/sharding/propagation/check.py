"""Refuses shardings that do not fit their grid or their tensor."""

from __future__ import annotations

from collections.abc import Mapping

from xdsl.ir import Operation

from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.sharding import AxisRef, Grid, Sharding
from autopar.passes.importing.meshes import axis_problem

from .axes import AxisAlgebra


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
            return f"has {sharding.rank} dimensions, the tensor has {rank}"
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
