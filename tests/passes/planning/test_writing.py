"""Plans written into a module, and taken out of it again."""

from __future__ import annotations

from autopar.lowering.parse import parse_module
from autopar.passes.planning.writing import Unplanned
from autopar.passes.sharding.propagation import propagate_shardings

MODULE = """
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @main(%a: tensor<8x8xf32>, %b: tensor<8x8xf32>) -> (tensor<8x8xf32>, tensor<8x8xf32>) {
  %one = "stablehlo.constant"() <{value = dense<1.0> : tensor<8x8xf32>}> : () -> tensor<8x8xf32>
  %0 = "stablehlo.add"(%a, %one) {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}, {}]>]}
      : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
  %1 = "stablehlo.add"(%b, %one) {autopar.sharding = [#autopar.sharding<@mesh, [{}, {"y"}]>]}
      : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
  return %0, %1 : tensor<8x8xf32>, tensor<8x8xf32>
}
"""


def test_a_plan_leaves_nothing_behind() -> None:
    """Neither attributes nor the copies of constants that lie in two ways."""
    module = parse_module(MODULE)
    before, unplanned = str(module), Unplanned(module)
    for _ in range(2):
        propagate_shardings(module)
        assert str(module).count("stablehlo.constant") == 2
        unplanned.restore()
        assert str(module) == before
