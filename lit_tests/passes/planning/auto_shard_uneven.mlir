// RUN: autopar-opt %s --auto-shard="cluster=8xv100" --remarks --split-input-file 2>&1 | filecheck %s

// 3 divides no dimension of %x: it is whole, and the remark says what to pad.
// CHECK: remark: auto-shard: arg0 : tensor<1024x1024xf32> (4 MiB in all) cannot be split over y: 3 divides none of their dimensions, and only even parts are planned; pad the batch, dimension 0 of arg0, from 1024 to 1026
shard.grid @mesh(shape = 2x3) {axis_names = ["x", "y"]}
func.func @main(%x: tensor<1024x1024xf32>) -> tensor<1024x1024xf32> {
  %0 = stablehlo.tanh %x : tensor<1024x1024xf32>
  return %0 : tensor<1024x1024xf32>
}

// -----

// Two equal concatenates, of which one is in a place that may be split unevenly: each has
// strategies of its own, and seconds for these.
// CHECK-COUNT-2: stablehlo.concatenate {{.*}}autopar.strategy = #autopar.strategy<{{\[\[}}], ["x"]]>
shard.grid @mesh(shape = 8) {axis_names = ["x"]}
func.func @main(
    %a: tensor<4097x64xf32>, %b: tensor<4097x64xf32>,
    %c: tensor<4097x64xf32>, %d: tensor<4097x64xf32>)
    -> (tensor<8194x64xf32>, tensor<8192x64xf32>) {
  %0 = stablehlo.tanh %a : tensor<4097x64xf32>
  %1 = stablehlo.tanh %b : tensor<4097x64xf32>
  %2 = stablehlo.concatenate %c, %d, dim = 0
    : (tensor<4097x64xf32>, tensor<4097x64xf32>) -> tensor<8194x64xf32>
  %3 = stablehlo.tanh %2 : tensor<8194x64xf32>
  %4 = stablehlo.concatenate %0, %1, dim = 0
    : (tensor<4097x64xf32>, tensor<4097x64xf32>) -> tensor<8194x64xf32>
  %5 = stablehlo.tanh %4 : tensor<8194x64xf32>
  %6 = stablehlo.slice %5 [1:8193, 0:64] : (tensor<8194x64xf32>) -> tensor<8192x64xf32>
  return %3, %6 : tensor<8194x64xf32>, tensor<8192x64xf32>
}
