// RUN: autopar-opt %s --auto-shard="cluster=8xv100" --remarks 2>&1 | filecheck %s

// 3 divides no dimension of %x: it is whole, and the remark says what to pad.
// CHECK: remark: auto-shard: arg0 : tensor<1024x1024xf32> (4 MiB in all) cannot be split over y: 3 divides none of their dimensions, and only even parts are planned; pad the batch, dimension 0 of arg0, from 1024 to 1026
shard.grid @mesh(shape = 2x3) {axis_names = ["x", "y"]}
func.func @main(%x: tensor<1024x1024xf32>) -> tensor<1024x1024xf32> {
  %0 = stablehlo.tanh %x : tensor<1024x1024xf32>
  return %0 : tensor<1024x1024xf32>
}
