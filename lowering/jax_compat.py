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
from collections.abc import Callable, Sequence
from typing import Any

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


def batch_size_in_update(whole: Any, micro: Any, count: int) -> str | None:
    """One line about the first number in the update part of a traced step that is the size of its
    batch (`n + x.shape[0]`): in one of `count` microbatches it is another. None: there is none.

    A mean's divisor is right as it is: it divides what microbatches sum up. Inside functions that
    are differentiated a microbatch sees its own size.
    """
    return _differing_number(whole.jaxpr.jaxpr, micro.jaxpr.jaxpr, count)


def _differing_number(whole: Any, micro: Any, count: int) -> str | None:
    if [e.primitive for e in whole.eqns] != [e.primitive for e in micro.eqns]:
        return None  # the step itself asks for the size of its batch
    for ours, theirs in zip(whole.eqns, micro.eqns, strict=True):
        names = str(ours.source_info.name_stack)
        if "jvp(" in names or "transpose(" in names:
            continue
        inner = (jax_core.jaxprs_in_params(eqn.params) for eqn in (ours, theirs))
        for one, two in zip(*inner, strict=False):
            found = _differing_number(one, two, count)
            if found is not None:
                return found
        pairs = list(zip(ours.invars, theirs.invars, strict=True))
        outs = zip(ours.outvars, theirs.outvars, strict=True)
        if any(a.aval.shape != b.aval.shape for a, b in (*pairs, *outs)):
            continue
        for index, (a, b) in enumerate(pairs):
            if isinstance(a, jax_core.Literal) and isinstance(b, jax_core.Literal):
                one, two = np.asarray(a.val), np.asarray(b.val)
                name = ours.primitive.name
                is_mean = (name == "div" and index == 1 and np.isclose(one, two * count)) or (
                    name == "mul" and np.isclose(one * count, two)
                )
                place = source_info_util.summarize(ours.source_info)
                if one != two and not is_mean and place:  # a place of the user's
                    return (
                        f"{place}: {one} of the whole batch is {two} of a microbatch: outside of "
                        "the loss function take the size of the batch from outside the step, not "
                        "from a shape (num_micro_batches runs it on a part)"
                    )
    return None


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

Rewrite = Callable[[tuple[int, ...], Sequence[Any]], Sequence[Any]]
"""Takes the numbers of an equation and of those that it is in, outermost first, and its values;
gives the values that stand for them."""


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
    """Evaluates what `number_equations` gave (its `jaxpr`), with `rewrite` at the results of every
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
                results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(params))
                if not eqn.primitive.multiple_results:
                    results = [results]
                results = rewrite(own, results)
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
