// RUN: autopar-opt %s | filecheck %s
// RUN: autopar-opt %s | autopar-opt - | filecheck %s

// CHECK: shard.grid @grid(shape = 2x4) {axis_names = ["data", "model"]}
// CHECK: shard.sharding @grid split_axes = {{\[\[}}0], [1]] : !shard.sharding
// CHECK: shard.sharding @grid split_axes = {{\[\[}}0]] {autopar.partial = "sum[1]"} : !shard.sharding
// CHECK: shard.shard %{{.*}} to %{{.*}} annotate_for_users : tensor<8x16xf32>
// CHECK: shard.get_sharding %{{.*}} : tensor<8x16xf32> -> !shard.sharding
// CHECK: shard.all_gather %{{.*}} on @grid grid_axes = [1] gather_axis = 1 : tensor<4x4xf32> -> tensor<4x16xf32>
// CHECK: shard.all_slice %{{.*}} on @grid grid_axes = [1] slice_axis = 1 : tensor<4x4xf32> -> tensor<4x1xf32>
// CHECK: shard.all_reduce %{{.*}} on @grid grid_axes = [1] reduction = max : tensor<4x4xf32> -> tensor<4x4xf32>
// CHECK: shard.all_to_all %{{.*}} on @grid grid_axes = [1] split_axis = 0 concat_axis = 1 : tensor<4x4xf32> -> tensor<1x16xf32>
// CHECK: shard.reduce_scatter %{{.*}} on @grid grid_axes = [1] scatter_axis = 0 : tensor<4x4xf32> -> tensor<1x4xf32>
// CHECK: shard.shift %{{.*}} on @grid grid_axes = [1] shift_axis = 1 offset = 2 rotate : tensor<4x4xf32> -> tensor<4x4xf32>
// CHECK: shard.permute %{{.*}} on @grid grid_axes = [0, 1] pairs = {{\[\[}}0, 1], [7, 0]] : tensor<4x4xf32> -> tensor<4x4xf32>
// CHECK: shard.update_halo %{{.*}} on @grid split_axes = {{\[\[}}0], [1]] halo_sizes = [1, 1, 0, 1] : tensor<4x4xf32>
// CHECK: shard.process_multi_index on @grid : index, index
// CHECK: shard.process_linear_index on @grid : index
// CHECK: shard.neighbors_linear_indices on @grid[%{{.*}}, %{{.*}}] split_axes = [1] : index, index
// CHECK: shard.grid_shape @grid axes = [1] : index
// CHECK: shard.shard_shape dims = [%{{.*}}, 16] sharding = %{{.*}} device = [0, %{{.*}}] : index, index
shard.grid @grid(shape = 2x4) {axis_names = ["data", "model"]}
func.func @f(%x: tensor<4x4xf32>, %a: tensor<8x16xf32>) {
  %s = shard.sharding @grid split_axes = [[0], [1]] : !shard.sharding
  %p = shard.sharding @grid split_axes = [[0]] {autopar.partial = "sum[1]"} : !shard.sharding
  %a1 = shard.shard %a to %s annotate_for_users : tensor<8x16xf32>
  %g = shard.get_sharding %a1 : tensor<8x16xf32> -> !shard.sharding
  %0 = shard.all_gather %x on @grid grid_axes = [1] gather_axis = 1 : tensor<4x4xf32> -> tensor<4x16xf32>
  %1 = shard.all_slice %x on @grid grid_axes = [1] slice_axis = 1 : tensor<4x4xf32> -> tensor<4x1xf32>
  %2 = shard.all_reduce %x on @grid grid_axes = [1] reduction = max : tensor<4x4xf32> -> tensor<4x4xf32>
  %3 = shard.all_to_all %x on @grid grid_axes = [1] split_axis = 0 concat_axis = 1 : tensor<4x4xf32> -> tensor<1x16xf32>
  %4 = shard.reduce_scatter %x on @grid grid_axes = [1] scatter_axis = 0 : tensor<4x4xf32> -> tensor<1x4xf32>
  %5 = shard.shift %x on @grid grid_axes = [1] shift_axis = 1 offset = 2 rotate : tensor<4x4xf32> -> tensor<4x4xf32>
  %6 = shard.permute %x on @grid grid_axes = [0, 1] pairs = [[0, 1], [7, 0]] : tensor<4x4xf32> -> tensor<4x4xf32>
  %7 = shard.update_halo %x on @grid split_axes = [[0], [1]] halo_sizes = [1, 1, 0, 1] : tensor<4x4xf32>
  %i:2 = shard.process_multi_index on @grid : index, index
  %l = shard.process_linear_index on @grid : index
  %d, %u = shard.neighbors_linear_indices on @grid[%i#0, %i#1] split_axes = [1] : index, index
  %m = shard.grid_shape @grid axes = [1] : index
  %z:2 = shard.shard_shape dims = [%l, 16] sharding = %s device = [0, %i#1] : index, index
  return
}
