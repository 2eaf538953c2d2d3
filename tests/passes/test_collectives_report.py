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

from autopar.dialects import all_dialects
from autopar.dialects.shard import CollectiveCommunicationOp
from autopar.dialects.stablehlo.collectives import COLLECTIVES
from autopar.lowering.parse import parse_module
from autopar.passes.cost.report import NO_RING_BYTES, RING_BYTES, collectives_of
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


def test_every_collective_has_a_formula_or_a_reason() -> None:
    ours = {
        op.name
        for op in all_dialects()["shard"]().operations
        if issubclass(op, CollectiveCommunicationOp) or op.name == "shard.update_halo"
    }
    assert len(COLLECTIVES) == 8 and len(ours) == 14
    assert RING_BYTES.keys() | NO_RING_BYTES.keys() == COLLECTIVES | ours
    assert not RING_BYTES.keys() & NO_RING_BYTES.keys()


def test_collectives_with_a_root_and_shifts_are_counted() -> None:
    """What a user may write in shard is counted as convert-shard-to-stablehlo lowers it."""
    module = parse_module(
        """
        shard.grid @grid(shape = 2x4)
        func.func @main(%a: tensor<8xf32>) -> tensor<8xf32> {
          %0 = shard.shift %a on @grid grid_axes = [1] shift_axis = 1 offset = 1 rotate
              : tensor<8xf32> -> tensor<8xf32>
          %1 = shard.broadcast %0 on @grid grid_axes = [0] root = [0]
              : (tensor<8xf32>) -> tensor<8xf32>
          %2 = "stablehlo.collective_broadcast"(%1) <{
              replica_groups = dense<[[0, 1, 2, 3], [4, 5, 6, 7]]> : tensor<2x4xi64>
          }> : (tensor<8xf32>) -> tensor<8xf32>
          return %2 : tensor<8xf32>
        }
        """
    )
    local = 8 * 4
    assert [(use.kind, use.axes, use.group, use.num_bytes) for use in collectives_of(module)] == [
        ("shift", ("1",), 4, local),
        ("broadcast", ("0",), 2, local),
        ("collective_broadcast", ("1",), 4, local),
    ]


def test_groups_of_no_axes_are_told_by_their_size() -> None:
    """What a user may write in shard_map; no groups at all are one of all devices."""
    module = parse_module(
        """
        shard.grid @grid(shape = 2x4) {axis_names = ["x", "y"]}
        func.func @main(%a: tensor<8xf32>) -> tensor<8xf32> {
          %0 = "stablehlo.collective_broadcast"(%a) <{
              replica_groups = dense<[[0, 7], [1, 6], [2, 5], [3, 4]]> : tensor<4x2xi64>
          }> : (tensor<8xf32>) -> tensor<8xf32>
          %1 = "stablehlo.collective_broadcast"(%0) <{
              replica_groups = dense<> : tensor<0x0xi64>
          }> : (tensor<8xf32>) -> tensor<8xf32>
          return %1 : tensor<8xf32>
        }
        """
    )
    found = list(collectives_of(module))
    assert [(use.axes, use.group, use.where) for use in found] == [
        ((), 2, "groups of 2"),
        (("x", "y"), 8, "x, y"),
    ]
