// RUN: autopar-opt %s --optimize-collectives | filecheck %s

// CHECK-LABEL: @merge
// CHECK-NEXT:  %[[G:.*]] = shard.all_gather
// CHECK-NEXT:  return %[[G]], %[[G]]
// CHECK-LABEL: @scatter
// CHECK-NEXT:  %[[S:.*]] = shard.reduce_scatter %{{.*}} on @mesh grid_axes = [1] scatter_axis = 1 : tensor<4x8xf32> -> tensor<4x2xf32>
// CHECK-NEXT:  return %[[S]]
// XLA makes one of these itself.
// CHECK-LABEL: @all_reduces
// CHECK-NOT:   autopar.combine
// Each moves up to where the first of its kind is needed; the last is too large.
// CHECK-LABEL: @combine_gathers
// CHECK-NEXT:  shard.all_gather %arg0 {{.*}} {autopar.combine = 0 : i64}
// CHECK-NEXT:  shard.all_gather %arg1 {{.*}} {autopar.combine = 0 : i64}
// CHECK-NEXT:  stablehlo.add
// CHECK-NEXT:  shard.all_gather %arg2 on @mesh grid_axes = [1] gather_axis = 0 : tensor<32768xf32>
// What is made of the first cannot run with it.
// CHECK-LABEL: @dependent
// CHECK-NOT:   autopar.combine
// A conversion behind a collective does not close its window.
// CHECK-LABEL: @combine_converted
// CHECK:       stablehlo.sine
// CHECK-NEXT:  shard.all_gather %arg0 {{.*}} {autopar.combine = 1 : i64}
// CHECK-NEXT:  shard.all_gather %{{.*}} {autopar.combine = 1 : i64}
// CHECK-NEXT:  stablehlo.convert
// CHECK-LABEL: @combine_scatters
// CHECK:       stablehlo.negate
// CHECK-NEXT:  shard.reduce_scatter %arg0 {{.*}} scatter_axis = 0 {autopar.combine = 2 : i64}
// CHECK-NEXT:  shard.reduce_scatter %{{.*}} scatter_axis = 1 {autopar.combine = 2 : i64}
// What is only reshaped in front of a collective could have been before.
// CHECK-LABEL: @combine_reshaped
// CHECK-NEXT:  stablehlo.reshape
// CHECK-NEXT:  shard.all_gather %{{.*}} {autopar.combine = 3 : i64}
// CHECK-NEXT:  shard.all_gather %{{.*}} {autopar.combine = 3 : i64}
// CHECK-NEXT:  stablehlo.sine
// A collective of another's result: both are combined, the first in front.
// CHECK-LABEL: @combine_chains
// CHECK-NEXT:  %[[S:.*]] = stablehlo.sine %{{.*}}
// CHECK-NEXT:  %[[A:.*]] = shard.reduce_scatter %{{.*}} on @mesh grid_axes = [0] scatter_axis = 0 {autopar.combine = [[N:[0-9]+]] : i64}
// CHECK-NEXT:  %[[B:.*]] = shard.reduce_scatter %[[S]] on @mesh grid_axes = [0] scatter_axis = 0 {autopar.combine = [[N]] : i64}
// CHECK-NEXT:  shard.all_gather %[[A]] on @mesh grid_axes = [1] gather_axis = 0 {autopar.combine = [[M:[0-9]+]] : i64}
// CHECK-NEXT:  shard.all_gather %[[B]] on @mesh grid_axes = [1] gather_axis = 0 {autopar.combine = [[M]] : i64}
// CHECK-NEXT:  return

shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @merge(%a: tensor<4x8xf32>) -> (tensor<4x32xf32>, tensor<4x32xf32>) {
  %0 = shard.all_gather %a on @mesh grid_axes = [1] gather_axis = 1 : tensor<4x8xf32> -> tensor<4x32xf32>
  %1 = shard.all_gather %a on @mesh grid_axes = [1] gather_axis = 1 : tensor<4x8xf32> -> tensor<4x32xf32>
  return %0, %1 : tensor<4x32xf32>, tensor<4x32xf32>
}
func.func @scatter(%a: tensor<4x8xf32>) -> tensor<4x2xf32> {
  %0 = shard.all_reduce %a on @mesh grid_axes = [1] : tensor<4x8xf32> -> tensor<4x8xf32>
  %1 = shard.all_slice %0 on @mesh grid_axes = [1] slice_axis = 1 : tensor<4x8xf32> -> tensor<4x2xf32>
  return %1 : tensor<4x2xf32>
}
func.func @all_reduces(%a: tensor<4xf32>, %b: tensor<8xf32>) -> (tensor<4xf32>, tensor<8xf32>) {
  %0 = shard.all_reduce %a on @mesh grid_axes = [0] : tensor<4xf32> -> tensor<4xf32>
  %1 = shard.all_reduce %b on @mesh grid_axes = [0] : tensor<8xf32> -> tensor<8xf32>
  return %0, %1 : tensor<4xf32>, tensor<8xf32>
}
func.func @combine_gathers(%a: tensor<4x2xf32>, %b: tensor<3x1xf32>, %c: tensor<32768xf32>) -> (tensor<4x8xf32>, tensor<12x1xf32>, tensor<131072xf32>) {
  %0 = shard.all_gather %a on @mesh grid_axes = [1] gather_axis = 1 : tensor<4x2xf32> -> tensor<4x8xf32>
  %1 = stablehlo.add %0, %0 : tensor<4x8xf32>
  %2 = shard.all_gather %b on @mesh grid_axes = [1] gather_axis = 0 : tensor<3x1xf32> -> tensor<12x1xf32>
  %3 = shard.all_gather %c on @mesh grid_axes = [1] gather_axis = 0 : tensor<32768xf32> -> tensor<131072xf32>
  return %1, %2, %3 : tensor<4x8xf32>, tensor<12x1xf32>, tensor<131072xf32>
}
func.func @dependent(%a: tensor<4xf32>) -> tensor<64xf32> {
  %0 = shard.all_gather %a on @mesh grid_axes = [1] gather_axis = 0 : tensor<4xf32> -> tensor<16xf32>
  %1 = stablehlo.sine %0 : tensor<16xf32>
  %2 = shard.all_gather %1 on @mesh grid_axes = [1] gather_axis = 0 : tensor<16xf32> -> tensor<64xf32>
  return %2 : tensor<64xf32>
}
func.func @combine_converted(%a: tensor<4xbf16>, %b: tensor<8xbf16>) -> (tensor<8xf32>, tensor<16xf32>) {
  %0 = shard.all_gather %a on @mesh grid_axes = [0] gather_axis = 0 : tensor<4xbf16> -> tensor<8xbf16>
  %1 = stablehlo.convert %0 : (tensor<8xbf16>) -> tensor<8xf32>
  %2 = stablehlo.sine %b : tensor<8xbf16>
  %3 = shard.all_gather %2 on @mesh grid_axes = [0] gather_axis = 0 : tensor<8xbf16> -> tensor<16xbf16>
  %4 = stablehlo.convert %3 : (tensor<16xbf16>) -> tensor<16xf32>
  return %1, %4 : tensor<8xf32>, tensor<16xf32>
}
func.func @combine_scatters(%a: tensor<8x3xf32>, %b: tensor<2x4xf32>) -> (tensor<2x3xf32>, tensor<2x1xf32>) {
  %0 = shard.reduce_scatter %a on @mesh grid_axes = [1] scatter_axis = 0 : tensor<8x3xf32> -> tensor<2x3xf32>
  %1 = stablehlo.negate %b : tensor<2x4xf32>
  %2 = shard.reduce_scatter %1 on @mesh grid_axes = [1] scatter_axis = 1 : tensor<2x4xf32> -> tensor<2x1xf32>
  return %0, %2 : tensor<2x3xf32>, tensor<2x1xf32>
}
func.func @combine_reshaped(%a: tensor<2xf32>, %b: tensor<2xf32>) -> (tensor<8xf32>, tensor<1x8xf32>) {
  %0 = shard.all_gather %a on @mesh grid_axes = [1] gather_axis = 0 : tensor<2xf32> -> tensor<8xf32>
  %1 = stablehlo.sine %0 : tensor<8xf32>
  %2 = stablehlo.reshape %b : (tensor<2xf32>) -> tensor<1x2xf32>
  %3 = shard.all_gather %2 on @mesh grid_axes = [1] gather_axis = 1 : tensor<1x2xf32> -> tensor<1x8xf32>
  return %1, %3 : tensor<8xf32>, tensor<1x8xf32>
}
func.func @combine_chains(%a: tensor<8xf32>, %b: tensor<8xf32>) -> (tensor<16xf32>, tensor<16xf32>) {
  %0 = shard.reduce_scatter %a on @mesh grid_axes = [0] scatter_axis = 0 : tensor<8xf32> -> tensor<4xf32>
  %1 = shard.all_gather %0 on @mesh grid_axes = [1] gather_axis = 0 : tensor<4xf32> -> tensor<16xf32>
  %2 = stablehlo.sine %b : tensor<8xf32>
  %3 = shard.reduce_scatter %2 on @mesh grid_axes = [0] scatter_axis = 0 : tensor<8xf32> -> tensor<4xf32>
  %4 = shard.all_gather %3 on @mesh grid_axes = [1] gather_axis = 0 : tensor<4xf32> -> tensor<16xf32>
  return %1, %4 : tensor<16xf32>, tensor<16xf32>
}
