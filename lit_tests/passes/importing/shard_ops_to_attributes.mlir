// RUN: autopar-opt %s --shard-ops-to-attributes --split-input-file | filecheck %s
// RUN: autopar-opt %s --shard-ops-to-attributes --shard-attributes-to-ops --shard-ops-to-attributes --split-input-file | filecheck %s

// An annotation of an argument or an op result stands on it; the function result takes the spec,
// partial included, of the annotation that stands directly on the returned value.

// CHECK:      %{{.*}}: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}
// CHECK-SAME: -> (tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {}], partial={sum = ["y"], max = ["x"]}>})
// CHECK-NEXT: %{{.*}} = "test.op"(%{{.*}}) {autopar.sharding = [#autopar.sharding<@mesh, [{}, {}], partial={sum = ["y"], max = ["x"]}>]}
// CHECK-NEXT: return
// CHECK-NOT:  shard.shard
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @main(%a: tensor<8x16xf32>) -> tensor<8x16xf32> {
  %s = shard.sharding @mesh split_axes = [[0]] : !shard.sharding
  %0 = shard.shard %a to %s annotate_for_users : tensor<8x16xf32>
  %1 = "test.op"(%0) : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %p = shard.sharding @mesh split_axes = [] {autopar.partial = "sum[1], max[0]"} : !shard.sharding
  %2 = shard.shard %1 to %p : tensor<8x16xf32>
  return %2 : tensor<8x16xf32>
}

// -----

// A second annotation in a chain, and one for users of an op result, are constraints.

// CHECK:      %{{.*}} = "test.op"(%{{.*}}) {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}, {}], partial={sum = ["y"]}>]}
// CHECK-NEXT: %[[R:.*]] = autopar.constraint %{{.*}} {sharding = #autopar.sharding<@mesh, [{"x"}, {}]>}
// CHECK-NEXT: %[[Q:.*]] = "test.op"(%[[R]])
// CHECK-NEXT: autopar.constraint %[[Q]] {sharding = #autopar.sharding<@mesh, [{}, {"y"}]>}
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @main(%a: tensor<8x16xf32>) {
  %1 = "test.op"(%a) : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %p = shard.sharding @mesh split_axes = [[0]] {autopar.partial = "sum[1]"} : !shard.sharding
  %2 = shard.shard %1 to %p : tensor<8x16xf32>
  %q = shard.sharding @mesh split_axes = [[0]] : !shard.sharding
  %3 = shard.shard %2 to %q : tensor<8x16xf32>
  %4 = "test.op"(%3) : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %r = shard.sharding @mesh split_axes = [[], [1]] : !shard.sharding
  %5 = shard.shard %4 to %r annotate_for_users : tensor<8x16xf32>
  "test.use"(%5) : (tensor<8x16xf32>) -> ()
  return
}
