// RUN: autopar-opt %s --optimize-collectives | filecheck %s

// What becomes reduce_scatters runs as one, too.
// CHECK-LABEL: @combine_what_becomes_scatters
// CHECK-NEXT:  shard.reduce_scatter %arg0 {{.*}} {autopar.combine = 0 : i64}
// CHECK-NEXT:  shard.reduce_scatter %arg1 {{.*}} {autopar.combine = 0 : i64}
// CHECK-NEXT:  return
shard.grid @mesh(shape = 2) {axis_names = ["x"]}
func.func @combine_what_becomes_scatters(%a: tensor<4xf32>, %b: tensor<4xf32>) -> (tensor<2xf32>, tensor<2xf32>) {
  %0 = shard.all_reduce %a on @mesh grid_axes = [0] : tensor<4xf32> -> tensor<4xf32>
  %1 = shard.all_reduce %b on @mesh grid_axes = [0] : tensor<4xf32> -> tensor<4xf32>
  %2 = shard.all_slice %0 on @mesh grid_axes = [0] slice_axis = 0 : tensor<4xf32> -> tensor<2xf32>
  %3 = shard.all_slice %1 on @mesh grid_axes = [0] slice_axis = 0 : tensor<4xf32> -> tensor<2xf32>
  return %2, %3 : tensor<2xf32>, tensor<2xf32>
}

// The part is transposed, not the whole.
// CHECK-LABEL: @transpose_the_part
// CHECK-NEXT:  %[[PART:.*]] = shard.reduce_scatter %arg0 {{.*}} scatter_axis = 2 : tensor<2x4x6xf32> -> tensor<2x4x3xf32>
// CHECK-NEXT:  %[[RESULT:.*]] = stablehlo.transpose %[[PART]], dims = [1, 2, 0] : (tensor<2x4x3xf32>) -> tensor<4x3x2xf32>
// CHECK-NEXT:  return %[[RESULT]]
func.func @transpose_the_part(%a: tensor<2x4x6xf32>) -> tensor<4x3x2xf32> {
  %0 = stablehlo.transpose %a, dims = [1, 2, 0] : (tensor<2x4x6xf32>) -> tensor<4x6x2xf32>
  %1 = shard.all_reduce %0 on @mesh grid_axes = [0] : tensor<4x6x2xf32> -> tensor<4x6x2xf32>
  %2 = shard.all_slice %1 on @mesh grid_axes = [0] slice_axis = 1 : tensor<4x6x2xf32> -> tensor<4x3x2xf32>
  return %2 : tensor<4x3x2xf32>
}

// What others read transposed stays.
// CHECK-LABEL: @transpose_for_others_too
// CHECK-NEXT:  %[[WHOLE:.*]] = stablehlo.transpose %arg0
// CHECK-NEXT:  %[[PART:.*]] = shard.reduce_scatter %[[WHOLE]] {{.*}} scatter_axis = 0
// CHECK-NEXT:  return %[[WHOLE]], %[[PART]]
func.func @transpose_for_others_too(%a: tensor<2x4xf32>) -> (tensor<4x2xf32>, tensor<2x2xf32>) {
  %0 = stablehlo.transpose %a, dims = [1, 0] : (tensor<2x4xf32>) -> tensor<4x2xf32>
  %1 = shard.reduce_scatter %0 on @mesh grid_axes = [0] scatter_axis = 0 : tensor<4x2xf32> -> tensor<2x2xf32>
  return %0, %1 : tensor<4x2xf32>, tensor<2x2xf32>
}
