// RUN: autopar-opt %s --free-early | filecheck %s

// Gradients of weights are computed as soon as activations and what comes back to them are there, and the way back waits
// for them, so that both are let go of. XLA would compute them last, as they are returned.
// CHECK-NOT:   autopar.free_early
// CHECK-LABEL: func.func @main
// CHECK:       %[[OUT:.*]] = stablehlo.dot_general %[[H:.*]], %arg7,
// CHECK-NEXT:  %[[G:.*]] = stablehlo.dot_general %[[H]], %[[OUT]], contracting_dims = [0] x [0]
// CHECK-NEXT:  %[[HELD:.*]]:2 = stablehlo.optimization_barrier %[[OUT]], %[[G]]
// CHECK-NEXT:  %[[BACK:.*]] = stablehlo.dot_general %[[HELD]]#0, %arg7, contracting_dims = [1] x [1]
// CHECK-NEXT:  %[[NEXT:.*]] = stablehlo.dot_general %{{.*}}, %[[BACK]], contracting_dims = [0] x [0]
// CHECK-NEXT:  stablehlo.optimization_barrier %[[BACK]], %[[NEXT]]
// CHECK:       return %{{.*}}, %[[HELD]]#1 :
func.func @main(%x: tensor<64x8xf32>, %w0: tensor<8x8xf32>, %w1: tensor<8x8xf32>, %w2: tensor<8x8xf32>, %w3: tensor<8x8xf32>, %w4: tensor<8x8xf32>, %w5: tensor<8x8xf32>, %w6: tensor<8x8xf32>)
    -> (tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) attributes {autopar.free_early} {
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
  %g0 = stablehlo.dot_general %x, %d1, contracting_dims = [0] x [0] : (tensor<64x8xf32>, tensor<64x8xf32>) -> tensor<8x8xf32>
  %g1 = stablehlo.dot_general %h0, %d2, contracting_dims = [0] x [0] : (tensor<64x8xf32>, tensor<64x8xf32>) -> tensor<8x8xf32>
  %g2 = stablehlo.dot_general %h1, %d3, contracting_dims = [0] x [0] : (tensor<64x8xf32>, tensor<64x8xf32>) -> tensor<8x8xf32>
  %g3 = stablehlo.dot_general %h2, %d4, contracting_dims = [0] x [0] : (tensor<64x8xf32>, tensor<64x8xf32>) -> tensor<8x8xf32>
  %g4 = stablehlo.dot_general %h3, %d5, contracting_dims = [0] x [0] : (tensor<64x8xf32>, tensor<64x8xf32>) -> tensor<8x8xf32>
  %g5 = stablehlo.dot_general %h4, %d6, contracting_dims = [0] x [0] : (tensor<64x8xf32>, tensor<64x8xf32>) -> tensor<8x8xf32>
  %g6 = stablehlo.dot_general %h5, %h6, contracting_dims = [0] x [0] : (tensor<64x8xf32>, tensor<64x8xf32>) -> tensor<8x8xf32>
  func.return %g0, %g1, %g2, %g3, %g4, %g5, %g6
      : tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>
}

// Nothing is done without the mark.
// RUN: sed s/autopar.free_early// %s | autopar-opt --free-early | filecheck %s --check-prefix=PLAIN
// PLAIN-NOT: optimization_barrier
