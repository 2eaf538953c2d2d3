// RUN: autopar-opt %s --auto-shard="cluster=8xv100" --remarks 2>&1 | filecheck %s

// Every device computes ops without a rule whole: one remark for each kind, at the first of it.
// CHECK: auto_shard_unruled.mlir:10:8: remark: auto-shard: custom_call @mine has no sharding rule: it is replicated on all 4 devices (32768 result bytes each, of 2 such ops); register_custom_call_rule gives it one
// CHECK-NOT: custom_call @mine has
// CHECK: auto_shard_unruled.mlir:12:8: remark: auto-shard: 'mine.other' has no sharding rule: it is replicated on all 4 devices (16384 result bytes each); register_sharding_rule gives it one
// CHECK: auto_shard_unruled.mlir:13:8: remark: auto-shard: 'stablehlo.einsum' has no sharding rule: it is replicated on all 4 devices (16384 result bytes each); register_sharding_rule gives it one
shard.grid @mesh(shape = 2x2) {axis_names = ["x", "y"]}
func.func @main(%x: tensor<64x64xf32>) -> tensor<64x64xf32> {
  %0 = stablehlo.custom_call @mine(%x) : (tensor<64x64xf32>) -> tensor<64x64xf32>
  %1 = stablehlo.custom_call @mine(%0) : (tensor<64x64xf32>) -> tensor<64x64xf32>
  %2 = "mine.other"(%1) : (tensor<64x64xf32>) -> tensor<64x64xf32>
  %3 = "stablehlo.einsum"(%2, %x) {einsum_config = "ij,jk->ik"} : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32>
  return %3 : tensor<64x64xf32>
}
