// RUN: autopar-opt %s --optimize-collectives | filecheck %s

// CHECK-LABEL: @merge
// CHECK-NEXT:  %[[G:.*]] = shard.all_gather
// CHECK-NEXT:  return %[[G]], %[[G]]
// CHECK-LABEL: @scatter
// CHECK-NEXT:  %[[S:.*]] = shard.reduce_scatter %{{.*}} on @mesh grid_axes = [1] scatter_axis = 1 : tensor<4x8xf32> -> tensor<4x2xf32>
// CHECK-NEXT:  return %[[S]]
// CHECK-LABEL: @combine
// CHECK-NEXT:  shard.all_reduce {{.*}} {autopar.combine = 0 : i64}
// CHECK-NEXT:  shard.all_reduce {{.*}} {autopar.combine = 0 : i64}

shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @merge(%a: tensor<4x8xf32>) -> (tensor<4x32xf32>, tensor<4x32xf32>) {
  %0 = shard.all_gather %a on @mesh grid_axes = [1] gather_axis = 1 : tensor<4x8xf32> -> tensor<4x32xf32>
  %1 = shard.all_gather %a on @mesh grid_axes = [1] gather_axis = 1 : tensor<4x8xf32> -> tensor<4x32xf32>
  return %0, %1 : tensor<4x32xf32>, tensor<4x32xf32>
}
func.func @scatter(%a: tensor<4x8xf32>) -> tensor<4x2xf32> {
  %0 = shard.all_reduce %a on @mesh grid_axes = [1] : tensor<4x8xf32> -> tensor<4x8xf32>
  %1 = shard.all_slice %0 on @mesh grid_axes = [1] slice_axis = 1 : tensor<4x8xf32> -> tensor<4x2xf32>
  return %1 : tensor<4x2xf32>
}
func.func @combine(%a: tensor<4xf32>, %b: tensor<8xf32>) -> (tensor<4xf32>, tensor<8xf32>) {
  %0 = shard.all_reduce %a on @mesh grid_axes = [0] : tensor<4xf32> -> tensor<4xf32>
  %1 = shard.all_reduce %b on @mesh grid_axes = [0] : tensor<8xf32> -> tensor<8xf32>
  return %0, %1 : tensor<4xf32>, tensor<8xf32>
}
