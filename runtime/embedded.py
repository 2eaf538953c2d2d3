"""The embedded runtime: a per-device program on N devices of this process.

The program is compiled once through the raw client and run on sharded jax.Arrays; results are
ordinary global jax.Arrays with NamedSharding, made by JAX's own result handlers (as fast as jit).
"""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from xdsl.dialects.builtin import ModuleOp

from autopar.dialects.sharding import AxisRef, Grid, local_dim, parse_axis
from autopar.dialects.stablehlo.collectives import COLLECTIVES
from autopar.lowering.exporter import export_module
from autopar.lowering.jax_compat import (
    compile_replicas,
    execute,
    execute_with_token,
    register_effects,
    result_handler,
)
from autopar.lowering.program import DeviceProgram, Layout
from autopar.passes.partition.specs import AxisTable

from .callbacks import HostCallbacks
from .in_flight import in_flight


class MeshExecutable:
    """A compiled program on the devices of one mesh.

    `mesh` is the user's jax Mesh (its axes are the program's grid), or None to make one of
    `devices`. Arguments are brought to `input_shardings` where they lie elsewhere.
    """

    def __init__(
        self,
        program: DeviceProgram,
        devices: Sequence[Any],
        mesh: Mesh | None = None,
        host_callbacks: Sequence[Any] = (),
        keepalive: object = None,
        *,
        sharding_of: Callable[[Layout], NamedSharding | None] | None = None,
        result_avals: Sequence[Any] | None = None,
        has_effects: bool = False,
    ) -> None:
        """`sharding_of`: a layout on the caller's own meshes, None where these cannot say it.
        `result_avals`: the results as the caller knows them (typed PRNG keys)."""
        grid = program.grid
        if len(devices) != grid.num_devices:
            raise ValueError(
                f"the program is for {grid.num_devices} devices, {len(devices)} were given"
            )
        self.program = program
        self.devices = list(devices)
        self._keepalive = keepalive
        self.mesh = mesh if mesh is not None else make_mesh(grid, devices)
        refined = _RefinedMesh(program, self.mesh)

        def sharding(layout: Layout) -> NamedSharding:
            own = None if sharding_of is None else sharding_of(layout)
            return own if own is not None else refined.sharding(layout)

        self.input_shardings = [sharding(a) for a in program.arguments]
        self.output_shardings = [sharding(r) for r in program.results]
        self._callbacks = HostCallbacks(host_callbacks, program.module) if host_callbacks else None
        safe = () if self._callbacks is None else self._callbacks.safe
        self.loaded = compile_replicas(export_module(program.module), self.devices, safe)
        avals = result_avals or [
            jax.ShapeDtypeStruct(padded_shape(r, grid), np.dtype(r.dtype)) for r in program.results
        ]
        self._handlers = [
            result_handler(aval, s) for aval, s in zip(avals, self.output_shardings, strict=True)
        ]
        self._has_effects = has_effects
        self._is_ordered = self.devices[0].platform == "cpu" and has_collectives(program.module)

    def run(self, arguments: Sequence[jax.Array]) -> list[jax.Array]:
        """Runs on arguments that lie as `input_shardings` say; asynchronous, unless the program has
        host callbacks: what one of these raises is raised here.

        On virtual CPU devices a program with collectives waits for earlier runs, of any program and
        thread: the devices share threads, and those of one run could otherwise wait for those of
        the other.
        """
        if not (self._is_ordered or self._has_effects):
            return execute(self.loaded, arguments, self._handlers)
        if self._is_ordered:
            with in_flight.slot() as slot:
                results, token = execute_with_token(self.loaded, arguments, self._handlers)
                slot.token = token
        else:
            results, token = execute_with_token(self.loaded, arguments, self._handlers)
        if self._has_effects:
            register_effects(token, self.devices)
        if self._callbacks is not None:
            token.block_until_ready()
            self._callbacks.raise_first()
        return results


def has_collectives(module: ModuleOp) -> bool:
    """Whether the devices of a program wait for each other."""
    return any(op.name in COLLECTIVES for op in module.walk())


def make_mesh(grid: Grid, devices: Sequence[Any]) -> Mesh:
    """A jax Mesh with the grid's axes over `devices` in row-major order."""
    shape = grid.shape or (1,)
    return Mesh(np.array(devices).reshape(shape), grid.axis_names or ("_",))


class _RefinedMesh:
    """NamedShardings for layouts; sub-axes need a mesh whose axes are split further."""

    def __init__(self, program: DeviceProgram, mesh: Mesh) -> None:
        refs = {
            parse_axis(axis)
            for layout in (*program.arguments, *program.results)
            for dim in layout.dims
            for axis in dim
        }
        self._mesh = mesh
        if any(not ref.is_whole for ref in refs):
            table = AxisTable(program.grid, refs)
            refined = table.refined
            self._mesh = Mesh(mesh.devices.reshape(refined.shape), refined.axis_names)
        self._replicated = NamedSharding(self._mesh, PartitionSpec())

    def sharding(self, layout: Layout) -> NamedSharding:
        if not any(layout.dims):
            return self._replicated
        spec = [dim[0] if len(dim) == 1 else (dim or None) for dim in layout.dims]
        while spec and spec[-1] is None:
            spec.pop()
        return NamedSharding(self._mesh, PartitionSpec(*spec))


def padded_shape(layout: Layout, grid: Grid) -> tuple[int, ...]:
    """The global shape with every split dimension rounded up to whole blocks."""
    return tuple(
        local_dim(size, parts) * parts
        for size, parts in zip(layout.shape, dim_parts(layout, grid), strict=True)
    )


def dim_parts(layout: Layout, grid: Grid) -> list[int]:
    """Into how many parts each dimension is split."""
    if not layout.dims:
        return [1] * len(layout.shape)
    return [grid.parts(_refs(dim)) for dim in layout.dims]


def _refs(dim: Sequence[str]) -> list[AxisRef]:
    return [parse_axis(axis) for axis in dim]


def place(array: Any, layout: Layout, sharding: NamedSharding, grid: Grid) -> jax.Array:
    """A global host array as a sharded jax.Array, padded to whole blocks where it must be."""
    padded = padded_shape(layout, grid)
    if padded != tuple(layout.shape):
        widths = [(0, p - s) for s, p in zip(layout.shape, padded, strict=True)]
        array = np.pad(np.asarray(array), widths)
    return jax.device_put(array, sharding)


def fetch(array: jax.Array, layout: Layout) -> np.ndarray[Any, Any]:
    """The global host array of a result, its padding cut off."""
    host = np.asarray(array)
    return host[tuple(slice(0, size) for size in layout.shape)]
