// RUN: autopar-opt %s --sharding-propagation --shard-partition | filecheck %s

// The contraction is partial over y; 7 rows over x leave padding, which the maximum must not see.
// CHECK:      func.func @main(%{{.*}}: tensor<4x4xf32> {autopar.global = tensor<7x16xf32>, {{.*}}}, %{{.*}}: tensor<4x5xf32>
// CHECK-NEXT: %[[D:.*]] = stablehlo.dot_general {{.*}} : (tensor<4x4xf32>, tensor<4x5xf32>) -> tensor<4x5xf32>
// CHECK-NEXT: %[[S:.*]] = shard.all_reduce %[[D]] on @mesh grid_axes = [1] : tensor<4x5xf32> -> tensor<4x5xf32>
// CHECK:      %[[M:.*]] = stablehlo.select %{{.*}}, %[[S]], %{{.*}}
// CHECK-NEXT: %[[L:.*]] = stablehlo.reduce(%[[M]] init: %{{.*}}) applies stablehlo.maximum
// CHECK-NEXT: %[[A:.*]] = shard.all_reduce %[[L]] on @mesh grid_axes = [0] reduction = max
// CHECK-NEXT: return %[[S]], %[[A]] : tensor<4x5xf32>, tensor<5xf32>

shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @main(
    %a: tensor<7x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {"y"}]>},
    %b: tensor<16x5xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"y"}, {}]>})
    -> (tensor<7x5xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}, tensor<5xf32>) {
  %0 = "stablehlo.dot_general"(%a, %b) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>}> : (tensor<7x16xf32>, tensor<16x5xf32>) -> tensor<7x5xf32>
  %zero = "stablehlo.constant"() <{value = dense<0.0> : tensor<f32>}> : () -> tensor<f32>
  %1 = "stablehlo.reduce"(%0, %zero) <{dimensions = array<i64: 0>}> ({
  ^bb0(%x: tensor<f32>, %y: tensor<f32>):
    %2 = "stablehlo.maximum"(%x, %y) : (tensor<f32>, tensor<f32>) -> tensor<f32>
    "stablehlo.return"(%2) : (tensor<f32>) -> ()
  }) : (tensor<7x5xf32>, tensor<f32>) -> tensor<5xf32>
  return %0, %1 : tensor<7x5xf32>, tensor<5xf32>
}

// Parts of different size share no buffer: the argument is only donated.
// CHECK-LABEL: func.func @parts_of_two_sizes
// CHECK-SAME:    %{{.*}}: tensor<4x16xf32> {{.*}}jax.buffer_donor = true
// CHECK-SAME:    %{{.*}}: tensor<8x4xf32> {{.*}}tf.aliasing_output = 1 : i32
func.func @parts_of_two_sizes(
    %a: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>, tf.aliasing_output = 0 : i32},
    %b: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"y"}]>, tf.aliasing_output = 1 : i32})
    -> (tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"y"}]>}, tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"y"}]>}) {
  return %a, %b : tensor<8x16xf32>, tensor<8x16xf32>
}
