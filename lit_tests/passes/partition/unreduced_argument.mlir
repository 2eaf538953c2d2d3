// A program without ops is one of StableHLO.
// RUN: autopar-opt %s --import-sdy --sharding-propagation --shard-partition --convert-shard-to-stablehlo | filecheck %s

// CHECK:      func.func @main
// CHECK:      stablehlo.select
// CHECK-NOT:  arith.

sdy.mesh @m = <["x"=8]>
func.func @main(%a: tensor<8xf32>) -> (tensor<8xf32> {sdy.sharding = #sdy.sharding<@m, [{}], unreduced={"x"}>}) {
  return %a : tensor<8xf32>
}
