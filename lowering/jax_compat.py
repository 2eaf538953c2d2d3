"""The one module that touches JAX's private interfaces.

Everything here was checked on jax 0.10.2; tests/lowering/test_jax_compat.py tells what moved when a
new release breaks it. No other module of autopar may import `jax._src` or `jaxlib._jax`.
"""

# JAX's annotations are partial:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import compiler, dtypes
from jax._src import core as jax_core
from jax._src.interpreters import pxla
from jax._src.lib import _jax
from jaxlib.mlir import ir

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


def compile_replicas(module: Any, devices: Sequence[Any], host_callbacks: Sequence[Any]) -> Any:
    """Compiles a per-device module for `devices`, one replica each, in this order.

    `module` is an in-memory jaxlib module with `mhlo.num_replicas` = len(devices). JAX's persistent
    compilation cache is used where the user has switched it on.
    """
    count = len(devices)
    assignment = np.array([d.id for d in devices]).reshape(count, 1)
    options = compiler.get_compile_options(count, 1, assignment)
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


def result_handler(shape: Sequence[int], dtype: Any, sharding: Any) -> Callable[..., Any]:
    """Makes a global jax.Array of the devices' buffers, as jax.jit's own results are made."""
    aval = jax_core.ShapedArray(tuple(shape), np.dtype(dtype))
    return pxla.global_aval_to_result_handler(aval, sharding, True)


def execute(loaded: Any, arguments: Sequence[Any], handlers: Sequence[Any]) -> list[Any]:
    """One asynchronous run on all devices: sharded jax.Arrays in, global jax.Arrays out."""
    return loaded.execute_sharded(arguments).consume_with_handlers(handlers)


def lowered_parts(lowered: Any) -> dict[str, Any]:
    """What the public `Lowered` object does not tell: effects and host callbacks."""
    arguments = lowered._lowering.compile_args
    return {
        "host_callbacks": arguments["host_callbacks"],
        "keepalive": arguments["keepalive"],
        "ordered_effects": arguments["ordered_effects"],
        "unordered_effects": arguments["unordered_effects"],
    }


def is_key_dtype(dtype: Any) -> bool:
    """Whether a dtype is that of typed PRNG keys."""
    return jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def key_data_aval(aval: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of the integers behind an array of typed PRNG keys."""
    physical: Any = jax_core.physical_aval(aval)
    return tuple(physical.shape), physical.dtype


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
