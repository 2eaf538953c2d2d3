// RUN: autopar-opt %s --even-boundary --remarks 2>&1 | filecheck %s

// CHECK: :[[#]]:1: remark: argument 0 of @main: a dimension of size 6 is not divisible over "x", "y": it is kept on "x"
// CHECK: remark: result 0 of @main: a dimension of size 7 is not divisible over "x": it is kept on no axis
// CHECK: func.func @main(%{{.*}}: tensor<6x7xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}, %{{.*}}: tensor<8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x", "y"}]>})
// CHECK-SAME: -> (tensor<6x7xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>})

shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @main(
    %a: tensor<6x7xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x", "y"}, {}]>},
    %b: tensor<8xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x", "y"}]>})
    -> (tensor<6x7xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {"x"}]>}) {
  return %a : tensor<6x7xf32>
}
