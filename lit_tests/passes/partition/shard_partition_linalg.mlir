// RUN: autopar-opt %s --split-input-file --sharding-propagation --shard-partition | filecheck %s

// A program without StableHLO stays one. A sum that starts from zero starts so on every device ...
// CHECK:      func.func @zero
// CHECK-NEXT: arith.constant
// CHECK-NEXT: %[[Z:.*]] = arith.constant dense<0.000000e+00> : tensor<4x6xf32>
// CHECK-NEXT: %[[P:.*]] = linalg.matmul {{.*}} outs(%[[Z]] : tensor<4x6xf32>)
// CHECK-NEXT: %[[R:.*]] = shard.all_reduce %[[P]] on @mesh grid_axes = [1]
// CHECK-NEXT: return %[[R]]
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @zero(%a: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {"y"}]>}, %b: tensor<16x6xf32>) -> tensor<8x6xf32> {
  %z = arith.constant dense<0.0> : tensor<8x6xf32>
  %r = linalg.matmul ins(%a, %b : tensor<8x16xf32>, tensor<16x6xf32>) outs(%z : tensor<8x6xf32>) -> tensor<8x6xf32>
  return %r : tensor<8x6xf32>
}

// -----

// ... and any other start is kept on the first device of each group.
// CHECK:      func.func @argument(
// CHECK-NEXT: %[[N:.*]] = arith.constant dense<-0.000000e+00> : tensor<8x6xf32>
// CHECK-NEXT: %[[I:.*]]:2 = shard.process_multi_index on @mesh axes = [0, 1] : index, index
// CHECK-NEXT: %[[C:.*]] = arith.constant 0 : index
// CHECK-NEXT: %[[X:.*]] = arith.cmpi eq, %[[I]]#0, %[[C]] : index
// CHECK-NEXT: %[[Y:.*]] = arith.cmpi eq, %[[I]]#1, %[[C]] : index
// CHECK-NEXT: %[[F:.*]] = arith.andi %[[X]], %[[Y]] : i1
// CHECK-NEXT: %[[S:.*]] = arith.select %[[F]], %{{.*}}, %[[N]] : tensor<8x6xf32>
// CHECK-NEXT: %[[P:.*]] = linalg.matmul {{.*}} outs(%[[S]] : tensor<8x6xf32>)
// CHECK-NEXT: shard.all_reduce %[[P]] on @mesh grid_axes = [0, 1]
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @argument(%a: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"x", "y"}]>}, %b: tensor<16x6xf32>, %z: tensor<8x6xf32>) -> tensor<8x6xf32> {
  %r = linalg.matmul ins(%a, %b : tensor<8x16xf32>, tensor<16x6xf32>) outs(%z : tensor<8x6xf32>) -> tensor<8x6xf32>
  return %r : tensor<8x6xf32>
}

// -----

// Each device makes its own part of what it fills.
// CHECK:      func.func @filled
// CHECK:      %[[E:.*]] = tensor.empty() : tensor<4x6xf32>
// CHECK-NEXT: %[[F:.*]] = linalg.fill ins(%{{.*}} : f32) outs(%[[E]] : tensor<4x6xf32>) -> tensor<4x6xf32>
// CHECK-NEXT: linalg.matmul {{.*}} outs(%[[F]] : tensor<4x6xf32>)
// CHECK-NOT:  shard.
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @filled(%a: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}, %b: tensor<16x6xf32>) -> tensor<8x6xf32> {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<8x6xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<8x6xf32>) -> tensor<8x6xf32>
  %r = linalg.matmul ins(%a, %b : tensor<8x16xf32>, tensor<16x6xf32>) outs(%f : tensor<8x6xf32>) -> tensor<8x6xf32>
  return %r : tensor<8x6xf32>
}
