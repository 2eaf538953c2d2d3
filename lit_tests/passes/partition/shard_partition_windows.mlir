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
