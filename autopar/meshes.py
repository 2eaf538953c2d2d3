"""The mesh of a program, and the user's shardings on it."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from autopar.dialects.sharding import Grid, parse_axis
from autopar.lowering.program import Layout
from autopar.passes.importing.meshes import translate_axes

from .session import first_devices, local_devices

_AXIS_NAMES = ("data", "model", "z", "w")
"""The axes of a mesh that was given as a shape."""


def given_mesh(mesh: Any) -> Mesh | None:
    """A jax Mesh of what the user gave: a Mesh, a shape, or None for the ambient mesh."""
    shape = mesh_shape(mesh)
    if shape is None:
        return ambient_mesh() if mesh is None else mesh
    devices = first_devices(math.prod(shape), f"mesh={mesh!r}")
    return Mesh(np.array(devices).reshape(shape), _AXIS_NAMES[: len(shape)])


def mesh_shape(mesh: Any) -> tuple[int, ...] | None:
    """The shape that the user gave as `mesh`; None for a Mesh and for no mesh. ValueError for
    anything else."""
    if mesh is None:
        return None
    if isinstance(mesh, Mesh):
        if mesh.devices.size == 0:
            axes = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
            raise ValueError(f"mesh: the Mesh ({axes}) has no devices; give it at least one")
        return None
    try:
        shape = (operator.index(mesh),) if np.ndim(mesh) == 0 else tuple(map(operator.index, mesh))
    except (TypeError, ValueError):
        shape = ()
    if not 1 <= len(shape) <= len(_AXIS_NAMES) or min(shape) < 1:
        raise ValueError(
            f"mesh={mesh!r}: expected a jax.sharding.Mesh or a shape of one to "
            f"{len(_AXIS_NAMES)} whole numbers, such as (2, 4)"
        )
    return shape


def ambient_mesh() -> Mesh | None:
    """The mesh of `jax.set_mesh`, or None."""
    mesh = jax.sharding.get_mesh()
    return mesh if mesh.axis_names else None


def default_mesh() -> Mesh:
    """All devices in a row."""
    return Mesh(np.array(local_devices()), _AXIS_NAMES[:1])


def grid_of_mesh(mesh: Mesh) -> Grid:
    """The grid with the axes of a jax Mesh."""
    return Grid("mesh", tuple(zip(mesh.axis_names, mesh.devices.shape, strict=True)))


def automatic(mesh: Mesh) -> Mesh:
    """The same mesh with Auto axes: shardings are not in the types, methods decide them."""
    if all(kind == AxisType.Auto for kind in mesh.axis_types):
        return mesh
    return Mesh(mesh.devices, mesh.axis_names)


def tracing_context(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """Makes `mesh` the ambient one, so that PartitionSpecs alone mean something in the program."""
    if mesh is None or mesh == ambient_mesh():
        return nullcontext()
    return jax.set_mesh(mesh)


# ---- the user's shardings ------------------------------------------------------------------------


def is_sharding(value: Any) -> bool:
    """Whether a node of a pytree of shardings is a leaf: a sharding, a spec, or None."""
    return value is None or isinstance(value, Sharding | PartitionSpec)


def sharding_leaves(prefix: Any, tree: Any, what: str) -> list[Any]:
    """A sharding (or None) for each leaf of `tree`, of a pytree prefix."""
    if isinstance(prefix, list):
        prefix = tuple(prefix)  # pyright: ignore[reportUnknownVariableType]
    if prefix is None:
        return [None] * len(jax.tree.leaves(tree))
    try:
        full = jax.tree.broadcast(prefix, tree, is_leaf=is_sharding)
    except ValueError as error:
        # jax's text is "pytree structure error: KIND at key path\n    NAME OF THE TREE[PATH]\n…".
        first, where = [*str(error).splitlines(), ""][:2]
        kind = first.removeprefix("pytree structure error: ").removesuffix(" at key path")
        path = "".join(re.findall(r"(?:\[.*?\]|\.\w+)", where))
        whose = "argument" if what == "in_shardings" else "result"
        raise ValueError(
            f"{what} is no prefix of the {whose}s' pytree: {kind} at {what}{path}: give one entry, "
            f"or None, for each {whose}"
        ) from None
    return jax.tree.leaves(full, is_leaf=is_sharding)


def named_sharding(value: Any, mesh: Mesh | None, what: str, follow: bool) -> Any:
    """What the user gave as a NamedSharding (or None); ValueError says what is wrong with it.

    Without `follow` it is one on a mesh with Auto axes.
    """
    if value is None:
        return None
    if isinstance(value, PartitionSpec):
        if mesh is None:
            raise ValueError(
                f"{what}: {value} needs a mesh: give mesh= or use `with jax.set_mesh(mesh):`"
            )
        check_axes(value, mesh, what)
        return NamedSharding(mesh if follow else automatic(mesh), value)
    if isinstance(value, NamedSharding):
        if mesh is not None and value.mesh.size != mesh.size:
            raise ValueError(
                f"{what} is on a mesh of {value.mesh.size} devices, the program's mesh has "
                f"{mesh.size}: use one mesh"
            )
        own = value.mesh
        return value if follow or not isinstance(own, Mesh) else value.update(mesh=automatic(own))
    raise ValueError(
        f"{what}: {type(value).__name__} is not supported, give a NamedSharding or a PartitionSpec"
    )


def check_axes(spec: PartitionSpec, mesh: Mesh, what: str) -> None:
    """ValueError where a spec names an axis that does not exist, or one twice."""
    seen: set[Any] = set()
    for name in _axes(spec):
        if name not in mesh.axis_names:
            known = ", ".join(map(str, mesh.axis_names))
            raise ValueError(f"{what}: {spec} names axis {name!r}, the mesh's axes are {known}")
        if name in seen:
            raise ValueError(f"{what}: {spec} names axis {name!r} twice: use each axis once")
        seen.add(name)


def _axes(spec: PartitionSpec) -> Iterator[Any]:
    for entry in spec:
        if entry is None or entry is PartitionSpec.UNCONSTRAINED:
            continue
        yield from entry if isinstance(entry, tuple) else (entry,)


def check_fits(sharding: NamedSharding, shape: Sequence[int], what: str) -> None:
    """ValueError where a sharding does not fit an array: its rank, or its sizes."""
    spec = sharding.spec
    if len(spec) > len(shape):
        raise ValueError(
            f"{what}: {spec} has {len(spec)} entries, the array has {len(shape)} dimensions"
        )
    sizes = dict(sharding.mesh.shape)
    for dim, entry in enumerate(spec):
        if entry is None or entry is PartitionSpec.UNCONSTRAINED:
            continue
        names = entry if isinstance(entry, tuple) else (entry,)
        parts = int(np.prod([sizes[name] for name in names]))
        if shape[dim] % parts:
            over = ", ".join(f"{name}={sizes[name]}" for name in names)
            raise ValueError(
                f"{what}: dimension {dim} of size {shape[dim]} is not divisible over {over}: "
                "leave it out of the sharding, or pad the array"
            )


def dim_axes(sharding: NamedSharding, rank: int) -> tuple[tuple[str, ...], ...]:
    """The mesh axes of each dimension."""
    spec = [*sharding.spec, *[None] * (rank - len(sharding.spec))]
    return tuple(
        () if not isinstance(e, str | tuple) else (e if isinstance(e, tuple) else (e,))
        for e in spec
    )


# ---- results on the user's meshes ----------------------------------------------------------------


class MeshChoice:
    """Says layouts of a program's grid as NamedShardings on the meshes that the user knows."""

    def __init__(self, grid: Grid, candidates: Iterable[Any], devices: Sequence[Any]) -> None:
        """`candidates` in the order of preference; those of other devices are left out."""
        meshes = [m for m in candidates if isinstance(m, Mesh)]
        fitting = [m for m in meshes if m.devices.size == grid.num_devices]
        if fitting:
            devices = list(fitting[0].devices.flat)
        elif len(devices) != grid.num_devices:
            devices = first_devices(grid.num_devices, "the program's mesh")
        self.devices = devices
        self._grid = grid
        self._meshes = [m for m in fitting if list(m.devices.flat) == self.devices]
        own = Mesh(np.array(devices).reshape(grid.shape or (1,)), grid.axis_names or ("_",))
        self._meshes.append(own)
        self.mesh = self._meshes[0]

    def sharding(self, layout: Layout) -> NamedSharding | None:
        """The layout on the first mesh that can say it; None where none can (sub-axes)."""
        refs = [tuple(parse_axis(axis) for axis in dim) for dim in layout.dims]
        for mesh in self._meshes:
            target = tuple(zip(mesh.axis_names, mesh.devices.shape, strict=True))
            dims = [translate_axes(axes, self._grid.axes, target) for axes in refs]
            if all(dim is not None and all(a.is_whole for a in dim) for dim in dims):
                spec: list[Any] = [tuple(a.name for a in dim or ()) for dim in dims]
                return NamedSharding(mesh, partition_spec(spec))
        return None

    def boundary_sharding(self, dims: Sequence[Sequence[str]]) -> NamedSharding:
        """The layout of an argument or a result of a plan: where no mesh can say it, whole along
        the dimensions that sub-axes split, so that all arrays lie on one mesh."""
        found = self.sharding(Layout(tuple(map(tuple, dims)), (), None))
        if found is None:
            kept = [[a for a in dim if parse_axis(a).is_whole] for dim in dims]
            found = self.sharding(Layout(tuple(map(tuple, kept)), (), None))
        assert found is not None, "the last mesh has the grid's own axes"
        return found


def partition_spec(dims: Sequence[Sequence[str]]) -> PartitionSpec:
    """The spec of the axes of each dimension, without trailing Nones."""
    spec = [dim[0] if len(dim) == 1 else (tuple(dim) or None) for dim in dims]
    while spec and spec[-1] is None:
        spec.pop()
    return PartitionSpec(*spec)
