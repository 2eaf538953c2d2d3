// RUN: autopar-opt %s --sharding-propagation --insert-reshards | filecheck %s

// Every op has its strategy; the contraction over a sharded dimension is partial, carried through
// the transpose, and resolved once, where tanh needs the sum. Half of an axis becomes an axis.
// CHECK:      shard.grid @mesh(shape = 2x2x2) {axis_names = ["x", "y:(1)2", "y:(2)2"]}
// CHECK:      stablehlo.dot_general {{.*}} {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}, {}], partial={sum = ["y:(1)2"]}>], autopar.strategy = #autopar.strategy<{{\[\[}}"x"], [], ["y:(1)2"]]>}
// CHECK-NEXT: %[[T:.*]] = stablehlo.transpose {{.*}} partial={sum = ["y:(1)2"]}
// CHECK-NEXT: %[[R:.*]] = autopar.reshard %[[T]] {sharding = #autopar.sharding<@mesh, [{}, {"x"}]>} : tensor<4x8xf32>
// CHECK-NEXT: %[[H:.*]] = stablehlo.tanh %[[R]]
// CHECK-NEXT: return %[[H]]

shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @main(
    %a: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {"y":(1)2}]>},
    %b: tensor<16x4xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"y":(1)2}, {}]>})
    -> (tensor<4x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"x"}]>}) {
  %0 = "stablehlo.dot_general"(%a, %b) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>}> : (tensor<8x16xf32>, tensor<16x4xf32>) -> tensor<8x4xf32>
  %1 = "stablehlo.transpose"(%0) <{permutation = array<i64: 1, 0>}> : (tensor<8x4xf32>) -> tensor<4x8xf32>
  %2 = "stablehlo.tanh"(%1) : (tensor<4x8xf32>) -> tensor<4x8xf32>
  return %2 : tensor<4x8xf32>
}
