// RUN: autopar-opt %s --insert-reshards --remarks 2>&1 | filecheck %s
// RUN: autopar-opt %s --sharding-propagation --insert-reshards --remarks 2>&1 | filecheck %s --check-prefix AGAIN

// The exponentials came in behind propagation: nothing says where they lie.
// CHECK: insert_reshards_late.mlir:13:8: remark: 'stablehlo.exponential' has no sharding, as what a pass inserts behind propagation or auto-shard: its result is gathered on all 8 devices (16384 bytes each, of 2 such ops); run sharding-propagation behind that pass
// CHECK-NOT: remark
// CHECK: autopar.reshard {{.*}}[{}, {}]
// AGAIN-NOT: remark
// AGAIN-NOT: reshard
shard.grid @mesh(shape = 8) {axis_names = ["x"]}
func.func @main(%a: tensor<64x32xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}) -> (tensor<64x32xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}) {
  %0 = stablehlo.tanh %a {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}, {}]>]} : tensor<64x32xf32>
  %1 = stablehlo.exponential %0 : tensor<64x32xf32>
  %2 = stablehlo.exponential %0 : tensor<64x32xf32>
  %3 = stablehlo.add %1, %2 {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}, {}]>]} : tensor<64x32xf32>
  return %3 : tensor<64x32xf32>
}
