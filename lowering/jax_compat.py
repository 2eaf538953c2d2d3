"""The one module that touches JAX's private interfaces.

Everything here was checked on jax 0.10.2 and 0.11.2; tests/lowering/test_jax_compat.py tells what
moved when a new release breaks it. No other module of autopar may import `jax._src` or
`jaxlib._jax`.
"""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Any, Protocol

import jax
import numpy as np
from jax._src import compiler, config, dispatch, dtypes, effects, source_info_util
from jax._src import core as jax_core
from jax._src.array import ArrayImpl
from jax._src.custom_partitioning import custom_partitioning_p
from jax._src.interpreters import mlir, pxla
from jax._src.lib import _jax  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
from jax.sharding import NamedSharding
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo as hlo  # pyright: ignore[reportMissingTypeStubs]

__all__ = ["ArrayImpl"]  # the type of all jax.Arrays that are neither traced nor keys

SUPPORTED_JAX = ((0, 10, 2), (0, 12, 0))
"""Releases [from, before) that autopar is tested with."""


def check_jax_version() -> None:
    """ImportError in one line where JAX is outside the supported range."""
    version = tuple(int(part) for part in jax.__version_info__[:3])
    low, high = SUPPORTED_JAX
    if not low <= version < high:
        span = f">={'.'.join(map(str, low))},<{'.'.join(map(str, high))}"
        raise ImportError(
            f"autopar works with jax{span}, found jax {jax.__version__}: pip install 'jax{span}'"
        )


_CPU_OPTIONS = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
"""XLA's default on CPU starts what it can as soon as it can, all gathers of parameters first; in
the order of least memory, each is gathered for its use and dropped (ZeRO-3)."""


def compile_replicas(module: Any, devices: Sequence[Any], host_callbacks: Sequence[Any]) -> Any:
    """Compiles a per-device module for `devices`, one replica each, in this order.

    `module` is an in-memory jaxlib module with `mhlo.num_replicas` = len(devices). JAX's persistent
    compilation cache is used where the user has switched it on.
    """
    count = len(devices)
    assignment = np.array([d.id for d in devices]).reshape(count, 1)
    on_cpu = devices[0].platform == "cpu"
    options = compiler.get_compile_options(
        count, 1, assignment, env_options_overrides=_CPU_OPTIONS if on_cpu else None
    )
    attributes = module.operation.attributes
    if "sym_name" not in attributes:  # JAX asks for it
        attributes["sym_name"] = ir.StringAttr.get("module", module.context)
    client = devices[0].client
    return compiler.compile_or_get_cached(
        client,
        module,
        np.array(devices),
        options,
        list(host_callbacks),
        _jax.DeviceList(tuple(devices)),
        None,
    )


def result_handler(aval: Any, sharding: Any) -> Callable[..., Any]:
    """Makes a global jax.Array (or PRNG keys) of the devices' buffers, as jax.jit makes its own.

    `aval` has a shape and a dtype, that of typed PRNG keys included, and may have a weak type.
    """
    weak = bool(getattr(aval, "weak_type", False))
    shaped = jax_core.ShapedArray(tuple(aval.shape), aval.dtype, weak_type=weak)
    shaped = jax_core.update_aval_with_sharding(shaped, sharding)
    return pxla.global_aval_to_result_handler(shaped, sharding, True)


def execute(loaded: Any, arguments: Sequence[Any], handlers: Sequence[Any]) -> list[Any]:
    """One asynchronous run on all devices: sharded jax.Arrays in, global jax.Arrays out."""
    return loaded.execute_sharded(arguments).consume_with_handlers(handlers)


def execute_with_token(
    loaded: Any, arguments: Sequence[Any], handlers: Sequence[Any]
) -> tuple[list[Any], Any]:
    """As `execute`, and a token: its `block_until_ready()` waits for the run on all devices."""
    results = loaded.execute_sharded(arguments, with_tokens=True)
    arrays = results.consume_with_handlers(handlers)
    return arrays, results.consume_token()


def register_effects(token: Any, devices: Sequence[Any]) -> None:
    """Lets `jax.effects_barrier()` wait for a run."""
    for index, device in enumerate(devices):
        dispatch.runtime_tokens.set_output_runtime_token(device, token.get_token(index))


def lowered_parts(lowered: Any) -> dict[str, Any]:
    """What the public `Lowered` object does not tell: effects and host callbacks."""
    arguments = lowered._lowering.compile_args
    return {
        "host_callbacks": arguments["host_callbacks"],
        "keepalive": arguments["keepalive"],
        "ordered_effects": arguments["ordered_effects"],
        "unordered_effects": arguments["unordered_effects"],
        "mutable": arguments.get("mut") is not None and arguments["mut"].in_mut,
    }


def program_meshes(lowered: Any) -> list[Any]:
    """The meshes of the shardings that a lowered program names, without repeats."""
    arguments = lowered._lowering.compile_args
    found: dict[Any, None] = {}
    for group in ("in_shardings", "out_shardings", "intermediate_shardings"):
        for item in arguments.get(group) or ():
            sharding = item[0] if isinstance(item, tuple) else item
            if isinstance(sharding, NamedSharding):
                found[sharding.mesh] = None
    return list(found)


# ---- tracing -------------------------------------------------------------------------------------


def trace_context() -> Any:
    """JAX's settings that tracing depends on (x64, matmul precision, ambient mesh, …), hashable."""
    return config.trace_context()


def trace_state_clean() -> bool:
    """Whether no transformation (jit, grad, vmap, …) is being applied right now."""
    return jax_core.trace_state_clean()


def lower_traced(traced: Any, platform: str) -> Any:
    """Lowers a traced function for a platform, which need not be JAX's default one;
    `jax.device_put(x, NamedSharding)` inside becomes a constraint, and a function with
    `jax.custom_partitioning` its body.

    JAX itself leaves nothing of such a device_put in StableHLO, and of such a function, under a
    mesh, a call back into Python that only XLA's partitioner can take.
    """
    rules = (
        (dispatch.device_put_p, _device_put_lowering),
        (custom_partitioning_p, _custom_partitioning_lowering),
        (_BATCH_SIZED, _batch_sized_lowering),
        (_BATCH_SHAPED, _batch_shaped_lowering),
    )
    parameters = mlir.LoweringParameters(override_lowering_rules=rules)  # pyright: ignore
    return traced.lower(lowering_platforms=(platform,), _private_parameters=parameters)


def _device_put_lowering(
    ctx: Any, *values: Any, devices: Any, srcs: Any, copy_semantics: Any
) -> list[Any]:
    results: list[Any] = []
    for value, device, aval in zip(values, devices, ctx.avals_out, strict=True):
        if isinstance(device, NamedSharding):
            axis_context = ctx.module_context.axis_context
            if getattr(axis_context, "manual_axes", None):
                device = mlir.add_manual_axes(axis_context, device, aval.ndim)
            if dtypes.issubdtype(aval.dtype, dtypes.extended):
                aval: Any = jax_core.physical_aval(aval)
            demand = device._to_sdy_sharding(aval.ndim)  # pyright: ignore[reportPrivateUsage]
            value = mlir.wrap_with_sharding_op(ctx, value, aval, demand)
        results.append(value)
    return results


def _custom_partitioning_lowering(ctx: Any, *values: Any, call: Any, **_: Any) -> Any:
    return mlir.lower_fun(jax_core.jaxpr_as_fun(call), multiple_results=True)(ctx, *values)


def ordered_effect(traced: Any) -> str | None:
    """One line about the first ordered effect of a traced function; None if it has none."""
    found = _find_ordered(traced.jaxpr)
    if found is None:
        return None
    primitive, place = found
    return (
        f"{place}: ordered effects ({primitive}) cannot run in a partitioned program: use the "
        "unordered form (ordered=False)"
    )


def _find_ordered(jaxpr: Any) -> tuple[str, str] | None:
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    if not any(effects.ordered_effects.contains(e) for e in jaxpr.effects):
        return None
    for eqn in jaxpr.eqns:
        if not any(effects.ordered_effects.contains(e) for e in eqn.effects):
            continue
        for inner in jax_core.jaxprs_in_params(eqn.params):
            found = _find_ordered(inner)
            if found is not None:
                return found
        return eqn.primitive.name, source_info_util.summarize(eqn.source_info)
    return None


# ---- a step and its microbatch -------------------------------------------------------------------


_BATCH_SIZED = jax_core.Primitive("batch_sized")
"""A literal that is another one for the whole batch."""
_BATCH_SHAPED = jax_core.Primitive("batch_shaped")
"""A broadcast whose result has as many rows as the batch, of values that do not depend on it."""
_WHOLE_BATCH, _BATCH_DIMS = "autopar.whole_batch", "autopar.batch_dims"


_marked: weakref.WeakKeyDictionary[Any, tuple[Any, int, Any, bool]] = weakref.WeakKeyDictionary()
"""By a microbatch's jaxpr: JAX keeps the jaxprs that it traced, and by them what it lowered."""


def mark_batch_sizes(whole: Any, micro: Any, count: int) -> tuple[Any, bool]:
    """The traced step of one of `count` microbatches, its numbers that come of the batch's size
    marked with those of the traced step of the whole batch (`autopar.whole_batch` of constants,
    `autopar.batch_dims` of broadcasts); and whether all of them are.

    ValueError where the step takes another course for a microbatch than for the whole batch, but
    inside of functions that are differentiated: there a microbatch sees its own size.
    """
    known = _marked.get(micro.jaxpr)
    if known is not None and known[0]() is whole.jaxpr and known[1] == count:
        _, _, closed, complete = known
    else:
        marker = _Marker(count)
        closed = marker.closed(whole.jaxpr, micro.jaxpr, in_model=False)
        complete = marker.complete
        if closed is not micro.jaxpr:
            _marked[micro.jaxpr] = weakref.ref(whole.jaxpr), count, closed, complete
    if closed is micro.jaxpr:
        return micro, complete
    parameters = {**micro._params, "jaxpr": closed}
    traced = type(micro)(
        micro._meta_tys_flat, parameters, micro._in_tree, micro.out_tree, micro._consts
    )
    return traced, complete


def user_place(error: BaseException) -> str:
    """`file:line: ` of the innermost frame of an exception that is neither JAX's nor ours."""
    found = ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if source_info_util.is_user_filename(name) and package != "autopar":
            found = f"{name}:{trace.tb_lineno}: "
        trace = trace.tb_next
    return found


class _Marker:
    """Goes through two jaxprs in step; results are kept, since JAX shares inner jaxprs."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.complete = True
        """Whether every equation has had its like in the whole batch's jaxpr."""
        self._known: dict[tuple[int, int, bool], tuple[Any, Any, Any]] = {}

    def closed(self, whole: Any, micro: Any, in_model: bool) -> Any:
        for one, two in zip(whole.consts, micro.consts, strict=False):
            if one is not two and np.shape(one) == np.shape(two) and not _is_same(one, two):
                raise ValueError(
                    f"num_micro_batches={self._count}: an array of shape {np.shape(two)} that the "
                    "step makes outside of JAX is another one for a microbatch, as if made of the "
                    "batch's size: make it outside of the step"
                )
        jaxpr = self._jaxpr(whole.jaxpr, micro.jaxpr, in_model)
        return micro if jaxpr is micro.jaxpr else micro.replace(jaxpr=jaxpr)

    def _jaxpr(self, whole: Any, micro: Any, in_model: bool) -> Any:
        if whole is micro:
            return micro
        key = id(whole), id(micro), in_model
        if key not in self._known:  # the two are kept alive for their ids
            self._known[key] = whole, micro, self._marked(whole, micro, in_model)
        return self._known[key][2]

    def _marked(self, whole: Any, micro: Any, in_model: bool) -> Any:
        eqns: list[Any] = []
        for ours, theirs in _aligned(whole.eqns, micro.eqns):
            names = str(theirs.source_info.name_stack)
            inside = in_model or "jvp(" in names or "transpose(" in names
            if ours is None:
                self._check_alone(theirs, inside)
                eqns.append(theirs)
                continue
            eqns += self._equation(ours, theirs, inside)
        outs = [
            self._literal(a, b, source_info_util.new_source_info(), eqns)
            for a, b in zip(whole.outvars, micro.outvars, strict=True)
        ]
        if all(a is b for a, b in zip(eqns, micro.eqns, strict=False)) and outs == micro.outvars:
            return micro
        return micro.replace(eqns=eqns, outvars=outs)

    def _check_alone(self, eqn: Any, in_model: bool) -> None:
        place = source_info_util.summarize(eqn.source_info)
        self.complete = False
        if not in_model and place:
            raise ValueError(
                f"{place}: the step takes another course for a microbatch than for the whole batch "
                f"({eqn.primitive.name}), since it asks for the batch's size; num_micro_batches="
                f"{self._count} runs it on a part: ask for the size outside of the step"
            )

    def _equation(self, ours: Any, theirs: Any, in_model: bool) -> list[Any]:
        eqns: list[Any] = []
        ins = [
            self._literal(a, b, theirs.source_info, eqns)
            for a, b in zip(ours.invars, theirs.invars, strict=True)
        ]
        changed = bool(eqns)
        parameters = dict(theirs.params)
        for name, value in theirs.params.items():
            other = ours.params.get(name)
            if value is not other:
                new = self._parameter(other, value, in_model)
                changed |= new is not value
                parameters[name] = new
        pairs = [*zip(ours.invars, theirs.invars, strict=True)]
        outs = [*zip(ours.outvars, theirs.outvars, strict=True)]
        own_shape = all(_shape(a) == _shape(b) for a, b in pairs)
        if own_shape and theirs.primitive.name == "broadcast_in_dim":
            dims = self._batch_dims(_shape(ours.outvars[0]), _shape(theirs.outvars[0]))
            if dims:
                options = tuple(theirs.params.items())
                bound = {"inner": theirs.primitive, "options": options, "dims": dims}
                return [*eqns, theirs.replace(invars=ins, primitive=_BATCH_SHAPED, params=bound)]
        if own_shape and not in_model and all(_shape(a) == _shape(b) for a, b in outs):
            self._check_numbers(ours, theirs)
        return [*eqns, theirs.replace(invars=ins, params=parameters) if changed else theirs]

    def _check_numbers(self, ours: Any, theirs: Any) -> None:
        """Refuses a parameter that is the batch's size: how often a loop runs."""
        place = source_info_util.summarize(theirs.source_info)
        for name, value in theirs.params.items():
            other = ours.params.get(name)
            is_number = isinstance(value, int | float) and isinstance(other, int | float)
            if is_number and not _is_same(value, other) and place:
                raise ValueError(
                    f"{place}: {name}={other} of the whole batch is {value} of a microbatch: "
                    "outside of the loss function take the size of the batch from outside the "
                    f"step, not from a shape (num_micro_batches={self._count} runs it on a part)"
                )

    def _batch_dims(self, whole: Sequence[int], micro: Sequence[int]) -> tuple[int, ...]:
        sizes = enumerate(zip(whole, micro, strict=True))
        return tuple(dim for dim, (a, b) in sizes if a != b and a == b * self._count)

    def _parameter(self, whole: Any, micro: Any, in_model: bool) -> Any:
        if isinstance(micro, tuple) and isinstance(whole, tuple) and len(micro) == len(whole):
            found = tuple(
                self._parameter(a, b, in_model) for a, b in zip(whole, micro, strict=True)
            )
            if all(a is b for a, b in zip(found, micro, strict=True)):
                return micro
            return type(micro)(*found) if hasattr(micro, "_fields") else found
        if isinstance(micro, jax_core.ClosedJaxpr) and isinstance(whole, jax_core.ClosedJaxpr):
            return self.closed(whole, micro, in_model)
        if isinstance(micro, jax_core.Jaxpr) and isinstance(whole, jax_core.Jaxpr):
            return self._jaxpr(whole, micro, in_model)
        return micro

    def _literal(self, whole: Any, micro: Any, source: Any, eqns: list[Any]) -> Any:
        """The value to read in place of a literal, and in `eqns` what makes it."""
        if not isinstance(micro, jax_core.Literal) or not isinstance(whole, jax_core.Literal):
            return micro
        if _shape(whole) or _shape(micro) or _is_same(whole.val, micro.val):
            return micro
        aval: Any = micro.aval
        value = jax_core.Var(aval)
        parameters = {
            "value": np.asarray(micro.val).item(),
            "whole": np.asarray(whole.val).item(),
            "dtype": str(aval.dtype),  # tells equal numbers apart in JAX's caches
        }
        effects_: Any = jax_core.no_effects
        eqns.append(jax_core.new_jaxpr_eqn([], [value], _BATCH_SIZED, parameters, effects_, source))
        return value


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value.aval, "shape", ()))


def _is_same(one: Any, two: Any) -> bool:
    """Whether two numbers or arrays are the same, NaN included."""
    first, second = np.asarray(one), np.asarray(two)
    return bool(((first == second) | ((first != first) & (second != second))).all())


def _aligned(whole: Sequence[Any], micro: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Each equation of a microbatch's jaxpr, and the one for it of the whole batch's, or None."""
    if [e.primitive for e in whole] == [e.primitive for e in micro]:
        return list(zip(whole, micro, strict=True))

    def keys(eqns: Sequence[Any]) -> list[Any]:
        return [(e.primitive, source_info_util.summarize(e.source_info)) for e in eqns]

    partners: list[Any] = [None] * len(micro)
    blocks = SequenceMatcher(None, keys(whole), keys(micro), autojunk=False).get_matching_blocks()
    for block in blocks:
        for offset in range(block.size):
            one, two = whole[block.a + offset], micro[block.b + offset]
            if len(one.invars) == len(two.invars) and len(one.outvars) == len(two.outvars):
                partners[block.b + offset] = one
    return list(zip(partners, micro, strict=True))


def _batch_sized_lowering(ctx: Any, *, value: Any, whole: Any, dtype: str) -> Any:
    if np.issubdtype(np.dtype(dtype), np.complexfloating):  # jaxlib cannot hand such attributes on
        part = "float32" if dtype == "complex64" else "float64"
        pairs = ((value.real, whole.real), (value.imag, whole.imag))
        parts = [_marked_constant(one, other, part) for one, other in pairs]
        return [hlo.complex(*parts)]
    return [_marked_constant(value, whole, dtype)]


def _marked_constant(value: Any, whole: Any, dtype: str) -> Any:
    constants: list[Any] = [
        mlir.ir_constant(np.asarray(n, np.dtype(dtype))) for n in (value, whole)
    ]
    found, other = (constant.owner for constant in constants)
    found.attributes[_WHOLE_BATCH] = other.attributes["value"]
    return found.results[0]


def _batch_shaped_lowering(ctx: Any, *values: Any, inner: Any, options: Any, dims: Any) -> Any:
    def bind(*operands: Any) -> Any:
        return inner.bind(*operands, **dict(options))

    results = mlir.lower_fun(bind, multiple_results=False)(ctx, *values)
    owner: Any = results[0].owner
    owner.attributes[_BATCH_DIMS] = ir.DenseI64ArrayAttr.get(list(dims))
    return results


# ---- equations, found again ----------------------------------------------------------------------

EQUATION = re.compile(r"eqn~(\d+)")
"""How the names of ops tell the equations that they come from, outermost first."""

_IN_PLACE = ("jit", "pjit", "closed_call", "core_call")
"""Primitives that are their body, evaluated."""
_BODIES = {
    **dict.fromkeys(_IN_PLACE, ("jaxpr", "call_jaxpr")),
    "checkpoint": ("jaxpr",),
    "remat2": ("jaxpr",),
    "scan": ("jaxpr",),
    "while": ("cond_jaxpr", "body_jaxpr"),
    "cond": ("branches",),
}
"""The parameters of primitives that hold their bodies."""


class Rewrite(Protocol):
    """Gives the values that stand for those of an equation, which is known by its path: the numbers
    of the equations that it is in, outermost first, and its own."""

    def operands(self, path: tuple[int, ...], values: Sequence[Any]) -> Sequence[Any]: ...

    def results(self, path: tuple[int, ...], values: Sequence[Any]) -> Sequence[Any]: ...


def number_equations(traced: Any) -> Any:
    """A traced function whose equations have numbers, in the names of the ops that they are lowered
    to (`EQUATION`); the ops are the same.

    Equations of functions that are called several times have one number, and are told apart by the
    calls. Inside custom derivatives and shard_map there are none.
    """
    numbers = itertools.count()
    done: dict[int, tuple[Any, Any]] = {}

    def numbered(jaxpr: Any) -> Any:
        found = done.get(id(jaxpr))
        if found is None:
            if isinstance(jaxpr, jax_core.ClosedJaxpr):
                new: Any = jaxpr.replace(jaxpr=numbered(jaxpr.jaxpr))
            else:
                new = jaxpr.replace(eqns=[equation(eqn) for eqn in jaxpr.eqns])
            found = done[id(jaxpr)] = jaxpr, new
        return found[1]

    def equation(eqn: Any) -> Any:
        stack = eqn.source_info.name_stack.extend(f"eqn~{next(numbers)}")
        return eqn.replace(
            source_info=eqn.source_info.replace(name_stack=stack),
            params=_with_bodies(eqn, numbered),
        )

    params = {**traced._params, "jaxpr": numbered(traced.jaxpr)}
    return type(traced)(
        traced._meta_tys_flat, params, traced._in_tree, traced.out_tree, traced._consts
    )


def _with_bodies(eqn: Any, change: Callable[[Any], Any]) -> dict[str, Any]:
    params = dict(eqn.params)
    for name in _BODIES.get(eqn.primitive.name, ()):
        if name in params:
            body = params[name]
            many = isinstance(body, tuple)
            params[name] = tuple(map(change, body)) if many else change(body)  # pyright: ignore
    return params


def evaluate_numbered(jaxpr: Any, values: Sequence[Any], rewrite: Rewrite) -> list[Any]:
    """Evaluates what `number_equations` gave (its `jaxpr`), with `rewrite` at the ends of every
    equation, also of those inside loops, branches and rematerialised functions."""
    return _evaluate(jaxpr.jaxpr, jaxpr.consts, values, (), rewrite)


def _evaluate(
    jaxpr: Any,
    consts: Sequence[Any],
    values: Sequence[Any],
    path: tuple[int, ...],
    rewrite: Rewrite,
) -> list[Any]:
    env: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    env.update(zip(jaxpr.invars, values, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, jax_core.Literal) else env[atom]

    equal: dict[Any, Sequence[Any]] = {}
    for eqn in jaxpr.eqns:
        key = _equation_key(eqn, env)
        if key is not None and key in equal:  # lowering merges them too: the first has the ops
            env.update(zip(eqn.outvars, equal[key], strict=True))
            continue
        stack = eqn.source_info.name_stack
        own = (*path, int(stack.stack[-1].name.partition("~")[2]))
        outer = source_info_util.current_name_stack() + stack[:-1]
        operands = list(map(read, eqn.invars))
        with (
            source_info_util.user_context(eqn.source_info.traceback, name_stack=outer),
            eqn.ctx.manager,
        ):
            if eqn.primitive.name in _IN_PLACE:
                body = eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]
                results = _evaluate(body.jaxpr, body.consts, operands, own, rewrite)
            else:
                params = _with_bodies(eqn, lambda body: _rewritten(body, own, rewrite))  # noqa: B023
                operands = rewrite.operands(own, operands)
                results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))
                if not eqn.primitive.multiple_results:
                    results = [results]
                results = rewrite.results(own, results)
        env.update(zip(eqn.outvars, results, strict=True))
        if key is not None:
            equal[key] = results
    return list(map(read, jaxpr.outvars))


def _equation_key(eqn: Any, env: dict[Any, Any]) -> Any:
    """What is the same for equations that compute the same; None where that is not told."""
    if eqn.effects or eqn.primitive.name == "optimization_barrier":
        return None
    operands = [
        (str(atom.aval), np.asarray(atom.val).tobytes())
        if isinstance(atom, jax_core.Literal)
        else id(env[atom])
        for atom in eqn.invars
    ]
    key = (eqn.primitive, tuple(operands), *sorted(eqn.params.items()))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _rewritten(body: Any, path: tuple[int, ...], rewrite: Rewrite) -> Any:
    """A body with `rewrite` at its equations; as it is, where it takes references."""
    is_closed = isinstance(body, jax_core.ClosedJaxpr)
    inner, consts = (body.jaxpr, body.consts) if is_closed else (body, ())
    avals = [var.aval for var in inner.invars]
    if not all(type(aval) is jax_core.ShapedArray for aval in avals):
        return body

    def function(*values: Any) -> Any:
        return _evaluate(inner, consts, values, path, rewrite)

    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals]
    new = jax.make_jaxpr(function)(*shapes)
    same = [(a.shape, a.dtype, a.weak_type) for a in new.out_avals] == [
        (v.aval.shape, v.aval.dtype, v.aval.weak_type) for v in inner.outvars
    ]
    if not same or (new.consts and not is_closed):
        return body
    return new if is_closed else new.jaxpr


# ---- dtypes and keys -----------------------------------------------------------------------------


def is_key_dtype(dtype: Any) -> bool:
    """Whether a dtype is that of typed PRNG keys."""
    return dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def key_data(keys: Any) -> Any:
    """The integers behind typed PRNG keys, without a copy."""
    return keys._base_array


def key_impl(dtype: Any) -> Any:
    """The PRNG implementation of a key dtype, as `jax.random.wrap_key_data(impl=…)` takes it."""
    return dtype._impl


def canonical_dtype(value: Any) -> Any:
    """The dtype that JAX gives a Python or NumPy value."""
    return dtypes.canonicalize_dtype(dtypes.dtype(value))


def backend_is_initialized() -> bool:
    """Whether JAX has already created its devices (their number can no longer be set)."""
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()
