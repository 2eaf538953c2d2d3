// RUN: autopar-opt %s --sharding-propagation --split-input-file | filecheck %s

// Forward through a product whose rows are sharded, the columns from its second operand; the
// contracted dimension gives the axis to both operands. Everything ends closed.

// CHECK-LABEL: func.func @dot
// CHECK-SAME: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"a"}, {"c"}]>}
// CHECK-SAME: tensor<16x32xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"c"}, {"b"}]>}
// CHECK-SAME: -> (tensor<8x32xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"a"}, {"b"}]>})
// CHECK:      stablehlo.dot_general {{.*}}autopar.sharding = [#autopar.sharding<@mesh, [{"a"}, {"b"}]>]
shard.grid @mesh(shape = 2x4x2) {axis_names = ["a", "b", "c"]}
func.func @dot(%x: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"a"}, {?}]>},
               %w: tensor<16x32xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"c"}, {"b"}]>}) -> tensor<8x32xf32> {
  %0 = "stablehlo.dot_general"(%x, %w) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>}> : (tensor<8x16xf32>, tensor<16x32xf32>) -> tensor<8x32xf32>
  func.return %0 : tensor<8x32xf32>
}

// -----

// Backward from the result, and a copy of the constant for each sharding that its uses want.

// CHECK-LABEL: func.func @constants
// CHECK-SAME: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"a"}, {}]>}
// CHECK-COUNT-2: stablehlo.constant
// CHECK-NOT:  stablehlo.constant
shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
func.func @constants(%x: tensor<8x16xf32>, %y: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"b"}]>})
    -> (tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"a"}, {}]>}, tensor<8x16xf32>) {
  %c = "stablehlo.constant"() <{value = dense<1.0> : tensor<8x16xf32>}> : () -> tensor<8x16xf32>
  %0 = "stablehlo.add"(%x, %c) : (tensor<8x16xf32>, tensor<8x16xf32>) -> tensor<8x16xf32>
  %1 = "stablehlo.add"(%y, %c) : (tensor<8x16xf32>, tensor<8x16xf32>) -> tensor<8x16xf32>
  func.return %0, %1 : tensor<8x16xf32>, tensor<8x16xf32>
}

// -----

// A reshape splits an axis between two dimensions. The boundary, left open, keeps whole axes.

// CHECK-LABEL: func.func @sub_axes
// CHECK-SAME: -> (tensor<2x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>})
// CHECK:      stablehlo.reshape {{.*}}@mesh, [{"b":(1)2}, {"b":(2)2}]
shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
func.func @sub_axes(%x: tensor<16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"b"}]>}) -> tensor<2x8xf32> {
  %0 = "stablehlo.reshape"(%x) : (tensor<16xf32>) -> tensor<2x8xf32>
  func.return %0 : tensor<2x8xf32>
}

// -----

// Without a grid nothing happens.

// CHECK-LABEL: func.func @no_grid
// CHECK-NOT:  autopar.sharding
func.func @no_grid(%x: tensor<8xf32>) -> tensor<8xf32> {
  %0 = "stablehlo.tanh"(%x) : (tensor<8xf32>) -> tensor<8xf32>
  func.return %0 : tensor<8xf32>
}

// -----

// What a border leaves out of the manual axes is replicated: neither the user of the result nor the
// source of the operand splits it over them.

// CHECK-LABEL: func.func @manual_axes
// CHECK: sdy.manual_computation
// CHECK-SAME: in_shardings=[<@mesh, [{}, {"b"}]>, <@mesh, [{}, {}], replicated={"b"}>]
// CHECK-SAME: out_shardings=[<@mesh, [{}, {}], replicated={"b"}>, <@mesh, [{}, {"b"}]>]
// CHECK: stablehlo.add {{.*}}autopar.sharding = [#autopar.sharding<@mesh, [{}, {"b"}]>]
shard.grid @mesh(shape = 2x4) {axis_names = ["a", "b"]}
func.func @manual_axes(%x: tensor<16x16xf32>, %y: tensor<16x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"b"}, {?}]>}) -> tensor<16x16xf32> {
  %0:2 = sdy.manual_computation(%x, %y) in_shardings=[<@mesh, [{?}, {"b", ?}]>, <@mesh, [{?}, {?}]>] out_shardings=[<@mesh, [{?}, {?}]>, <@mesh, [{?}, {"b", ?}]>] manual_axes={"b"} (%u: tensor<16x4xf32>, %v: tensor<16x16xf32>) {
    sdy.return %v, %u : tensor<16x16xf32>, tensor<16x4xf32>
  } : (tensor<16x16xf32>, tensor<16x16xf32>) -> (tensor<16x16xf32>, tensor<16x16xf32>)
  %1 = stablehlo.add %0#0, %0#1 : tensor<16x16xf32>
  func.return %1 : tensor<16x16xf32>
}
