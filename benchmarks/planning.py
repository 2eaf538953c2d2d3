"""How long auto-shard takes, beside JAX's own lowering of the same step.

    python -m benchmarks.planning [--steps gpt-350M:2x4,gpt-175B:8x8] [--layers N] [--profile]

From StableHLO in memory to the planned module: import, reading the program as a graph, search,
writing the plan, and partitioning plans to see what they take. Seconds are CPU seconds of this
process, as planning runs on one core, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import cProfile
import time
from contextlib import nullcontext
from pstats import Stats

from autopar.dialects.sharding import Grid
from autopar.lowering.importer import import_module
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel

from . import options
from .cases import lowered, plan_in_place, step_of

STEPS = "gpt-350M:2x4,wide_resnet-250M:2x4,unet-36M:2x4,unet-36M:2x2x2,gpt-175B:8x8"


def _step(text: str) -> tuple[str, Grid]:
    """A model and a grid, as gpt-350M:2x4."""
    name, _, shape = text.partition(":")
    return options.model(name), options.grid(shape or "2x4")


def measure(name: str, grid: Grid, args: argparse.Namespace) -> None:
    """Prints the seconds of a step's parts."""
    prices = CostModel.of(read_cluster(args.cluster), grid)
    step = step_of(name, args.layers, args.batch or grid.num_devices)
    start = time.process_time()
    native = lowered(step)
    lowering = time.process_time() - start
    profiler = cProfile.Profile() if args.profile else None
    start = time.process_time()
    with profiler or nullcontext():
        imported = import_module(native)
        read = time.process_time() - start
        seconds = plan_in_place(imported, grid, prices, prices.links.cluster.device.memory_bytes)
    took = time.process_time() - start
    seconds = {"import": read, **seconds}
    parts = ", ".join(f"{part} {own:.1f}" for part, own in seconds.items())
    print(
        f"{name} {options.grid_text(grid)}: auto-shard {took:.1f} s ({parts}); "
        f"JAX lowers in {lowering:.1f} s, ratio {took / lowering:.2f}",
        flush=True,
    )
    if profiler is not None:
        Stats(profiler).sort_stats("tottime").print_stats(40)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--steps",
        type=options.listed(_step),
        default=STEPS,
        help="models and sizes of models/, and grids",
    )
    count = options.at_least(1)
    parser.add_argument("--layers", type=count, help="at most; else as the size says")
    parser.add_argument("--batch", type=count, help="examples in all; else one for each device")
    parser.add_argument(
        "--cluster", type=options.cluster, default="8xh100", help="a preset or a file"
    )
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    args = parser.parse_args()
    for _, grid in args.steps:
        options.check_size(parser, grid, args.cluster)
    for name, grid in args.steps:
        measure(name, grid, args)


if __name__ == "__main__":
    main()
