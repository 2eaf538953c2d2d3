// RUN: autopar-opt %s --split-input-file --convert-mesh-to-shard --sharding-propagation --shard-partition | filecheck %s

// A matrix product in the older mesh dialect: the sum over the split dimension stays partial where
// the program says so, and costs one all_reduce where it does not.

// CHECK:      func.func @partial(%{{.*}}: tensor<8x1000x512xf32> {{.*}}, %{{.*}}: tensor<8x512x8192xf32>
// CHECK-SAME: -> (tensor<8x1000x8192xf32> {{.*}} partial={sum = ["1"]}
// CHECK-NEXT: %[[P:.*]] = tosa.matmul {{.*}} -> tensor<8x1000x8192xf32>
// CHECK-NEXT: return %[[P]]
mesh.mesh @mesh_2d(shape = 4x8)
func.func @partial(%arg0: tensor<32x1000x4096xf32>, %arg1: tensor<32x4096x8192xf32>) -> tensor<32x1000x8192xf32> {
  %a = mesh.shard %arg0 to <@mesh_2d, [[0], [], [1]]> annotate_for_users : tensor<32x1000x4096xf32>
  %b = mesh.shard %arg1 to <@mesh_2d, [[0], [1]]> annotate_for_users : tensor<32x4096x8192xf32>
  %0 = tosa.matmul %a, %b : (tensor<32x1000x4096xf32>, tensor<32x4096x8192xf32>) -> tensor<32x1000x8192xf32>
  %1 = mesh.shard %0 to <@mesh_2d, [[0]], partial = sum[1]> : tensor<32x1000x8192xf32>
  return %1 : tensor<32x1000x8192xf32>
}

// -----

// CHECK:      func.func @reduced
// CHECK-NEXT: %[[P:.*]] = tosa.matmul
// CHECK-NEXT: %[[R:.*]] = shard.all_reduce %[[P]] on @mesh_2d grid_axes = [1] : tensor<8x1000x8192xf32> -> tensor<8x1000x8192xf32>
// CHECK-NEXT: return %[[R]]
mesh.mesh @mesh_2d(shape = 4x8)
func.func @reduced(%arg0: tensor<32x1000x4096xf32>, %arg1: tensor<32x4096x8192xf32>) -> tensor<32x1000x8192xf32> {
  %a = mesh.shard %arg0 to <@mesh_2d, [[0], [], [1]]> annotate_for_users : tensor<32x1000x4096xf32>
  %b = mesh.shard %arg1 to <@mesh_2d, [[0], [1]]> annotate_for_users : tensor<32x4096x8192xf32>
  %0 = tosa.matmul %a, %b : (tensor<32x1000x4096xf32>, tensor<32x4096x8192xf32>) -> tensor<32x1000x8192xf32>
  %1 = mesh.shard %0 to <@mesh_2d, [[0]], partial = sum[1]> : tensor<32x1000x8192xf32>
  %2 = mesh.shard %1 to <@mesh_2d, [[0]]> : tensor<32x1000x8192xf32>
  return %2 : tensor<32x1000x8192xf32>
}
