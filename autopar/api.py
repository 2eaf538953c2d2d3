"""`autopar.parallelize`: a single-device JAX function, run on a mesh."""

from __future__ import annotations

import functools
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from autopar.dialects.sharding import Grid
from autopar.lowering.jax_compat import (
    canonical_dtype,
    check_jax_version,
    is_key_dtype,
    key_data_aval,
    key_impl,
    lowered_parts,
)
from autopar.lowering.mlir_context import merge_equal_ops
from autopar.passes.importing.methods import MethodOptions
from autopar.runtime.devices import init_devices
from autopar.runtime.embedded import MeshExecutable, make_mesh

from .batch import infer_batch_leaves
from .methods import Method, ShardParallel, resolve_method
from .plan import Plan
from .road import ArgumentInfo, Road

check_jax_version()

_devices: list[Any] | None = None


def init(devices: int | None = None, cluster: str = "local") -> None:
    """Sets the devices that programs run on: the first `devices` of the local JAX backend.

    On the CPU backend, virtual devices are made if JAX has not started yet; DeviceError (in one
    line, with the remedy) where it has, with fewer devices.
    """
    global _devices
    if cluster != "local":
        raise ValueError(
            f"cluster={cluster!r} is not available in this version: only 'local' (this process)"
        )
    _devices = init_devices(devices)


def shutdown() -> None:
    """Forgets the devices that `init` set."""
    global _devices
    _devices = None


def local_devices() -> list[Any]:
    """The devices set by `init`, or all devices of the backend."""
    return _devices if _devices is not None else init_devices(None)


def parallelize(
    fn: Callable[..., Any] | None = None,
    *,
    method: Method | str | None = None,
    mesh: Any = None,
    num_micro_batches: int | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
    static_argnums: int | Sequence[int] | None = None,
    static_argnames: str | Sequence[str] | None = None,
    donate_argnums: int | Sequence[int] | str = (),
    donate_argnames: str | Sequence[str] | None = None,
    batch_argnums: int | Sequence[int] | None = None,
) -> Any:
    """Parallelizes a function over a mesh; a decorator or a call.

    `method`: a method object or one of "auto", "dp", "zero2", "zero3" (alias "fsdp"), "shard".
    `mesh`: a jax Mesh, a shape such as (2, 4), or None (the ambient mesh of `jax.set_mesh`, else
    all devices in a row). `donate_argnums` as jax.jit has it, or "auto": arguments whose arrays all
    come back among the results. `batch_argnums`: the arguments that hold the batch in their first
    dimension; None infers them. Results are global jax.Arrays with NamedSharding.
    """
    if fn is None:
        return functools.partial(
            parallelize,
            method=method,
            mesh=mesh,
            num_micro_batches=num_micro_batches,
            in_shardings=in_shardings,
            out_shardings=out_shardings,
            static_argnums=static_argnums,
            static_argnames=static_argnames,
            donate_argnums=donate_argnums,
            donate_argnames=donate_argnames,
            batch_argnums=batch_argnums,
        )
    return Parallelized(
        fn,
        resolve_method(method),
        mesh,
        num_micro_batches,
        in_shardings,
        out_shardings,
        _as_tuple(static_argnums),
        _as_tuple(static_argnames),
        donate_argnums if isinstance(donate_argnums, str) else _as_tuple(donate_argnums),
        _as_tuple(donate_argnames),
        None if batch_argnums is None else _as_tuple(batch_argnums),
    )


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, int | str):
        return (value,)
    return tuple(value)


class Parallelized:
    """A function that runs on a mesh; compiled once for each signature of its arguments."""

    def __init__(
        self,
        fn: Callable[..., Any],
        method: Method,
        mesh: Any,
        num_micro_batches: int | None,
        in_shardings: Any,
        out_shardings: Any,
        static_argnums: tuple[int, ...],
        static_argnames: tuple[str, ...],
        donate_argnums: tuple[int, ...] | str,
        donate_argnames: tuple[str, ...],
        batch_argnums: tuple[int, ...] | None,
    ) -> None:
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._method = method
        self._mesh = mesh if mesh is not None else method.mesh
        self._num_micro_batches = num_micro_batches or method.num_micro_batches
        self._in_shardings = in_shardings
        self._out_shardings = out_shardings
        self._static_argnums = static_argnums
        self._static_argnames = static_argnames
        self._donate_argnums = donate_argnums
        self._donate_argnames = donate_argnames
        self._batch_argnums = batch_argnums
        self._cache: dict[Any, CompiledProgram] = {}
        self._last: CompiledProgram | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        dynamic, key = self._split(args, kwargs)
        leaves, tree = jax.tree.flatten(dynamic)
        last = self._last
        if last is not None and last.accepts(key, tree, leaves):
            return last.run(leaves)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return self._fn(*args, **kwargs)  # inside another transformation: plain JAX
        compiled = self._compiled(args, kwargs, key, tree, leaves)
        self._last = compiled
        return compiled.run(leaves)

    def lower(self, *args: Any, **kwargs: Any) -> LoweredProgram:
        """The program for these arguments (arrays or ShapeDtypeStructs), not yet compiled."""
        dynamic, _ = self._split(args, kwargs)
        leaves, tree = jax.tree.flatten(dynamic)
        return _lower(self, args, kwargs, leaves, tree)

    def get_executable(self, *args: Any, **kwargs: Any) -> CompiledProgram:
        """The compiled program for these arguments, without running it."""
        dynamic, key = self._split(args, kwargs)
        leaves, tree = jax.tree.flatten(dynamic)
        self._last = self._compiled(args, kwargs, key, tree, leaves)
        return self._last

    def get_last_executable(self) -> CompiledProgram | None:
        """The program that ran last."""
        return self._last

    def preshard_dynamic_args(self, *args: Any, **kwargs: Any) -> Any:
        """The arguments placed as the program wants them (a pytree of the dynamic arguments)."""
        compiled = self.get_executable(*args, **kwargs)
        dynamic, _ = self._split(args, kwargs)
        leaves, tree = jax.tree.flatten(dynamic)
        placed = jax.tree.unflatten(tree, compiled.place(leaves))
        return placed[0] if not kwargs else placed

    @property
    def mesh(self) -> Any:
        """The mesh that was given: a jax Mesh, a shape, or None."""
        return self._mesh

    @property
    def plan(self) -> Plan:
        """The plan of the program that ran last."""
        if self._last is None:
            raise ValueError("nothing has run yet: call the function, or .lower(*args).plan")
        return self._last.lowered.plan

    def clear_cache(self) -> None:
        """Forgets all compiled programs."""
        self._cache.clear()
        self._last = None

    def _split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Dynamic (args, kwargs), and the static values as a cache key."""
        if not self._static_argnums and not self._static_argnames:
            return (args, kwargs), None
        static = {n % len(args) if n < 0 else n for n in self._static_argnums}
        dynamic = tuple(a for i, a in enumerate(args) if i not in static)
        named = {k: v for k, v in kwargs.items() if k not in self._static_argnames}
        key = (
            tuple((i, args[i]) for i in sorted(static) if i < len(args)),
            tuple(sorted((k, v) for k, v in kwargs.items() if k in self._static_argnames)),
        )
        return (dynamic, named), key

    def _compiled(
        self, args: Any, kwargs: Any, static: Any, tree: Any, leaves: list[Any]
    ) -> CompiledProgram:
        signature = (static, tree, tuple(map(_aval_key, leaves)))
        compiled = self._cache.get(signature)
        if compiled is None:
            compiled = _lower(self, args, kwargs, leaves, tree).compile()
            compiled.signature = (static, tree)
            self._cache[signature] = compiled
        return compiled


def _aval_key(leaf: Any) -> tuple[Any, ...]:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return (tuple(leaf.shape), leaf.dtype, getattr(leaf, "weak_type", False))
    return (type(leaf),)


def _abstract(leaf: Any, keep_sharding: bool) -> Any:
    """What tracing sees of an argument: Python scalars stay weakly typed."""
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return leaf
    sharding = getattr(leaf, "sharding", None) if keep_sharding else None
    if not isinstance(sharding, NamedSharding):
        sharding = None
    dtype = leaf.dtype if isinstance(leaf, jax.Array) or is_key_dtype(leaf.dtype) else None
    if dtype is None:
        dtype = canonical_dtype(leaf) if isinstance(leaf, np.ndarray) else leaf.dtype
    return jax.ShapeDtypeStruct(
        leaf.shape, dtype, sharding=sharding, weak_type=bool(getattr(leaf, "weak_type", False))
    )


def _lower(
    owner: Parallelized, args: Any, kwargs: Any, leaves: list[Any], tree: Any
) -> LoweredProgram:
    follow = isinstance(owner._method, ShardParallel)
    static = {n % len(args) if n < 0 else n for n in owner._static_argnums}
    flat = [_abstract(leaf, follow) for leaf in leaves]
    paths = [p for p, _ in jax.tree_util.tree_flatten_with_path(jax.tree.unflatten(tree, flat))[0]]
    count = owner._num_micro_batches or 1
    micro: set[int] = set()
    if count > 1:
        micro = _micro_batch_leaves(owner, paths, leaves, static, args, kwargs, flat, tree)
        flat = [_micro(f, count) if i in micro else f for i, f in enumerate(flat)]
    abstract = jax.tree.unflatten(tree, flat)
    positional = iter(abstract[0])
    full_args = [a if i in static else next(positional) for i, a in enumerate(args)]
    full_kwargs = {**kwargs, **abstract[1]}
    jitted = jax.jit(
        owner._fn,
        static_argnums=owner._static_argnums or None,
        static_argnames=owner._static_argnames or None,
        keep_unused=True,
    )
    traced = jitted.trace(*full_args, **full_kwargs)
    lowered = traced.lower()
    mesh, devices, grid = _mesh_and_devices(owner, leaves)
    out_leaves, out_tree = jax.tree.flatten(traced.out_info)
    donated = _donated_leaves(owner, paths, leaves, out_leaves, static, len(args))
    aliases = _match_aliases(leaves, out_leaves, donated)
    batch = micro or infer_batch_leaves(
        paths, leaves, out_leaves, owner._batch_argnums, sorted(static), owner._method
    )
    arguments = [
        ArgumentInfo(
            "batch" if index in batch else ("state" if np.ndim(leaf) else "other"),
            0,
            aliases.get(index),
        )
        for index, leaf in enumerate(leaves)
    ]
    options = MethodOptions(owner._method.name, **owner._method.options)
    native = lowered.compiler_ir("stablehlo")
    merge_equal_ops(native)
    road = Road(
        native,
        arguments,
        grid,
        options,
        count,
        owner._method.micro_batch_reduction,
    )
    return LoweredProgram(road, lowered, out_leaves, out_tree, leaves, mesh, devices, donated)


def _micro_batch_leaves(
    owner: Parallelized,
    paths: list[Any],
    leaves: list[Any],
    static: set[int],
    args: Any,
    kwargs: Any,
    flat: list[Any],
    tree: Any,
) -> set[int]:
    """The flat arguments that microbatches split: what comes back tells the batch from the state,
    so the function is traced abstractly on the whole batch first."""
    abstract = jax.tree.unflatten(tree, flat)
    positional = iter(abstract[0])
    full = [a if i in static else next(positional) for i, a in enumerate(args)]
    named = {**kwargs, **abstract[1]}
    dynamic = [i for i in range(len(args)) if i not in static]

    def whole(*values: Any, **dynamic_named: Any) -> Any:
        given = list(full)
        for position, value in zip(dynamic, values, strict=True):
            given[position] = value
        return owner._fn(*given, **{**named, **dynamic_named})

    outs = jax.tree.leaves(
        jax.eval_shape(whole, *(full[i] for i in dynamic), **abstract[1])
    )
    found = infer_batch_leaves(
        paths, leaves, outs, owner._batch_argnums, sorted(static), owner._method, always=True
    )
    count = owner._num_micro_batches or 1
    for index in found:
        size = np.shape(leaves[index])[0]
        if size % count:
            raise ValueError(
                f"num_micro_batches={count} does not divide the batch of {size} of argument "
                f"{jax.tree_util.keystr(paths[index][1:])}: choose a divisor of {size}"
            )
    if not found:
        raise ValueError(
            f"num_micro_batches={count}: no argument looks like a batch; say batch_argnums=(…)"
        )
    return found


def _micro(leaf: Any, count: int) -> Any:
    """The aval of one microbatch of a batch argument."""
    return jax.ShapeDtypeStruct(
        (leaf.shape[0] // count, *leaf.shape[1:]),
        leaf.dtype,
        sharding=getattr(leaf, "sharding", None),
    )


def _mesh_and_devices(
    owner: Parallelized, leaves: list[Any]
) -> tuple[Mesh | None, list[Any], Grid]:
    """The jax Mesh that was given (if any), the devices in its order, and the grid."""
    mesh = owner._mesh
    if mesh is None:
        ambient = jax.sharding.get_mesh()
        if isinstance(ambient, Mesh) and ambient.axis_names:
            mesh = ambient
    if mesh is None and isinstance(owner._method, ShardParallel):
        mesh = next(
            (
                leaf.sharding.mesh
                for leaf in leaves
                if isinstance(getattr(leaf, "sharding", None), NamedSharding)
            ),
            None,
        )
    if isinstance(mesh, Mesh):
        grid = Grid("mesh", tuple(zip(mesh.axis_names, mesh.devices.shape, strict=True)))
        return mesh, list(mesh.devices.flat), grid
    devices = local_devices()
    if mesh is None:
        grid = Grid("mesh", (("data", len(devices)),))
        return None, devices, grid
    shape = (mesh,) if isinstance(mesh, int) else tuple(mesh)
    names = ("data", "model", "z", "w")[: len(shape)]
    grid = Grid("mesh", tuple(zip(names, shape, strict=True)))
    if grid.num_devices > len(devices):
        raise ValueError(
            f"mesh={shape} needs {grid.num_devices} devices, there are {len(devices)}: "
            f"call autopar.init(devices={grid.num_devices}) first"
        )
    return None, devices[: grid.num_devices], grid


def _donated_leaves(
    owner: Parallelized,
    paths: list[Any],
    leaves: list[Any],
    outs: list[Any],
    static: set[int],
    num_args: int,
) -> set[int]:
    """Indices of the flat arguments whose buffers the program may take."""
    positions = [i for i in range(num_args) if i not in static]
    by_argument: dict[Any, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        where = path[1]
        by_argument[getattr(where, "key", None) or positions[where.idx]].append(index)
    if owner._donate_argnums == "auto":
        available = defaultdict(int)
        for out in outs:
            available[(tuple(out.shape), out.dtype)] += 1
        chosen: list[Any] = []
        for argument, indices in by_argument.items():
            wanted = defaultdict(int)
            for i in indices:
                if hasattr(leaves[i], "dtype"):
                    wanted[(tuple(leaves[i].shape), leaves[i].dtype)] += 1
            if any(k[0] for k in wanted) and all(available[k] >= n for k, n in wanted.items()):
                for k, n in wanted.items():
                    available[k] -= n
                chosen.append(argument)
    else:
        numbers = [n % num_args if n < 0 else n for n in owner._donate_argnums]  # pyright: ignore
        chosen = [*numbers, *owner._donate_argnames]
    return {
        i for a in chosen for i in by_argument.get(a, ()) if isinstance(i, int)
    }


def _match_aliases(leaves: list[Any], outs: list[Any], donated: set[int]) -> dict[int, int]:
    """For each donated leaf the first result of its shape and dtype that is not yet taken."""
    free: dict[Any, deque[int]] = defaultdict(deque)
    for index, out in enumerate(outs):
        free[(tuple(out.shape), out.dtype)].append(index)
    result: dict[int, int] = {}
    for index in sorted(donated):
        leaf = leaves[index]
        if not hasattr(leaf, "dtype"):
            continue
        queue = free.get((tuple(leaf.shape), leaf.dtype))
        if queue:
            result[index] = queue.popleft()
    return result


@dataclass
class LoweredProgram:
    """A program for one signature: its levels as text, its plan, and `.compile()`."""

    road: Road
    jax_lowered: Any
    out_leaves: list[Any]
    out_tree: Any
    in_leaves: list[Any]
    mesh: Mesh | None
    devices: list[Any]
    donated: set[int]

    def as_text(self, level: str = "stablehlo") -> str:
        """The IR at a level: "stablehlo", "sharded", "decided", "spmd" or "per-device"."""
        from autopar.dialects.text import print_text

        return print_text(self.road.at(level))

    @functools.cached_property
    def plan(self) -> Plan:
        """What was decided: shardings, collectives with bytes, FLOPs."""
        return Plan.of(self.road)

    def compile(self) -> CompiledProgram:
        """The executable program."""
        return CompiledProgram(self)


class CompiledProgram:
    """A program compiled for the devices of its mesh."""

    signature: Any = None

    def __init__(self, lowered: LoweredProgram) -> None:
        self.lowered = lowered
        program = lowered.road.program()
        grid = program.grid
        mesh = lowered.mesh
        if mesh is None or tuple(zip(mesh.axis_names, mesh.devices.shape, strict=True)) != grid.axes:
            devices = lowered.devices
            if len(devices) != grid.num_devices:
                devices = local_devices()[: grid.num_devices]
            mesh = make_mesh(grid, devices)
        parts = lowered_parts(lowered.jax_lowered)
        self.executable = MeshExecutable(
            program,
            list(mesh.devices.flat),
            mesh,
            parts["host_callbacks"],
            parts["keepalive"],
        )
        self.mesh = mesh
        self._shardings = self.executable.input_shardings
        self._avals = [_aval_key(leaf) for leaf in lowered.in_leaves]
        self._is_key = [
            hasattr(leaf, "dtype") and is_key_dtype(leaf.dtype) for leaf in lowered.in_leaves
        ]
        self._key_results = [
            (index, key_impl(out.dtype))
            for index, out in enumerate(lowered.out_leaves)
            if is_key_dtype(out.dtype)
        ]
        self._has_keys = any(self._is_key)

    @property
    def input_shardings(self) -> list[NamedSharding]:
        """One a flat argument."""
        return self._shardings

    @property
    def output_shardings(self) -> Any:
        """The pytree of result shardings."""
        return jax.tree.unflatten(self.lowered.out_tree, self.executable.output_shardings)

    def as_text(self) -> str:
        """The optimized HLO of one device."""
        return "\n".join(m.to_string() for m in self.executable.loaded.hlo_modules())

    def cost_analysis(self) -> Any:
        return self.executable.loaded.cost_analysis()

    def memory_analysis(self) -> Any:
        """XLA's memory figures of one device (bytes)."""
        return self.executable.loaded.get_compiled_memory_stats()

    def accepts(self, static: Any, tree: Any, leaves: list[Any]) -> bool:
        """Whether the program was compiled for arguments like these."""
        if self.signature is None or self.signature[1] != tree or self.signature[0] != static:
            return False
        for leaf, aval in zip(leaves, self._avals, strict=True):
            if _aval_key(leaf) != aval:
                return False
        return True

    def place(self, leaves: list[Any]) -> list[jax.Array]:
        """Flat arguments as the program wants them."""
        placed: list[Any] = []
        for leaf, sharding, is_key in zip(leaves, self._shardings, self._is_key, strict=True):
            if is_key:
                leaf = jax.random.key_data(leaf)
            if not isinstance(leaf, jax.Array) or leaf.sharding != sharding:
                leaf = jax.device_put(_host_value(leaf), sharding)
            placed.append(leaf)
        return placed

    def run(self, leaves: list[Any]) -> Any:
        """Runs on flat arguments; gives the function's result tree."""
        results: list[Any] = self.executable.run(self.place(leaves))
        for index, impl in self._key_results:
            results[index] = jax.random.wrap_key_data(results[index], impl=impl)
        return jax.tree.unflatten(self.lowered.out_tree, results)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(jax.tree.leaves((args, kwargs)))


def _host_value(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return leaf
    return np.asarray(leaf, canonical_dtype(leaf))


__all__ = [
    "CompiledProgram",
    "LoweredProgram",
    "Parallelized",
    "SingleDeviceSharding",
    "init",
    "key_data_aval",
    "local_devices",
    "parallelize",
    "shutdown",
]
