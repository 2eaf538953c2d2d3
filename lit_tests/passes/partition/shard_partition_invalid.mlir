// RUN: autopar-opt %s --split-input-file --verify-diagnostics --shard-partition="grid=2x4"

// expected-error@unknown {{the option grid=2x4 differs from the module's grid @mesh ("x"=8)}}
shard.grid @mesh(shape = 8) {axis_names = ["x"]}
func.func @f() {
  return
}

// -----

// A call back into Python of jax.custom_partitioning.
func.func @main(%a: tensor<8x4xf32>) -> tensor<8x4xf32> {
  // expected-error @+1 {{a function with jax.custom_partitioning was lowered under a mesh}}
  %0 = stablehlo.custom_call @CustomSPMDPartitioning(%a) {sdy.sharding_rule = #sdy.op_sharding_rule<([i, j])->([i, j]) {i=8, j=4}, custom>} : (tensor<8x4xf32>) -> tensor<8x4xf32>
  return %0 : tensor<8x4xf32>
}

// -----

// expected-error@+2 {{splits dimension 0 of tensor<?x4xf32>, whose size is not known}}
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @main(%a: tensor<?x4xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}) -> tensor<?x4xf32> {
  %0 = stablehlo.tanh %a : tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}
