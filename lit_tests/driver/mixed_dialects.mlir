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

// mlir-opt's own generic form, properties and all, of ops that jaxlib does not know.
// CHECK: shard.grid @generic(shape = 2x4)
"shard.grid"() <{shape = array<i64: 2, 4>, sym_name = "generic"}> : () -> ()
// CHECK: @properties
func.func @properties(%a: tensor<4xf32>) -> index {
  // CHECK-NEXT: %0 = "foo.region"(%arg0) <{a = {}, b = 1 : i32}> ({
  // CHECK-NEXT:   "foo.yield"() <{n = "<{"}> : () -> ()
  // CHECK-NEXT: }) {c = 2 : i32} : (tensor<4xf32>) -> tensor<4xf32>
  %0 = "foo.region"(%a) <{a = {},
                         b = 1 : i32}> ({
    "foo.yield"() <{n = "<{"}> : () -> ()
  }) {c = 2 : i32} : (tensor<4xf32>) -> tensor<4xf32>
  // CHECK-NEXT: %c0 = arith.constant 0 : index
  %1 = "arith.constant"() <{value = 0 : index}> : () -> index
  // CHECK-NEXT: %1:2 = shard.process_multi_index on @mesh axes = [1, 0] : index, index
  %2:2 = "shard.process_multi_index"() <{axes = array<i16: 1, 0>, grid = @mesh}> {} : () -> (index, index)
  return %1 : index
}
