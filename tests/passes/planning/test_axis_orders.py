"""The order in which annotations name several axes of one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import autopar
from autopar.dialects import make_context
from autopar.dialects.shard import grid_of
from autopar.dialects.sharding import Grid
from autopar.lowering.parse import parse_module
from autopar.passes.entry import main_function
from autopar.passes.manager import run_passes
from autopar.passes.partition.specs import AxisTable
from autopar.passes.pipelines import IMPORT
from autopar.passes.planning.axis_orders import axis_orders
from autopar.passes.planning.demands import Demands
from autopar.passes.planning.places import every_spec
from autopar.passes.planning.stated import Stated

P = PartitionSpec
LAYERS, WIDTH, HIDDEN, BATCH = 2, 512, 2048, 512


def _step(params: Any, batch: Any) -> Any:
    def loss(params: Any) -> Any:
        h = batch
        for layer in params:
            h = h + jax.nn.relu(h @ layer["up"]) @ layer["down"]
        return jnp.mean(h * h)

    return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))


def _seconds(axes: tuple[str, str], **options: Any) -> float:
    """Of a step whose layers are split over both axes in this order, as Megatron has them."""
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("x", "y"))
    layer = {
        "up": NamedSharding(mesh, P(None, axes)),
        "down": NamedSharding(mesh, P(axes, None)),
    }
    shapes = {"up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}
    params = [{name: jax.ShapeDtypeStruct(s, np.float32) for name, s in shapes.items()}] * LAYERS
    batch = jax.ShapeDtypeStruct((BATCH, WIDTH), np.float32)
    shardings = [layer] * LAYERS, NamedSharding(mesh, P())
    plan = autopar.plan(
        _step, params, batch, mesh=mesh, in_shardings=shardings, donate_argnums=0, **options
    )
    assert plan.modelled is not None
    return plan.modelled.seconds.total_s


def test_plans_keep_to_the_order_that_annotations_name() -> None:
    auto = autopar.AutoShardParallel(options={"cluster": "8xh100"})  # one link for both axes
    assert _seconds(("y", "x"), method=auto) == pytest.approx(_seconds(("x", "y"), method=auto))


ARGUMENT = """
sdy.mesh @mesh = <[{sizes}]>
func.func @main(%a: tensor<64x64xf32> {{sdy.sharding = #sdy.sharding<@mesh, [{{{axes}}}, {{}}]>}})
    -> tensor<64x64xf32> {{
  func.return %a : tensor<64x64xf32>
}}
"""
CONSTRAINT = """
sdy.mesh @mesh = <[{sizes}]>
func.func @main(%a: tensor<64x64xf32>) -> tensor<64x64xf32> {{
  %0 = stablehlo.negate %a : tensor<64x64xf32>
  %1 = sdy.sharding_constraint %0 <@mesh, [{{}}, {{{axes}}}]> : tensor<64x64xf32>
  func.return %1 : tensor<64x64xf32>
}}
"""


def _orders(program: str, sizes: Sequence[int], axes: str) -> list[tuple[int, ...]]:
    mesh = ", ".join(f'"{name}"={size}' for name, size in zip("xyzw", sizes, strict=False))
    module = parse_module(program.format(sizes=mesh, axes=", ".join(f'"{a}"' for a in axes)))
    run_passes(module, IMPORT, make_context())
    func, grid = main_function(module), grid_of(module)
    return axis_orders(func, AxisTable(grid, ()), Stated.find(func, grid, Demands()))


@pytest.mark.parametrize("program", [ARGUMENT, CONSTRAINT])
@pytest.mark.parametrize(
    ("sizes", "axes", "more"),
    [
        ((2, 4), "xy", []),
        ((2, 4), "y", []),
        ((2, 4), "yx", [(1, 0)]),
        ((2, 2, 2), "zx", [(2, 1, 0)]),
        ((2, 2, 2), "yzx", [(1, 2, 0)]),
        ((2, 2, 2, 2), "yx", []),  # of which two are searched as one
    ],
)
def test_orders(program: str, sizes: Sequence[int], axes: str, more: list[tuple[int, ...]]) -> None:
    assert _orders(program, sizes, axes) == [tuple(range(len(sizes))), *more]


def test_a_dimension_is_split_in_each_order_once() -> None:
    table = AxisTable(Grid("mesh", (("x", 2), ("y", 4))), ())
    one, both = (every_spec((8, 8), table, o) for o in ([(0, 1)], [(0, 1), (1, 0)]))
    assert len(both) == len(set(both)) == len(one) + 2
    assert {((1, 0), ()), ((), (1, 0))} == {spec.dims for spec in set(both) - set(one)}
