"""auto-shard against the plans of experts, by the cost model.

    python -m benchmarks.plans [--models gpt-350M,moe-380M,…] [--layers 4] [--grids 8,2x4,…]
        [--clusters 8xv100,8xh100] [--memory device|tight] [--compiled] [--measure]

A model is a module of `models/` and one of its sizes. For each case every expert plan
(`benchmarks/experts.py`) is written on the same StableHLO as annotations, propagated and
partitioned; auto-shard plans it without them. Printed are the modelled time of a step of both
partitioned programs, and what stands behind it: ring bytes, FLOPs and memory of a device. Experts
that need more than a device's memory do not count; `--memory tight` allows only what the thriftiest
expert needs, and 5 % more. In the end the worst ratio auto / best expert, and the geometric mean.

`--compiled` and `--measure` take the models' smallest sizes, on 8 virtual CPU devices: collective
bytes and memory of the executables that XLA makes of both plans, and their step times.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import autopar

autopar.init(devices=8)

import jax  # noqa: E402  (devices are set up before JAX starts)
from xdsl.dialects.builtin import ModuleOp  # noqa: E402

from autopar.dialects import make_context  # noqa: E402
from autopar.dialects.diagnostics import DiagnosticError  # noqa: E402
from autopar.dialects.sharding import Grid  # noqa: E402
from autopar.lowering.importer import import_module  # noqa: E402
from autopar.lowering.mlir_context import merge_equal_ops  # noqa: E402
from autopar.passes.collector import collector_off  # noqa: E402
from autopar.passes.cost.cluster import read_cluster  # noqa: E402
from autopar.passes.cost.flops import flops_of  # noqa: E402
from autopar.passes.cost.liveness import memory_of  # noqa: E402
from autopar.passes.cost.prices import CostModel  # noqa: E402
from autopar.passes.cost.program import Price, price_of  # noqa: E402
from autopar.passes.cost.report import collectives_of  # noqa: E402
from autopar.passes.importing.grid_option import parse_grid  # noqa: E402
from autopar.passes.manager import run_passes  # noqa: E402
from autopar.passes.pipelines import BOUNDARY, DECIDE, IMPORT, PARTITION, PROPAGATE  # noqa: E402
from autopar.passes.planning.planner import make_plan  # noqa: E402
from autopar.passes.solver.solve import SolveOptions  # noqa: E402
from autopar.road import declare_mesh  # noqa: E402
from models.training import make_optimizer  # noqa: E402

from .experts import (  # noqa: E402
    Expert,
    experts_of,
    marked,
    without_marks,
    write_arguments,
    write_constraints,
)
from .plans_run import compiled_jit, compiled_ours, measured  # noqa: E402

MODELS = {
    "gpt-350M": 32,
    "gpt-1.3B": 32,
    "bert-340M": 64,
    "moe-380M": 32,
    "vit-L16": 128,
    "wide_resnet-250M": 64,
    "unet-36M": 64,
    "mlp-134M": 1024,
    "gpt_decode-1.3B": 32,
}
"""The cases of a plain run, with the examples of a batch on 8 devices."""
_TRANSFORMERS = ("gpt", "bert", "moe", "vit", "gpt_decode")
SMALL = (
    "gpt-mini", "bert-mini", "moe-mini", "wide_resnet-tiny", "unet-tiny", "vit-mini", "mlp-mini",
    "gpt_decode-mini",
)  # fmt: skip
"""Sizes that this machine runs."""


class Step(NamedTuple):
    """What is planned: a step, what it takes, what it gives away."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    donated: int
    paths: list[str]
    """Of the flat arguments."""


def config_of(model: str, layers: int | None) -> tuple[Any, Any]:
    """The module and the config of `gpt-1.3B`, with fewer layers (blocks of a level, for UNets and
    ResNets in the proportion of their stages)."""
    name, _, size = model.partition("-")
    module = importlib.import_module(f"models.{name}")
    config = module.SIZES[size]
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


def step_of(model: str, layers: int | None, batch: int) -> Step:
    module, config = config_of(model, layers)
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


class Case:
    """A step on a grid."""

    def __init__(self, module: ModuleOp, paths: list[str], grid: Grid) -> None:
        self._module, self._paths, self.grid = module, paths, grid
        self._context = make_context()
        self.seconds: dict[str, float] = {}
        """Of auto-shard's parts, and of the passes before it."""

    def auto(self, prices: CostModel, limit: int | None) -> ModuleOp:
        """The partitioned program as auto-shard plans it."""
        module = self._module.clone()
        without_marks(module)
        declare_mesh(module, self.grid)
        began = time.perf_counter()
        run_passes(module, IMPORT, self._context)
        took = time.perf_counter() - began
        with collector_off():
            planned = make_plan(module, self._context, prices, SolveOptions(60.0), limit)
        self.seconds = {"import": took, **planned.seconds}
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


# ---- Comparing -----------------------------------------------------------------------------------


def ratio_of(auto: Figures, experts: Sequence[Figures], limit: float) -> tuple[float, Figures]:
    """auto / the best expert that fits (the thriftiest where none does), and that expert."""
    fitting = [found for found in experts if found.memory <= limit]
    if fitting:
        best = min(fitting, key=lambda found: found.price.total)
    else:
        best = min(experts, key=lambda found: found.memory)
    return auto.price.total / best.price.total, best


def compare(
    case: Case, experts: dict[str, ModuleOp], prices: CostModel, memory: str, *, verbose: bool
) -> float:
    """Prints a case; gives the ratio, inf where auto-shard finds no plan."""
    found = [figures_of(name, module, prices) for name, module in experts.items()]
    limit = prices.links.cluster.device.memory_bytes
    if memory == "tight":
        limit = min(limit, int(1.05 * min(figures.memory for figures in found)))
    try:
        auto = figures_of("auto", case.auto(prices, limit), prices)
    except DiagnosticError as error:
        print(f"  no plan: {str(error).splitlines()[0]}", flush=True)
        return math.inf
    ratio, best = ratio_of(auto, found, limit)
    found.sort(key=lambda figures: figures.price.total)
    for figures in (auto, *(found if verbose else found[:3])):
        mark = "" if figures.memory <= limit else "   does not fit"
        print(f"  {figures.name:32} {figures}{mark}", flush=True)
    if verbose:
        for figures in (auto, best):
            print(f"  {figures.name}: {_split(figures.price)}")
    parts = ", ".join(f"{name} {took:.1f}" for name, took in case.seconds.items())
    print(f"  auto / {best.name} = {ratio:.4f}   auto-shard s: {parts}", flush=True)
    return ratio


def _split(price: Price) -> str:
    rows = sorted(price.communication.items(), key=lambda item: -item[1])
    moved = ", ".join(f"{kind}({','.join(axes)}) {1e3 * took:.3f}" for (kind, axes), took in rows)
    return f"compute {1e3 * price.compute:.3f}, memory {1e3 * price.memory:.3f}, {moved}"


def summary(ratios: dict[str, float]) -> str:
    """The worst ratio and the geometric mean."""
    worst = max(ratios, key=lambda case: ratios[case])
    mean = math.exp(sum(math.log(ratio) for ratio in ratios.values()) / len(ratios))
    above = sum(ratio > 1.0005 for ratio in ratios.values())
    return (
        f"{len(ratios)} cases, {above} above 1.00: worst {ratios[worst]:.4f} ({worst}), "
        f"geometric mean {mean:.4f}"
    )


def kind_of(model: str) -> dict[str, bool]:
    """What `experts_of` asks of a model."""
    name = model.partition("-")[0]
    return {
        "transformer": name in _TRANSFORMERS,
        "trains": name != "gpt_decode",
        "routes": name == "moe",
    }


def modelled(args: argparse.Namespace) -> dict[str, float]:
    """Compares by the cost model."""
    ratios: dict[str, float] = {}
    for model in args.models.split(","):
        for shape in args.grids.split(","):
            grid = parse_grid(shape)
            batch = (args.batch or MODELS.get(model, 32)) * grid.num_devices // 8
            step = step_of(model, args.layers or None, batch)
            began = time.perf_counter()
            native = lowered(step)
            lower = time.perf_counter() - began
            module = import_module(native)
            took = time.perf_counter() - began - lower
            case = Case(module, step.paths, grid)
            experts = {one.name: case.expert(one) for one in experts_of(grid, **kind_of(model))}
            for preset in args.clusters.split(","):
                title = f"{model} {shape} {preset}"
                print(
                    f"{title}: batch {batch}, {len(experts)} experts, "
                    f"JAX lowers in {lower:.1f} s, import {took:.1f} s",
                    flush=True,
                )
                prices = CostModel.of(read_cluster(preset), grid)
                ratios[title] = compare(case, experts, prices, args.memory, verbose=args.verbose)
    return ratios


def on_this_machine(args: argparse.Namespace) -> dict[str, float]:
    """Compares what XLA compiles of the models' smallest sizes, or what the clock says of it."""
    ratios: dict[str, float] = {}
    for model in args.models.split(","):
        step = step_of(model, args.layers or None, args.batch or 16)
        module = import_module(lowered(step))
        for shape in args.grids.split(","):
            grid = parse_grid(shape)
            case = Case(module, step.paths, grid)
            experts = {one.name: one for one in experts_of(grid, **kind_of(model))}
            modules = {name: case.expert(one) for name, one in experts.items()}
            for preset in args.clusters.split(","):
                title = f"{model} {shape} {preset}"
                prices = CostModel.of(read_cluster(preset), grid)
                seconds_of = {
                    name: price_of(module, prices).total for name, module in modules.items()
                }
                best = min(seconds_of, key=lambda name: seconds_of[name])
                plans = [
                    compiled_ours("auto", case.auto(prices, None)),
                    compiled_ours(f"{best} by autopar", modules[best].clone()),
                    compiled_jit(step, experts[best], grid),
                ]
                print(title, flush=True)
                seconds = [plan.seconds(grid, prices) for plan in plans]
                if args.measure:
                    seconds = measured(plans, step, args.rounds)
                for plan, took in zip(plans, seconds, strict=True):
                    text = plan.describe(grid, prices)
                    took_ms = f"{1e3 * took:9.3f} ms measured" if args.measure else ""
                    print(f"  {plan.name:32} {took_ms} {text}", flush=True)
                ratios[title] = seconds[0] / seconds[-1]
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", help="names and sizes, as gpt-1.3B,moe-380M")
    parser.add_argument("--layers", type=int, default=4, help="at most; 0: as the size says")
    parser.add_argument("--batch", type=int, help="examples on 8 devices; more on more")
    parser.add_argument("--grids", default="2x4")
    parser.add_argument("--clusters", help="presets and files (8xh100; on this machine cpu)")
    parser.add_argument("--memory", choices=("device", "tight"), default="device")
    parser.add_argument("--verbose", action="store_true", help="every expert; splits of times")
    parser.add_argument("--compiled", action="store_true", help="read what XLA compiles")
    parser.add_argument("--measure", action="store_true", help="run what XLA compiles")
    parser.add_argument("--rounds", type=int, default=20, help="steps of which the fastest counts")
    args = parser.parse_args()
    runs = args.compiled or args.measure
    args.models = args.models or ",".join(SMALL if runs else MODELS)
    args.clusters = args.clusters or ("cpu" if runs else "8xh100")
    print(summary(on_this_machine(args) if runs else modelled(args)))


if __name__ == "__main__":
    main()
