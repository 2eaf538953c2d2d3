// RUN: autopar-opt %s | filecheck %s
// RUN: autopar-opt %s | autopar-opt - | filecheck %s

// CHECK: %{{.*}}: tensor<8x4xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {"y":(1)2, ?}p1], replicated={"z"}, partial={sum = ["w"], max = ["y":(2)2]}>}
// CHECK: autopar.constraint %{{.*}} {sharding = #autopar.sharding<@mesh, [{}, {"x"}]>} : tensor<8x4xf32>
// CHECK: autopar.reshard %{{.*}} {sharding = #autopar.sharding<@mesh, [{"x"}, {}]>} : tensor<8x4xf32>
// CHECK: "test.op"(%{{.*}}) {autopar.strategy = #autopar.strategy<{{\[\[}}"x"], [], ["y":(1)2, "z"]]>}
func.func @f(%a: tensor<8x4xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {"y":(1)2, ?}p1], replicated={"z"}, partial={sum = ["w"], max = ["y":(2)2]}>}) {
  %0 = autopar.constraint %a {sharding = #autopar.sharding<@mesh, [{}, {"x"}]>} : tensor<8x4xf32>
  %1 = autopar.reshard %0 {sharding = #autopar.sharding<@mesh, [{"x"}, {}]>} : tensor<8x4xf32>
  %2 = "test.op"(%1) {autopar.strategy = #autopar.strategy<[["x"], [], ["y":(1)2, "z"]]>} : (tensor<8x4xf32>) -> tensor<8x4xf32>
  return
}
