"""The collectives of a plan: ours, and those that the user wrote in shard_map."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from autopar.passes.cost.report import collectives_of
from tests.oracle import check, spmd_module

from .cases import GRID

MESH = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)


BLOCKS = P("x", "y")


@partial(jax.shard_map, mesh=MESH, in_specs=BLOCKS, out_specs=(P("x"), BLOCKS, BLOCKS))
def manual(a: Any) -> Any:
    shifted = lax.ppermute(a, "y", [(0, 1), (1, 2), (2, 3), (3, 0)])
    scattered = lax.psum_scatter(a, "y", scatter_dimension=1, tiled=True)
    return lax.psum(a, "y"), shifted, scattered


def test_written_collectives_are_counted() -> None:
    array = np.arange(128, dtype=np.float32).reshape(8, 16)
    module = spmd_module(manual, [array], GRID, [[["x"], ["y"]]], lower=False)
    uses = {use.kind: use for use in collectives_of(module)}
    assert {"all_reduce", "permute", "reduce_scatter"} <= uses.keys()
    local = 4 * 4 * 4
    assert uses["all_reduce"].axes == ("y",) and uses["all_reduce"].group == 4
    assert uses["all_reduce"].num_bytes == 2 * 3 / 4 * local
    assert uses["reduce_scatter"].num_bytes == 3 / 4 * local
    assert uses["permute"].num_bytes == local


def test_inserted_collectives_are_counted() -> None:
    args = [np.ones((8, 16), np.float32), np.ones((16, 4), np.float32)]
    shardings = [[["x"], ["y"]], [["y"], []]]
    module = spmd_module(jnp.matmul, args, GRID, shardings, lower=False)
    (use,) = collectives_of(module)
    assert (use.kind, use.axes, use.num_bytes) == ("all_reduce", ("y",), 2 * 3 / 4 * 4 * 4 * 4)
    check(jnp.matmul, args, GRID, shardings)
