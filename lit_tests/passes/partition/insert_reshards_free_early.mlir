// RUN: autopar-opt %s --insert-reshards | filecheck %s
// RUN: sed s/autopar.free_early// %s | autopar-opt --insert-reshards | filecheck %s --check-prefix=LATE

// A gradient that is to lie scattered waits so for its readers where memory is freed early, though they want it whole.
// CHECK-LABEL: func.func @main
// CHECK:       %[[DOT:.*]] = stablehlo.dot_general
// CHECK-SAME:  partial={sum = ["x"]}
// CHECK-NEXT:  %[[PART:.*]] = autopar.reshard %[[DOT]] {sharding = #autopar.sharding<@grid, [{"x"}, {}]>}
// CHECK-NEXT:  stablehlo.transpose %[[PART]]

// Else it is reduced where they read it, at once.
// LATE:        %[[DOT:.*]] = stablehlo.dot_general
// LATE-NEXT:   %[[TURNED:.*]] = stablehlo.transpose %[[DOT]]
// LATE-NEXT:   autopar.reshard %[[TURNED]] {sharding = #autopar.sharding<@grid, [{}, {}]>}
shard.grid @grid(shape = 2) {axis_names = ["x"]}
func.func @main(%h: tensor<64x8xf32> {autopar.sharding = #autopar.sharding<@grid, [{"x"}, {}]>}, %d: tensor<64x4xf32> {autopar.sharding = #autopar.sharding<@grid, [{"x"}, {}]>})
    -> (tensor<4x8xf32> {autopar.sharding = #autopar.sharding<@grid, [{}, {}]>}) attributes {autopar.free_early} {
  %g = stablehlo.dot_general %h, %d, contracting_dims = [0] x [0] {autopar.sharding = [#autopar.sharding<@grid, [{"x"}, {}]>]} : (tensor<64x8xf32>, tensor<64x4xf32>) -> tensor<8x4xf32>
  %t = stablehlo.transpose %g, dims = [1, 0] {autopar.sharding = [#autopar.sharding<@grid, [{}, {}]>]} : (tensor<8x4xf32>) -> tensor<4x8xf32>
  func.return %t : tensor<4x8xf32>
}
