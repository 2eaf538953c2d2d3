// RUN: autopar-opt %s --shard-attributes-to-ops | filecheck %s

// CHECK:      func.func @main(%[[ARG:.*]]: tensor<8x16xf32>, %{{.*}}: tensor<8x16xf32> {jax.keep = true})
// CHECK-NEXT: %[[S:.*]] = shard.sharding @mesh split_axes = {{\[\[}}0], [1]] : !shard.sharding
// CHECK-NEXT: %[[A:.*]] = shard.shard %[[ARG]] to %[[S]] : tensor<8x16xf32>
// CHECK-NEXT: %[[O:.*]] = "test.op"(%[[A]]) : (tensor<8x16xf32>) -> tensor<8x16xf32>
// CHECK-NEXT: %[[T:.*]] = shard.sharding @mesh split_axes = {{\[\[}}0], []] {autopar.partial = "sum[1]"} : !shard.sharding
// CHECK-NEXT: %[[P:.*]] = shard.shard %[[O]] to %[[T]] : tensor<8x16xf32>
// CHECK-NEXT: %[[U:.*]] = shard.sharding @mesh split_axes = {{\[\[}}], [1]] {autopar.sharding = "@mesh, [{?}, {\22y\22}p1], replicated={\22x\22}"} : !shard.sharding
// CHECK-NEXT: %[[C:.*]] = shard.shard %[[P]] to %[[U]] annotate_for_users : tensor<8x16xf32>
// CHECK-NEXT: %[[V:.*]] = shard.sharding @mesh split_axes = {{\[\[}}], []] : !shard.sharding
// CHECK-NEXT: %[[R:.*]] = shard.shard %[[C]] to %[[V]] : tensor<8x16xf32>
// CHECK-NEXT: return %[[R]]
shard.grid @mesh(shape = 2x4) {axis_names = ["x", "y"]}
func.func @main(%a: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{"x"}, {"y"}]>}, %b: tensor<8x16xf32> {jax.keep = true})
    -> (tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@mesh, [{}, {}]>}) {
  %0 = "test.op"(%a) {autopar.sharding = [#autopar.sharding<@mesh, [{"x"}, {}], partial={sum = ["y"]}>]} : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %1 = autopar.constraint %0 {sharding = #autopar.sharding<@mesh, [{?}, {"y"}p1], replicated={"x"}>} : tensor<8x16xf32>
  return %1 : tensor<8x16xf32>
}
