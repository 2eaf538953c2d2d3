// RUN: autopar-opt %s --shard-ops-to-attributes --split-input-file --verify-diagnostics

shard.grid @mesh(shape = 2x4)
func.func @main(%a: tensor<8xf32>) {
  %s = shard.sharding @mesh split_axes = [[0]] {autopar.partial = "avg[1]"} : !shard.sharding
  // expected-error@+1 {{unknown reduction kind avg in autopar.partial}}
  %0 = shard.shard %a to %s : tensor<8xf32>
  return
}

// -----

shard.grid @mesh(shape = 2x4)
func.func @main(%a: tensor<8xf32>) {
  // expected-error@+1 {{halo_sizes are not supported}}
  %s = shard.sharding @mesh split_axes = [[0]] halo_sizes = [1, 1] : !shard.sharding
  %0 = shard.shard %a to %s : tensor<8xf32>
  return
}
