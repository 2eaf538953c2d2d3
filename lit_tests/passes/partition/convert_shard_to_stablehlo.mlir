// RUN: autopar-opt %s --convert-shard-to-stablehlo | filecheck %s

// CHECK:      module attributes {autopar.grid = {axes = ["x", "y"], shape = array<i64: 2, 4>}, mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 8 : i32}
// CHECK-NEXT: func.func public @main(%[[A:.*]]: tensor<4x8xf32> {autopar.layout = {dims = {{\[\[}}"x"], ["y"]], global = tensor<8x32xf32>}})
// CHECK-SAME: -> (tensor<4x32xf32> {autopar.layout = {dims = {{\[\[}}"x"], []], global = tensor<8x32xf32>}})
// The device's index, once, and its coordinate along (y, x).
// CHECK-NEXT: %[[ID:.*]] = stablehlo.replica_id : tensor<ui32>
// CHECK-NEXT: %[[I:.*]] = stablehlo.convert %[[ID]] : (tensor<ui32>) -> tensor<i32>
// CHECK:      %[[Y:.*]] = stablehlo.remainder %[[I]], %{{.*}}
// CHECK:      %[[X:.*]] = stablehlo.divide %[[I]], %{{.*}}
// CHECK:      stablehlo.add %{{.*}}, %[[X]]
// CHECK:      "stablehlo.all_gather"(%{{.*}}) <{all_gather_dim = 1 : i64, channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, replica_groups = dense<{{\[\[}}0, 1, 2, 3], [4, 5, 6, 7]]> : tensor<2x4xi64>, use_global_device_ids}>
// CHECK:      stablehlo.dynamic_slice {{.*}}, sizes = [4, 4]
// CHECK:      "stablehlo.all_reduce"({{.*}}) <{channel_handle = #stablehlo.channel_handle<handle = 2, type = 1>, replica_groups = dense<{{\[\[}}0, 4], [1, 5], [2, 6], [3, 7]]> : tensor<4x2xi64>, use_global_device_ids}> ({
// CHECK:        stablehlo.maximum
// CHECK:      "stablehlo.all_to_all"({{.*}}) <{concat_dimension = 1 : i64, replica_groups = dense<{{\[\[}}0, 4], [1, 5], [2, 6], [3, 7]]> : tensor<4x2xi64>, split_count = 2 : i64, split_dimension = 1 : i64}>
// CHECK:      "stablehlo.collective_permute"({{.*}}) <{source_target_pairs = dense<{{\[\[}}0, 1], [1, 0], [4, 5], [5, 4]]> : tensor<4x2xi64>}>
// CHECK-NOT:  shard.
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func public @main(%a: tensor<4x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {"y"}]>, autopar.global = tensor<8x32xf32>})
    -> (tensor<4x32xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>, autopar.global = tensor<8x32xf32>}) {
  %0 = shard.all_gather %a on @mesh grid_axes = [1] gather_axis = 1 : tensor<4x8xf32> -> tensor<4x32xf32>
  %1 = shard.all_slice %0 on @mesh grid_axes = [1, 0] slice_axis = 1 : tensor<4x32xf32> -> tensor<4x4xf32>
  %2 = shard.all_reduce %0 on @mesh grid_axes = [0] reduction = max : tensor<4x32xf32> -> tensor<4x32xf32>
  %3 = shard.all_to_all %2 on @mesh grid_axes = [0] split_axis = 1 concat_axis = 1 : tensor<4x32xf32> -> tensor<4x32xf32>
  %4 = shard.permute %3 on @mesh grid_axes = [1] pairs = [[0, 1], [1, 0]] : tensor<4x32xf32> -> tensor<4x32xf32>
  return %4 : tensor<4x32xf32>
}
