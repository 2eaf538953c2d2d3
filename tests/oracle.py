"""The differential oracle: a partitioned program gives what the unpartitioned one gives.

`check(fn, args, grid, shardings)` lowers a JAX function, annotates its arguments, runs the road
and compares with plain `jax.jit` on one device; `check_text` does so with StableHLO text, for ops
that JAX does not lower to on CPU. Padding of arguments is filled with NaN (or the largest integer),
so that a result that reads padding is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from xdsl.dialects.builtin import UnitAttr

from autopar.dialects import make_context
from autopar.dialects.autopar import FREE_EARLY, set_arg_shardings, set_result_shardings
from autopar.dialects.constants import numpy_dtype
from autopar.dialects.shard import find_grid, make_grid_op
from autopar.dialects.sharding import DimSharding, Grid, Sharding
from autopar.lowering.importer import import_module
from autopar.lowering.jax_compat import compile_replicas, execute, result_handler
from autopar.lowering.parse import parse_native
from autopar.lowering.program import Layout, device_program
from autopar.passes.entry import main_function
from autopar.passes.manager import run_passes
from autopar.passes.pipelines import DECIDE, IMPORT, LOWER, PARTITION, PROPAGATE
from autopar.passes.planning.auto_shard import AutoShardPass
from autopar.runtime.embedded import MeshExecutable, fetch, padded_shape

Dims = Sequence[Sequence[str]]
FAST_LINKS = str(Path(__file__).with_name("fast_links.toml"))
AUTO_SHARD = (AutoShardPass(cluster=FAST_LINKS),)
"""To plan in the place of `PROPAGATE`: as dear as links are else, little of these programs is
split."""


def spmd_module(
    fn: Callable[..., Any],
    args: Sequence[Any],
    grid: Grid,
    shardings: Sequence[Dims | None],
    result_shardings: Sequence[Dims | None] | None = None,
    *,
    lower: bool = True,
    free_early: bool = False,
) -> Any:
    """The partitioned module (per-device StableHLO, or L2 with `lower=False`)."""
    native = jax.jit(fn, keep_unused=True).lower(*args).compiler_ir("stablehlo")
    return partitioned(
        native, grid, shardings, result_shardings, lower=lower, free_early=free_early
    )


def partitioned(
    native: Any,
    grid: Grid,
    shardings: Sequence[Dims | None],
    result_shardings: Sequence[Dims | None] | None = None,
    *,
    lower: bool = True,
    free_early: bool = False,
) -> Any:
    """As `spmd_module`, of jaxlib's in-memory module."""
    module = import_module(native)
    context = make_context()
    run_passes(module, IMPORT, context)
    if find_grid(module) is None:
        block = module.body.block
        block.insert_op_before(make_grid_op(grid), block.first_op)
    func = main_function(module)
    set_arg_shardings(func, [_sharding(grid, s) for s in shardings])
    if result_shardings is not None:
        set_result_shardings(func, [_sharding(grid, s) for s in result_shardings])
    if free_early:
        func.attributes[FREE_EARLY] = UnitAttr()
    run_passes(module, (*PROPAGATE, *DECIDE, *PARTITION), context)
    if lower:
        run_passes(module, LOWER, context)
    return module


def _sharding(grid: Grid, dims: Dims | None) -> Sharding | None:
    if dims is None:
        return None
    closed = Sharding.of(grid.name, dims)
    return Sharding(grid.name, tuple(DimSharding(d.axes) for d in closed.dims))


def run(module: Any, args: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    """Runs a per-device module on global host arrays; gives global host arrays."""
    program = device_program(module)
    executable = MeshExecutable(program, jax.devices()[: program.grid.num_devices])
    placed = [
        jax.device_put(_poisoned(np.asarray(arg), layout, program.grid), sharding)
        for arg, layout, sharding in zip(
            args, program.arguments, executable.input_shardings, strict=True
        )
    ]
    results = executable.run(placed)
    return [fetch(r, layout) for r, layout in zip(results, program.results, strict=True)]


def _poisoned(array: np.ndarray[Any, Any], layout: Layout, grid: Grid) -> np.ndarray[Any, Any]:
    padded = padded_shape(layout, grid)
    if padded == array.shape:
        return array
    if array.dtype.kind in "iu":
        poison: Any = np.iinfo(array.dtype).max
    else:
        poison = True if array.dtype == np.bool_ else np.nan
    result = np.full(padded, poison, array.dtype)
    result[tuple(slice(0, size) for size in array.shape)] = array
    return result


def check(
    fn: Callable[..., Any],
    args: Sequence[Any],
    grid: Grid,
    shardings: Sequence[Dims | None],
    result_shardings: Sequence[Dims | None] | None = None,
    *,
    reference: Callable[..., Any] | None = None,
    free_early: bool = False,
    rtol: float = 2e-5,
    atol: float = 2e-5,
) -> Any:
    """Asserts that the partitioned program equals the unpartitioned; gives its module.

    `reference`: what to compare with, where `fn` itself cannot run on one device. `free_early`: the
    pass of that name does its part.
    """
    expected = jax.tree.leaves(jax.jit(reference or fn)(*args))
    module = spmd_module(fn, args, grid, shardings, result_shardings, free_early=free_early)
    _assert_close(run(module, args), expected, rtol, atol)
    return module


def check_text(
    text: str,
    args: Sequence[Any],
    grid: Grid,
    shardings: Sequence[Dims | None],
    result_shardings: Sequence[Dims | None] | None = None,
    *,
    rtol: float = 2e-5,
    atol: float = 2e-5,
) -> Any:
    """As `check`, of a module in text with one function @main."""
    module = partitioned(parse_native(text), grid, shardings, result_shardings)
    _assert_close(run(module, args), run_on_one(text, args), rtol, atol)
    return module


def run_on_one(text: str, args: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    """Runs an unpartitioned module in text on one device."""
    device = jax.devices()[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    results = main_function(import_module(parse_native(text))).function_type.outputs
    avals = [
        jax.ShapeDtypeStruct(type.get_shape(), numpy_dtype(type.element_type)) for type in results
    ]
    loaded = compile_replicas(parse_native(text), [device], ())
    handlers = [result_handler(aval, sharding) for aval in avals]
    placed = [jax.device_put(np.asarray(arg), sharding) for arg in args]
    return [np.asarray(result) for result in execute(loaded, placed, handlers)]


def _assert_close(
    results: Sequence[Any], expected: Sequence[Any], rtol: float, atol: float
) -> None:
    assert len(results) == len(expected)
    for index, (result, reference) in enumerate(zip(results, expected, strict=True)):
        np.testing.assert_allclose(
            result.astype(np.float64) if result.dtype.kind in "fV" else result,
            np.asarray(reference).astype(np.float64)
            if result.dtype.kind in "fV"
            else np.asarray(reference),
            rtol=rtol,
            atol=atol,
            err_msg=f"result {index}",
        )
