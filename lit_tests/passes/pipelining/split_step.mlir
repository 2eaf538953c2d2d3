// RUN: autopar-opt %s --split-step="num-micro-batches=4" | filecheck %s
// RUN: autopar-opt %s --split-step="num-micro-batches=1" | filecheck %s --check-prefix=ONE

// One microbatch of two examples: p - sum(batch) / 2. The sum is reduced over the batch, so it is
// averaged over the microbatches; the subtraction is done once.
// CHECK:      func.func public @main(%[[P:.*]]: tensor<3xf32> {{.*}}, %{{.*}}: tensor<8x3xf32>
// CHECK-SAME: -> (tensor<3xf32>, tensor<8x3xf32>)
// CHECK:      %[[W:.*]]:3 = stablehlo.while
// CHECK:        stablehlo.sine
// CHECK:        stablehlo.reduce
// CHECK-NOT:    stablehlo.subtract
// CHECK:        stablehlo.return
// CHECK:      %[[Q:.*]] = stablehlo.constant dense<2.500000e-01>
// CHECK-NEXT: %[[M:.*]] = stablehlo.multiply %[[W]]#1, %[[Q]]
// CHECK:      stablehlo.subtract %[[P]], %[[M]]
// ONE-NOT:    stablehlo.while

func.func public @main(
    %p: tensor<3xf32> {autopar.kind = "parameter", tf.aliasing_output = 0 : i32},
    %batch: tensor<2x3xf32> {autopar.kind = "batch", autopar.batch_dim = 0 : i64})
    -> (tensor<3xf32>, tensor<2x3xf32>) {
  %zero = "stablehlo.constant"() <{value = dense<0.0> : tensor<f32>}> : () -> tensor<f32>
  %0 = "stablehlo.sine"(%batch) : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %1 = "stablehlo.reduce"(%0, %zero) <{dimensions = array<i64: 0>}> ({
  ^bb0(%x: tensor<f32>, %y: tensor<f32>):
    %2 = "stablehlo.add"(%x, %y) : (tensor<f32>, tensor<f32>) -> tensor<f32>
    "stablehlo.return"(%2) : (tensor<f32>) -> ()
  }) : (tensor<2x3xf32>, tensor<f32>) -> tensor<3xf32>
  %3 = "stablehlo.subtract"(%p, %1) : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
  return %3, %0 : tensor<3xf32>, tensor<2x3xf32>
}
