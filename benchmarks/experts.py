"""Plans as experts write them: shardings of a model's arguments, and constraints on activations.

Two tables say what a model of `models/` is made of: `PARAMETERS`, by the paths of its parameters,
and `_role`, by its flax modules; an `Expert` says which grid axes each part is split by. So the
same plans serve all models, in two ways: `annotate` writes them on the StableHLO of a step that was
traced with `marked`, and `constraining` makes plain `jax.jit` trace them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P
from xdsl.dialects.builtin import ModuleOp
from xdsl.rewriter import Rewriter

from autopar.dialects.autopar import (
    PHASE,
    ConstraintOp,
    ShardingAttr,
    place_like_arguments,
    set_arg_shardings,
)
from autopar.dialects.sdy import MeshOp, ShardingConstraintOp
from autopar.dialects.sharding import AxisRef, DimSharding, Grid, Sharding
from autopar.dialects.tensors import shape_of
from autopar.passes.entry import main_function
from autopar.passes.importing.gathers import gather_by_phase
from autopar.passes.importing.methods import MethodOptions, split_by_zero
from autopar.passes.importing.state import next_values_by_flow

Axes = tuple[str, ...]
Dims = tuple[Axes, ...]
"""The grid axes of each dimension."""

PARAMETERS: tuple[tuple[str, str], ...] = (
    (r"(query|key|value)/kernel$", ".t."),
    (r"(query|key|value)/bias$", "t."),
    (r"out/kernel$", "t.."),
    (r"experts/up$", "e.t"),
    (r"experts/down$", "et."),
    (r"up/kernel$", ".t"),
    (r"up/bias$", "t"),
    (r"down/kernel$", "t."),
    (r"embed/embedding$", "t."),
    (r"head_bias$", "t"),
    (r"layer_\d*[02468]/kernel$", ".t"),
    (r"layer_\d*[02468]/bias$", "t"),
    (r"layer_\d*[13579]/kernel$", "t."),
    (r"Conv_0/kernel$", "...t"),
    (r"Conv_1/kernel$", "..t."),
)
"""What tensor parallelism (t) and expert parallelism (e) split of a parameter, by the end of its
path: columns of what widens, rows of what narrows, heads, the vocabulary (Shoeybi et al. 2019)."""


@dataclass(frozen=True)
class Expert:
    """The grid axes of each kind of parallelism."""

    name: str
    batch: Axes = ()
    """That split the examples."""
    state: Axes = ()
    """That split the optimizer state: ZeRO-2."""
    parameters: Axes = ()
    """That split the parameters: ZeRO-3."""
    tensor: Axes = ()
    experts: Axes = ()
    sequence: bool = False
    """Whether the residual stream is split by the tensor axes, along the sequence."""

    def argument(self, path: str, shape: Sequence[int], grid: Grid) -> Dims:
        """Where an argument lies: a parameter, optimizer state, a cache or a batch."""
        dims: list[Axes] = [()] * len(shape)
        if re.match(r"(batch|cache)/", path):
            dims[:1] = [self.batch] * bool(shape)
            if re.search(r"cached_(key|value)$", path):
                dims[2] = self.tensor
            return _even(dims, shape, grid)
        letters = next((found for end, found in PARAMETERS if re.search(end, path)), "")
        if len(letters) == len(shape):
            taken = {"t": self.tensor, "e": self.experts}
            dims = [taken.get(letter, ()) for letter in letters]
            dims = [*_even(_once(dims), shape, grid)]
        if (
            re.match(r"opt_state/|params/", path)
            and prod(shape) >= MethodOptions.small_tensor_elements
        ):
            zero = self.state if path.startswith("opt_state/") else self.parameters
            used = {axis for axes in dims for axis in axes}
            axes = tuple(axis for axis in zero if axis not in used)
            free = [d for d, n in enumerate(shape) if not dims[d] and n % _size(axes, grid) == 0]
            if free:
                dims[max(free, key=lambda d: (shape[d], -d))] = axes
        return tuple(dims)

    def activation(self, role: str, shape: Sequence[int], grid: Grid) -> Dims:
        """Where a value lies that `_role` names."""
        dims: list[Axes] = [()] * len(shape)
        if role == "rows":
            dims[:2] = self.experts, tuple(a for a in self.batch if a not in self.experts)
            return _even(dims, shape, grid)
        dims[0] = self.batch
        if role == "heads":
            dims[2] = self.tensor
        elif role == "scores":
            dims[1] = self.tensor
        elif role == "wide":
            dims[-1] = self.tensor
        elif role == "residual" and len(shape) == 3 and self.sequence:
            dims[1] = self.tensor
        return _even(_once(dims), shape, grid)


def _once(dims: Sequence[Axes]) -> list[Axes]:
    """An axis that several dimensions would be split by is the first one's."""
    seen: set[str] = set()
    found: list[Axes] = []
    for axes in dims:
        found.append(tuple(axis for axis in axes if axis not in seen))
        seen.update(axes)
    return found


def _even(dims: Sequence[Axes], shape: Sequence[int], grid: Grid) -> Dims:
    pairs = zip(dims, shape, strict=True)
    return tuple(axes if size % _size(axes, grid) == 0 else () for axes, size in pairs)


def _size(axes: Axes, grid: Grid) -> int:
    return prod(grid.sizes[axis] for axis in axes)


# ---- The experts of a grid -----------------------------------------------------------------------


def experts_of(grid: Grid, *, transformer: bool, trains: bool, routes: bool) -> list[Expert]:
    """Every expert plan of a grid, each with every order of the axes.

    `transformer`: it has a sequence; `trains`: it has optimizer state; `routes`: it has experts.
    """
    axes = tuple(name for name, size in grid.axes if size > 1)
    found: list[Expert] = []
    for tensor in _runs(axes):
        batch = tuple(axis for axis in axes if axis not in tensor)
        for zero in _zeros(batch) if trains else [("dp", (), ())]:
            for experts in [(), *_runs(axes)[1:]] if routes else [()]:
                for sequence in (False, True) if tensor and transformer else (False,):
                    found.append(_expert(batch, zero, tensor, experts, sequence))
    return found


def _expert(
    batch: Axes, zero: tuple[str, Axes, Axes], tensor: Axes, experts: Axes, sequence: bool
) -> Expert:
    name, state, parameters = zero
    parts = [f"{name}({','.join(batch)})"] * bool(batch)
    parts += [f"tp{'+sp' * sequence}({','.join(tensor)})"] * bool(tensor)
    parts += [f"ep({','.join(experts)})"] * bool(experts)
    return Expert(" ".join(parts), batch, state, parameters, tensor, experts, sequence)


def _zeros(batch: Axes) -> list[tuple[str, Axes, Axes]]:
    """(name, axes of optimizer state, axes of parameters); hybrids are ZeRO-3 along one axis."""
    if not batch:
        return [("", (), ())]
    found: list[tuple[str, Axes, Axes]] = [("dp", (), ())]
    for level in (2, 3):
        kinds = split_by_zero(level)
        state, parameters = (batch if k in kinds else () for k in ("optimizer_state", "parameter"))
        found.append((f"zero{level}", state, parameters))
    if len(batch) > 1:
        found += [(f"hsdp[{axis}]", (axis,), (axis,)) for axis in batch]
    return found


def _runs(axes: Axes) -> list[Axes]:
    """None of the axes, and those next to each other."""
    return [(), *(axes[first:end] for first, end in combinations(range(len(axes) + 1), 2))]


# ---- What a model is made of ---------------------------------------------------------------------

ROLES = ("residual", "whole", "heads", "scores", "wide", "rows")
"""Of activations: [batch, length, width] between layers; the same where column-parallel layers read
it; [batch, length, heads, size]; [batch, heads, queries, keys]; what is split along its last
dimension (inside an MLP, logits); the rows of experts [experts, groups, capacity, width]."""
_EINSUMS = {"bhqk": "scores", "bqhd": "heads", "egcm": "rows", "egch": "rows"}
"""Of the models' einsums, by what they give."""
_BLOCKS = ("Block", "ExpertBlock", "Bottleneck", "ResidualBlock", "PixelAttention")


def _role(module: nn.Module, method: str, rank: int) -> tuple[str, ...]:
    """The roles of a module's result, in turn."""
    kind, name = type(module).__name__, module.name or ""
    if method == "attend" or (name == "head" and rank == 2):
        return ("wide",)
    if method != "__call__" or rank < 2:
        return ()
    if name in ("query", "key", "value"):
        return ("heads",)
    if name in ("up", "Conv_0") or re.fullmatch(r"layer_\d*[02468]", name):
        return ("wide",)
    if kind == "LayerNorm":
        return ("residual", "whole")
    if kind in _BLOCKS or name in ("down", "out", "embed") or re.match(r"layer_\d", name):
        return ("residual",)
    return ()


@contextmanager
def constraining(constrain: Callable[[str, jax.Array], jax.Array]) -> Iterator[None]:
    """What is traced inside passes every value that has a role through `constrain(role, value)`."""

    def intercept(function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        found = function(*args, **kwargs)
        value = found[0] if isinstance(found, tuple) and found else found
        if not isinstance(value, jax.Array):
            return found
        for role in _role(context.module, context.method_name, value.ndim):
            value = constrain(role, value)
        return (value, *found[1:]) if isinstance(found, tuple) else value

    einsum = jnp.einsum

    def routed(subscripts: Any, *operands: Any, **kwargs: Any) -> Any:
        found = einsum(subscripts, *operands, **kwargs)
        role = _EINSUMS.get(str(subscripts).partition("->")[2])
        return constrain(role, found) if role else found

    with nn.intercept_methods(intercept), mock.patch.object(jnp, "einsum", routed):
        yield


_MARKS = AbstractMesh((1,) * len(ROLES), ROLES)


@contextmanager
def marked() -> Iterator[None]:
    """What is lowered inside has a constraint of one device at each value that has a role."""
    with constraining(lambda role, x: _constrained(x, _MARKS, P(role))):
        yield


def jitted_as(expert: Expert, grid: Grid, mesh: jax.sharding.Mesh) -> Any:
    """As `constraining`, with the expert's constraints on a mesh."""

    def constrain(role: str, x: jax.Array) -> jax.Array:
        return _constrained(x, mesh, P(*expert.activation(role, x.shape, grid)))

    return constraining(constrain)


def _constrained(x: jax.Array, mesh: Any, spec: P) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


# ---- On StableHLO --------------------------------------------------------------------------------


def without_marks(module: ModuleOp) -> None:
    """The program as it is without `marked`."""
    _replace_marks(module, None)


def write_constraints(module: ModuleOp, expert: Expert, grid: Grid) -> None:
    """Makes marks the expert's constraints; before import-sdy."""

    def sharding(role: str, shape: Sequence[int]) -> Sharding:
        return Sharding.of(grid.name, expert.activation(role, shape, grid))

    _replace_marks(module, sharding)


def _replace_marks(
    module: ModuleOp, sharding: Callable[[str, Sequence[int]], Sharding] | None
) -> None:
    for op in list(module.walk()):
        if isinstance(op, ShardingConstraintOp):
            role = op.sharding.data.sharding.dims[0].axes[0].name
            value: Any = op.input
            assert role in ROLES
            if sharding is not None:
                made = ConstraintOp(value, sharding(role, value.type.get_shape()))
                Rewriter.replace_op(op, made)
            else:
                Rewriter.replace_op(op, [], [value])
        elif isinstance(op, MeshOp):
            Rewriter.erase_op(op)


def write_arguments(module: ModuleOp, paths: Sequence[str], expert: Expert, grid: Grid) -> None:
    """Writes the expert's shardings of arguments and results; before propagation."""
    func = main_function(module)
    shardings: list[Sharding | None] = []
    for path, value in zip(paths, func.body.block.args, strict=True):
        dims = expert.argument(path, shape_of(value.type), grid)
        priority = 0 if path.startswith("batch/") else 1
        split = (DimSharding(tuple(map(AxisRef, axes)), False, priority) for axes in dims)
        shardings.append(Sharding(grid.name, tuple(split)))
    set_arg_shardings(func, shardings)
    place_like_arguments(func, next_values_by_flow(func).items())
    if expert.parameters:
        values = zip(paths, func.body.block.args, strict=True)
        parameters = [value for path, value in values if path.startswith("params/")]
        gather_by_phase(func, parameters, grid)
        if expert.tensor or expert.experts:
            _gather_only(module, expert.parameters)


def _gather_only(module: ModuleOp, axes: Axes) -> None:
    """Gathers parameters along the axes of ZeRO-3 alone: the others split them where used, too."""
    whole = tuple(map(AxisRef, axes))
    for op in module.walk():
        if isinstance(op, ConstraintOp) and PHASE in op.attributes:
            stated = op.sharding.data
            split = (DimSharding((), True),) * stated.rank
            op.sharding = ShardingAttr(Sharding(stated.grid, split, whole))
