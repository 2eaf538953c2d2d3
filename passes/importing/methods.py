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

from xdsl.dialects.builtin import (
    DictionaryAttr,
    IntegerAttr,
    ModuleOp,
    StringAttr,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import BlockArgument, SSAValue

from autopar.dialects.autopar import (
    ALIASING_OUTPUT,
    BUFFER_DONOR,
    entries_of,
    place_like_arguments,
    set_arg_shardings,
    sharding_of,
)
from autopar.dialects.diagnostics import DiagnosticError
from autopar.dialects.shard import grid_of
from autopar.dialects.sharding import AxisRef, DimSharding, Grid, Sharding
from autopar.dialects.tensors import is_tensor

from .phases import PhaseNames, gather_by_phase
from .state import next_values

METHODS = {
    "dp": 0,
    "zero2": 2,
    "zero3": 3,
    "fsdp": 3,
    "shard": None,
}
"""The strings of every command line and of `parallelize`, with the ZeRO stage that they mean."""

KIND = "autopar.kind"
BATCH_DIM = "autopar.batch_dim"
KINDS = ("parameter", "optimizer_state", "batch", "other")

PARAMETER_PRIORITY = 1
"""Priority of state shardings: the batch's (0) propagates first and wins conflicts."""


@dataclass(frozen=True)
class MethodOptions:
    method: str
    batch_axis: str | None = None
    """The grid axis that the method uses (None: all axes, flattened)."""
    small_tensor_elements: int = 512
    """State tensors with fewer elements than this stay whole."""


def annotate_method(module: ModuleOp, options: MethodOptions) -> None:
    """Annotates @main (the only function with a body, if it has another name) in place."""
    if options.method not in METHODS:
        raise DiagnosticError(
            module,
            f"annotate-method: method={options.method} is unknown (known: {', '.join(METHODS)})",
        )
    stage = METHODS[options.method]
    func = main_function(module)
    grid = grid_of(module)
    if stage is None:
        return
    axes = _method_axes(module, grid, options)
    kinds = argument_kinds(func)
    shardings = [
        sharding_of(arg) or _argument_sharding(arg, kind, grid, axes, stage, options)
        for arg, kind in zip(func.body.block.args, kinds, strict=True)
    ]
    set_arg_shardings(func, shardings)
    place_like_arguments(func, next_values(func).items())
    if stage == 3:
        parameters = [
            arg
            for arg, kind in zip(func.body.block.args, kinds, strict=True)
            if kind == "parameter"
        ]
        gather_by_phase(func, parameters, grid)


def main_function(module: ModuleOp) -> FuncOp:
    """@main, or the only public function."""
    functions = [op for op in module.ops if isinstance(op, FuncOp) and op.body.blocks]
    for func in functions:
        if func.sym_name.data == "main":
            return func
    public = [f for f in functions if f.sym_visibility is None or f.sym_visibility.data == "public"]
    if len(public) != 1:
        raise DiagnosticError(module, f"expected a function @main, found {len(public)} functions")
    return public[0]


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


# ---- what arguments are --------------------------------------------------------------------------


def argument_kinds(func: FuncOp) -> list[str]:
    """The kind of each argument: as `autopar.kind` says, else inferred."""
    args = func.body.block.args
    entries = entries_of(func.arg_attrs, len(args))
    phases = PhaseNames()
    return [
        _stated_kind(func, index, entry) or _inferred_kind(arg, entry, phases)
        for index, (arg, entry) in enumerate(zip(args, entries, strict=True))
    ]


def _stated_kind(func: FuncOp, index: int, entry: DictionaryAttr) -> str | None:
    kind = entry.data.get(KIND)
    if kind is None:
        return None
    if not isinstance(kind, StringAttr) or kind.data not in KINDS:
        raise DiagnosticError(
            func, f"argument {index}: {KIND} = {kind} is none of {', '.join(KINDS)}"
        )
    return kind.data


def _inferred_kind(arg: BlockArgument, entry: DictionaryAttr, phases: PhaseNames) -> str:
    shape = arg.type.get_shape() if is_tensor(arg.type) else ()
    if ALIASING_OUTPUT in entry.data or BUFFER_DONOR in entry.data:
        return state_kind(arg, phases)
    return "batch" if shape else "other"


def state_kind(arg: BlockArgument, phases: PhaseNames) -> str:
    """Parameter or optimizer state: the model computes with the former. Scalars are neither."""
    if not is_tensor(arg.type) or not arg.type.get_shape():
        return "other"
    return "parameter" if _feeds_contraction(arg, phases) else "optimizer_state"


_CONTRACTIONS = frozenset(
    {
        "stablehlo.broadcast_in_dim",
        "stablehlo.convolution",
        "stablehlo.dot_general",
        "stablehlo.gather",
        "stablehlo.while",
    }
)
_VIEWS = frozenset(
    {
        "stablehlo.concatenate",
        "stablehlo.convert",
        "stablehlo.reshape",
        "stablehlo.slice",
        "stablehlo.transpose",
    }
)


def _feeds_contraction(arg: SSAValue, phases: PhaseNames) -> bool:
    """Whether a dot, convolution, look-up or loop reads the value, or it is broadcast: as it is, in
    another form, or through what the forward and backward phases compute of it."""
    seen, stack = {arg}, [arg]
    while stack:
        for use in stack.pop().uses:
            user = use.operation
            if user.name in _CONTRACTIONS:
                return True
            if user.name in _VIEWS or phases.of(user) != "update":
                fresh = [result for result in user.results if result not in seen]
                seen.update(fresh)
                stack += fresh
    return False


def batch_dim(func: FuncOp, index: int) -> int:
    """The batch dimension of a batch argument (`autopar.batch_dim`, 0 where absent)."""
    entry = entries_of(func.arg_attrs, len(func.body.block.args))[index]
    attr = entry.data.get(BATCH_DIM)
    return attr.value.data if isinstance(attr, IntegerAttr) else 0


# ---- where they lie ------------------------------------------------------------------------------


def _argument_sharding(
    arg: BlockArgument,
    kind: str,
    grid: Grid,
    axes: tuple[AxisRef, ...],
    stage: int,
    options: MethodOptions,
) -> Sharding | None:
    if not is_tensor(arg.type):
        return None
    shape = arg.type.get_shape()
    if kind == "batch" and shape:
        func = arg.block.parent_op()
        assert isinstance(func, FuncOp)
        return _on_dim(grid, len(shape), batch_dim(func, arg.index), axes)
    sharded = (kind == "optimizer_state" and stage >= 2) or (kind == "parameter" and stage >= 3)
    if sharded:
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


# ---- ZeRO-3: gathering parameters by phase -------------------------------------------------------
