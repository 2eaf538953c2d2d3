// RUN: autopar-opt %s --free-early | filecheck %s

// A gradient whose operands are both gathered lets go of them only together with the gradient of the bias, which reads one
// of them, too: all three run early.
// CHECK:       %[[OUT:.*]] = stablehlo.dot_general %{{.*}}, %arg7,
// CHECK-NOT:   contracting_dims = [1] x [1]
// CHECK-DAG:   %[[A:.*]] = shard.all_gather %{{.*}} on @grid
// CHECK-DAG:   %[[B:.*]] = shard.all_gather %[[OUT]] on @grid
// CHECK:       %[[G:.*]] = stablehlo.dot_general %[[A]], %[[B]], contracting_dims = [0] x [0]
// CHECK-NEXT:  %[[SUM:.*]] = stablehlo.reduce(%[[OUT]]
// CHECK-NEXT:  %[[HELD:.*]]:3 = stablehlo.optimization_barrier %[[OUT]], %[[G]], %[[SUM]]
// CHECK-NEXT:  stablehlo.dot_general %[[HELD]]#0, %arg7, contracting_dims = [1] x [1]
shard.grid @grid(shape = 2) {axis_names = ["x"]}
func.func @main(%x: tensor<24x8xf32>, %w0: tensor<8x8xf32>, %w1: tensor<8x8xf32>, %w2: tensor<8x8xf32>, %w3: tensor<8x8xf32>, %w4: tensor<8x8xf32>, %w5: tensor<8x8xf32>, %w6: tensor<8x8xf32>)
    -> (tensor<16x16xf32>, tensor<16x16xf32>, tensor<16x16xf32>, tensor<16x16xf32>, tensor<16x16xf32>, tensor<16x16xf32>, tensor<16x16xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) attributes {autopar.free_early} {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %h0 = stablehlo.dot_general %x, %w0, contracting_dims = [1] x [0] : (tensor<24x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
  %h1 = stablehlo.dot_general %h0, %w1, contracting_dims = [1] x [0] : (tensor<24x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
  %h2 = stablehlo.dot_general %h1, %w2, contracting_dims = [1] x [0] : (tensor<24x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
  %h3 = stablehlo.dot_general %h2, %w3, contracting_dims = [1] x [0] : (tensor<24x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
  %h4 = stablehlo.dot_general %h3, %w4, contracting_dims = [1] x [0] : (tensor<24x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
  %h5 = stablehlo.dot_general %h4, %w5, contracting_dims = [1] x [0] : (tensor<24x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
  %h6 = stablehlo.dot_general %h5, %w6, contracting_dims = [1] x [0] : (tensor<24x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
  %d6 = stablehlo.dot_general %h6, %w6, contracting_dims = [1] x [1] : (tensor<24x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
  %d5 = stablehlo.dot_general %d6, %w5, contracting_dims = [1] x [1] : (tensor<24x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
  %d4 = stablehlo.dot_general %d5, %w4, contracting_dims = [1] x [1] : (tensor<24x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
  %d3 = stablehlo.dot_general %d4, %w3, contracting_dims = [1] x [1] : (tensor<24x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
  %d2 = stablehlo.dot_general %d3, %w2, contracting_dims = [1] x [1] : (tensor<24x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
  %d1 = stablehlo.dot_general %d2, %w1, contracting_dims = [1] x [1] : (tensor<24x8xf32>, tensor<8x8xf32>) -> tensor<24x8xf32>
  %a0 = shard.all_gather %x on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %c0 = shard.all_gather %d1 on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %g0 = stablehlo.dot_general %a0, %c0, contracting_dims = [0] x [0] : (tensor<24x16xf32>, tensor<24x16xf32>) -> tensor<16x16xf32>
  %b0 = stablehlo.reduce(%d1 init: %zero) applies stablehlo.add across dimensions = [0] : (tensor<24x8xf32>, tensor<f32>) -> tensor<8xf32>
  %a1 = shard.all_gather %h0 on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %c1 = shard.all_gather %d2 on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %g1 = stablehlo.dot_general %a1, %c1, contracting_dims = [0] x [0] : (tensor<24x16xf32>, tensor<24x16xf32>) -> tensor<16x16xf32>
  %b1 = stablehlo.reduce(%d2 init: %zero) applies stablehlo.add across dimensions = [0] : (tensor<24x8xf32>, tensor<f32>) -> tensor<8xf32>
  %a2 = shard.all_gather %h1 on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %c2 = shard.all_gather %d3 on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %g2 = stablehlo.dot_general %a2, %c2, contracting_dims = [0] x [0] : (tensor<24x16xf32>, tensor<24x16xf32>) -> tensor<16x16xf32>
  %b2 = stablehlo.reduce(%d3 init: %zero) applies stablehlo.add across dimensions = [0] : (tensor<24x8xf32>, tensor<f32>) -> tensor<8xf32>
  %a3 = shard.all_gather %h2 on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %c3 = shard.all_gather %d4 on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %g3 = stablehlo.dot_general %a3, %c3, contracting_dims = [0] x [0] : (tensor<24x16xf32>, tensor<24x16xf32>) -> tensor<16x16xf32>
  %b3 = stablehlo.reduce(%d4 init: %zero) applies stablehlo.add across dimensions = [0] : (tensor<24x8xf32>, tensor<f32>) -> tensor<8xf32>
  %a4 = shard.all_gather %h3 on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %c4 = shard.all_gather %d5 on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %g4 = stablehlo.dot_general %a4, %c4, contracting_dims = [0] x [0] : (tensor<24x16xf32>, tensor<24x16xf32>) -> tensor<16x16xf32>
  %b4 = stablehlo.reduce(%d5 init: %zero) applies stablehlo.add across dimensions = [0] : (tensor<24x8xf32>, tensor<f32>) -> tensor<8xf32>
  %a5 = shard.all_gather %h4 on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %c5 = shard.all_gather %d6 on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %g5 = stablehlo.dot_general %a5, %c5, contracting_dims = [0] x [0] : (tensor<24x16xf32>, tensor<24x16xf32>) -> tensor<16x16xf32>
  %b5 = stablehlo.reduce(%d6 init: %zero) applies stablehlo.add across dimensions = [0] : (tensor<24x8xf32>, tensor<f32>) -> tensor<8xf32>
  %a6 = shard.all_gather %h5 on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %c6 = shard.all_gather %h6 on @grid grid_axes = [0] gather_axis = 1 : tensor<24x8xf32> -> tensor<24x16xf32>
  %g6 = stablehlo.dot_general %a6, %c6, contracting_dims = [0] x [0] : (tensor<24x16xf32>, tensor<24x16xf32>) -> tensor<16x16xf32>
  %b6 = stablehlo.reduce(%h6 init: %zero) applies stablehlo.add across dimensions = [0] : (tensor<24x8xf32>, tensor<f32>) -> tensor<8xf32>
  func.return %g0, %g1, %g2, %g3, %g4, %g5, %g6, %b0, %b1, %b2, %b3, %b4, %b5, %b6
      : tensor<16x16xf32>, tensor<16x16xf32>, tensor<16x16xf32>, tensor<16x16xf32>, tensor<16x16xf32>, tensor<16x16xf32>, tensor<16x16xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>
}
