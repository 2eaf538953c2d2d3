// RUN: autopar-opt %s --convert-shard-to-stablehlo --split-input-file --verify-diagnostics

shard.grid @mesh(shape = 4)
func.func @main(%a: tensor<1x4x4xf32>) -> tensor<1x4x4xf32> {
  // expected-error@+1 {{'tosa.matmul' op is not StableHLO, and autopar does not convert it: `mlir-opt --tosa-to-linalg-named` converts it}}
  %0 = tosa.matmul %a, %a : (tensor<1x4x4xf32>, tensor<1x4x4xf32>) -> tensor<1x4x4xf32>
  return %0 : tensor<1x4x4xf32>
}

// -----

shard.grid @mesh(shape = 4)
func.func @main(%a: tensor<8xf32>) -> tensor<8xf32> {
  // expected-error@+1 {{'autopar.reshard' op is left: run shard-partition before convert-shard-to-stablehlo}}
  %0 = autopar.reshard %a {sharding = #autopar.sharding<@mesh, [{"0"}]>} : tensor<8xf32>
  return %0 : tensor<8xf32>
}
