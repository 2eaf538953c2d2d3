// RUN: autopar-opt %s --split-input-file --auto-shard="cluster=8xv100" --shard-partition | filecheck %s

// Rows of a large batch are independent: nothing is sent.
// CHECK-LABEL: func.func @main(%{{.*}}: tensor<1024x1024xf32>
// CHECK-NOT:   shard.all
shard.grid @mesh(shape = 8) {axis_names = ["x"]}
func.func @main(%x: tensor<8192x1024xf32>, %w: tensor<1024x1024xf32>) -> tensor<8192x1024xf32> {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0] : (tensor<8192x1024xf32>, tensor<1024x1024xf32>) -> tensor<8192x1024xf32>
  %1 = stablehlo.tanh %0 : tensor<8192x1024xf32>
  return %1 : tensor<8192x1024xf32>
}

// -----

// What the program says is binding: columns, then a contraction over them, and one reduction.
// CHECK-LABEL: func.func @main(%{{.*}}: tensor<64x4096xf32>
// CHECK-SAME:  tensor<4096x2048xf32>
// CHECK-SAME:  tensor<2048x4096xf32>
// CHECK:       shard.all_reduce
// CHECK-NOT:   shard.all
shard.grid @mesh(shape = 8) {axis_names = ["x"]}
func.func @main(%x: tensor<64x4096xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>}, %a: tensor<4096x16384xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"x"}]>}, %b: tensor<16384x4096xf32>) -> (tensor<64x4096xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>}) {
  %0 = stablehlo.dot_general %x, %a, contracting_dims = [1] x [0] : (tensor<64x4096xf32>, tensor<4096x16384xf32>) -> tensor<64x16384xf32>
  %1 = stablehlo.tanh %0 : tensor<64x16384xf32>
  %2 = stablehlo.dot_general %1, %b, contracting_dims = [1] x [0] : (tensor<64x16384xf32>, tensor<16384x4096xf32>) -> tensor<64x4096xf32>
  return %2 : tensor<64x4096xf32>
}
