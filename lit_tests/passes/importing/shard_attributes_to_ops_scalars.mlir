// RUN: autopar-opt %s --sharding-propagation --shard-attributes-to-ops | filecheck %s
// RUN: autopar-opt %s --sharding-propagation --shard-attributes-to-ops | mlir-opt-22 | autopar-opt --shard-ops-to-attributes | filecheck %s --check-prefix=BACK
// REQUIRES: mlir-opt

// Upstream has no empty list of axes, and no shardings of what is no tensor.

// CHECK:     %[[S:.*]] = shard.sharding @g split_axes = {{\[\[}}]] : !shard.sharding
// CHECK:     shard.shard %{{.*}} to %[[S]] : tensor<f32>
// CHECK:     %[[C:.*]] = arith.constant 0.000000e+00 : f32
// CHECK-NOT: shard.shard %[[C]]
// CHECK:     linalg.fill ins(%[[C]]

// BACK:     func.func @main(%{{.*}}: tensor<f32> {autopar.sharding = #autopar.sharding<@g, []>},
// BACK-NOT: shard.shard
shard.grid @g(shape = 2x4)
func.func @main(%a: tensor<f32>, %b: tensor<8x16xf32>) -> (tensor<f32>, tensor<8x16xf32>) {
  %s = shard.sharding @g split_axes = [[0], [1]] : !shard.sharding
  %t = shard.sharding @g split_axes = [[]] : !shard.sharding
  %a1 = shard.shard %a to %t : tensor<f32>
  %b1 = shard.shard %b to %s : tensor<8x16xf32>
  %zero = arith.constant 0.0 : f32
  %filled = linalg.fill ins(%zero : f32) outs(%b1 : tensor<8x16xf32>) -> tensor<8x16xf32>
  return %a1, %filled : tensor<f32>, tensor<8x16xf32>
}
