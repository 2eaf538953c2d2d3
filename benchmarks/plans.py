"""auto-shard against the plans of experts, by the cost model and by what XLA compiles.

    python -m benchmarks.plans [--models gpt-350M,moe-380M,…] [--layers 4] [--grids 8,2x4,…]
        [--clusters 8xv100,8xh100] [--memory device,tight] [--compiled | --measure] [--best 3]

A model is a module of `models/` and one of its sizes. For each case every expert plan
(`benchmarks/experts.py`) is written on the same StableHLO as annotations, propagated and
partitioned; auto-shard plans it without them. Printed are the modelled time of a step of both
partitioned programs, and what stands behind it: ring bytes, FLOPs and memory of a device. Experts
that need more than a device's memory do not count; `--memory tight` allows only what the thriftiest
expert needs, and 5 % more. In the end the worst ratio auto / best expert, and the geometric mean.

`--compiled` compiles auto's plan and the `--best` experts by the model (0: all) for 8 virtual CPU
devices, experts also by plain `jax.jit`, and prices what stands in the executables
(`benchmarks/hlo_price.py`); an expert counts if its executable fits. Models are in float32 there,
as XLA's CPU backend widens what is narrower. `--measure` runs the plans. Both take the models'
smallest sizes where none are given.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from itertools import product

from autopar.dialects.diagnostics import DiagnosticError
from autopar.lowering.importer import import_module
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.cost.program import Price

from . import options
from .cases import Case, Figures, figures_of, kind_of, limit_of, lowered, step_of, without_plan
from .experts import experts_of
from .plans_compiled import compiled_ratios, measured_ratios

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
SMALL = (
    "gpt-mini", "bert-mini", "moe-mini", "wide_resnet-tiny", "unet-tiny", "vit-mini", "mlp-mini",
    "gpt_decode-mini",
)  # fmt: skip
"""Sizes that this machine runs."""


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
    case: Case, found: list[Figures], prices: CostModel, memory: str, *, verbose: bool
) -> float:
    """Prints a case; gives the ratio, or what `without_plan` says."""
    limit = limit_of(memory, prices, found)
    try:
        auto = figures_of("auto", case.auto(prices, limit), prices)
    except DiagnosticError as error:
        return without_plan(error, found, limit)
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
    """The worst ratio and the geometric mean, and where there is no plan."""
    lost = [case for case, ratio in ratios.items() if math.isinf(ratio)]
    found = {case: ratio for case, ratio in ratios.items() if math.isfinite(ratio)}
    text = f"{len(ratios)} cases"
    if len(found) < len(ratios):
        text += f", {len(ratios) - len(found) - len(lost)} in which no plan fits"
    if lost:
        text += f", {len(lost)} in which only experts' plans fit ({', '.join(lost)})"
    if found:
        worst = max(found, key=lambda case: found[case])
        mean = math.exp(sum(math.log(ratio) for ratio in found.values()) / len(found))
        above = sum(ratio > 1.0005 for ratio in found.values())
        text += f", {above} above 1.00: worst {found[worst]:.4f} ({worst}), mean {mean:.4f}"
    return text


def modelled(args: argparse.Namespace) -> dict[str, float]:
    """Compares by the cost model."""
    ratios: dict[str, float] = {}
    for model in args.models:
        for grid in args.grids:
            batch = (args.batch or MODELS.get(model, 32)) * grid.num_devices // 8
            step = step_of(model, args.layers or None, batch)
            began = time.perf_counter()
            native = lowered(step)
            lower = time.perf_counter() - began
            module = import_module(native)
            took = time.perf_counter() - began - lower
            case = Case(module, step.paths, grid)
            experts = {one.name: case.expert(one) for one in experts_of(grid, **kind_of(model))}
            for preset, memory in product(args.clusters, args.memory):
                title = f"{model} {options.grid_text(grid)} {preset} {memory}"
                print(
                    f"{title}: batch {batch}, {len(experts)} experts, "
                    f"JAX lowers in {lower:.1f} s, import {took:.1f} s",
                    flush=True,
                )
                prices = CostModel.of(read_cluster(preset), grid)
                found = [figures_of(name, module, prices) for name, module in experts.items()]
                ratios[title] = compare(case, found, prices, memory, verbose=args.verbose)
    return ratios


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace, *, runs: bool) -> None:
    """Exits with one line where options do not go together."""
    if args.measure and args.memory:
        parser.error("--memory: what runs is planned without a limit: leave it out")
    if runs and args.verbose:
        parser.error("--verbose is of modelled plans: leave it out")
    for grid, cluster in product(args.grids, args.clusters):
        if runs and grid.num_devices != 8:
            parser.error(f"--grids {options.grid_text(grid)}: plans are compiled for 8 devices")
        options.check_size(parser, grid, cluster)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    several = options.listed
    parser.add_argument(
        "--models", type=several(options.model), help="names and sizes, as gpt-1.3B,moe-380M"
    )
    parser.add_argument(
        "--layers", type=options.at_least(0), default=4, help="at most (4); 0: as the size says"
    )
    parser.add_argument(
        "--batch",
        type=options.at_least(1),
        help="examples on 8 devices, more on more (each model's own; 16 where plans are compiled)",
    )
    parser.add_argument("--grids", type=several(options.grid), default="2x4", help="as 8,2x4 (2x4)")
    parser.add_argument(
        "--clusters",
        type=several(options.cluster),
        help="presets and files (8xh100; with --measure cpu)",
    )
    parser.add_argument(
        "--memory",
        type=several(options.one_of(("device", "tight"))),
        help="device, tight, or device,tight (device); not with --measure",
    )
    parser.add_argument(
        "--verbose",
        action="store_true",
        help="every expert; splits of times; where nothing is compiled",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--compiled", action="store_true", help="read what XLA compiles")
    kinds.add_argument("--measure", action="store_true", help="run what XLA compiles")
    parser.add_argument(
        "--best", type=options.at_least(0), default=3, help="experts that are compiled (3); 0: all"
    )
    parser.add_argument(
        "--rounds",
        type=options.at_least(1),
        default=20,
        help="steps of which the fastest counts (20)",
    )
    args = parser.parse_args()
    runs = args.compiled or args.measure
    args.models = args.models or list(SMALL if runs else MODELS)
    args.clusters = args.clusters or ["cpu" if args.measure else "8xh100"]
    _check(parser, args, runs=runs)
    args.memory = args.memory or ["device"]
    compared = measured_ratios if args.measure else compiled_ratios if runs else modelled
    print(summary(compared(args)))


if __name__ == "__main__":
    main()
