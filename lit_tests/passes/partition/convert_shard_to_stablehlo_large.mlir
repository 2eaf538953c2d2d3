// RUN: autopar-opt %s --convert-shard-to-stablehlo | filecheck %s

// More elements than an i32 counts.
// CHECK-LABEL: func.func @large
// CHECK:      %[[C:.*]] = stablehlo.convert %{{.*}} : (tensor<i32>) -> tensor<i64>
// CHECK:      %[[B:.*]] = stablehlo.constant dense<4294967296> : tensor<i64>
// CHECK-NEXT: %[[S:.*]] = stablehlo.multiply %[[C]], %[[B]] : tensor<i64>
// CHECK:      stablehlo.dynamic_slice %{{.*}}, %[[S]], %{{.*}}, sizes = [4294967296, 2] : (tensor<8589934592x2xi8>, tensor<i64>, tensor<i64>)
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @large(%a: tensor<8589934592x2xi8>) -> tensor<4294967296x2xi8> {
  %0 = shard.all_slice %a on @mesh grid_axes = [0] slice_axis = 0 : tensor<8589934592x2xi8> -> tensor<4294967296x2xi8>
  return %0 : tensor<4294967296x2xi8>
}
