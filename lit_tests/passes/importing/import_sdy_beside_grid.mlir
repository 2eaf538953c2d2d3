// A grid that is there already stands for sdy's meshes too: the pass may run twice.
// RUN: autopar-opt %s --import-sdy --import-sdy | filecheck %s

// CHECK:      shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
// CHECK-NOT:  shard.grid
// CHECK:      autopar.sharding = [#autopar.sharding<@mesh, {{\[\{\}, \{\}\]}}>]
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @main(%a: tensor<8x16xf32>) -> tensor<8x16xf32> {
  %0 = sdy.manual_computation(%a) in_shardings=[<mesh<["x"=2, "y"=4]>, [{}, {}]>] out_shardings=[<mesh<["x"=2, "y"=4]>, [{}, {}]>] manual_axes={} (%q: tensor<8x16xf32>) {
    sdy.return %q : tensor<8x16xf32>
  } : (tensor<8x16xf32>) -> tensor<8x16xf32>
  return %0 : tensor<8x16xf32>
}
