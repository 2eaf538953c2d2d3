// RUN: autopar-opt %s --annotate-method="method=dp" | filecheck %s --check-prefix=DP
// RUN: autopar-opt %s --annotate-method="method=zero2 small-tensor-elements=8" | filecheck %s --check-prefix=ZERO2
// RUN: autopar-opt %s --annotate-method="method=zero3 small-tensor-elements=8" | filecheck %s --check-prefix=ZERO3
// RUN: autopar-opt %s --annotate-method="method=fsdp small-tensor-elements=8" | filecheck %s --check-prefix=ZERO3
// RUN: autopar-opt %s --annotate-method="method=shard" | filecheck %s --check-prefix=SHARD

// DP:         %arg0: tensor<16x4xf32> {autopar.kind = "parameter", autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>
// DP-SAME:    %arg1: tensor<16x4xf32> {autopar.kind = "optimizer_state", autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>
// DP-SAME:    %arg3: tensor<32x16xf32> {{.*}} autopar.sharding = #autopar.sharding<@mesh, [{"data"}, {}]>
// ZERO2:      %arg0: tensor<16x4xf32> {autopar.kind = "parameter", autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>
// ZERO2-SAME: %arg1: tensor<16x4xf32> {autopar.kind = "optimizer_state", autopar.sharding = #autopar.sharding<@mesh, [{"data"}p1, {}]>
// ZERO2-SAME: %arg2: tensor<4xf32> {{.*}} autopar.sharding = #autopar.sharding<@mesh, [{}]>
// ZERO3:      %arg0: tensor<16x4xf32> {autopar.kind = "parameter", autopar.sharding = #autopar.sharding<@mesh, [{"data"}p1, {}]>
// ZERO3-SAME: %arg1: tensor<16x4xf32> {autopar.kind = "optimizer_state", autopar.sharding = #autopar.sharding<@mesh, [{"data"}p1, {}]>
// SHARD:      func.func @main
// SHARD-NOT:  autopar.sharding

shard.grid @mesh(shape = 8) {axis_names = ["data"]}
func.func @main(
    %param: tensor<16x4xf32> {autopar.kind = "parameter", tf.aliasing_output = 0 : i32},
    %momentum: tensor<16x4xf32> {autopar.kind = "optimizer_state", tf.aliasing_output = 1 : i32},
    %bias: tensor<4xf32> {autopar.kind = "optimizer_state"},
    %batch: tensor<32x16xf32> {autopar.kind = "batch", autopar.batch_dim = 0 : i64})
    -> (tensor<16x4xf32>, tensor<16x4xf32>) {
  return %param, %momentum : tensor<16x4xf32>, tensor<16x4xf32>
}
