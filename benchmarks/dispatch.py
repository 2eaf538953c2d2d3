"""Host dispatch of a compiled step with 300 arguments and results: autopar against jax.jit.

    python -m benchmarks.dispatch [--pairs 60]

Both run the same elementwise step on the same sharded arrays of 8 virtual devices, in turns in one
process; the figure is the ratio of the medians, and the median of the ratios of neighbours. The
step has no collective, so that calls return as soon as they are dispatched.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from . import options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=options.at_least(1), default=60, help="measured pairs (60)")
    parser.add_argument(
        "--arguments", type=options.at_least(1), default=300, help="arguments and results (300)"
    )
    args = parser.parse_args()

    import autopar

    autopar.init(devices=8)
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    sharding = NamedSharding(mesh, P("data"))

    def make() -> Any:
        rows = [jnp.full((8, 16), i, jnp.float32) for i in range(args.arguments)]
        return jax.device_put({"w": rows}, sharding)

    def step(state: Any) -> Any:
        return jax.tree.map(lambda x: x * 0.5 + 1, state)

    for donate in ((), (0,)):
        plain = jax.jit(step, in_shardings=sharding, out_shardings=sharding, donate_argnums=donate)
        ours = autopar.parallelize(
            step, method="shard", in_shardings=sharding, donate_argnums=donate
        )
        times: dict[str, list[float]] = {"plain": [], "ours": []}
        states = {"plain": make(), "ours": make()}
        for turn in range(args.pairs + 5):
            for name, function in (("plain", plain), ("ours", ours)):
                jax.block_until_ready(states)
                began = time.perf_counter()
                result = function(states[name])
                spent = time.perf_counter() - began
                jax.block_until_ready(result)
                states[name] = result
                if turn >= 5:
                    times[name].append(spent)
        ratio = statistics.median(times["ours"]) / statistics.median(times["plain"])
        pairs = [o / p for o, p in zip(times["ours"], times["plain"], strict=True)]
        kind = "donated" if donate else "kept"
        print(
            f"{kind:8} ours {statistics.median(times['ours']) * 1e3:6.2f} ms, jax.jit "
            f"{statistics.median(times['plain']) * 1e3:6.2f} ms: {ratio:.2f} "
            f"(median of pairs {statistics.median(pairs):.2f})"
        )


if __name__ == "__main__":
    main()
