"""Pass `shard-partition`: from decided programs to one program for every device (L1' to L2)."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from autopar.dialects.autopar import GRID, refuse_partitioned
from autopar.passes.importing.grid_option import check_grid, ensure_grid, require_grid_op

from .decide import insert_reshards
from .partition import partition


@dataclass(frozen=True)
class ShardPartitionPass(ModulePass):
    """Rewrite every function on local shapes, with explicit `shard` collectives.

    Needs: a grid (in the module, or `grid=2x4 axis-names=x,y`; one unequal to the module's is an
    error). A module that insert-reshards has not decided is decided first, by the same function.

    Guarantees: every value is local (size ceil(global / parts), padding at the end, its content
    unspecified), resharding is done by collectives on grid axes, and each op computes on
    local values what the global program says. Arguments and results of functions keep
    `autopar.sharding` and say their global type in `autopar.global`.
    """

    name = "shard-partition"

    grid: str | None = None
    """The grid of a module that declares none, as 2x4."""
    axis_names: tuple[str, ...] | None = None
    """Names of the axes of `grid` (x,y,z)."""

    def __post_init__(self) -> None:
        check_grid(self.grid, self.axis_names)

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        refuse_partitioned(op, self.name)
        ensure_grid(op, self.grid, self.axis_names)
        require_grid_op(op, "partitioning", self.name, "autopar run: in --passes")
        if GRID not in op.attributes:
            insert_reshards(op)
        partition(op)
