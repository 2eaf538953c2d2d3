// RUN: autopar-opt %s | filecheck %s
// RUN: autopar-opt %s | autopar-opt - | filecheck %s

// CHECK: mesh.mesh @m(shape = 2x4)
// CHECK: mesh.shard %{{.*}} to <@m, {{\[\[}}0], []], partial = sum[1]> annotate_for_users : tensor<4x4xf32>
// CHECK: mesh.shard %{{.*}} to <@m, {{\[\[}}0]]> : tensor<4x4xf32>
// CHECK: mesh.all_reduce %{{.*}} on @m mesh_axes = [1] reduction = <max> : tensor<4x4xf32> -> tensor<4x4xf32>
// CHECK: mesh.all_gather %{{.*}} on @m mesh_axes = [1] gather_axis = 1 : tensor<4x4xf32> -> tensor<4x16xf32>
// CHECK: mesh.process_multi_index on @m : index, index
mesh.mesh @m(shape = 2x4)
func.func @f(%x: tensor<4x4xf32>) {
  %0 = mesh.shard %x to <@m, [[0], []], partial = sum[1]> annotate_for_users : tensor<4x4xf32>
  %1 = mesh.shard %x to <@m, [[0]]> : tensor<4x4xf32>
  %2 = mesh.all_reduce %x on @m mesh_axes = [1] reduction = <max> : tensor<4x4xf32> -> tensor<4x4xf32>
  %3 = mesh.all_gather %x on @m mesh_axes = [1] gather_axis = 1 : tensor<4x4xf32> -> tensor<4x16xf32>
  %i:2 = mesh.process_multi_index on @m : index, index
  return
}
