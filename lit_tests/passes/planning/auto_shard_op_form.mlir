// Annotations in shard's op form, and a program of another name than @main.
// RUN: autopar-opt %s --auto-shard | filecheck %s
// RUN: autopar-opt %s --auto-shard --shard-partition | filecheck %s --check-prefix=LOCAL

// CHECK: func.func @filled(%{{.*}}: tensor<8x16xf32> {autopar.sharding = #autopar.sharding<@g, [{"0"}, {"1"}]>})
// CHECK: linalg.fill {autopar.sharding = [#autopar.sharding<@g, [{"0"}, {"1"}]>]}
// CHECK-NOT: shard.s
// LOCAL: func.func @filled(%{{.*}}: tensor<4x4xf32>
// LOCAL: linalg.fill ins(%{{.*}} : f32) outs(%{{.*}} : tensor<4x4xf32>)

shard.grid @g(shape = 2x4)
func.func @filled(%a: tensor<8x16xf32>) -> tensor<8x16xf32> {
  %s = shard.sharding @g split_axes = [[0], [1]] : !shard.sharding
  %b = shard.shard %a to %s : tensor<8x16xf32>
  %zero = arith.constant 0.0 : f32
  %c = linalg.fill ins(%zero : f32) outs(%b : tensor<8x16xf32>) -> tensor<8x16xf32>
  return %c : tensor<8x16xf32>
}
