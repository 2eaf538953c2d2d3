"""Executables: compiled from a per-device module, and run on all devices."""

# jax's functions are typed in part only:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax._src import compiler, dispatch
from jax._src import core as jax_core
from jax._src.interpreters import pxla
from jax._src.lib import _jax  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
from jaxlib.mlir import ir

_CPU_OPTIONS = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_disable_hlo_passes": "cse_barrier_expander,small-while-loop-hoisting",
}
"""XLA's default on CPU starts what it can as soon as it can, all gathers of parameters first; in
the order of least memory, each is gathered for its use and dropped (ZeRO-3). It also drops barriers
before it merges equal ops there, and so keeps all that jax.checkpoint computes again (XLA:GPU does
not). Loops of less than a KiB it compiles as functions of their own, which may have no barriers."""


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


def backend_is_initialized() -> bool:
    """Whether JAX has already created its devices (their number can no longer be set)."""
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()
