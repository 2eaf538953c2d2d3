"""Images split in space: auto-shard against an expert who splits every activation."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

import autopar
from autopar.passes.cost.cluster import read_cluster
from autopar.passes.cost.prices import CostModel
from autopar.passes.cost.program import price_of

KERNELS = [(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 3)]
ARGS = (
    [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in KERNELS],
    jax.ShapeDtypeStruct((1, 1024, 1024, 3), jnp.float32),
)


def _step(split: NamedSharding | None) -> Any:
    def loss(kernels: Any, images: Any) -> Any:
        x = images
        for kernel in kernels:
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x if split is None else lax.with_sharding_constraint(x, split))
        return jnp.mean((x - images) ** 2)

    def step(kernels: Any, images: Any) -> Any:
        grads = jax.grad(loss)(kernels, images)
        return jax.tree.map(lambda kernel, grad: kernel - 0.1 * grad, kernels, grads)

    return step


def _seconds(plan: Any, cluster: str) -> float:
    module, _ = plan.road.decided("spmd")
    return price_of(module, CostModel.of(read_cluster(cluster), plan.grid)).total


@pytest.mark.parametrize("cluster", ["8xv100", "8xh100"])
def test_as_good_as_a_spatial_expert(cluster: str) -> None:
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    split = NamedSharding(mesh, PartitionSpec(None, "x", "y"))
    shardings = [NamedSharding(mesh, PartitionSpec())] * len(KERNELS), split
    expert = autopar.plan(
        _step(split), *ARGS, method="shard", mesh=mesh, in_shardings=shardings, donate_argnums=0
    )
    method = autopar.AutoShardParallel(options={"cluster": cluster})
    auto = autopar.plan(_step(None), *ARGS, method=method, mesh=mesh, donate_argnums=0)
    assert not any("gathered" in told.text for told in auto.remarks)
    assert _seconds(auto, cluster) <= 1.001 * _seconds(expert, cluster)
