// RUN: autopar-opt %s --optimize-collectives | filecheck %s

// Parts of a sum, of which one is over both axes, one over y and one whole: added first, the one over y on the devices
// that are the first along x, and reduced once.
// CHECK-LABEL: @sum_of_sums
// CHECK:       %[[FIRST:.*]] = stablehlo.compare  EQ
// CHECK:       %[[Y:.*]] = stablehlo.select %[[FIRST]], %arg1, %{{.*}}
// CHECK-NEXT:  %[[OWN:.*]] = stablehlo.add %arg0, %[[Y]]
// CHECK-NEXT:  %[[SUM:.*]] = shard.all_reduce %[[OWN]] on @mesh grid_axes = [0, 1]
// CHECK-NEXT:  %[[TOTAL:.*]] = stablehlo.add %[[SUM]], %arg2
// CHECK-NEXT:  return %[[TOTAL]]
shard.grid @mesh(shape = 2x2) {axis_names = ["x", "y"]}
func.func @sum_of_sums(%a: tensor<f32>, %b: tensor<f32>, %c: tensor<f32>) -> tensor<f32> {
  %0 = shard.all_reduce %a on @mesh grid_axes = [0, 1] : tensor<f32> -> tensor<f32>
  %1 = stablehlo.add %0, %c : tensor<f32>
  %2 = shard.all_reduce %b on @mesh grid_axes = [1] : tensor<f32> -> tensor<f32>
  %3 = stablehlo.add %1, %2 : tensor<f32>
  return %3 : tensor<f32>
}

// What else is read stays, and so does a maximum.
// CHECK-LABEL: @read_twice
// CHECK-COUNT-2: shard.all_reduce
// CHECK:         stablehlo.add
func.func @read_twice(%a: tensor<f32>, %b: tensor<f32>) -> (tensor<f32>, tensor<f32>) {
  %0 = shard.all_reduce %a on @mesh grid_axes = [0] : tensor<f32> -> tensor<f32>
  %1 = shard.all_reduce %b on @mesh grid_axes = [1] : tensor<f32> -> tensor<f32>
  %2 = stablehlo.add %0, %1 : tensor<f32>
  return %2, %0 : tensor<f32>, tensor<f32>
}

// CHECK-LABEL: @maxima
// CHECK-COUNT-2: shard.all_reduce
// CHECK:         stablehlo.add
func.func @maxima(%a: tensor<f32>, %b: tensor<f32>) -> tensor<f32> {
  %0 = shard.all_reduce %a on @mesh grid_axes = [0] reduction = max : tensor<f32> -> tensor<f32>
  %1 = shard.all_reduce %b on @mesh grid_axes = [1] reduction = max : tensor<f32> -> tensor<f32>
  %2 = stablehlo.add %0, %1 : tensor<f32>
  return %2 : tensor<f32>
}
