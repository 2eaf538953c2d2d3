// RUN: autopar-opt %s --insert-reshards | filecheck %s

// A partial sum that is to lie otherwise than the op gives it is brought there at once: its reader
// would be split as the sum is, and fetch what it misses from other devices.
// CHECK:      %[[D:.*]] = stablehlo.dot_general {{.*}} {autopar.sharding = [#autopar.sharding<@mesh, [{}, {"y"}], partial={sum = ["x"]}>]
// CHECK-NEXT: %[[R:.*]] = autopar.reshard %[[D]] {sharding = #autopar.sharding<@mesh, [{"x", "y"}, {}]>}
// CHECK-NEXT: stablehlo.slice %[[R]]{{.*}} autopar.strategy = #autopar.strategy<{{\[\[}}"x", "y"], []

shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @main(
    %a: tensor<64x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"x"}]>},
    %b: tensor<16x96xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {"y"}]>})
    -> (tensor<64x48xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x", "y"}, {}]>}) {
  %0 = "stablehlo.dot_general"(%a, %b) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>}> {autopar.sharding = [#autopar.sharding<@mesh, [{"x", "y"}, {}]>], autopar.strategy = #autopar.strategy<[[], ["y"], ["x"]]>} : (tensor<64x16xf32>, tensor<16x96xf32>) -> tensor<64x96xf32>
  %1 = "stablehlo.slice"(%0) <{start_indices = array<i64: 0, 48>, limit_indices = array<i64: 64, 96>, strides = array<i64: 1, 1>}> {autopar.sharding = [#autopar.sharding<@mesh, [{"x", "y"}, {}]>]} : (tensor<64x96xf32>) -> tensor<64x48xf32>
  return %1 : tensor<64x48xf32>
}
