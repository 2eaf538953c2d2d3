"""What auto-shard counts for data that ops fetch of other devices' parts, against the partitioner.

One op with its dimension 0 split over eight devices, operand and result if it is as long: what the
partitioned program sends is what is fetched, but for sums.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import autopar
from autopar.dialects.autopar import STRATEGY, StrategyAttr
from autopar.dialects.rules.registry import partitioned_rule
from autopar.dialects.sharding import Grid
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.entry import main_function
from autopar.passes.partition.reshard_plan import ReshardPlanner
from autopar.passes.partition.special import given_factors, splittable_factors
from autopar.passes.partition.specs import AxisTable
from autopar.passes.partition.strategy import StrategyChooser
from autopar.passes.planning.exchange_prices import fetches, may_exchange

P = jax.sharding.PartitionSpec
GRID = Grid("mesh", (("data", 8),))
BYTES = CostModel.of(read_cluster("8xh100"), GRID, (0.0,), (1.0,))
"""Seconds are the bytes that a device sends."""


def _pooled(x: Any) -> Any:
    return lax.reduce_window(x, -np.inf, lax.max, (3, 1), (1, 1), "SAME")


def _strided(x: Any) -> Any:
    return lax.reduce_window(x, 0.0, lax.add, (4, 1), (2, 1), ((1, 1), (0, 0)))


def _convolve(x: Any, kernel: Any) -> Any:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolved(x: Any) -> Any:
    image = x.reshape(1, x.shape[0], 4, 32)
    return _convolve(image, jnp.ones((5, 3, 32, 32))).reshape(x.shape[0], -1)


def _kernel_gradient(x: Any) -> Any:
    image = x.reshape(1, x.shape[0], 4, 32)
    return jax.vjp(lambda kernel: _convolve(image, kernel), jnp.ones((5, 3, 32, 32)))[1](image)[0]


def _pool_gradient(x: Any) -> Any:
    def pool(y: Any) -> Any:
        return lax.reduce_window(y, -np.inf, lax.max, (4, 1), (2, 1), ((0, 0), (0, 0)))

    return jax.vjp(pool, x)[1](jnp.cumsum(x, 1)[: x.shape[0] // 2 - 1])[0]


OPS: dict[str, Any] = {
    "first_half": lambda x: x[:512],
    "second_half": lambda x: x[512:],
    "first_eighth": lambda x: x[:128],  # one device has it all
    "every_second": lambda x: lax.slice(x, (0, 0), x.shape, (2, 1)),
    "padded": lambda x: jnp.pad(x, ((8, 0), (0, 0))),
    "reversed": lambda x: x[::-1],
    "pooled": _pooled,
    "strided": _strided,
    "convolved": _convolved,
    "kernel_gradient": _kernel_gradient,
    "pool_gradient": _pool_gradient,
    "chosen": lambda x: jnp.argmax(x[:, :127], 0),
    "joined": lambda x: jnp.concatenate([x, 2 * x]),
    "padded_nothing": lambda x: x + jnp.pad(x[:0], ((0, 1024), (0, 0))),
}
ALONE = ("every_second", "padded_nothing")
"""Each device has what it needs."""


@pytest.mark.parametrize("name", OPS)
def test_what_is_fetched_is_what_is_sent(name: str) -> None:
    function, x = OPS[name], jax.ShapeDtypeStruct((1024, 128), np.float32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, P("data"))
    is_long = jax.eval_shape(function, x).shape[0] % 8 == 0
    step = autopar.parallelize(
        function,
        method="shard",
        in_shardings=split,
        out_shardings=split if is_long else None,
        mesh=mesh,
    )
    plan = step.lower(x).plan
    sent = sum(use.num_bytes for use in plan.collectives if use.kind != "all_reduce")
    func = main_function(plan.road.at("decided"))
    table = AxisTable(GRID, ())
    chooser = StrategyChooser(table, ReshardPlanner(table))
    counted = 0.0
    for op in func.body.block.ops:
        rule, given = partitioned_rule(op), op.attributes.get(STRATEGY)
        if rule is not None and may_exchange(op, rule) and isinstance(given, StrategyAttr):
            factors = given_factors(op, rule, given, table)
            strategy = chooser.complete(rule, splittable_factors(op, rule), factors)
            counted += sum(fetch.seconds for fetch in fetches(op, rule, strategy, table, BYTES))
    assert (sent > 0) == (name not in ALONE)
    assert counted == pytest.approx(sent, rel=0.01)
