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
