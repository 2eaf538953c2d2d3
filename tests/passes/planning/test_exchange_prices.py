"""What auto-shard counts for data that ops fetch of other devices' parts, against the partitioner.

One op with its dimension 0 split over eight devices, operand and result: what the partitioned
program sends is what is fetched.
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
from autopar.dialects.rules.registry import get_rule
from autopar.dialects.sharding import Grid
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.importing.arguments import main_function
from autopar.passes.partition.reshard_plan import ReshardPlanner
from autopar.passes.partition.special import given_factors, splittable_factors
from autopar.passes.partition.specs import AxisTable
from autopar.passes.partition.strategy import StrategyChooser
from autopar.passes.planning.exchange_prices import exchange_seconds

P = jax.sharding.PartitionSpec
GRID = Grid("mesh", (("data", 8),))
BYTES = CostModel.of(read_cluster("8xh100"), GRID, (0.0,), (1.0,))
"""Seconds are the bytes that a device sends."""


def _pooled(x: Any) -> Any:
    return lax.reduce_window(x, -np.inf, lax.max, (3, 1), (1, 1), "SAME")


def _strided(x: Any) -> Any:
    return lax.reduce_window(x, 0.0, lax.add, (4, 1), (2, 1), ((1, 1), (0, 0)))


def _convolved(x: Any) -> Any:
    image = x.reshape(1, x.shape[0], 4, 32)
    kernel = jnp.ones((5, 3, 32, 32))
    return lax.conv_general_dilated(
        image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).reshape(x.shape[0], -1)


OPS: dict[str, tuple[str, Any]] = {
    "first_half": ("stablehlo.slice", lambda x: x[:512]),
    "second_half": ("stablehlo.slice", lambda x: x[512:]),
    "every_second": ("stablehlo.slice", lambda x: lax.slice(x, (0, 0), x.shape, (2, 1))),
    "padded": ("stablehlo.pad", lambda x: jnp.pad(x, ((8, 0), (0, 0)))),
    "reversed": ("stablehlo.reverse", lambda x: x[::-1]),
    "pooled": ("stablehlo.reduce_window", _pooled),
    "strided": ("stablehlo.reduce_window", _strided),
    "convolved": ("stablehlo.convolution", _convolved),
    "joined": ("stablehlo.concatenate", lambda x: jnp.concatenate([x, 2 * x])),
}


@pytest.mark.parametrize("name", OPS)
def test_what_is_fetched_is_what_is_sent(name: str) -> None:
    kind, function = OPS[name]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, P("data"))
    step = autopar.parallelize(
        function, method="shard", in_shardings=split, out_shardings=split, mesh=mesh
    )
    plan = step.lower(jax.ShapeDtypeStruct((1024, 128), np.float32)).plan
    sent = sum(use.num_bytes for use in plan.collectives)
    func = main_function(plan.road.at("decided"))
    table = AxisTable(GRID, ())
    chooser = StrategyChooser(table, ReshardPlanner(table))
    counted = 0.0
    for op in func.body.block.ops:
        rule, given = get_rule(op), op.attributes.get(STRATEGY)
        if op.name == kind and rule is not None and isinstance(given, StrategyAttr):
            factors = given_factors(op, rule, given, table)
            strategy = chooser.complete(rule, splittable_factors(op, rule), factors)
            counted += exchange_seconds(op, rule, strategy, table, BYTES)
    assert (sent > 0) == (name != "every_second")  # each device has its own
    assert 0.5 * sent <= counted <= 2 * sent
