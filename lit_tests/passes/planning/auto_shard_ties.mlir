// RUN: autopar-opt %s --auto-shard="cluster=tpu-v5e" --shard-partition | filecheck %s

// Of plans that take the same time that one is taken which keeps least on a device; but no message
// is worth it: a device that holds 12 GB of a table reads no more than some rows.
// CHECK-LABEL: func.func @main(%{{.*}}: tensor<47000000x64xf32>
// CHECK-NOT:   shard.all
shard.grid @mesh(shape = 8) {axis_names = ["x"]}
func.func @main(%table: tensor<47000000x64xf32>, %rows: tensor<64x1xi32>) -> (tensor<64x64xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>}) {
  %0 = "stablehlo.gather"(%table, %rows) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, indices_are_sorted = false, slice_sizes = array<i64: 1, 64>}> : (tensor<47000000x64xf32>, tensor<64x1xi32>) -> tensor<64x64xf32>
  return %0 : tensor<64x64xf32>
}
