"""Parallel methods as annotations: data parallelism and ZeRO.

ZeRO (Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054): stage 2 shards the optimizer state
and the gradients over the data-parallel devices, stage 3 the parameters as well. Here a stage is
only a set of shardings on arguments and results: propagation carries them to the gradients, and
partitioning turns the sums over the batch into reduce-scatters. Stage 3 adds one constraint for
every parameter and phase that gathers it before its uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from xdsl.dialects.builtin import (
    ModuleOp,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import BlockArgument

from autopar.dialects.autopar import (
    arg_shardings,
    place_like_arguments,
    set_arg_shardings,
)
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.shard import grid_of
from autopar.dialects.sharding import AxisRef, DimSharding, Grid, Sharding
from autopar.dialects.tensors import is_tensor
from autopar.passes.entry import main_function

from .annotations import take_annotations
from .arguments import argument_kinds, batch_dim
from .gathers import gather_by_phase
from .state import next_values_by_flow

MethodName = Literal["dp", "zero2", "zero3", "fsdp", "shard"]
"""The names in `METHODS`, as the pass's option has them."""


@dataclass(frozen=True)
class Placement:
    """What a method splits over the batch's axes, beside the batch; the rest stays whole."""

    sharded: frozenset[str] = frozenset()
    """Kinds of arguments (`KINDS` in arguments.py), along their `state_dim`."""
    gathers_by_phase: bool = False
    """Parameters are gathered for the forward and once more for the backward phase."""


_ZERO3 = Placement(frozenset({"optimizer_state", "parameter"}), gathers_by_phase=True)

METHODS: dict[str, Placement | None] = {
    "dp": Placement(),
    "zero2": Placement(frozenset({"optimizer_state"})),
    "zero3": _ZERO3,
    "fsdp": _ZERO3,
    "shard": None,
}
"""Every name that `annotate-method` takes, with what it means; None: the user's shardings alone.
autopar/methods.py has the strings of `parallelize`, which are a few more."""


def split_by_zero(level: int | None) -> frozenset[str]:
    """The kinds of arguments that a level of ZeRO splits; none for 0 and None."""
    placement = METHODS[f"zero{level}"] if level else None
    return placement.sharded if placement else frozenset()


PARAMETER_PRIORITY = 1
"""Priority of state shardings: the batch's (0) propagates first and wins conflicts."""


@dataclass(frozen=True)
class MethodOptions:
    """What a method is to do; ValueError names the option that is wrong."""

    method: str
    """One of `METHODS`."""
    batch_axis: str | None = None
    """The grid axis that the method uses (None: all axes, flattened)."""
    small_tensor_elements: int = 512
    """State tensors with fewer elements than this stay whole."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method} is unknown (known: {', '.join(METHODS)})")
        small = self.small_tensor_elements
        if not isinstance(small, int) or isinstance(small, bool) or small < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"small_tensor_elements={small!r}: expected a whole number of at least 0"
            )


def annotate_method(module: ModuleOp, options: MethodOptions) -> None:
    """Annotates @main (the only function with a body, if it has another name) in place."""
    placement = METHODS[options.method]
    func = main_function(module)
    grid = grid_of(module)
    take_annotations(module)
    if placement is None:
        return
    axes = _method_axes(module, grid, options)
    kinds = argument_kinds(func)
    made: dict[Sharding | None, Sharding | None] = {}
    shardings: list[Sharding | None] = []
    for arg, kind, stated in zip(func.body.block.args, kinds, arg_shardings(func), strict=True):
        sharding = stated or _argument_sharding(arg, kind, grid, axes, placement, options)
        # Equal ones are one object: their attribute is made once.
        shardings.append(made.setdefault(sharding, sharding))
    set_arg_shardings(func, shardings)
    place_like_arguments(func, next_values_by_flow(func).items())
    if placement.gathers_by_phase:
        parameters = [
            arg
            for arg, kind in zip(func.body.block.args, kinds, strict=True)
            if kind == "parameter"
        ]
        gather_by_phase(func, parameters, grid)


def _method_axes(module: ModuleOp, grid: Grid, options: MethodOptions) -> tuple[AxisRef, ...]:
    if options.batch_axis is None:
        return tuple(AxisRef(name) for name, size in grid.axes if size > 1)
    if options.batch_axis not in grid.sizes:
        raise DiagnosticError(
            module,
            f"batch-axis={options.batch_axis}: grid @{grid.name} has no such axis "
            f"(its axes: {', '.join(grid.axis_names)})",
        )
    return (AxisRef(options.batch_axis),)


def _argument_sharding(
    arg: BlockArgument,
    kind: str,
    grid: Grid,
    axes: tuple[AxisRef, ...],
    placement: Placement,
    options: MethodOptions,
) -> Sharding | None:
    if not is_tensor(arg.type):
        return None
    shape = arg.type.get_shape()
    if kind == "batch" and shape:
        func = arg.block.parent_op()
        assert isinstance(func, FuncOp)
        return _on_dim(grid, len(shape), batch_dim(func, arg.index), axes)
    if kind in placement.sharded:
        dim = state_dim(shape, grid.parts(axes), options.small_tensor_elements)
        if dim is not None:
            return _on_dim(grid, len(shape), dim, axes, PARAMETER_PRIORITY)
    return Sharding.fully_replicated(grid.name, len(shape))


def state_dim(shape: Sequence[int], parts: int, small: int) -> int | None:
    """The dimension along which ZeRO splits a state tensor: the largest that `parts` divides,
    else the largest (padded); None for small tensors and for those with no dimension that long."""
    if parts == 1 or prod(shape) < small:
        return None
    divisible = [d for d, size in enumerate(shape) if size % parts == 0]
    candidates = divisible or [d for d, size in enumerate(shape) if size >= parts]
    return max(candidates, key=lambda d: (shape[d], -d)) if candidates else None


def _on_dim(
    grid: Grid, rank: int, dim: int, axes: tuple[AxisRef, ...], priority: int | None = None
) -> Sharding:
    dims = [DimSharding()] * rank
    dims[dim] = DimSharding(axes, False, priority)
    return Sharding(grid.name, tuple(dims))
