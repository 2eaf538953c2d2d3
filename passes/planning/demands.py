"""What a plan may do and must do, by the user's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xdsl.dialects.func import FuncOp
from xdsl.ir import BlockArgument

from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.sharding import AxisRef, DimSharding, Grid, Sharding
from autopar.dialects.tensors import is_splittable, shape_of
from autopar.passes.importing.arguments import STATE_KINDS, argument_kinds, batch_dim
from autopar.passes.importing.methods import MethodOptions, split_by_zero, state_dim


@dataclass(frozen=True)
class Demands:
    """Limits on plans; the defaults allow everything and demand nothing.

    Each field is an option of the pass `auto-shard`, where its meaning stands (`AutoShardPass`).
    """

    allow_all_gather: bool = True
    allow_all_to_all: bool = True
    allow_replicated_parameters: bool = True
    allow_replicated_compute: bool = True
    flatten_axes: bool = True
    force_data_parallel: bool = False
    batch_axis: str | None = None
    zero: Literal[0, 2, 3] | None = None
    prefer_reduce_scatter: bool = False

    def __post_init__(self) -> None:
        if self.zero not in (None, 0, 2, 3):
            raise ValueError(f"zero={self.zero}: expected 0, 2 or 3")
        if self.force_data_parallel and self.zero == 3:
            raise ValueError("force-data-parallel keeps parameters whole, zero=3 splits them")
        keeps_whole = self.force_data_parallel or self.zero in (0, 2)
        if keeps_whole and not self.allow_replicated_parameters:
            option = "force-data-parallel" if self.force_data_parallel else f"zero={self.zero}"
            raise ValueError(
                f"{option} keeps parameters whole, allow-replicated-parameters forbids it"
            )

    @property
    def forbidden(self) -> frozenset[str]:
        """Collectives that a plan may not use."""
        allowed = {"all_gather": self.allow_all_gather, "all_to_all": self.allow_all_to_all}
        return frozenset(kind for kind, is_allowed in allowed.items() if not is_allowed)

    @property
    def takes_all_axes(self) -> str | None:
        """Which option lays one dimension on all the batch axes, in words, if one does."""
        if self.force_data_parallel:
            return "force-data-parallel lays the batch"
        return f"zero={self.zero} lays the state" if self.zero in (2, 3) else None


def demanded_shardings(func: FuncOp, grid: Grid, demands: Demands) -> list[Sharding | None]:
    """Where the demands put each argument of a function; None: anywhere.

    DiagnosticError where the batch axis is none of the grid's.
    """
    name = demands.batch_axis
    if name is not None and name not in grid.sizes:
        raise DiagnosticError(
            func,
            f"auto-shard: batch-axis={name}: grid @{grid.name} has no such axis (its axes: "
            f"{', '.join(grid.axis_names)})",
        )
    axes = tuple(AxisRef(own) for own, size in grid.axes if size > 1 and name in (None, own))
    kinds = argument_kinds(func)
    if demands.takes_all_axes and not demands.flatten_axes and len(axes) > 1:
        raise DiagnosticError(
            func,
            f"auto-shard: {demands.takes_all_axes} on {', '.join(a.name for a in axes)} at once, "
            "flatten-axes=false forbids it: leave one out, or say which with batch-axis",
        )
    if demands.force_data_parallel and "batch" not in kinds:
        raise DiagnosticError(
            func,
            "auto-shard: force-data-parallel: no argument is known to be a batch: say which are "
            '(batch_argnums=(…), or {autopar.kind = "batch", autopar.batch_dim = 0 : i64} on them)',
        )
    return [
        _demanded(func, grid, axes, arg, kind, demands)
        for arg, kind in zip(func.body.block.args, kinds, strict=True)
    ]


def _demanded(
    func: FuncOp,
    grid: Grid,
    axes: tuple[AxisRef, ...],
    arg: BlockArgument,
    kind: str,
    demands: Demands,
) -> Sharding | None:
    shape = shape_of(arg.type)
    if not shape or not is_splittable(arg.type):
        return None
    if kind == "batch" and (demands.force_data_parallel or demands.batch_axis is not None):
        return _split(grid, len(shape), batch_dim(func, arg.index), axes)
    if kind not in STATE_KINDS:
        return None
    if kind in split_by_zero(demands.zero):
        dim = state_dim(shape, grid.parts(axes), MethodOptions.small_tensor_elements)
        if dim is not None:
            return _split(grid, len(shape), dim, axes)
    if demands.zero is not None or (demands.force_data_parallel and kind == "parameter"):
        return Sharding(grid.name, (DimSharding((), is_open=True),) * len(shape), replicated=axes)
    return None


def _split(grid: Grid, rank: int, dim: int, axes: tuple[AxisRef, ...]) -> Sharding:
    """One dimension over the axes; other axes may split whatever they like."""
    dims = [DimSharding((), is_open=True)] * rank
    dims[dim] = DimSharding(axes, is_open=True)
    return Sharding(grid.name, tuple(dims))
