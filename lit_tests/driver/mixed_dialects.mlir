// Dialects that jaxlib knows and dialects that it does not, in their own syntax, both ways.
// RUN: autopar-opt %s | filecheck %s
// RUN: autopar-opt %s | autopar-opt - | filecheck %s
// RUN: autopar-opt %s --mlir-print-op-generic | autopar-opt - | filecheck %s
// RUN: autopar-opt %s --mlir-print-debuginfo | autopar-opt - | filecheck %s

// CHECK: shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
// CHECK-NEXT: func.func @main(%arg0: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}
func.func @main(%a: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>},
                %b: tensor<16x4xf32>) -> tensor<8x4xf32> {
  // CHECK-NEXT: %0 = shard.sharding @mesh split_axes = {{\[\[}}0], [1]] : !shard.sharding
  %s = shard.sharding @mesh split_axes = [[0], [1]] : !shard.sharding // not this: shard.foo %x
  // CHECK-NEXT: %1 = shard.shard %arg0 to %0 annotate_for_users : tensor<8x16xf32>
  %0 = shard.shard %a to %s annotate_for_users : tensor<8x16xf32>
  // CHECK-NEXT: %2 = stablehlo.dot_general %1, %arg1, contracting_dims = [1] x [0]
  // CHECK-SAME: autopar.strategy = #autopar.strategy<{{\[\[}}"x"], [], ["y"]]>
  %1 = stablehlo.dot_general %0, %b, contracting_dims = [1] x [0] {autopar.strategy = #autopar.strategy<[["x"], [], ["y"]]>} : (tensor<8x16xf32>, tensor<16x4xf32>) -> tensor<8x4xf32>
  // CHECK-NEXT: %3:2 = shard.process_multi_index on @mesh : index, index
  %i:2 = shard.process_multi_index on @mesh : index, index
  // CHECK-NEXT: %4 = shard.all_reduce %2 on @mesh grid_axes = [1]
  %3 = shard.all_reduce %1 on @mesh
      grid_axes = [1] : tensor<8x4xf32> -> tensor<8x4xf32>
  // CHECK-NEXT: %5 = "foo.bar"(%3#1) {some.attribute = #foo.opaque<1 + 2>}
  %j = "foo.bar"(%i#1) {some.attribute = #foo.opaque<1 + 2>} : (index) -> index
  // CHECK-NEXT: return %4
  return %3 : tensor<8x4xf32>
}
