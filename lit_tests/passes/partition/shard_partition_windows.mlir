// RUN: autopar-opt %s --sharding-propagation --shard-partition | filecheck %s

// The gradient of a convolution's weights: the kernel is the output's gradient. A device's part of it
// meets its own rows of the image and one of either neighbour; the sum is over the devices.
// CHECK-LABEL: @weights
// CHECK:       shard.permute %{{.*}} : tensor<2x1x4xf32> -> tensor<2x1x4xf32>
// CHECK:       shard.permute %{{.*}} : tensor<2x1x4xf32> -> tensor<2x1x4xf32>
// CHECK-NOT:   shard
// CHECK:       stablehlo.convolution{{.*}} : (tensor<2x6x4xf32>, tensor<2x4x8xf32>) -> tensor<3x4x8xf32>
// CHECK-NEXT:  shard.all_reduce %{{.*}} on @mesh grid_axes = [0] : tensor<3x4x8xf32>
// CHECK-NEXT:  return
// The gradient of a maximum over windows of 3, 2 apart: a window over the border also selects here;
// what it scatters to the neighbour is dropped.
// CHECK-LABEL: @pooled
// CHECK:       shard.permute %{{.*}} : tensor<1xf32> -> tensor<1xf32>
// CHECK:       shard.permute %{{.*}} : tensor<2xf32> -> tensor<2xf32>
// CHECK:       shard.permute %{{.*}} : tensor<1xf32> -> tensor<1xf32>
// CHECK-NOT:   shard
// CHECK:       "stablehlo.select_and_scatter"
// CHECK:       (tensor<7xf32>, tensor<3xf32>, tensor<f32>) -> tensor<7xf32>
// CHECK-NOT:   shard
// CHECK:       return %{{.*}} : tensor<4xf32>
// The largest element and its number: a device chooses among its own, then among what all chose. The
// numbers are made where they are needed.
// CHECK-LABEL: @argmax
// CHECK-NOT:   shard.all
// CHECK:       stablehlo.reduce({{.*}} across dimensions = [1] : (tensor<3x4xf32>, tensor<3x4xi32>
// CHECK:       shard.all_gather %{{.*}} : tensor<1x3xf32> -> tensor<4x3xf32>
// CHECK:       shard.all_gather %{{.*}} : tensor<1x3xi32> -> tensor<4x3xi32>
// CHECK:       stablehlo.reduce({{.*}} across dimensions = [0] : (tensor<4x3xf32>, tensor<4x3xi32>
// CHECK:       return %{{.*}} : tensor<3xi32>
// CHECK-LABEL: @numbers
// CHECK-NEXT:  %[[I:.*]] = stablehlo.iota dim = 0 : tensor<8xi32>
// CHECK-NEXT:  %[[W:.*]] = shard.all_gather
// CHECK-NEXT:  "stablehlo.sort"(%[[W]], %[[I]])
// A roll, as JAX writes it, is one shift: three rows go round, the last of the others stay.
// CHECK-LABEL: @rolled
// CHECK:       %[[S:.*]] = stablehlo.slice %{{.*}} [1:4] : (tensor<4xf32>) -> tensor<3xf32>
// CHECK-NEXT:  shard.permute %[[S]] on @mesh grid_axes = [0] pairs = {{.*}} : tensor<3xf32> -> tensor<3xf32>
// CHECK-NOT:   shard.permute
// CHECK:       return
// The first half of a dimension in parts of half the size: whole blocks are cut before they move.
// CHECK-LABEL: @chunk
// CHECK:       shard.permute %{{.*}} : tensor<2xf32> -> tensor<2xf32>
// CHECK:       shard.permute %{{.*}} : tensor<2xf32> -> tensor<2xf32>
// CHECK-NOT:   shard.permute
// CHECK:       return
shard.grid @mesh(shape = 4) {axis_names = ["x"]}
func.func @weights(
    %x: tensor<2x16x4xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"x"}, {}]>},
    %g: tensor<2x16x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"x"}, {}]>})
    -> (tensor<3x4x8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {}, {}]>}) {
  %0 = stablehlo.convolution(%x, %g) dim_numbers = [f, 0, b]x[i, 0, o]->[0, b, f], window = {pad = [[1, 1]]}
      {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
      : (tensor<2x16x4xf32>, tensor<2x16x8xf32>) -> tensor<3x4x8xf32>
  return %0 : tensor<3x4x8xf32>
}
func.func @pooled(
    %x: tensor<16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}]>},
    %g: tensor<7xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}]>})
    -> (tensor<16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}]>}) {
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %0 = "stablehlo.select_and_scatter"(%x, %g, %zero)
      <{window_dimensions = array<i64: 3>, window_strides = array<i64: 2>}> ({
  ^bb0(%a: tensor<f32>, %b: tensor<f32>):
    %1 = stablehlo.compare GE, %a, %b : (tensor<f32>, tensor<f32>) -> tensor<i1>
    stablehlo.return %1 : tensor<i1>
  }, {
  ^bb0(%a: tensor<f32>, %b: tensor<f32>):
    %1 = stablehlo.add %a, %b : tensor<f32>
    stablehlo.return %1 : tensor<f32>
  }) : (tensor<16xf32>, tensor<7xf32>, tensor<f32>) -> tensor<16xf32>
  return %0 : tensor<16xf32>
}
func.func @argmax(%x: tensor<3x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"x"}]>})
    -> tensor<3xi32> {
  %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %0 = stablehlo.iota dim = 1 : tensor<3x16xi32>
  %1:2 = "stablehlo.reduce"(%x, %0, %low, %zero) <{dimensions = array<i64: 1>}> ({
  ^bb0(%a: tensor<f32>, %i: tensor<i32>, %b: tensor<f32>, %j: tensor<i32>):
    %2 = stablehlo.compare GE, %a, %b : (tensor<f32>, tensor<f32>) -> tensor<i1>
    %3 = stablehlo.select %2, %a, %b : tensor<i1>, tensor<f32>
    %4 = stablehlo.select %2, %i, %j : tensor<i1>, tensor<i32>
    stablehlo.return %3, %4 : tensor<f32>, tensor<i32>
  }) : (tensor<3x16xf32>, tensor<3x16xi32>, tensor<f32>, tensor<i32>) -> (tensor<3xf32>, tensor<3xi32>)
  return %1#1 : tensor<3xi32>
}
func.func @numbers(%x: tensor<8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}]>})
    -> tensor<8xi32> {
  %0 = stablehlo.iota dim = 0 : tensor<8xi32>
  %1:2 = "stablehlo.sort"(%x, %0) <{dimension = 0 : i64, is_stable = true}> ({
  ^bb0(%a: tensor<f32>, %b: tensor<f32>, %i: tensor<i32>, %j: tensor<i32>):
    %2 = stablehlo.compare LT, %a, %b : (tensor<f32>, tensor<f32>) -> tensor<i1>
    stablehlo.return %2 : tensor<i1>
  }) : (tensor<8xf32>, tensor<8xi32>) -> (tensor<8xf32>, tensor<8xi32>)
  return %1#1 : tensor<8xi32>
}
func.func @rolled(%x: tensor<16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}]>})
    -> (tensor<16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}]>}) {
  %0 = stablehlo.slice %x [13:16] : (tensor<16xf32>) -> tensor<3xf32>
  %1 = stablehlo.slice %x [0:13] : (tensor<16xf32>) -> tensor<13xf32>
  %2 = stablehlo.concatenate %0, %1, dim = 0 : (tensor<3xf32>, tensor<13xf32>) -> tensor<16xf32>
  return %2 : tensor<16xf32>
}
func.func @chunk(%x: tensor<16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}]>})
    -> (tensor<8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}]>}) {
  %0 = stablehlo.slice %x [0:8] : (tensor<16xf32>) -> tensor<8xf32>
  return %0 : tensor<8xf32>
}
