// RUN: autopar-opt %s --sharding-propagation --insert-reshards --split-input-file --verify-diagnostics | filecheck %s

// Six rows over an axis of six, cut by 2 for one use and by 3 for the other: the grid has the cut
// that splits more bytes, and the other use gets its operand whole.
// CHECK: shard.grid @mesh(shape = 3x2) {axis_names = ["x:(1)3", "x:(3)2"]}
// CHECK: stablehlo.reshape %{{.*}} {autopar.sharding = [#autopar.sharding<@mesh, [{}, {}]>]
// CHECK: stablehlo.reshape %{{.*}} {autopar.sharding = [#autopar.sharding<@mesh, [{"x:(1)3"}, {"x:(3)2"}]>]
shard.grid @mesh(shape = 6) {axis_names = ["x"]}
func.func @main(%a: tensor<6x4xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}) -> (tensor<2x12xf32>, tensor<3x8xf32>) {
  // expected-remark @+3 {{dimension 0 sharded by the sub-axis "x":(1)2, which does not nest with "x":(1)3, "x":(3)2: it is not split by it}}
  // expected-remark @+2 {{dimension 1 sharded by the sub-axis "x":(2)3}}
  // expected-remark @+1 {{cannot keep dimension 0 of operand 0 sharded: it is gathered (144 bytes a device)}}
  %0 = stablehlo.reshape %a : (tensor<6x4xf32>) -> tensor<2x12xf32>
  %1 = stablehlo.reshape %a : (tensor<6x4xf32>) -> tensor<3x8xf32>
  %2 = stablehlo.tanh %1 : tensor<3x8xf32>
  return %0, %2 : tensor<2x12xf32>, tensor<3x8xf32>
}
