// RUN: autopar-opt %s --sharding-propagation --shard-partition | filecheck %s

// Each resharding is the cheapest sequence of collectives.

// An axis moves from one dimension to another: one all_to_all, never gather and slice.
// CHECK-LABEL: @moved
// CHECK-NEXT:  shard.all_to_all %{{.*}} on @mesh grid_axes = [1] split_axis = 1 concat_axis = 0 : tensor<2x8xf32> -> tensor<8x2xf32>
// CHECK-NEXT:  return
// Axes of equal size change places: blocks change devices.
// CHECK-LABEL: @swapped
// CHECK-NEXT:  shard.permute
// CHECK-NEXT:  return
// The major axis is sliced away before the minor one is gathered.
// CHECK-LABEL: @sliced
// CHECK-NEXT:  shard.all_slice %{{.*}} on @mesh grid_axes = [0] slice_axis = 0
// CHECK-NEXT:  return
// A partial sum that is wanted sharded is reduce-scattered.
// CHECK-LABEL: @scattered
// CHECK:       stablehlo.dot_general
// CHECK-NEXT:  shard.reduce_scatter %{{.*}} on @mesh grid_axes = [1] scatter_axis = 0
// CHECK-NEXT:  return
// Two partial sums are added first, and reduced once.
// CHECK-LABEL: @once
// CHECK:       stablehlo.add
// CHECK-NEXT:  shard.all_reduce
// CHECK-NOT:   shard.all_reduce
// CHECK:       return
shard.grid @mesh(shape = 2x4x2) {axis_names = ["x", "y", "z"]}
func.func @moved(%a: tensor<8x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"y"}, {}]>})
    -> (tensor<8x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"y"}]>}) {
  return %a : tensor<8x8xf32>
}
func.func @swapped(%a: tensor<8x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {"z"}]>})
    -> (tensor<8x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"z"}, {"x"}]>}) {
  return %a : tensor<8x8xf32>
}
func.func @sliced(%a: tensor<8x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"y"}]>})
    -> (tensor<8x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {"y"}]>}) {
  return %a : tensor<8x8xf32>
}
func.func @scattered(
    %a: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"y"}]>},
    %b: tensor<16x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"y"}, {}]>})
    -> (tensor<8x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"y"}, {}]>}) {
  %0 = "stablehlo.dot_general"(%a, %b) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>}> : (tensor<8x16xf32>, tensor<16x8xf32>) -> tensor<8x8xf32>
  return %0 : tensor<8x8xf32>
}
func.func @once(
    %a: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"y"}]>},
    %b: tensor<16x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"y"}, {}]>})
    -> tensor<8x8xf32> {
  %0 = "stablehlo.dot_general"(%a, %b) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>}> : (tensor<8x16xf32>, tensor<16x8xf32>) -> tensor<8x8xf32>
  %1 = "stablehlo.negate"(%0) : (tensor<8x8xf32>) -> tensor<8x8xf32>
  %2 = "stablehlo.dot_general"(%a, %b) <{dot_dimension_numbers = #stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>, precision_config = [#stablehlo<precision HIGHEST>, #stablehlo<precision HIGHEST>]}> : (tensor<8x16xf32>, tensor<16x8xf32>) -> tensor<8x8xf32>
  %3 = "stablehlo.add"(%1, %2) : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
  return %3 : tensor<8x8xf32>
}
