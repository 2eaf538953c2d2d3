// RUN: not autopar-opt %s --auto-shard="cluster=nowhere" 2>&1 | filecheck %s --check-prefix=CLUSTER
// RUN: not autopar-opt %s --auto-shard="alpha=1,2" 2>&1 | filecheck %s --check-prefix=ALPHA
// RUN: not autopar-opt %s --auto-shard="time-limit=0" 2>&1 | filecheck %s --check-prefix=LIMIT
// RUN: not autopar-opt %s --auto-shard="seed=-1" 2>&1 | filecheck %s --check-prefix=SEED
// RUN: not autopar-opt %s --auto-shard="memory-per-device=1e400" 2>&1 | filecheck %s --check-prefix=MEMORY
// RUN: not autopar-opt %s --auto-shard="beta=nan" 2>&1 | filecheck %s --check-prefix=BETA
// RUN: not autopar-opt %s --auto-shard="beta=100" 2>&1 | filecheck %s --check-prefix=DEAR
// RUN: not autopar-opt %s --auto-shard="grid=4" 2>&1 | filecheck %s --check-prefix=GRID

// CLUSTER: auto_shard_invalid.mlir:{{.*}} error: auto-shard: {{.*}}nowhere
// ALPHA: auto_shard_invalid.mlir:{{.*}} error: auto-shard: alpha=1,2: 2 values for the 1 axes of the grid
// LIMIT: error: {{.*}}time-limit=0: expected a number of seconds above 0
// SEED: error: {{.*}}seed=-1: expected a whole number of at least 0
// MEMORY: error: {{.*}}memory-per-device=1e400: expected bytes, as in 16GiB, 1.5GB or 80e9, from 1 to 1e+18
// BETA: error: {{.*}}beta=nan: nan is no number of seconds from 0 to 1000
// DEAR: error: auto-shard: every plan takes longer than 1e+06 seconds a step, the most that is planned for
// GRID: error: {{.*}}grid
shard.grid @mesh(shape = 8) {axis_names = ["x"]}
func.func @main(%x: tensor<8192x1024xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}) -> (tensor<8192x1024xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>}) {
  return %x : tensor<8192x1024xf32>
}
