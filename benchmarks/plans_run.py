"""Both plans as they are compiled and as they run, on 8 virtual CPU devices.

A referee that has no part in the planner: collectives, FLOPs and bytes are read from what XLA made.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from xdsl.dialects.builtin import ModuleOp

from autopar.compiled import peak_bytes
from autopar.dialects import make_context
from autopar.dialects.sharding import Grid
from autopar.lowering.program import device_program
from autopar.passes.manager import run_passes
from autopar.passes.pipelines import LOWER
from autopar.runtime.embedded import MeshExecutable

from .experts import Expert, jitted_as
from .hlo_text import Module, parse


class Compiled(NamedTuple):
    """A plan as XLA compiled it."""

    name: str
    run: Callable[..., Any]
    """Takes flat arguments that lie as `shardings` say, gives flat results."""
    shardings: list[Any]
    hlo: Module
    memory: Any

    @property
    def peak(self) -> int:
        """Bytes of arguments, results and temporaries of a device."""
        return peak_bytes(self.memory)


def compiled_ours(name: str, partitioned: ModuleOp) -> Compiled:
    """A partitioned module, compiled and run by autopar's runtime."""
    run_passes(partitioned, LOWER, make_context())
    program = device_program(partitioned)
    executable = MeshExecutable(program, jax.devices()[: program.grid.num_devices])
    (hlo,) = executable.loaded.hlo_modules()
    memory = executable.loaded.get_compiled_memory_stats()
    return Compiled(
        name, executable.run, executable.input_shardings, parse(hlo.to_string()), memory
    )


def compiled_jit(step: Any, expert: Expert, grid: Grid) -> Compiled:
    """An expert's plan by plain `jax.jit`, its shardings on arguments, results and activations."""
    mesh = Mesh(np.array(jax.devices()).reshape(grid.shape), grid.axis_names)
    leaves, tree = jax.tree.flatten(step.args)
    shardings = [
        NamedSharding(mesh, P(*expert.argument(path, leaf.shape, grid)))
        for path, leaf in zip(step.paths, leaves, strict=True)
    ]
    laid_out = jax.tree.unflatten(tree, shardings)
    kept = laid_out[step.donated]
    results = (None, kept) if step.donated else (kept, None)
    with jitted_as(expert, grid, mesh):
        jitted = jax.jit(
            lambda *args: step.function(*args),  # traced anew
            in_shardings=laid_out,
            out_shardings=results,
            donate_argnums=step.donated,
            keep_unused=True,
        )
        executable = jitted.lower(*step.args).compile()

    def run(leaves: list[Any]) -> list[Any]:
        return jax.tree.leaves(executable(*jax.tree.unflatten(tree, leaves)))

    return Compiled(
        f"{expert.name} by jax.jit", run, shardings, parse(executable.as_text()),
        executable.memory_analysis(),
    )  # fmt: skip


def random_arguments(step: Any) -> list[np.ndarray[Any, Any]]:
    """Flat arguments; small, so that no loss overflows."""
    random = np.random.default_rng(0)

    def value(leaf: Any, path: str) -> np.ndarray[Any, Any]:
        if np.issubdtype(leaf.dtype, np.floating):
            made = 0.05 * random.standard_normal(leaf.shape)
            return np.asarray(np.abs(made) if "nu/" in path else made).astype(leaf.dtype)
        return random.integers(0, 2, leaf.shape).astype(leaf.dtype)

    leaves = jax.tree.leaves(step.args)
    return [value(leaf, path) for leaf, path in zip(leaves, step.paths, strict=True)]


def measured(plans: list[Compiled], step: Any, rounds: int) -> list[float]:
    """The least seconds of a step of each plan, all plans by turns; their losses must agree.

    Results of a step that are arguments of the next stand where these do: first for a training
    step, last for a decoding one.
    """
    values = random_arguments(step)
    kept = jax.tree.structure(step.args[step.donated]).num_leaves
    at = 0 if step.donated == 0 else jax.tree.structure(step.args[0]).num_leaves
    states = [
        [jax.device_put(v, s) for v, s in zip(values, plan.shardings, strict=True)]
        for plan in plans
    ]
    best = [float("inf")] * len(plans)
    for round_ in range(rounds + 2):
        losses: list[Any] = []
        for index, plan in enumerate(plans):
            began = time.perf_counter()
            results = jax.block_until_ready(plan.run(states[index]))
            took = time.perf_counter() - began
            if round_ >= 2:
                best[index] = min(best[index], took)
            is_first = at == 0
            fresh = results[:kept] if is_first else results[-kept:]
            losses.append(np.asarray(results[-1] if is_first else results[0], np.float32))
            states[index][at : at + kept] = fresh
        if round_ == 0:
            for loss in losses[1:]:
                np.testing.assert_allclose(loss, losses[0], rtol=2e-2, atol=1e-4)
    return best
