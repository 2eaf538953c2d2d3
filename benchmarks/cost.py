"""The cost model against what XLA compiles and what the clock says.

    python -m benchmarks.cost [--plans mlp-dp,gpt-zero3,…] [--rounds 12] [--cluster FILE]

Plans of the programs of `benchmarks.spine`, on 8 devices; without --cluster these are measured
first. For each plan: ring bytes of the collectives (ours / those of the compiled HLO), peak memory
(arguments + results + temporaries; ours / XLA's), step time (predicted, measured). In the end
Kendall's tau of predicted against measured times, of all pairs and of those that differ by more
than 10 %.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import autopar

autopar.init(devices=8)

import jax  # noqa: E402  (devices are set up before JAX starts)
import numpy as np  # noqa: E402

from autopar.compiled import peak_bytes  # noqa: E402
from autopar.dialects.shard import user_grid  # noqa: E402
from autopar.passes.cost.cluster import Cluster, read_cluster  # noqa: E402
from autopar.passes.cost.liveness import memory_of  # noqa: E402
from autopar.passes.cost.prices import CostModel  # noqa: E402
from autopar.passes.cost.program import Price, price_of  # noqa: E402
from autopar.passes.cost.report import collectives_of  # noqa: E402
from autopar.profile_cluster import Request, profile  # noqa: E402
from autopar.terminal import Progress  # noqa: E402

from . import options, spine  # noqa: E402
from .hlo_bytes import total_bytes  # noqa: E402

PLANS = {
    "mlp-dp": ("mlp", "dp"),
    "mlp-zero2": ("mlp", "zero2"),
    "mlp-zero3": ("mlp", "zero3"),
    "gpt-dp": ("gpt-dp", "dp"),
    "gpt-zero2": ("gpt-dp", "zero2"),
    "gpt-zero3": ("gpt-zero3", "zero3"),
    "gpt-tp": ("gpt-tp", "shard"),
    "gpt-2d": ("gpt-2d", "shard"),
    "resnet-dp": ("resnet", "dp"),
    "resnet-zero2": ("resnet", "zero2"),
    "resnet-zero3": ("resnet", "zero3"),
}
"""A program of the spine, and the method."""


class Plan(NamedTuple):
    """One compiled plan with what was predicted for it."""

    name: str
    price: Price
    bytes_ratio: float
    memory_ratio: float
    step: Any
    state: list[Any]
    """The state between steps, and the batch."""


def compiled(name: str, cluster: Cluster) -> Plan:
    """Compiles a plan and compares what can be read off the executable."""
    source, method = PLANS[name]
    program = spine.PROGRAMS[source]()
    parallel = autopar.parallelize(
        program.step,
        method=method,
        mesh=jax.tree.leaves(program.state_sharding)[0].mesh,
        donate_argnums=0,
        batch_argnums=None if method == "shard" else 1,
    )
    state = jax.device_put(program.state, program.state_sharding)
    batch = jax.device_put(program.batch, program.batch_sharding)
    lowered = parallel.lower(state, batch)
    module = lowered.road.at("spmd")
    executable = lowered.compile()
    moved = sum(use.num_bytes * use.times for use in collectives_of(module))
    return Plan(
        name,
        price_of(module, CostModel.of(cluster, user_grid(module))),
        moved / total_bytes(executable.as_text(), 8),
        memory_of(module).peak / peak_bytes(executable.memory_analysis()),
        parallel,
        [state, batch],
    )


def measured(plans: Sequence[Plan], rounds: int) -> list[float]:
    """The median step time of each plan in seconds, all plans by turns."""
    times: list[list[float]] = [[] for _ in plans]
    for round_ in range(rounds + 2):
        for plan, own in zip(plans, times, strict=True):
            began = time.perf_counter()
            plan.state[0], loss = plan.step(*plan.state)
            jax.block_until_ready((plan.state[0], loss))
            if round_ >= 2:
                own.append(time.perf_counter() - began)
    return [statistics.median(own) for own in times]


def kendall_tau(pairs: Sequence[tuple[float, float]], apart: float = 0.0) -> tuple[float, int]:
    """tau-a: the share of pairs (predicted, measured) in the same order minus that in the other, of
    those whose measured times differ by more than `apart`; and how many these are. A tie is in
    neither order."""
    signs = [
        float(np.sign((a[0] - b[0]) * (a[1] - b[1])))
        for a, b in combinations(pairs, 2)
        if max(a[1], b[1]) > (1 + apart) * min(a[1], b[1])
    ]
    return (sum(signs) / len(signs) if signs else 1.0), len(signs)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--plans", type=options.listed(options.one_of(PLANS)), default=",".join(PLANS)
    )
    parser.add_argument("--rounds", type=options.at_least(1), default=12)
    parser.add_argument("--cluster", type=options.cluster, help="a preset or a file (measured now)")
    args = parser.parse_args()
    if args.cluster:
        cluster = read_cluster(args.cluster)
    else:
        cluster, text = profile(Request(None, 8), Progress("benchmarks.cost"))
        print(text)
    plans = [compiled(name, cluster) for name in args.plans]
    seconds = measured(plans, args.rounds)
    print("plan          bytes   memory   predicted ms (compute, memory, communication)   measured")
    for plan, actual in zip(plans, seconds, strict=True):
        price = plan.price
        parts = (price.compute, price.memory, price.communication_total)
        split = ", ".join(f"{1e3 * part:6.1f}" for part in parts)
        print(
            f"{plan.name:12} {plan.bytes_ratio:6.3f}   {plan.memory_ratio:6.3f}   "
            f"{1e3 * price.total:8.1f} ({split})   {1e3 * actual:8.1f}"
        )
    pairs = [(plan.price.total, actual) for plan, actual in zip(plans, seconds, strict=True)]
    for apart in (0.0, 0.1):
        tau, count = kendall_tau(pairs, apart)
        print(f"Kendall tau of {count} pairs more than {100 * apart:.0f} % apart: {tau:.2f}")


if __name__ == "__main__":
    main()
