// RUN: autopar-opt %s --sharding-propagation --shard-partition | filecheck %s

// An effect runs once; in a manual computation once for each place along the manual axes.
// CHECK-LABEL: func.func @effect
// CHECK:      "stablehlo.if"
// CHECK:        stablehlo.custom_call @notify
// CHECK:      stablehlo.custom_call @notify
// CHECK-NOT:  shard.all_reduce
// CHECK:      stablehlo.constant dense<[0, 1, 2, 3, 0, 1, 2, 3]> : tensor<8xi32>
// CHECK:      "stablehlo.if"
// CHECK:        %[[V:.*]] = stablehlo.custom_call @notify
// CHECK-NEXT:   stablehlo.bitcast_convert %[[V]] : (tensor<4xf32>) -> tensor<4xi32>
// CHECK:      shard.all_reduce %{{.*}} on @mesh grid_axes = [1] : tensor<4xi32>
// CHECK-NEXT: stablehlo.bitcast_convert
// CHECK-NEXT: return
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @effect(%a: tensor<8xf32>) -> tensor<8xf32> {
  stablehlo.custom_call @notify(%a) {has_side_effect = true} : (tensor<8xf32>) -> ()
  %0 = sdy.manual_computation(%a) in_shardings=[<@mesh, [{"x", "y"}]>] out_shardings=[<@mesh, [{"x", "y"}]>] manual_axes={"x", "y"} (%b: tensor<1xf32>) {
    stablehlo.custom_call @notify(%b) {has_side_effect = true} : (tensor<1xf32>) -> ()
    sdy.return %b : tensor<1xf32>
  } : (tensor<8xf32>) -> tensor<8xf32>
  %1 = sdy.manual_computation(%0) in_shardings=[<@mesh, [{"x"}]>] out_shardings=[<@mesh, [{"x"}]>] manual_axes={"x"} (%b: tensor<4xf32>) {
    %2 = stablehlo.custom_call @notify(%b) {has_side_effect = true} : (tensor<4xf32>) -> tensor<4xf32>
    sdy.return %2 : tensor<4xf32>
  } : (tensor<8xf32>) -> tensor<8xf32>
  return %1 : tensor<8xf32>
}
