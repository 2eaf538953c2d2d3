// RUN: autopar-opt %s --shard-partition --shard-partition --verify-diagnostics
// RUN: autopar-opt %s --shard-partition --insert-reshards --verify-diagnostics
// RUN: autopar-opt %s --shard-partition --sharding-propagation --verify-diagnostics

shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
// expected-error@+1 {{@main is partitioned already (its arguments and results say autopar.global)}}
func.func @main(
    %a: tensor<8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}]>}) -> tensor<8xf32> {
  return %a : tensor<8xf32>
}
