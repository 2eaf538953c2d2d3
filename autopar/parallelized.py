"""`autopar.parallelize`: a single-device JAX function, run on a mesh."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.core import Tracer

from autopar.lowering.jax_compat import trace_context, trace_state_clean

from .arguments import ArgumentRoles
from .call import Lowering, Request
from .compiled import CompiledProgram
from .lowered import LoweredProgram
from .meshes import mesh_shape
from .methods import AutoShardParallel, Method, check_num_micro_batches, resolve_method
from .plans import Plan


def parallelize(
    fn: Callable[..., Any] | None = None,
    *,
    method: Method | Plan | str | None = None,
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

    `method`: a method object or one of "auto" (the default), "dp", "zero2", "zero3" (alias
    "fsdp"), "shard"; or a `Plan`, to be used again without a search.
    `mesh`: a jax Mesh, a shape such as (2, 4) (axes "data" and "model"), or None: the ambient mesh
    of `jax.set_mesh`, else that of the given shardings, else all devices in a row.
    `num_micro_batches`: run the batch in so many parts and accumulate gradients.
    `in_shardings`, `out_shardings`: NamedShardings or PartitionSpecs (pytree prefixes; None: left
    to the method); they bind under every method. `static_argnums`, `static_argnames`,
    `donate_argnums`, `donate_argnames` as `jax.jit` has them; `donate_argnums="auto"` donates
    arguments whose arrays all come back among the results. `batch_argnums`: the arguments that hold
    the batch in their first dimension; None infers them.

    Results are global jax.Arrays with NamedSharding. Under another transformation (jax.grad,
    jax.vmap, jax.jit, another `parallelize`) the function is plain JAX.
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
    if not callable(fn):
        raise TypeError(f"parallelize expects a function, got {type(fn).__name__}")
    roles = ArgumentRoles(
        fn,
        static_argnums=static_argnums,
        static_argnames=static_argnames,
        donate_argnums=donate_argnums,
        donate_argnames=donate_argnames,
        batch_argnums=batch_argnums,
    )
    chosen = resolve_method(method)
    check_num_micro_batches(num_micro_batches)
    shape = mesh_shape(mesh)
    _check_same("num_micro_batches", num_micro_batches, chosen.num_micro_batches)
    if not isinstance(method, Plan):  # which compares its mesh when it is used
        _check_same("mesh", shape or mesh, mesh_shape(chosen.mesh) or chosen.mesh)
    count = chosen.num_micro_batches if num_micro_batches is None else num_micro_batches
    count = 1 if count is None else int(count)
    given = mesh if mesh is not None else chosen.mesh
    return Parallelized(Request(fn, chosen, given, count, in_shardings, out_shardings, roles))


def _check_same(what: str, given: Any, own: Any) -> None:
    """ValueError where `parallelize` and its method are given an option, and not the same."""
    if given is not None and own is not None and given != own:
        raise ValueError(f"{what}={given!r}: the method has {what}={own!r}; give one of them")


_everything: weakref.WeakSet[Parallelized] = weakref.WeakSet()


def clear_executable_cache() -> None:
    """Forgets the compiled programs of every parallelized function."""
    for function in list(_everything):
        function.clear_cache()


def plan(
    fn: Callable[..., Any], *args: Any, mesh: Any = None, method: Any = None, **options: Any
) -> Plan:
    """The plan for a function and its arguments (arrays or ShapeDtypeStructs), nothing run.

    `options` are those of `parallelize`; a parallelized function brings its own. A function with
    keyword arguments is planned by `parallelize(fn, …).lower(*args, **kwargs).plan`.
    """
    if isinstance(fn, Parallelized):
        if mesh is not None or method is not None or options:
            raise ValueError("the function is parallelized already: its own options hold")
        return fn.lower(*args).plan
    known = inspect.signature(parallelize).parameters
    for name in options:
        if name in AutoShardParallel.known_options():
            raise TypeError(
                f"plan: {name!r} is an option of the method: "
                f"method=autopar.AutoShardParallel(options={{{name!r}: …}})"
            )
        if name not in known:
            raise TypeError(
                f"plan: {name!r} is no option of parallelize; keyword arguments of the function go "
                f"by autopar.parallelize(fn, …).lower(…, {name}=…).plan"
            )
    if not callable(fn):
        raise TypeError(f"autopar.plan: expected a function, found {fn!r}")
    return parallelize(fn, method=method, mesh=mesh, **options).lower(*args).plan


class Parallelized:
    """A function that runs on a mesh; compiled once for each signature of its arguments."""

    def __init__(self, request: Request) -> None:
        functools.update_wrapper(self, request.fn, updated=())
        self._request = request
        self._split = request.roles.split
        self._plain = request.jitted()
        self._cache: dict[Any, list[CompiledProgram]] = {}
        self._last: CompiledProgram | None = None
        _everything.add(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not trace_state_clean():
            return self._plain(*args, **kwargs)
        dynamic, static = self._split(args, kwargs)
        leaves, tree = jax.tree.flatten(dynamic)
        last = self._last
        if (
            last is not None
            and last.tree == tree
            and last.static == static
            and last.context == trace_context()
        ):
            placed = last.bind(leaves)
            if placed is not None:
                return last.execute(leaves, placed)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self._plain(*args, **kwargs)
        program, placed = self._find(args, kwargs, static, leaves, tree)
        return program.execute(leaves, placed)

    def _find(
        self, args: Any, kwargs: Any, static: Any, leaves: list[Any], tree: Any
    ) -> tuple[CompiledProgram, list[Any]]:
        """The program for a call, compiled if there is none, and the arguments placed for it."""
        context = trace_context()
        known = self._cache.setdefault((static, tree, context), [])
        for program in known:
            placed = program.bind(leaves)
            if placed is not None:
                self._last = program
                return program, placed
        lowered = Lowering(self._request, args, kwargs, leaves, tree).lower()
        program = CompiledProgram(lowered, static, context)
        placed = program.bind(leaves)
        assert placed is not None, "a program takes the arguments that it was compiled for"
        known.append(program)
        self._last = program
        return program, placed

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else BoundMethod(self, instance)

    def lower(self, *args: Any, **kwargs: Any) -> LoweredProgram:
        """The program for these arguments (arrays or ShapeDtypeStructs), not yet compiled."""
        dynamic, _ = self._split(args, kwargs)
        leaves, tree = jax.tree.flatten(dynamic)
        return Lowering(self._request, args, kwargs, leaves, tree).lower()

    def get_executable(self, *args: Any, **kwargs: Any) -> CompiledProgram:
        """The compiled program for these arguments (or ShapeDtypeStructs), without running it."""
        dynamic, static = self._split(args, kwargs)
        leaves, tree = jax.tree.flatten(dynamic)
        context = trace_context()
        known = self._cache.setdefault((static, tree, context), [])
        for program in known:
            if program.accepts(leaves):
                break
        else:
            lowered = Lowering(self._request, args, kwargs, leaves, tree).lower()
            program = CompiledProgram(lowered, static, context)
            known.append(program)
        self._last = program
        return program

    def get_last_executable(self) -> CompiledProgram | None:
        """The program that was compiled or run last."""
        return self._last

    def preshard_dynamic_args(self, *args: Any, **kwargs: Any) -> Any:
        """The arguments placed as the program wants them: the dynamic positional ones as a tuple,
        with keyword arguments as (args, kwargs)."""
        dynamic, static = self._split(args, kwargs)
        leaves, tree = jax.tree.flatten(dynamic)
        program, _ = self._find(args, kwargs, static, leaves, tree)
        tree_of_placed = jax.tree.unflatten(tree, program.place(leaves) or ())
        return tree_of_placed if kwargs else tree_of_placed[0]

    @property
    def mesh(self) -> Any:
        """The mesh of the last program, or what was given: a jax Mesh, a shape, or None."""
        return self._request.mesh if self._last is None else self._last.mesh

    @property
    def plan(self) -> Plan:
        """The plan of the program that ran last."""
        if self._last is None:
            raise ValueError("nothing has run yet: call the function, or .lower(*args).plan")
        return self._last.plan

    def clear_cache(self) -> None:
        """Forgets all compiled programs."""
        self._cache.clear()
        self._last = None


class BoundMethod:
    """A parallelized method of an object: its calls have the object as first argument."""

    def __init__(self, function: Parallelized, instance: Any) -> None:
        self.__func__ = function
        self.__self__ = instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> LoweredProgram:
        """As `Parallelized.lower`."""
        return self.__func__.lower(self.__self__, *args, **kwargs)

    def get_executable(self, *args: Any, **kwargs: Any) -> CompiledProgram:
        """As `Parallelized.get_executable`."""
        return self.__func__.get_executable(self.__self__, *args, **kwargs)

    def preshard_dynamic_args(self, *args: Any, **kwargs: Any) -> Any:
        """As `Parallelized.preshard_dynamic_args`; the object comes first."""
        return self.__func__.preshard_dynamic_args(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)
