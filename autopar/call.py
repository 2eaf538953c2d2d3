"""One call of a Python function, brought to StableHLO: `Lowering`."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from autopar.lowering.jax_compat import (
    is_key_dtype,
    lower_traced,
    lowered_parts,
    mark_batch_sizes,
    ordered_effect,
    user_place,
)
from autopar.lowering.mlir_context import merge_equal_ops

from .aliasing import donated_leaves, match_aliases, next_values_by_path, states
from .argument_avals import ArgumentAval
from .arguments import ArgumentRoles
from .batch import Batch, find_batch
from .lowered import LoweredProgram
from .meshes import (
    automatic,
    check_fits,
    default_mesh,
    dim_axes,
    given_mesh,
    grid_of_mesh,
    is_sharding,
    named_sharding,
    sharding_leaves,
    tracing_context,
)
from .methods import Method
from .road import ArgumentInfo, Road
from .session import local_devices

logger = logging.getLogger("autopar")


@dataclass(frozen=True)
class Request:
    """What `parallelize` was asked for."""

    fn: Callable[..., Any]
    method: Method
    mesh: Any
    num_micro_batches: int
    in_shardings: Any
    out_shardings: Any
    roles: ArgumentRoles

    @property
    def follow(self) -> bool:
        """Whether the shardings of arguments are the user's wish (method `shard`)."""
        return self.method.follows

    def jitted(self, out_shardings: Any = None) -> Any:
        """The function as jax.jit sees it."""
        static = self.roles.static
        options = {} if out_shardings is None else {"out_shardings": out_shardings}
        return jax.jit(
            self.fn,
            static_argnums=static.nums or None,
            static_argnames=static.names or None,
            keep_unused=True,
            **options,
        )


@dataclass
class _TracedStep:
    """A function as JAX lowered it, and what was found out about its arguments and results."""

    lowered: Any
    """JAX's program; of one microbatch where there are several."""
    outs: list[Any]
    """Shape and dtype of each flat result of the whole function."""
    out_tree: Any
    following: Mapping[int, int]
    """The next values of flat arguments among the results."""
    states: Mapping[int, int] | None
    """As `following`, by their places in the trees alone, where there are microbatches."""
    sizes_known: bool
    """Whether a microbatch's program tells all that comes of the batch's size."""
    batch: Batch
    late_arguments: dict[int, Any]
    """The mesh axes of arguments that a microbatch is too small for."""
    late_results: dict[int, Any]
    """The mesh axes demanded of results, where the program is of one microbatch."""


class Lowering:
    """One call, brought to StableHLO."""

    def __init__(self, request: Request, args: Any, kwargs: Any, leaves: list[Any], tree: Any):
        self.request = request
        self.args, self.kwargs = args, kwargs
        self.values, self.tree = leaves, tree
        roles = request.roles
        indexed = jax.tree.unflatten(tree, range(len(leaves)))
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(indexed)[0]]
        self.leaves = roles.leaves(len(args), paths)
        self.avals = [ArgumentAval(leaf) for leaf in leaves]
        for value, leaf, aval in zip(leaves, self.leaves, self.avals, strict=True):
            if aval.dtype is None and not hasattr(value, "__jax_array__"):
                raise TypeError(
                    f"{leaf.name} is a {type(value).__name__}, neither an array nor a number: name "
                    "its argument in static_argnums or static_argnames"
                )
        self.mesh = self._find_mesh()
        self.shardings = self._argument_shardings()
        """What each flat argument is demanded to lie like; None where nothing is said."""

    def _find_mesh(self) -> Mesh | None:
        """The mesh given, or that of the ambient context, the arguments or the shardings."""
        mesh = given_mesh(self.request.mesh)
        if mesh is not None:
            return mesh
        stated = jax.tree.leaves(
            (self.request.in_shardings, self.request.out_shardings), is_leaf=is_sharding
        )
        if self.request.follow:
            stated = [getattr(leaf, "sharding", None) for leaf in self.values] + stated
        for sharding in stated:
            if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
                return sharding.mesh
        return None

    def _argument_shardings(self) -> list[NamedSharding | None]:
        request = self.request
        positional = jax.tree.unflatten(self.tree, self.values)[0]
        asked = sharding_leaves(request.in_shardings, positional, "in_shardings")
        asked += [None] * (len(self.values) - len(asked))
        found: list[NamedSharding | None] = []
        for value, leaf, aval, sharding in zip(
            self.values, self.leaves, self.avals, asked, strict=True
        ):
            what = f"in_shardings of {leaf.name}"
            own = getattr(value, "sharding", None) if request.follow else None
            if sharding is None and isinstance(own, NamedSharding):
                sharding = own
                if not isinstance(own.mesh, Mesh):
                    sharding = None
                what = f"the sharding of {leaf.name}"
            named = named_sharding(sharding, self.mesh, what, request.follow)
            if named is not None:
                check_fits(named, aval.shape, what)
            found.append(named)
        return found

    def lower(self) -> LoweredProgram:
        """Traces the function and finds what its arguments are; the passes run when asked for."""
        request = self.request
        step = self._trace_step()
        marked = None if request.roles.auto_donate else request.roles.donated
        donated = donated_leaves(marked, self.leaves, self.avals, step.outs, len(self.args))
        aliases = match_aliases(donated, step.following, self.avals, step.outs)
        mesh = self.mesh or default_mesh()
        native = step.lowered.compiler_ir("stablehlo")
        merge_equal_ops(native)
        method = request.method
        road = Road(
            native,
            self._argument_infos(step, aliases),
            grid_of_mesh(mesh),
            method.annotation(mesh),
            request.num_micro_batches,
            method.micro_batch_reduction,
            step.late_results,
            [_array_shape(out) for out in step.outs] if request.num_micro_batches > 1 else None,
            step.sizes_known,
            method.planner(mesh),
            method.decisions(mesh),
            _place_of(request.fn),
            (_keys_among(self.avals), _keys_among(step.outs)),
        )
        return LoweredProgram(
            road, step.lowered, self, step.outs, step.out_tree, donated, aliases, step.batch, mesh
        )

    def _argument_infos(self, step: _TracedStep, aliases: dict[int, int]) -> list[ArgumentInfo]:
        return [
            ArgumentInfo(
                _kind_of(i, aval, step.batch),
                0,
                aliases.get(i),
                None if step.states is None else step.states.get(i, -1),
                step.late_arguments.get(i),
            )
            for i, aval in enumerate(self.avals)
        ]

    def _trace_step(self) -> _TracedStep:
        """The function in StableHLO, of one microbatch where there are several."""
        request, count = self.request, self.request.num_micro_batches
        out_shardings = jax.tree.map(
            lambda s: named_sharding(s, self.mesh, "out_shardings", request.follow),
            request.out_shardings,
            is_leaf=is_sharding,
        )
        jitted = request.jitted(out_shardings if count == 1 else None)
        mesh = self.mesh
        if mesh is not None and not request.follow:
            mesh = automatic(mesh)
        given = isinstance(request.mesh, Mesh) or request.mesh is None
        with tracing_context(mesh if given else None):
            if out_shardings is not None and count == 1:
                # jax.jit's own errors about results are long: ours come first.
                plain = self._trace(request.jitted(), self.avals, self.shardings)
                self._result_shardings(out_shardings, plain.out_info)
            traced = self._trace(jitted, self.avals, self.shardings)
            out_info = traced.out_info
            outs = jax.tree.leaves(out_info)
            results = self._result_shardings(out_shardings, out_info)
            paths = [path for path, _ in jax.tree.leaves_with_path(out_info)]
            following = next_values_by_path(self.leaves, self.avals, outs, paths)
            batch = self._find_batch(following)
            late_arguments, late_results = dict[int, Any](), dict[int, Any]()
            following_states, sizes_known = None, True
            if count > 1:
                args, kwargs = jax.tree.unflatten(self.tree, self.values)
                following_states = states(args, kwargs, self.leaves, self.avals, out_info)
                avals, shardings, late_arguments = self._microbatches(batch, count)
                late_results = {
                    i: dim_axes(sharding, len(outs[i].shape))
                    for i, sharding in enumerate(results)
                    if sharding is not None
                }
                whole, micro = traced, self._trace_microbatch(jitted, avals, shardings, batch)
                traced, sizes_known = mark_batch_sizes(whole, micro, count)
            lowered = self._lower_traced(traced, mesh)
        out_tree = jax.tree.structure(out_info)
        return _TracedStep(
            lowered,
            outs,
            out_tree,
            following,
            following_states,
            sizes_known,
            batch,
            late_arguments,
            late_results,
        )

    def _lower_traced(self, traced: Any, mesh: Mesh | None) -> Any:
        """JAX's lowered program; ValueError for effects that a partitioned one cannot have."""
        refused = ordered_effect(traced)
        if refused is not None:
            raise ValueError(refused)
        devices = local_devices() if mesh is None else mesh.devices.flat
        lowered = lower_traced(traced, devices[0].platform)
        if lowered_parts(lowered)["mutable"]:
            raise ValueError(
                "the function writes to a jax.Ref, which a partitioned program cannot: take "
                "the array as an argument and return the new one"
            )
        return lowered

    def _trace(self, jitted: Any, avals: Sequence[ArgumentAval], shardings: Sequence[Any]) -> Any:
        flat = [
            aval.abstract(value, sharding)
            for aval, value, sharding in zip(avals, self.values, shardings, strict=True)
        ]
        dynamic = jax.tree.unflatten(self.tree, flat)
        args, kwargs = self.request.roles.join(self.args, self.kwargs, dynamic)
        try:
            return jitted.trace(*args, **kwargs)
        except ValueError as error:
            mesh = None if self.request.follow else self.mesh
            is_explicit = mesh is not None and automatic(mesh) is not mesh
            if is_explicit and "of type Auto" in str(error):
                raise ValueError(
                    f"{str(error).rstrip()}; explicit axes of the mesh count as Auto under method "
                    f"{self.request.method.name!r}, which decides itself where values lie: say it "
                    "by with_sharding_constraint, or take method='shard', which follows the types"
                ) from error
            raise

    def _trace_microbatch(
        self, jitted: Any, avals: Sequence[ArgumentAval], shardings: Sequence[Any], batch: Batch
    ) -> Any:
        """As `_trace`; what is raised that the whole batch does not raise names the reason."""
        count = self.request.num_micro_batches
        try:
            return self._trace(jitted, avals, shardings)
        except (TypeError, ValueError, IndexError, AssertionError) as error:
            size = self.avals[min(batch.leaves)].shape[0]
            same = [
                f"{leaf.name} {aval.shape}"
                for i, (leaf, aval) in enumerate(zip(self.leaves, self.avals, strict=True))
                if i not in batch.leaves and size in aval.shape
            ]
            if same:
                advice = (
                    f"{', '.join(same)} is as long as the batch, but no batch argument, so that it "
                    "is not split: pass it in the batch (batch_argnums), and return what follows "
                    "it as a result of its own"
                )
            else:
                advice = (
                    "arrays of the batch's size that it closes over, and sizes written as numbers, "
                    f"are not split: take arrays as arguments of the batch, and {size} from a shape"
                )
            place, text = user_place(error), (str(error).splitlines() or [""])[0].rstrip(".")
            raise ValueError(
                f"num_micro_batches={count}: {place}{text}: the step does not take a microbatch of "
                f"{size // count} of the {size} examples; {advice}"
            ) from error

    def _result_shardings(self, out_shardings: Any, out_info: Any) -> list[NamedSharding | None]:
        """The sharding demanded of each result, checked against its shape."""
        found = sharding_leaves(out_shardings, out_info, "out_shardings")
        outs = jax.tree.leaves(out_info)
        for index, (sharding, out) in enumerate(zip(found, outs, strict=True)):
            if sharding is not None:
                check_fits(sharding, out.shape, f"out_shardings of result {index}")
        return found

    def _find_batch(self, following: Mapping[int, int]) -> Batch:
        request = self.request
        free = request.num_micro_batches == 1 and request.roles.batch is None
        if request.follow and free:
            return Batch(why="as the user's shardings say")
        optional = free and not request.method.splits_batch
        try:
            batch = find_batch(
                request.roles,
                self.leaves,
                self.avals,
                following,
                len(self.args),
                splits=request.num_micro_batches if request.num_micro_batches > 1 else 0,
            )
        except ValueError:
            if not optional:
                raise
            return Batch(why="not told apart")
        needed = not (optional or request.follow)
        if needed and not batch.leaves and any(aval.shape for aval in self.avals):
            logger.warning("no argument looks like a batch: every device computes the whole")
        return batch

    def _microbatches(
        self, batch: Batch, count: int
    ) -> tuple[list[ArgumentAval], list[Any], dict[int, Any]]:
        """Avals and shardings of one microbatch; the shardings of batch arguments that a
        microbatch is too small for, to be put on the whole batch later."""
        if not batch.leaves:
            raise ValueError(
                f"num_micro_batches={count}: no argument looks like a batch; say batch_argnums=(…)"
            )
        avals, shardings, late = list(self.avals), list(self.shardings), dict[int, Any]()
        for index in batch.leaves:
            size, name = self.avals[index].shape[0], self.leaves[index].name
            if size % count:
                raise ValueError(
                    f"num_micro_batches={count} does not divide the batch of {size} of {name}: "
                    f"choose a divisor of {size}"
                )
            avals[index] = self.avals[index].microbatch(count)
            sharding = shardings[index]
            if sharding is not None:
                try:
                    check_fits(sharding, avals[index].shape, name)
                except ValueError:
                    late[index] = dim_axes(sharding, len(avals[index].shape))
                    shardings[index] = None
        return avals, shardings, late


def _keys_among(arrays: Iterable[Any]) -> frozenset[int]:
    return frozenset(i for i, array in enumerate(arrays) if is_key_dtype(array.dtype))


def _kind_of(index: int, aval: ArgumentAval, batch: Batch) -> str:
    if index in batch.leaves:
        return "batch"
    return "state" if aval.shape and index not in batch.whole else "other"


def _array_shape(out: Any) -> tuple[int, ...] | None:
    """The shape of a result in the program; None where JAX's types hide it (PRNG keys)."""
    hidden = jnp.issubdtype(out.dtype, jax.dtypes.extended)
    return None if hidden else tuple(out.shape)


def _place_of(fn: Callable[..., Any]) -> tuple[str, int] | None:
    """File and line where a function begins, as far as Python knows."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return None if code is None else (code.co_filename, code.co_firstlineno)
