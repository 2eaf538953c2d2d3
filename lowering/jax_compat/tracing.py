"""Functions traced and lowered, and what the results do not tell."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

from jax._src import config, dispatch, dtypes, effects, source_info_util
from jax._src import core as jax_core
from jax._src.custom_partitioning import custom_partitioning_p
from jax._src.interpreters import mlir
from jax.sharding import NamedSharding

from .batch_sizes import LOWERING_RULES


def trace_context() -> Any:
    """JAX's settings that tracing depends on (x64, matmul precision, ambient mesh, …), hashable."""
    return config.trace_context()


def trace_state_clean() -> bool:
    """Whether no transformation (jit, grad, vmap, …) is being applied right now."""
    return jax_core.trace_state_clean()


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
        *LOWERING_RULES,
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
