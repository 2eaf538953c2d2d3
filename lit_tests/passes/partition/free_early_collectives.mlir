// RUN: autopar-opt %s --free-early | filecheck %s

// What a gradient reads is gathered for it first: that lets go of nothing by itself, but the gradient does, together with
// the collective, so both run early.
// CHECK:       %[[OUT:.*]] = stablehlo.dot_general %[[H:.*]], %arg7,
// CHECK-NEXT:  %[[WHOLE:.*]] = shard.all_gather %[[H]] on @grid
// CHECK-NEXT:  %[[G:.*]] = stablehlo.dot_general %[[WHOLE]], %[[OUT]], contracting_dims = [0] x [0]
// CHECK-NEXT:  %[[HELD:.*]]:2 = stablehlo.optimization_barrier %[[OUT]], %[[G]]
// CHECK-NEXT:  stablehlo.dot_general %[[HELD]]#0, %arg7, contracting_dims = [1] x [1]
shard.grid @grid(shape = 2) {axis_names = ["x"]}
func.func @main(%x: tensor<64x8xf32>, %w0: tensor<8x8xf32>, %w1: tensor<8x8xf32>, %w2: tensor<8x8xf32>, %w3: tensor<8x8xf32>, %w4: tensor<8x8xf32>, %w5: tensor<8x8xf32>, %w6: tensor<8x8xf32>)
    -> (tensor<16x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>) attributes {autopar.free_early} {
  %h0 = stablehlo.dot_general %x, %w0, contracting_dims = [1] x [0] : (tensor<64x8xf32>, tensor<8x8xf32>) -> tensor<64x8xf32>
  %h1 = stablehlo.dot_general %h0, %w1, contracting_dims = [1] x [0] : (tensor<64x8xf32>, tensor<8x8xf32>) -> tensor<64x8xf32>
  %h2 = stablehlo.dot_general %h1, %w2, contracting_dims = [1] x [0] : (tensor<64x8xf32>, tensor<8x8xf32>) -> tensor<64x8xf32>
  %h3 = stablehlo.dot_general %h2, %w3, contracting_dims = [1] x [0] : (tensor<64x8xf32>, tensor<8x8xf32>) -> tensor<64x8xf32>
  %h4 = stablehlo.dot_general %h3, %w4, contracting_dims = [1] x [0] : (tensor<64x8xf32>, tensor<8x8xf32>) -> tensor<64x8xf32>
  %h5 = stablehlo.dot_general %h4, %w5, contracting_dims = [1] x [0] : (tensor<64x8xf32>, tensor<8x8xf32>) -> tensor<64x8xf32>
  %h6 = stablehlo.dot_general %h5, %w6, contracting_dims = [1] x [0] : (tensor<64x8xf32>, tensor<8x8xf32>) -> tensor<64x8xf32>
  %d6 = stablehlo.dot_general %h6, %w6, contracting_dims = [1] x [1] : (tensor<64x8xf32>, tensor<8x8xf32>) -> tensor<64x8xf32>
  %d5 = stablehlo.dot_general %d6, %w5, contracting_dims = [1] x [1] : (tensor<64x8xf32>, tensor<8x8xf32>) -> tensor<64x8xf32>
  %d4 = stablehlo.dot_general %d5, %w4, contracting_dims = [1] x [1] : (tensor<64x8xf32>, tensor<8x8xf32>) -> tensor<64x8xf32>
  %d3 = stablehlo.dot_general %d4, %w3, contracting_dims = [1] x [1] : (tensor<64x8xf32>, tensor<8x8xf32>) -> tensor<64x8xf32>
  %d2 = stablehlo.dot_general %d3, %w2, contracting_dims = [1] x [1] : (tensor<64x8xf32>, tensor<8x8xf32>) -> tensor<64x8xf32>
  %d1 = stablehlo.dot_general %d2, %w1, contracting_dims = [1] x [1] : (tensor<64x8xf32>, tensor<8x8xf32>) -> tensor<64x8xf32>
  %a0 = shard.all_gather %x on @grid grid_axes = [0] gather_axis = 1 : tensor<64x8xf32> -> tensor<64x16xf32>
  %g0 = stablehlo.dot_general %a0, %d1, contracting_dims = [0] x [0] : (tensor<64x16xf32>, tensor<64x8xf32>) -> tensor<16x8xf32>
  %a1 = shard.all_gather %h0 on @grid grid_axes = [0] gather_axis = 1 : tensor<64x8xf32> -> tensor<64x16xf32>
  %g1 = stablehlo.dot_general %a1, %d2, contracting_dims = [0] x [0] : (tensor<64x16xf32>, tensor<64x8xf32>) -> tensor<16x8xf32>
  %a2 = shard.all_gather %h1 on @grid grid_axes = [0] gather_axis = 1 : tensor<64x8xf32> -> tensor<64x16xf32>
  %g2 = stablehlo.dot_general %a2, %d3, contracting_dims = [0] x [0] : (tensor<64x16xf32>, tensor<64x8xf32>) -> tensor<16x8xf32>
  %a3 = shard.all_gather %h2 on @grid grid_axes = [0] gather_axis = 1 : tensor<64x8xf32> -> tensor<64x16xf32>
  %g3 = stablehlo.dot_general %a3, %d4, contracting_dims = [0] x [0] : (tensor<64x16xf32>, tensor<64x8xf32>) -> tensor<16x8xf32>
  %a4 = shard.all_gather %h3 on @grid grid_axes = [0] gather_axis = 1 : tensor<64x8xf32> -> tensor<64x16xf32>
  %g4 = stablehlo.dot_general %a4, %d5, contracting_dims = [0] x [0] : (tensor<64x16xf32>, tensor<64x8xf32>) -> tensor<16x8xf32>
  %a5 = shard.all_gather %h4 on @grid grid_axes = [0] gather_axis = 1 : tensor<64x8xf32> -> tensor<64x16xf32>
  %g5 = stablehlo.dot_general %a5, %d6, contracting_dims = [0] x [0] : (tensor<64x16xf32>, tensor<64x8xf32>) -> tensor<16x8xf32>
  %a6 = shard.all_gather %h5 on @grid grid_axes = [0] gather_axis = 1 : tensor<64x8xf32> -> tensor<64x16xf32>
  %g6 = stablehlo.dot_general %a6, %h6, contracting_dims = [0] x [0] : (tensor<64x16xf32>, tensor<64x8xf32>) -> tensor<16x8xf32>
  func.return %g0, %g1, %g2, %g3, %g4, %g5, %g6
      : tensor<16x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>, tensor<16x8xf32>
}
