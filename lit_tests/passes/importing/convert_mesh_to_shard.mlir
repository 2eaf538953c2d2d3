// RUN: autopar-opt %s --convert-mesh-to-shard --split-input-file | filecheck %s

// CHECK:      module @sharding_test {
// CHECK-NEXT:   shard.grid @mesh_2d(shape = 4x8)
// CHECK:        %[[S0:.*]] = shard.sharding @mesh_2d split_axes = [[0], [], [1]] : !shard.sharding
// CHECK-NEXT:   %{{.*}} = shard.shard %{{.*}} to %[[S0]] annotate_for_users : tensor<32x1000x4096xf32>
// CHECK-NEXT:   %[[S1:.*]] = shard.sharding @mesh_2d split_axes = [[0], [1]] : !shard.sharding
// CHECK-NEXT:   %{{.*}} = shard.shard %{{.*}} to %[[S1]] annotate_for_users : tensor<32x4096x8192xf32>
// CHECK-NEXT:   tosa.matmul
// CHECK-NEXT:   %[[S:.*]] = shard.sharding @mesh_2d split_axes = {{\[\[}}0]] {autopar.partial = "sum[1]"} : !shard.sharding
// CHECK-NEXT:   %{{.*}} = shard.shard %{{.*}} to %[[S]] : tensor<32x1000x8192xf32>
module @sharding_test {
  mesh.mesh @mesh_2d(shape = 4x8)

  func.func @matmul_on_operand_shard_batch_and_k(%arg0: tensor<32x1000x4096xf32>, %arg1: tensor<32x4096x8192xf32>) -> tensor<32x1000x8192xf32> {
    %sharding_annotated = mesh.shard %arg0 to <@mesh_2d, [[0], [], [1]]> annotate_for_users : tensor<32x1000x4096xf32>
    %sharding_annotated_0 = mesh.shard %arg1 to <@mesh_2d, [[0], [1]]> annotate_for_users : tensor<32x4096x8192xf32>
    %0 = tosa.matmul %sharding_annotated, %sharding_annotated_0 : (tensor<32x1000x4096xf32>, tensor<32x4096x8192xf32>) -> tensor<32x1000x8192xf32>
    %sharding_annotated_1 = mesh.shard %0 to <@mesh_2d, [[0]], partial = sum[1]> : tensor<32x1000x8192xf32>
    return %sharding_annotated_1 : tensor<32x1000x8192xf32>
  }
}

// -----

// Collectives and questions about the mesh, one to one.

// CHECK:      shard.grid @m(shape = 2x4)
// CHECK:      shard.all_gather %{{.*}} on @m grid_axes = [1] gather_axis = 1 : tensor<4x4xf32> -> tensor<4x16xf32>
// CHECK-NEXT: shard.all_slice %{{.*}} on @m grid_axes = [1] slice_axis = 1 : tensor<4x4xf32> -> tensor<4x1xf32>
// CHECK-NEXT: shard.all_reduce %{{.*}} on @m grid_axes = [1] reduction = max : tensor<4x4xf32> -> tensor<4x4xf32>
// CHECK-NEXT: shard.all_reduce %{{.*}} on @m grid_axes = [0, 1] : tensor<4x4xf32> -> tensor<4x4xf32>
// CHECK-NEXT: shard.all_to_all %{{.*}} on @m grid_axes = [1] split_axis = 0 concat_axis = 1 : tensor<4x4xf32> -> tensor<1x16xf32>
// CHECK-NEXT: shard.reduce_scatter %{{.*}} on @m grid_axes = [1] reduction = max scatter_axis = 0 : tensor<4x4xf32> -> tensor<1x4xf32>
// CHECK-NEXT: shard.scatter %{{.*}} on @m grid_axes = [1] scatter_axis = 0 root = [1] : (tensor<4x4xf32>) -> tensor<1x4xf32>
// CHECK-NEXT: shard.broadcast %{{.*}} on @m grid_axes = [1] root = [0] : (tensor<4x4xf32>) -> tensor<4x4xf32>
// CHECK-NEXT: shard.gather %{{.*}} on @m grid_axes = [1] gather_axis = 1 root = [1] : (tensor<4x4xf32>) -> tensor<4x16xf32>
// CHECK-NEXT: shard.reduce %{{.*}} on @m grid_axes = [1] reduction = min root = [1] : (tensor<4x4xf32>) -> tensor<4x4xf32>
// CHECK-NEXT: shard.send %{{.*}} on @m grid_axes = [1] destination = [1] : (tensor<4x4xf32>) -> tensor<4x4xf32>
// CHECK-NEXT: shard.recv %{{.*}} on @m grid_axes = [1] source = [0] : (tensor<4x4xf32>) -> tensor<4x4xf32>
// CHECK-NEXT: shard.shift %{{.*}} on @m grid_axes = [1] shift_axis = 1 offset = 2 rotate : tensor<4x4xf32> -> tensor<4x4xf32>
// CHECK-NEXT: shard.process_multi_index on @m : index, index
// CHECK-NEXT: shard.process_linear_index on @m : index
// CHECK-NEXT: shard.grid_shape @m axes = [1] : index
mesh.mesh @m(shape = 2x4)
func.func @f(%x: tensor<4x4xf32>) {
  %0 = mesh.all_gather %x on @m mesh_axes = [1] gather_axis = 1 : tensor<4x4xf32> -> tensor<4x16xf32>
  %1 = mesh.all_slice %x on @m mesh_axes = [1] slice_axis = 1 : tensor<4x4xf32> -> tensor<4x1xf32>
  %2 = mesh.all_reduce %x on @m mesh_axes = [1] reduction = <max> : tensor<4x4xf32> -> tensor<4x4xf32>
  %b = mesh.all_reduce %x on @m mesh_axes = [0, 1] : tensor<4x4xf32> -> tensor<4x4xf32>
  %3 = mesh.all_to_all %x on @m mesh_axes = [1] split_axis = 0 concat_axis = 1 : tensor<4x4xf32> -> tensor<1x16xf32>
  %4 = mesh.reduce_scatter %x on @m mesh_axes = [1] reduction = <max> scatter_axis = 0 : tensor<4x4xf32> -> tensor<1x4xf32>
  %5 = mesh.scatter %x on @m mesh_axes = [1] scatter_axis = 0 root = [1] : (tensor<4x4xf32>) -> tensor<1x4xf32>
  %6 = mesh.broadcast %x on @m mesh_axes = [1] root = [0] : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %7 = mesh.gather %x on @m mesh_axes = [1] gather_axis = 1 root = [1] : (tensor<4x4xf32>) -> tensor<4x16xf32>
  %8 = mesh.reduce %x on @m mesh_axes = [1] reduction = min root = [1] : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %9 = mesh.send %x on @m mesh_axes = [1] destination = [1] : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %10 = mesh.recv %x on @m mesh_axes = [1] source = [0] : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %11 = mesh.shift %x on @m mesh_axes = [1] shift_axis = 1 offset = 2 rotate : tensor<4x4xf32> -> tensor<4x4xf32>
  %i:2 = mesh.process_multi_index on @m : index, index
  %l = mesh.process_linear_index on @m : index
  %n = mesh.mesh_shape @m axes = [1] : index
  return
}
