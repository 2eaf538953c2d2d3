// RUN: autopar-opt %s --sharding-propagation --insert-reshards | filecheck %s
// RUN: autopar-opt %s --sharding-propagation --insert-reshards --shard-partition --optimize-collectives | filecheck %s --check-prefix=LOCAL

// Two dots read %w whole. The second one is to have it brought once more: behind a barrier with
// its other operand, by a reshard that is not merged with the first.
// CHECK:      %[[W:.*]] = autopar.reshard %[[ARG:.*]] {sharding = #autopar.sharding<@mesh, [{}, {}]>}
// CHECK-NEXT: stablehlo.dot_general %{{.*}}, %[[W]], {{.*}}
// CHECK-NEXT: %[[T:.*]] = stablehlo.tanh
// CHECK-NEXT: %[[B:.*]]:2 = stablehlo.optimization_barrier {{.*}} %[[ARG]], %[[T]]
// CHECK-NEXT: %[[A:.*]] = autopar.reshard %[[B]] {autopar.phase = "again_1", {{.*}}
// CHECK-NEXT: stablehlo.dot_general %[[B]]#1, %[[A]], {{.*}}
// CHECK-NOT:  autopar.again
// LOCAL:      shard.all_gather
// LOCAL:      shard.all_gather
// LOCAL-NOT:  shard.all_gather

shard.grid @mesh(shape = 4) {axis_names = ["x"]}
func.func @main(
    %x: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>},
    %w: tensor<16x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>})
    -> (tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}) {
  %0 = "stablehlo.dot_general"(%x, %w) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>}> {autopar.strategy = #autopar.strategy<[["x"], [], []]>} : (tensor<8x16xf32>, tensor<16x16xf32>) -> tensor<8x16xf32>
  %1 = "stablehlo.tanh"(%0) : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %2 = "stablehlo.dot_general"(%1, %w) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>}> {autopar.again = array<i64: 1>, autopar.strategy = #autopar.strategy<[["x"], [], []]>} : (tensor<8x16xf32>, tensor<16x16xf32>) -> tensor<8x16xf32>
  return %2 : tensor<8x16xf32>
}
