// RUN: autopar-opt %s --optimize-collectives --verify-diagnostics
// RUN: autopar-opt %s --free-early --verify-diagnostics
// RUN: autopar-opt %s --convert-shard-to-stablehlo --verify-diagnostics

shard.grid @mesh(shape = 2) {axis_names = ["x"]}
// expected-error@+1 {{argument 0 of @main is split <@mesh, [{"x"}]>, and has no autopar.global: run shard-partition before}}
func.func @main(%a: tensor<8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}]>}) -> tensor<8xf32> {
  return %a : tensor<8xf32>
}
