"""Steps of `models/`, and each of them partitioned as auto-shard or an expert has it."""

from __future__ import annotations

import dataclasses
import importlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import autopar

autopar.init(devices=8)

import jax  # noqa: E402  (devices are set up before JAX starts)
import jax.numpy as jnp  # noqa: E402
from xdsl.dialects.builtin import ModuleOp  # noqa: E402

from autopar.dialects import make_context  # noqa: E402
from autopar.dialects.diagnostics import DiagnosticError  # noqa: E402
from autopar.dialects.sharding import Grid  # noqa: E402
from autopar.lowering.mlir_context import merge_equal_ops  # noqa: E402
from autopar.passes.collector import collector_off  # noqa: E402
from autopar.passes.cost.flops import flops_of  # noqa: E402
from autopar.passes.cost.liveness import memory_of  # noqa: E402
from autopar.passes.cost.prices import CostModel  # noqa: E402
from autopar.passes.cost.program import Price, price_of  # noqa: E402
from autopar.passes.cost.report import collectives_of  # noqa: E402
from autopar.passes.manager import run_passes  # noqa: E402
from autopar.passes.pipelines import BOUNDARY, DECIDE, IMPORT, PARTITION, PROPAGATE  # noqa: E402
from autopar.passes.planning.planner import make_plan  # noqa: E402
from autopar.passes.solver.solve import SolveOptions  # noqa: E402
from autopar.road import declare_mesh  # noqa: E402
from models.training import make_optimizer  # noqa: E402

from .experts import (  # noqa: E402
    Expert,
    marked,
    without_marks,
    write_arguments,
    write_constraints,
)

_TRANSFORMERS = ("gpt", "bert", "moe", "vit", "gpt_decode")


class Step(NamedTuple):
    """What is planned: a step, what it takes, what it gives away."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    donated: int
    paths: list[str]
    """Of the flat arguments."""


def config_of(model: str, layers: int | None, *, wide: bool = False) -> tuple[Any, Any]:
    """The module and the config of `gpt-1.3B`, with fewer layers (blocks of a level, for UNets and
    ResNets in the proportion of their stages); `wide`: in float32."""
    name, _, size = model.partition("-")
    module = importlib.import_module(f"models.{name}")
    config = module.SIZES[size]
    if wide and hasattr(config, "dtype"):
        config = dataclasses.replace(config, dtype=jnp.float32)
    if layers is not None:
        if name == "wide_resnet":
            share = min(1.0, layers / sum(config.stages))
            config = dataclasses.replace(
                config, stages=tuple(max(1, int(share * n)) for n in config.stages)
            )
        elif name == "unet":
            config = dataclasses.replace(config, blocks=max(1, layers // len(config.multipliers)))
        else:
            config = dataclasses.replace(config, num_layers=min(layers, config.num_layers))
    return module, config


def step_of(model: str, layers: int | None, batch: int, *, wide: bool = False) -> Step:
    module, config = config_of(model, layers, wide=wide)
    if model.startswith("gpt_decode"):
        cache = module.abstract_cache(config, batch)
        args = module.abstract_params(config), cache, module.abstract_tokens(batch)
        return Step(
            module.make_decode_step(config), args, 1, _paths(("params", "cache", "batch"), args)
        )
    optimizer = make_optimizer(1e-3, 100)
    args = module.abstract_state(config, optimizer), module.abstract_batch(config, batch)
    return Step(module.make_train_step(config, optimizer), args, 0, _paths(("", "batch"), args))


def _paths(names: Sequence[str], args: Sequence[Any]) -> list[str]:
    def spelled(name: str, path: Any) -> str:
        keys = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path)
        return "/".join([name] * bool(name) + [str(key) for key in keys])

    return [
        spelled(name, path)
        for name, arg in zip(names, args, strict=True)
        for path, _ in jax.tree_util.tree_flatten_with_path(arg)[0]
    ]


def lowered(step: Step) -> Any:
    """StableHLO with marks."""
    with marked():
        jitted = jax.jit(step.function, keep_unused=True, donate_argnums=step.donated)
        native = jitted.lower(*step.args).compiler_ir("stablehlo")
    merge_equal_ops(native)
    return native


def kind_of(model: str) -> dict[str, bool]:
    """What `experts_of` asks of a model."""
    name = model.partition("-")[0]
    return {
        "transformer": name in _TRANSFORMERS,
        "trains": name != "gpt_decode",
        "routes": name == "moe",
    }


# ---- Plans ---------------------------------------------------------------------------------------


class Figures(NamedTuple):
    """What a partitioned program comes to on a device."""

    name: str
    price: Price
    memory: int
    ring_bytes: float
    flops: int

    def __str__(self) -> str:
        gib, tera = self.memory / 2**30, self.flops / 1e12
        return (
            f"{1e3 * self.price.total:9.3f} ms, {gib:6.2f} GiB, "
            f"{self.ring_bytes / 2**20:8.1f} MiB sent, {tera:7.3f} TFLOP"
        )


def plan_in_place(
    module: ModuleOp, grid: Grid, prices: CostModel, limit: int | None
) -> dict[str, float]:
    """Writes auto-shard's plan into an imported module; the seconds of its parts, and of the passes
    before it."""
    context = make_context()
    began = time.perf_counter()
    without_marks(module)
    declare_mesh(module, grid)
    run_passes(module, IMPORT, context)
    took = time.perf_counter() - began
    with collector_off():
        planned = make_plan(module, context, prices, SolveOptions(60.0), limit)
    return {"passes before": took, **planned.seconds}


class Case:
    """A step on a grid."""

    def __init__(self, module: ModuleOp, paths: list[str], grid: Grid) -> None:
        self._module, self._paths, self.grid = module, paths, grid
        self._context = make_context()
        self.seconds: dict[str, float] = {}
        """Of auto-shard's parts, and of the passes before it, in the last `auto`."""

    def auto(self, prices: CostModel, limit: int | None) -> ModuleOp:
        """The partitioned program as auto-shard plans it."""
        module = self._module.clone()
        self.seconds = plan_in_place(module, self.grid, prices, limit)
        return self._partitioned(module)

    def expert(self, expert: Expert) -> ModuleOp:
        """The partitioned program with an expert's shardings."""
        module = self._module.clone()
        write_constraints(module, expert, self.grid)
        declare_mesh(module, self.grid)
        run_passes(module, IMPORT, self._context)
        write_arguments(module, self._paths, expert, self.grid)
        run_passes(module, (*PROPAGATE, *BOUNDARY), self._context)
        return self._partitioned(module)

    def _partitioned(self, module: ModuleOp) -> ModuleOp:
        run_passes(module, (*DECIDE, *PARTITION), self._context)
        return module


def figures_of(name: str, partitioned: ModuleOp, prices: CostModel) -> Figures:
    return Figures(
        name,
        price_of(partitioned, prices),
        memory_of(partitioned).peak,
        sum(use.num_bytes * use.times for use in collectives_of(partitioned)),
        flops_of(partitioned),
    )


def limit_of(memory: str, prices: CostModel, experts: Sequence[Figures]) -> int:
    """The bytes that a device may hold: its own, or just what the thriftiest expert needs."""
    own = prices.links.cluster.device.memory_bytes
    return own if memory == "device" else min(own, int(1.05 * min(e.memory for e in experts)))


def without_plan(error: DiagnosticError, experts: Sequence[Figures], limit: int) -> float:
    """Prints why auto-shard has no plan; inf where an expert has one, nan where none fits."""
    thriftiest = min(experts, key=lambda figures: figures.memory)
    print(f"  no plan: {str(error).splitlines()[0]}", flush=True)
    print(f"  thriftiest: {thriftiest.name} {thriftiest}", flush=True)
    return math.inf if thriftiest.memory <= limit else math.nan
